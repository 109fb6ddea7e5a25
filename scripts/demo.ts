import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { differences, type Fingerprint, fingerprints } from "../test/support/compare.ts";
import { fillMixed, mixedSink } from "../test/support/mail.ts";
import { needs } from "../test/support/needs.ts";
import { PrivatePostfix, plainLetter } from "../test/support/postfix.ts";

/*
 * From a live queue to encrypted storage and back, with two throw-away Postfix instances on loopback ports of their own.
 * The machine's own Postfix is not touched. What stays is the directory demo/ with the repository and its identity.
 * The environment can name another directory, which must not be there yet (SPOOLSAFE_DEMO_DIRECTORY), and another build
 * (SPOOLSAFE_DEMO_PROGRAM), so that several demonstrations can run in one checkout.
 */

const root = resolve(import.meta.dirname, "..");
const demo = resolve(process.env.SPOOLSAFE_DEMO_DIRECTORY || join(root, "demo"));
const program = process.env.SPOOLSAFE_DEMO_PROGRAM || join(root, "dist/spoolsafe.js");
const config = join(demo, "spoolsafe.toml");
const identity = join(demo, "identity.txt");
const repository = join(demo, "repository");

async function run(): Promise<number> {
  // Only the one of an earlier demonstration is replaced, never what somebody named.
  if (demo === join(root, "demo")) rmSync(demo, { recursive: true, force: true });
  mkdirSync(demo, { mode: 0o700 });
  await using sink = await mixedSink({ slowMs: 6000 });
  await using source = await PrivatePostfix.start({ sink, name: "postfix-source" });
  await using target = await PrivatePostfix.create({ name: "postfix-standby" });

  say(`Queueing 200 messages in a private Postfix (${source.configDirectory}): deferred, partly delivered, on hold,`);
  say("bouncing, in delivery, from local users, older than the queue lifetime ...");
  await fillMixed(source, { messages: 200, seed: 20261124 });
  say(`In its queue now: ${JSON.stringify(source.counts())}`);

  await spoolsafe(
    "init",
    "--config",
    config,
    "--repository",
    `file://${encodeURI(repository)}`,
    "--identity-out",
    identity,
  );
  const flow = new Flow(source);
  await spoolsafe("backup", "--config", config, ...instance(source));
  await flow.stop();
  say(`(${flow.handedIn} more messages were accepted and delivered while this went on.)`);
  await spoolsafe("verify", "latest", "--level", "deep", "--config", config, "--identity-file", identity);
  await spoolsafe(
    "restore",
    "latest",
    "--into",
    target.configDirectory,
    "--config",
    config,
    "--identity-file",
    identity,
  );
  const same = prove(source, target);
  showStockTools();
  return same ? 0 : 1;
}

/** Mail that is accepted and delivered all the time, so that the backup meets a queue that lives. */
class Flow {
  handedIn = 0;
  #going = true;
  readonly #done: Promise<void>;

  constructor(postfix: PrivatePostfix) {
    this.#done = this.#run(postfix);
  }

  async #run(postfix: PrivatePostfix): Promise<void> {
    while (this.#going) {
      const letters = Array.from({ length: 5 }, () =>
        plainLetter({ sender: "flow@src.test", recipients: ["someone@good.test"] }),
      );
      await postfix.submit(letters, 1);
      this.handedIn += letters.length;
    }
  }

  async stop(): Promise<void> {
    this.#going = false;
    await this.#done;
  }
}

/**
 * Every message that rests in the first queue is in the second: sender, marks of each recipient, text, mode, time, queue
 * and logs, read by postcat and by a walk that shares no code with Spoolsafe. What was on the move when the snapshot was
 * taken is in the second queue with the very bytes of the snapshot.
 */
