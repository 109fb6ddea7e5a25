import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { journalFile } from "../../src/runbook/journal.ts";
import { parseRunbook } from "../../src/runbook/parse.ts";
import { processesOf } from "../support/scratch.ts";
import { until } from "../support/wait.ts";
import { Bench, canary, fence, fixture, sheet } from "./bench.ts";

const typed = { second: "mx.test" };

describe.concurrent("a run", () => {
  test("goes from the first step to the last, and carries what is exported", async () => {
    using bench = new Bench();
    const report = await bench.run(fixture("90-three-steps"), { answers: typed, set: { WORD: "plain" } });
    expect(report).toMatchObject({ done: 3, skipped: 0, steps: 3 });
    expect(bench.read("second")).toBe("plain and more\n");
    expect(bench.lines("step.done", "run.end")).toEqual([
      "step.done look",
      "step.done first",
      "step.done second",
      "run.end",
    ]);
    expect(bench.events.filter(({ type }) => type === "variable")).toEqual([
      { type: "variable", name: "PLACE", value: bench.place, origin: "environment" },
      { type: "variable", name: "WORD", value: "plain", origin: "--set" },
    ]);
    expect(statSync(bench.runDirectory).mode & 0o777).toBe(0o700);
    expect(statSync(join(bench.runDirectory, "01-look.out")).mode & 0o777).toBe(0o600);
  });

  test("keeps no secret, whatever a block does with it", async () => {
    using bench = new Bench();
    const leak = [
      'echo "$PASSPHRASE" && echo "$PASSPHRASE" >&2',
      'export COPY="a $PASSPHRASE b" OTHER=kept',
      "echo AGE-SECRET-KEY-1QQPQ && echo aws_secret_access_key = abcdefghij",
      'echo "-----BEGIN PRIVATE KEY-----"; echo MIIEsecret; echo "-----END PRIVATE KEY-----"',
      'echo "end with $PASSPHRASE" && exit 1',
    ].join("\n");
    const runbook = sheet(
      [
        fence("name=leak risk=read timeout=5s", leak) +
          fence("name=leak-verify kind=verify", 'echo "$PASSPHRASE"; false'),
      ],
      ["secrets: [PASSPHRASE]"],
    );
    await expect(bench.run(runbook)).rejects.toThrow("leak is not done");
    expect(bench.said).toContain("[secret]\n[secret]\n");
    expect(bench.filesWith(canary)).toEqual([]);
    expect(bench.filesWith("AGE-SECRET-KEY")).toEqual(["runbook.md"]);
    expect(bench.filesWith("abcdefghij")).toEqual(["runbook.md"]);
    expect(bench.filesWith("MIIEsecret")).toEqual(["runbook.md"]);
    expect(JSON.stringify(bench.events)).not.toContain(canary);
    expect(bench.filesWith("[secret]").length).toBeGreaterThan(0);
  });

  test("has blocks find this program as spoolsafe, and little else of our environment", async () => {
    using bench = new Bench();
    const look =
      // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's
      'command -v spoolsafe; cat "$(command -v spoolsafe)"; echo "LANG=${LANG-none} $LC_ALL $SPOOLSAFE_STEP"; umask; pwd';
    const runbook = sheet([
      fence("name=look risk=read timeout=5s", look) + fence("name=look-verify kind=verify", "true"),
    ]);
    await bench.run(runbook, { world: { environment: { LANG: "de_DE", MINE: "x", PLACE: bench.place } } });
    expect(bench.said).toContain(`${bench.runDirectory}/bin/spoolsafe\n`);
    expect(bench.said).toContain("'/nowhere/spoolsafe.js' \"$@\"");
    expect(bench.said).toContain(`LANG=none C look\n0077\n${bench.runDirectory}/work\n`);
  });

  test("Enter is never yes, and what can't be taken back wants the host's name", async () => {
    using bench = new Bench();
    const says = ["y", "", "y", "", "r", "wrong", "mx.test"];
    await bench.run(fixture("90-three-steps"), { yes: false, says });
    expect(bench.questions.map((text) => text.split("\n").at(-1)?.slice(0, 20))).toEqual([
      "run 90-three-steps o",
      "first: [r]un [s]kip ",
      "first: [r]un [s]kip ",
      "second: type mx.test",
      "second: type mx.test",
      "second: type mx.test",
      "second: type mx.test",
    ]);
    expect(bench.journal.filter(({ event }) => event === "step.confirmed")).toMatchObject([
      { step: "look", how: "not asked" },
      { step: "first", how: "alice" },
      { step: "second", how: "typed" },
    ]);
  });

  test("not confirmed at its start leaves nothing", async () => {
    using bench = new Bench();
    await expect(bench.run(fixture("90-three-steps"), { yes: false, says: [""] })).rejects.toThrow("nothing was done");
    expect(bench.name).toBe("");
  });

  test("--yes stops where the host's name is to be typed, and goes on with an answer", async () => {
    using bench = new Bench();
    await expect(bench.run(fixture("90-three-steps"))).rejects.toMatchObject({
      kind: "usage",
      hints: [
        expect.stringContaining('--answers FILE, and in it: second = "mx.test"'),
        expect.stringContaining("go on with it: spoolsafe runbook resume 2"),
      ],
    });
    expect([bench.has("first"), bench.has("second")]).toEqual([true, false]);
    const wrong = bench.resume(fixture("90-three-steps"), { answers: { second: "yes" } });
    await expect(wrong).rejects.toThrow("is not the name of this host");
    expect(await bench.resume(fixture("90-three-steps"), { answers: typed })).toMatchObject({ done: 3 });
    expect(bench.read("first-begun")).toBe("begun\n");
  });

  test("--yes stops at a step that is done by hand", async () => {
    using bench = new Bench();
    const runbook = sheet([
      fence("name=byhand kind=manual excludeFromRunAll=true", "# switch it off") +
        fence("name=byhand-verify kind=verify", 'test -e "$PLACE/off"'),
    ]);
    await expect(bench.run(runbook)).rejects.toMatchObject({
      kind: "usage",
      message: expect.stringContaining("by a person"),
    });
    writeFileSync(join(bench.place, "off"), "");
    await bench.resume(runbook, { answers: { byhand: "pulled the plug" } });
    expect(bench.journal.filter(({ event }) => event === "note")).toMatchObject([
      { text: "pulled the plug", by: "alice" },
    ]);
  });

  test("a step that fails is asked about: output, note, skip with a reason", async () => {
    using bench = new Bench();
    const runbook = sheet([
      fence("name=broken risk=change timeout=5s", "echo tried") +
        fence("name=broken-verify kind=verify", "echo no; false"),
    ]);
    const says = ["o", "n", "disk is slow", "?", "s", "", "s", "not needed here"];
    expect(await bench.run(runbook, { says })).toMatchObject({ done: 0, skipped: 1 });
    expect(bench.lines("step.failed", "step.skipped", "note")).toEqual([
      "step.failed broken",
      "note null",
      "step.skipped broken",
    ]);
    expect(bench.journal.find(({ event }) => event === "step.skipped")).toMatchObject({ reason: "not needed here" });
    const told = bench.events.flatMap((event) => (event.type === "note" ? [event.text] : [])).join("\n");
    expect(told).toContain("tried");
    expect(told).toContain("without a reason nothing is skipped");
  });

  test("a step that fails can be run again, verified, undone; its conditions are looked at again", async () => {
    using bench = new Bench();
    const runbook = sheet([
      fence("name=a-pre kind=pre", 'echo pre >> "$PLACE/log"') +
        fence("name=a risk=change timeout=5s", 'echo act >> "$PLACE/log"') +
        fence("name=a-verify kind=verify", 'test "$(grep -c act "$PLACE/log")" -ge 2') +
        fence("name=a-undo kind=undo risk=change timeout=5s excludeFromRunAll=true", 'echo undo >> "$PLACE/log"'),
    ]);
    await bench.run(runbook, { says: ["v", "u", "r"] });
    expect(bench.read("log")).toBe("pre\nact\nundo\npre\nact\n");
  });

  test.each(["yes", "no"])("a step that was undone is not run again by itself (confirm=%s)", async (confirm) => {
    using bench = new Bench();
    const runbook = sheet([
      fence(`name=a risk=change confirm=${confirm} timeout=5s`, 'echo act >> "$PLACE/log"') +
        fence("name=a-verify kind=verify", "false") +
        fence("name=a-undo kind=undo risk=change timeout=5s excludeFromRunAll=true", 'echo undo >> "$PLACE/log"'),
    ]);
    expect(await bench.run(runbook, { says: ["u", "s", "not wanted"] })).toMatchObject({ skipped: 1 });
    expect(bench.read("log")).toBe("act\nundo\n");
    expect(bench.questions[1]).toContain("a is undone\n");
  });

  test("an answer for a step called start is none for whether to begin", async () => {
    using bench = new Bench();
    const runbook = sheet([
      fence("name=start risk=change timeout=5s", 'touch "$PLACE/started"') +
        fence("name=start-verify kind=verify", 'test -e "$PLACE/started"'),
    ]);
    await expect(bench.run(runbook, { yes: false, answers: { start: "yes" } })).rejects.toMatchObject({
      kind: "usage",
      hints: [expect.any(String), expect.stringContaining('91-short = "yes"')],
    });
    expect(await bench.run(runbook, { yes: false, answers: { start: "yes", "91-short": "yes" } })).toMatchObject({
      done: 1,
    });
  });

  test.each(["run.start", "variables"] as const)("lost with its runner after %s, it was never begun", async (last) => {
    using bench = new Bench();
    await bench.run(fixture("90-three-steps"), { answers: typed, from: "2" }).catch(() => {});
    bench.cutAfter(last);
    rmSync(bench.place, { recursive: true });
    mkdirSync(bench.place);
    const resumed = bench.resume(fixture("90-three-steps"), { answers: typed, yes: false, says: ["n"] });
    await expect(resumed).rejects.toMatchObject({
      kind: "refused",
      hints: [expect.stringContaining("runbook run 90-")],
    });
    expect(bench.has("first-begun")).toBe(false);
  });

  test("lost while it marks the steps before --from, it leaves them out when it goes on", async () => {
    using bench = new Bench();
    await bench.run(fixture("90-three-steps"), { from: "3" }).catch(() => {});
    bench.cutAfter("step.skipped");
    await bench.resume(fixture("90-three-steps"), { answers: typed }).catch(() => {});
    expect(bench.has("first-begun")).toBe(false);
    expect(bench.lines("step.skipped")).toEqual(["step.skipped look", "step.skipped first"]);
  });

  test("abort stops, and can be gone on with", async () => {
    using bench = new Bench();
    await expect(bench.run(fixture("90-three-steps"), { yes: false, says: ["y", "a"] })).rejects.toMatchObject({
      kind: "failed",
      message: "stopped at first",
    });
    expect(await bench.resume(fixture("90-three-steps"), { answers: typed })).toMatchObject({ done: 3 });
  });

  test("begins at a step, by name or number, and says that those before were skipped", async () => {
    using bench = new Bench();
    writeFileSync(join(bench.place, "first"), "x\n");
    await bench
      .run(fixture("90-three-steps"), {
        from: "3",
        answers: typed,
        world: { environment: { PLACE: bench.place, FIRST: "x", PASSPHRASE: canary } },
      })
      .catch(() => {});
    expect(bench.lines("step.skipped", "step.started")).toEqual([
      "step.skipped look",
      "step.skipped first",
      "step.started second",
    ]);
    await expect(bench.run(fixture("90-three-steps"), { from: "4" })).rejects.toMatchObject({ kind: "usage" });
  });

  test("what its variables lack is asked for, or said", async () => {
    using bench = new Bench();
    const text = fixture("90-three-steps").text.replace("WORD:-plain", "WORD:-");
    const runbook = parseRunbook(text, "/x/90-three-steps.md");
    await expect(bench.run(runbook)).rejects.toMatchObject({ hints: ["give it: --set WORD=VALUE"] });
    await bench.run(runbook, { says: ["", "plain"], answers: typed });
    expect(bench.read("first")).toBe("plain and more\n");
    await expect(bench.run(runbook, { set: { WRONG: "x" } })).rejects.toMatchObject({ kind: "usage" });
  });

  test("a secret is asked for, not shown, or said to be missing", async () => {
    using bench = new Bench();
    const world = { environment: { PLACE: bench.place } };
    await expect(bench.run(fixture("90-three-steps"), { world })).rejects.toThrow("PASSPHRASE is secret");
    await bench.run(fixture("90-three-steps"), { world, says: [canary], answers: typed });
    expect(bench.said).toContain("[secret]");
    expect(bench.filesWith(canary)).toEqual([]);
  });
});

