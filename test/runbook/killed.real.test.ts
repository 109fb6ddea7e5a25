import { spawn } from "node:child_process";
import { readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { journalFile } from "../../src/runbook/journal.ts";
import { runNames } from "../../src/runbook/run-directory.ts";
import { builtProgram, spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import type { CrashPoint, RunnerOrder } from "../support/runbook.ts";
import { processesOf } from "../support/scratch.ts";
import { until } from "../support/wait.ts";
import { Bench, canary, fence, fixture, sheet } from "./bench.ts";

const path = fileURLToPath(new URL("../fixtures/runbooks/90-three-steps.md", import.meta.url));
const typed = { second: "mx.test" };

/** A runner in a process of its own that kills itself at this point of this step. Resolves at its end. */
async function killedRunner(bench: Bench, point: CrashPoint, step: string): Promise<void> {
  const killed = ["look", "first", "second"].filter((name) => name !== step);
  const order: RunnerOrder = {
    ...{ runbook: path, places: [bench.runs], point, killed, run: null, command: ["/bin/false"] },
    postfix: { configDirectory: bench.directory, queueDirectory: bench.directory },
    ...{ config: join(bench.directory, "none.toml"), set: { PLACE: bench.place }, answers: {}, environment: {} },
  };
  const runner = fileURLToPath(new URL("../support/runbook-runner.ts", import.meta.url));
  const child = spawn(process.execPath, [runner], { stdio: ["pipe", "ignore", "inherit"], cwd: bench.directory });
  child.stdin.end(JSON.stringify(order));
  const signal = await new Promise((resolve) => child.on("close", (_, by) => resolve(by)));
  expect(signal).toBe("SIGKILL");
}

describe("a runner that was killed", () => {
  const places = ["look", "first", "second"].flatMap((step) =>
    (["started", "let-go", "exited"] as const).map((point) => [step, point] as const),
  );

  test.concurrent.each(places)("at %s, %s: resume comes to the same end", { timeout: 240_000 }, async (step, point) => {
    using bench = new Bench();
    await killedRunner(bench, point, step);
    const report = await bench.resume(fixture("90-three-steps"), { answers: typed });
    expect(report).toMatchObject({ done: 3, skipped: 0 });
    expect(bench.read("second")).toBe("plain and more\n");
    // What was let go has come to its end by itself, and was not begun again.
    expect([bench.read("first-begun"), bench.read("second-begun")]).toEqual(["begun\n", "begun\n"]);
    expect(bench.journal.at(-1)).toMatchObject({ event: "run.end", outcome: "done" });
    expect(bench.filesWith(canary)).toEqual([]);
  });

  test("while its action goes on: nobody else begins, and resume waits for it", { timeout: 240_000 }, async () => {
    using bench = new Bench();
    writeFileSync(join(bench.place, "wait"), "");
    await killedRunner(bench, "let-go", "first");
    await until(() => bench.has("first-begun"));
    const instance = { configDirectory: bench.directory, queueDirectory: bench.directory, version: "3.7.11" };
    const other = bench.run(fixture("90-three-steps"), { world: { instance } });
    await expect(other).rejects.toMatchObject({ kind: "locked", message: expect.stringContaining("first of the run") });
    const resumed = bench.resume(fixture("90-three-steps"), { answers: typed });
    await until(() => bench.events.some((event) => event.type === "warning" && event.text.includes("still at work")));
    rmSync(join(bench.place, "wait"));
    expect(await resumed).toMatchObject({ done: 3 });
    expect(bench.read("first-begun")).toBe("begun\n");
  });

  test("while its action hangs: resume ends it when its time is over, and runs it again", {
    timeout: 240_000,
  }, async () => {
    using bench = new Bench();
    writeFileSync(join(bench.place, "wait"), "");
    await killedRunner(bench, "let-go", "first");
    await until(() => bench.has("first-begun"));
    const hour = 3_600_000;
    const clock = { ...bench.world({}).clock, now: () => Date.now() + hour };
    const resumed = bench.resume(fixture("90-three-steps"), { answers: typed, world: { clock } });
    await until(() => bench.events.some((event) => event.type === "warning" && event.text.includes("ending it")));
    rmSync(join(bench.place, "wait"));
    expect(await resumed).toMatchObject({ done: 3 });
    expect(bench.read("first-begun")).toBe("begun\nbegun\n");
  });
});

describe("an undo whose runner was killed", () => {
  test("is waited for, and not done by two at a time", { timeout: 240_000 }, async () => {
    using bench = new Bench();
    const runbook = sheet([
      fence("name=a risk=change timeout=20s", 'touch "$PLACE/a"') +
        fence("name=a-verify kind=verify", 'test -e "$PLACE/a"') +
        fence(
          "name=a-undo kind=undo risk=change timeout=20s excludeFromRunAll=true",
          'echo begun >> "$PLACE/log"; while [ -e "$PLACE/wait" ]; do sleep 0.05; done\nrm -f "$PLACE/a"; echo end >> "$PLACE/log"',
        ),
    ]);
    await bench.run(runbook);
    writeFileSync(join(bench.place, "wait"), "");
    const config = join(bench.directory, "spoolsafe.toml");
    writeFileSync(config, `state_directory = ${JSON.stringify(bench.directory)}\nhost = "mx.test"\n`);
    symlinkSync("runs", join(bench.directory, "runbooks"));
    const env = { MAIL_CONFIG: bench.directory };
    const killed = spoolsafe(["runbook", "undo", bench.name, "--yes", "--config", config], {
      env,
      meanwhile: (child) => void until(() => bench.has("log")).then(() => child.kill("SIGKILL")),
    });
    const end = await killed;
    expect(end.signal, end.stderr).toBe("SIGKILL");
    const undone = bench.undo(runbook);
    await until(() => bench.events.some((event) => event.type === "warning" && event.text.includes("a-undo is still")));
    rmSync(join(bench.place, "wait"));
    expect(await undone).toMatchObject({ undone: 1 });
    expect(bench.read("log")).toBe("begun\nend\nbegun\nend\n");
    expect(bench.has("a")).toBe(false);
  });
});

/** The command on a terminal of its own, which goes away with `script`. */
function onTerminal(bench: Bench, command: readonly string[]) {
  const words = [process.execPath, join(builtProgram(), "spoolsafe.js"), "runbook", ...command]
    .map((word) => `'${word}'`)
    .join(" ");
  return spawn("script", ["--quiet", "--return", "--command", `exec ${words}`, "/dev/null"], {
    env: { ...process.env, PASSPHRASE: canary, PLACE: bench.place, MAIL_CONFIG: bench.directory, TERM: "dumb" },
    cwd: bench.directory,
    stdio: ["pipe", "pipe", "inherit"],
  });
}

function configOf(bench: Bench): string {
  const config = join(bench.directory, "spoolsafe.toml");
  writeFileSync(config, `state_directory = ${JSON.stringify(join(bench.directory, "state"))}\nhost = "mx.test"\n`);
  return config;
}

describe.skipIf(!needs("script"))("on a terminal", () => {
  test("whose connection is lost, a step goes on to its end, and nothing is lost", { timeout: 300_000 }, async () => {
    using bench = new Bench();
    writeFileSync(join(bench.place, "wait"), "");
    const config = configOf(bench);
    const terminal = onTerminal(bench, ["run", path, "--config", config]);
    let said = "";
    terminal.stdout.on("data", (chunk: Buffer) => {
      said += chunk;
    });
    await until(() => said.includes("[y/N]"), { what: () => said });
    terminal.stdin.write("y\r");
    await until(() => said.includes("[a]bort"), { what: () => said });
    terminal.stdin.write("r\r");
    await until(() => bench.has("first-begun"), { what: () => said });
    terminal.stdin.write("\x03");
    await until(() => said.includes("[w]ait for it, [a]bort after it, [k]ill it now?"), { what: () => said });
    terminal.stdin.write("w\r");
    terminal.kill("SIGKILL");
    const runs = join(bench.directory, "state", "runbooks");
    const [name = ""] = runNames([runs]);
    const journal = () => readFileSync(journalFile(join(runs, name)), "utf8");
    rmSync(join(bench.place, "wait"));
    await until(() => journal().includes('"run.stopped"'), { what: journal });
    await until(() => processesOf(bench.directory).length === 0);
    expect(journal()).toContain('"event":"step.done","step":"first"');
    expect(journal()).not.toContain('"event":"step.started","step":"second"');
    expect(said).not.toContain(canary);
    const answers = join(bench.directory, "answers.toml");
    writeFileSync(answers, 'second = "mx.test"\n');
    const env = { PASSPHRASE: canary, MAIL_CONFIG: bench.directory };
    const resumed = await spoolsafe(
      ["runbook", "resume", name.slice(0, 12), "--config", config, "--answers", answers, "--json"],
      { env },
    );
    expect(resumed.json.at(-1)).toMatchObject({ type: "summary", outcome: "done", done: 3 });
    expect(bench.read("first-begun")).toBe("begun\n");
    const report = await spoolsafe(["runbook", "report", name, "--config", config]);
    expect(report.stdout).toContain("| first | started |");
    expect(report.stdout + resumed.stdout).not.toContain(canary);
  });

  test("whose connection is lost at a question, the run stops; Ctrl-C there stops it, too", {
    timeout: 240_000,
  }, async () => {
    using bench = new Bench();
    const config = configOf(bench);
    const runs = join(bench.directory, "state", "runbooks");
    for (const end of ["hang up", "Ctrl-C"]) {
      const terminal = onTerminal(bench, ["run", path, "--config", config]);
      let said = "";
      terminal.stdout.on("data", (chunk: Buffer) => {
        said += chunk;
      });
      const code = new Promise<number | null>((resolve) => terminal.on("close", resolve));
      await until(() => said.includes("[y/N]"), { what: () => said });
      terminal.stdin.write("y\r");
      await until(() => said.includes("[a]bort"), { what: () => said });
      if (end === "Ctrl-C") terminal.stdin.write("\x03");
      else terminal.kill("SIGKILL");
      if (end === "Ctrl-C") expect(await code, said).toBe(130);
      await until(() => processesOf(bench.directory).length === 0);
      const name = runNames([runs]).at(-1) ?? "";
      expect(readFileSync(journalFile(join(runs, name)), "utf8")).toContain('"run.stopped"');
      expect(bench.has("first-begun")).toBe(false);
    }
    expect(runNames([runs])).toHaveLength(2);
  });
});