function prove(source: PrivatePostfix, target: PrivatePostfix): boolean {
  const resting = fingerprints(source.queueDirectory).filter(({ queue }) => queue !== "active");
  const restored = fingerprints(target.queueDirectory);
  const captured = list();
  const moving = captured.filter(({ queue }) => queue === "active" || queue === "incoming").length;
  const found = differences(resting, restored);
  const missing = found.filter((line) => line.startsWith("- "));
  const more = found.length - missing.length;
  const bytes = sameBytes(captured, target);
  say("");
  say(`resting in the first queue:        ${resting.length}`);
  say(`the same in the second:            ${resting.length - missing.length}`);
  say(`on the move at the snapshot:       ${moving}, in the second queue: ${more}`);
  say(`byte for byte as in the snapshot:  ${bytes} of ${captured.length}`);
  say(`by queue: ${JSON.stringify(perQueue(resting))} -> ${JSON.stringify(perQueue(restored))}`);
  const same =
    missing.length === 0 && more === moving && bytes === captured.length && restored.length === captured.length;
  say(same ? "Both queues say the same." : `THE QUEUES DIFFER:\n${found.join("\n")}`);
  return same;
}

interface Listed {
  readonly queue: string;
  readonly sha256: string;
}

function list(): Listed[] {
  const command = ["ls", "latest", "--json", "--config", config, "--identity-file", identity];
  const { stdout } = spawnSync(process.execPath, [program, ...command], { maxBuffer: 1 << 28 });
  const lines = stdout.toString().trim().split("\n");
  return lines.map((line) => JSON.parse(line) as Listed & { type: string }).filter(({ type }) => type === "message");
}

function sameBytes(captured: readonly Listed[], target: PrivatePostfix): number {
  const queues = ["maildrop", "incoming", "active", "deferred", "hold"];
  const files = queues.flatMap((queue) => target.files(queue)).map((path) => readFileSync(path));
  const digests = files.map((bytes) => createHash("sha256").update(bytes).digest("hex")).sort();
  const expected = captured.map(({ sha256 }) => sha256).sort();
  return expected.filter((digest) => digests.includes(digest)).length;
}

function perQueue(list: readonly Fingerprint[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { queue } of list) counts[queue] = (counts[queue] ?? 0) + 1;
  return counts;
}

/** The snapshot opens without Spoolsafe; said, and done once with the first pack. */
function showStockTools(): void {
  const [first = ""] = readdirSync(join(repository, "packs"));
  const [id = ""] = readdirSync(join(repository, "packs", first));
  const pack = join(repository, "packs", first, id);
  const pipe = `age -d -i ${quote(identity)} ${quote(pack)} | zstd -d | tar -t`;
  const opened = spawnSync("sh", ["-c", pipe], { encoding: "utf8" });
  say("");
  say(
    `The snapshot stays in ${relative(process.cwd(), repository) || "."}; ${opened.stdout.split("\n").length - 1} files of it listed by`,
  );
  say(`  ${pipe}`);
  say(`How to rebuild the whole queue that way, without Spoolsafe: ${join(repository, "RECOVER.txt")}`);
  if (opened.status !== 0 || !existsSync(join(repository, "RECOVER.txt")))
    throw new Error(`${pipe} failed: ${opened.stderr}`);
}

function quote(path: string): string {
  return /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

/** The demo has no configuration of the instance of its own: MAIL_CONFIG names it, as for Postfix's commands. */
function instance(postfix: PrivatePostfix): [{ MAIL_CONFIG: string }] {
  return [{ MAIL_CONFIG: postfix.configDirectory }];
}

async function spoolsafe(...words: (string | { MAIL_CONFIG: string })[]): Promise<void> {
  const args = words.filter((word) => typeof word === "string");
  const env = Object.assign({}, process.env, ...words.filter((word) => typeof word === "object"));
  say(`\n$ spoolsafe ${args.map(quote).join(" ")}`);
  const child = spawn(process.execPath, [program, ...args], { stdio: "inherit", env });
  const [code] = (await once(child, "exit")) as [number | null];
  if (code !== 0) throw new Error(`spoolsafe ${args[0]} ended with exit code ${code}`);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

if (!needs("root", "postfix", "age", "zstd", "tar", "flock")) {
  console.error("The demo runs real Postfix instances; it needs what is named above, and did nothing.");
  process.exit(1);
}
process.exitCode = await run();