// Changes the environment of this process: not at the same time as others.
describe("a run that is kept nowhere", () => {
  test("takes nothing from a file that anybody may have put into /tmp", async () => {
    using bench = new Bench();
    const shared = join(bench.directory, "tmp");
    mkdirSync(shared);
    writeFileSync(join(shared, "environment"), "EVIL=taken\0SPOOLSAFE_BLOCK_EXIT=0\0");
    const runbook = sheet([
      // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's
      fence("name=look risk=read timeout=5s", 'echo "EVIL is ${EVIL-not set}"') +
        fence("name=look-verify kind=verify", "true"),
    ]);
    const before = process.env.TMPDIR;
    process.env.TMPDIR = shared;
    try {
      await bench.run(runbook, { world: { places: [join(shared, "environment", "runs")] } });
    } finally {
      if (before === undefined) delete process.env.TMPDIR;
      else process.env.TMPDIR = before;
    }
    expect(bench.said).toContain("EVIL is not set");
  });
});

describe.concurrent("conditions", () => {
  const step = (pre: string, attributes = "") =>
    sheet([
      fence(`name=cond kind=pre${attributes}`, pre) +
        fence("name=act risk=change timeout=5s", 'touch "$PLACE/acted"') +
        fence("name=act-verify kind=verify", 'test -e "$PLACE/acted"'),
    ]);

  test("refuse, and nothing is done", async () => {
    using bench = new Bench();
    const failing = bench.run(step("echo the queue is not empty; exit 1"));
    await expect(failing).rejects.toMatchObject({
      exitCode: 1,
      message: expect.stringContaining("the queue is not empty"),
    });
    expect(bench.has("acted")).toBe(false);
    expect(bench.lines("step.refused", "step.started", "run.stopped")).toEqual(["step.refused act", "run.stopped"]);
  });

  test("75 is looked at again, until it holds or its tries are used up", async () => {
    using bench = new Bench();
    const pre = 'echo x >> "$PLACE/tries"; test "$(wc -l < "$PLACE/tries")" -ge 2 || exit 75';
    await bench.run(step(pre, " retry=3 every=1s"));
    expect(bench.read("tries")).toBe("x\nx\n");
    await expect(bench.run(step("echo later; exit 75", " retry=2 every=1s"))).rejects.toThrow("later");
  });

  test("2 is a warning to be acknowledged", async () => {
    using bench = new Bench();
    const warned = step("echo old backup; exit 2");
    await expect(bench.run(warned, { yes: false, says: ["y", "n"] })).rejects.toThrow("was not accepted");
    using accepting = new Bench();
    await accepting.run(warned, { yes: false, says: ["y", "y", "y"] });
    expect(accepting.journal.find(({ event }) => event === "warning")).toMatchObject({
      text: "old backup",
      acknowledged: "alice",
    });
  });

  test("of the host: root, commands, Postfix, role", async () => {
    using bench = new Bench();
    const section = [fence("name=a risk=read timeout=5s", "true") + fence("name=a-verify kind=verify", "true")];
    const needy = sheet(section, ['requires: {root: true, commands: [no-such-program, sed], postfix: ">=3.1"}']);
    const poor = bench.run(needy, { world: { uid: 1000 } });
    await expect(poor).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringMatching(/root; .*no-such-program, not.*; .*there is none/),
    });
    const standby = sheet(section, ["hosts: standby"]);
    await expect(bench.run(standby)).rejects.toMatchObject({ kind: "refused", exitCode: 1 });
    await expect(bench.run(standby, { says: ["mx.test"] })).resolves.toMatchObject({ done: 1 });
    await expect(bench.run(standby, { world: { roles: ["standby"] } })).resolves.toMatchObject({ done: 1 });
  });
});

