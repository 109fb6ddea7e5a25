import { spawnSync } from "node:child_process";
import { lstatSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { fillDeferred } from "../test/support/mail.ts";
import { needs } from "../test/support/needs.ts";
import { PrivatePostfix } from "../test/support/postfix.ts";
import { Site } from "../test/support/site.ts";

/*
 * Full backup, second backup and restore of a queue of deferred mail against the shell pipeline an administrator would
 * write, in one run, in interleaved rounds: ratios and medians, because single times on a shared machine say little.
 *
 *   npm run bench -- [messages] [rounds]
 */

const root = resolve(import.meta.dirname, "..");
const messages = Number(process.argv[2] ?? 10_000);
const rounds = Number(process.argv[3] ?? 5);

interface Times {
  readonly wall: number[];
  readonly cpu: number[];
}

/** One command, timed from outside: wall seconds, and CPU seconds of it and all it waited for. */
function time(into: Times, command: string, env: NodeJS.ProcessEnv = process.env): string {
  const start = process.hrtime.bigint();
  const timed = spawnSync("bash", ["-c", `TIMEFORMAT='cpu %U %S'; time { set -euo pipefail; ${command}; }`], {
    encoding: "utf8",
    env,
    maxBuffer: 1 << 28,
  });
  const wall = Number(process.hrtime.bigint() - start) / 1e9;
  const [, user, system] = /cpu ([\d.]+) ([\d.]+)\s*$/.exec(timed.stderr) ?? [];
  if (timed.status !== 0 || user === undefined) throw new Error(`${command}: ${timed.stderr}`);
  into.wall.push(wall);
  into.cpu.push(Number(user) + Number(system));
  return timed.stdout;
}

async function bench(): Promise<void> {
  await using site = await Site.make();
  await using postfix = await PrivatePostfix.create();
  await using target = await PrivatePostfix.create();
  console.log(`filling a private queue with ${messages} deferred messages ...`);
  await fillDeferred(postfix, messages, 1);
  await postfix.start();
  const bytes = sizeBelow(join(postfix.queueDirectory, "deferred")) + sizeBelow(join(postfix.queueDirectory, "defer"));
  console.log(`${(bytes / 1e6).toFixed(1)} MB of queue files and logs; ${rounds} rounds`);

  const config = site.configure([postfix]);
  const identity = join(site.directory, "identity.txt");
  const spoolsafe = (...args: string[]) => `'${process.execPath}' '${root}/dist/spoolsafe.js' ${args.join(" ")} --json`;
  const tar = join(site.directory, "queue.tar.zst.age");
  const recipients = join(site.directory, "recipients.txt");
  const results = new Map<string, Times>();
  const of = (name: string): Times => {
    const known = results.get(name) ?? { wall: [], cpu: [] };
    results.set(name, known);
    return known;
  };
  let longestMs = 0;
  let stored: number[] = [];
  for (let round = 0; round < rounds; round++) {
    time(
      of("tar | zstd -3 | age"),
      `tar -C '${postfix.queueDirectory}' -c deferred defer | zstd -q -3 | age -R '${recipients}' > '${tar}'`,
    );
    await site.renew();
    const full = summary(time(of("full backup"), spoolsafe("backup", "--config", `'${config}'`)));
    const second = summary(time(of("second backup"), spoolsafe("backup", "--config", `'${config}'`)));
    longestMs = Math.max(longestMs, full.hold.longestMs, second.hold.longestMs);
    stored = [full.storedBytes, second.storedBytes];

    const plain = join(site.directory, "plain");
    rmSync(plain, { recursive: true, force: true });
    mkdirSync(plain);
    empty(target);
    // The shell's restore: unpack into the spool of a stopped instance, then let postsuper rename to the new inodes.
    const unpack = `age -d -i '${identity}' '${tar}' | zstd -d -q | tar -C '${target.queueDirectory}' -x`;
    time(
      of("age -d | zstd -d | tar -x, postsuper -s"),
      `${unpack}; postsuper -c '${target.configDirectory}' -s 2>/dev/null; sync -f '${target.queueDirectory}'`,
    );
    empty(target);
    const into = ["restore", "latest", "--into", `'${target.configDirectory}'`, "--identity-file", `'${identity}'`];
    time(of("restore, repaired and proven"), spoolsafe(...into, "--config", `'${config}'`));
  }
  report(results);
  console.log(`second backup stored ${((100 * (stored[1] ?? 0)) / (stored[0] ?? 1)).toFixed(2)} % of the first`);
  console.log(`longest time any message was on hold: ${longestMs} ms`);
}

function summary(stdout: string): { storedBytes: number; hold: { longestMs: number } } {
  return JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
}

function empty(postfix: PrivatePostfix): void {
  for (const queue of ["deferred", "defer", "hold"]) {
    for (const path of postfix.files(queue)) rmSync(path);
  }
}

function sizeBelow(directory: string): number {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .map((name) => lstatSync(join(directory, name)))
    .reduce((sum, stat) => sum + (stat.isFile() ? stat.size : 0), 0);
}

function report(results: ReadonlyMap<string, Times>): void {
  const [pipe, unpack] = ["tar | zstd -3 | age", "age -d | zstd -d | tar -x, postsuper -s"];
  const against: Record<string, string> = {
    "full backup": pipe,
    "second backup": pipe,
    "restore, repaired and proven": unpack,
  };
  console.log("");
  console.log(`${"".padEnd(42)}${"wall s (min-max)".padEnd(24)}${"cpu s".padEnd(10)}ratio wall / cpu`);
  for (const [name, { wall, cpu }] of results) {
    const base = results.get(against[name] ?? "");
    const ratio = base === undefined ? "" : `${ratios(wall, base.wall)} / ${ratios(cpu, base.cpu)}`;
    const spread = `${median(wall).toFixed(2)} (${Math.min(...wall).toFixed(2)}-${Math.max(...wall).toFixed(2)})`;
    console.log(`${name.padEnd(42)}${spread.padEnd(24)}${median(cpu).toFixed(2).padEnd(10)}${ratio}`);
  }
  console.log("ratios are medians of the rounds' own ratios");
}

function ratios(ours: readonly number[], theirs: readonly number[]): string {
  return median(ours.map((value, index) => value / (theirs[index] ?? Number.NaN))).toFixed(2);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return ((sorted[Math.floor((sorted.length - 1) / 2)] ?? 0) + (sorted[Math.ceil((sorted.length - 1) / 2)] ?? 0)) / 2;
}

if (
  !needs("root", "postfix", "age", "zstd", "tar", "flock") ||
  !statSync(join(root, "dist"), { throwIfNoEntry: false })
) {
  console.error("The bench runs real Postfix instances; it needs what is named above, and did nothing.");
  process.exit(1);
}
await bench();