describe.concurrent("processes", () => {
  test("a timeout ends everything a block has started, also what doesn't listen", async () => {
    using bench = new Bench();
    const runbook = sheet([
      fence("name=hang risk=change timeout=1s", "sleep 300 & (trap '' TERM; sleep 301; sleep 302) & sleep 303") +
        fence("name=hang-verify kind=verify", "false"),
    ]);
    await expect(bench.run(runbook)).rejects.toThrow("it did not end within 1 s");
    expect(processesOf(bench.directory)).toEqual([]);
    expect(bench.journal.find(({ event }) => event === "step.exit")).toMatchObject({ outcome: "timeout" });
  }, 240_000);

  test("an action that fails is done all the same when its verify says so", async () => {
    using bench = new Bench();
    const runbook = sheet([
      fence("name=a risk=change timeout=5s", 'touch "$PLACE/done"; exit 1') +
        fence("name=a-verify kind=verify", 'test -e "$PLACE/done"'),
    ]);
    expect(await bench.run(runbook)).toMatchObject({ done: 1 });
  });

  test("Ctrl-C asks: wait, or stop after the action, whose end is then verified", async () => {
    using bench = new Bench();
    writeFileSync(join(bench.place, "wait"), "");
    let interrupt = () => {};
    const people = {
      onInterrupt: (listener: () => void) => {
        interrupt = listener;
        return () => {};
      },
    };
    const running = bench.run(fixture("90-three-steps"), { says: ["w", "a"], people });
    running.catch(() => {});
    await until(() => bench.has("first-begun"));
    interrupt();
    await until(() => bench.questions.length === 1);
    expect(bench.questions[0]).toBe("[w]ait for it, [a]bort after it, [k]ill it now? ");
    interrupt();
    await until(() => bench.questions.length === 2);
    rmSync(join(bench.place, "wait"));
    await expect(running).rejects.toMatchObject({ kind: "interrupted", exitCode: 130 });
    expect(bench.lines("step.exit", "step.done").slice(-1)).toEqual(["step.exit first"]);
    expect(await bench.resume(fixture("90-three-steps"), { answers: typed })).toMatchObject({ done: 3 });
    expect(bench.read("first-begun")).toBe("begun\n");
  });

  test("Ctrl-C ends what can be repeated, with all it has started, when a person says so", async () => {
    using bench = new Bench();
    let interrupt = () => {};
    const people = {
      onInterrupt: (listener: () => void) => {
        interrupt = listener;
        return () => {};
      },
    };
    writeFileSync(join(bench.place, "wait"), "");
    const running = bench.run(fixture("90-three-steps"), { says: ["k"], people });
    running.catch(() => {});
    await until(() => bench.has("first-begun"));
    interrupt();
    await expect(running).rejects.toMatchObject({ kind: "interrupted" });
    expect(bench.journal.findLast(({ event }) => event === "step.exit")).toMatchObject({
      step: "first",
      outcome: "killed",
    });
    expect(processesOf(bench.directory)).toEqual([]);
    rmSync(join(bench.place, "wait"));
    expect(await bench.resume(fixture("90-three-steps"), { answers: typed })).toMatchObject({ done: 3 });
    expect(bench.read("first-begun")).toBe("begun\nbegun\n");
  });

  test("Ctrl-C never kills what can't be taken back", async () => {
    using bench = new Bench();
    let interrupt = () => {};
    const people = {
      onInterrupt: (listener: () => void) => {
        interrupt = listener;
        return () => {};
      },
    };
    const runbook = sheet([
      fence(
        "name=a risk=destructive confirm=type timeout=20s",
        'touch "$PLACE/begun"; while [ -e "$PLACE/wait" ]; do sleep 0.05; done',
      ) + fence("name=a-verify kind=verify", 'test -e "$PLACE/begun"'),
    ]);
    writeFileSync(join(bench.place, "wait"), "");
    const running = bench.run(runbook, { answers: { a: "mx.test" }, says: ["k"], people });
    await until(() => bench.has("begun"));
    interrupt();
    await until(() => bench.questions.length === 1);
    expect(bench.questions[0]).toBe("[w]ait for it, [a]bort after it? ");
    await delay(100);
    rmSync(join(bench.place, "wait"));
    await expect(running).rejects.toMatchObject({ kind: "interrupted" });
    expect(bench.journal.find(({ event }) => event === "step.exit")).toMatchObject({ outcome: "ok" });
  });

  test("SIGTERM lets an action come to its end, and then stops", async () => {
    using bench = new Bench();
    writeFileSync(join(bench.place, "wait"), "");
    const controller = new AbortController();
    const running = bench.run(fixture("90-three-steps"), { people: { terminated: controller.signal } });
    running.catch(() => {});
    await until(() => bench.has("first-begun"));
    controller.abort();
    await delay(100);
    rmSync(join(bench.place, "wait"));
    await expect(running).rejects.toMatchObject({ kind: "interrupted" });
    expect(bench.has("first")).toBe(true);
  });

  test("one run at a time per queue directory", async () => {
    using bench = new Bench();
    const queueDirectory = join(bench.directory, "queue");
    mkdirSync(join(queueDirectory, "pid"), { recursive: true });
    const world = { instance: { configDirectory: bench.directory, queueDirectory, version: "3.7.11" } };
    writeFileSync(join(bench.place, "wait"), "");
    const running = bench.run(fixture("90-three-steps"), { world, answers: typed });
    await until(() => bench.has("first-begun"));
    await expect(bench.run(fixture("90-three-steps"), { world })).rejects.toMatchObject({
      kind: "locked",
      exitCode: 11,
    });
    rmSync(join(bench.place, "wait"));
    await running;
  });
});

describe.concurrent("where a run can't be kept", () => {
  test("it goes on in the next place, and in the end in memory, and says so", async () => {
    using bench = new Bench();
    writeFileSync(join(bench.directory, "file"), "");
    const bad = join(bench.directory, "file", "runs");
    await bench.run(fixture("90-three-steps"), { answers: typed, world: { places: [bad, bench.runs] } });
    expect(bench.journal.at(-1)).toMatchObject({ event: "run.end" });
    const warnings = () => bench.events.flatMap((event) => (event.type === "warning" ? [event.text] : []));
    expect(warnings()).toEqual([expect.stringContaining("ENOTDIR")]);
    rmSync(bench.place, { recursive: true });
    mkdirSync(bench.place);
    await bench.run(fixture("90-three-steps"), { answers: typed, world: { places: [bad] } });
    expect(warnings().some((text) => text.includes("CAN'T BE RESUMED"))).toBe(true);
    expect(bench.read("second")).toBe("plain and more\n");
    expect(bench.said).toContain("looking at");
  });
});

describe.concurrent("a resume", () => {
  test("is refused when the runbook is another, or the run has ended", async () => {
    using bench = new Bench();
    const runbook = fixture("90-three-steps");
    await expect(bench.run(runbook)).rejects.toThrow();
    const changed = parseRunbook(`${runbook.text}\nMore.\n`, runbook.path);
    await expect(bench.resume(changed)).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("has changed"),
    });
    await bench.resume(runbook, { answers: typed });
    await expect(bench.resume(runbook)).rejects.toThrow("is done already");
  });

  test("is refused when the journal is not as it was written; a torn last line is cut off", async () => {
    using bench = new Bench();
    const runbook = fixture("90-three-steps");
    await expect(bench.run(runbook)).rejects.toThrow();
    const path = journalFile(bench.runDirectory);
    const text = readFileSync(path, "utf8");
    writeFileSync(path, text.replace('"how":"--yes"', '"how":"typed"'));
    await expect(bench.resume(runbook, { answers: typed })).rejects.toMatchObject({ kind: "damaged", exitCode: 13 });
    writeFileSync(path, `${text}{"n":99,"time":"20`);
    expect(await bench.resume(runbook, { answers: typed })).toMatchObject({ done: 3 });
    expect(bench.journal.length).toBeGreaterThan(20);
    expect(existsSync(join(bench.runDirectory, "runbook.md"))).toBe(true);
  });
});

describe.concurrent("undo", () => {
  test("takes back newest first, asks each time, and says that the run is undone", async () => {
    using bench = new Bench();
    const runbook = fixture("90-three-steps");
    await bench.run(runbook, { answers: typed });
    await expect(bench.undo(runbook, { yes: false, says: ["y", ""] })).rejects.toThrow("stopped at first");
    expect([bench.has("first"), bench.has("second")]).toEqual([true, false]);
    expect(await bench.undo(runbook)).toMatchObject({ undone: 1, withoutUndo: [] });
    expect([bench.has("first"), bench.has("second")]).toEqual([false, false]);
    expect(bench.lines("step.undone")).toEqual(["step.undone second", "step.undone first"]);
    expect(bench.journal.at(-1)).toMatchObject({ event: "run.end", outcome: "undone" });
    await expect(bench.undo(runbook)).rejects.toThrow("undone already");
  });

  test("of what has none is asked, too", async () => {
    using bench = new Bench();
    const runbook = sheet([
      fence("name=a risk=change timeout=5s", "true") + fence("name=a-verify kind=verify", "true"),
    ]);
    await bench.run(runbook);
    await expect(bench.undo(runbook, { yes: false, says: ["n"] })).rejects.toThrow("which has no undo");
    expect(await bench.undo(runbook)).toMatchObject({ undone: 0, withoutUndo: ["a"] });
  });
});
