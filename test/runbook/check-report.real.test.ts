import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { journalFile } from "../../src/runbook/journal.ts";
import { leaveNote } from "../../src/runbook/notes.ts";
import { maskAddresses, storyMarkdown, storyOf } from "../../src/runbook/report.ts";
import { loadRun } from "../../src/runbook/run-directory.ts";
import { spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { makeScratch } from "../support/scratch.ts";
import { tree } from "../support/tree.ts";
import { Bench, canary, fence, fixture, sheet } from "./bench.ts";

const typed = { second: "mx.test" };

/** State of each step as a check told it. */
function states(bench: Bench): string[] {
  return bench.events.flatMap((event) =>
    event.type === "checked" ? [`${event.step} ${event.state}${event.until === null ? "" : ` ${event.until}`}`] : [],
  );
}

describe.concurrent("a check", () => {
  test("executes what looks, says what would run, and changes nothing", async () => {
    using bench = new Bench();
    const before = tree(bench.directory);
    const report = await bench.check(fixture("90-three-steps"));
    expect(report).toEqual({ counts: { "would-run": 2, satisfied: 1, refused: 0, unknowable: 0 }, ok: true });
    expect(states(bench)).toEqual(["look satisfied", "first would-run", "second would-run"]);
    expect(tree(bench.directory)).toEqual(before);
    expect(bench.said).toContain("looking at");
    expect(bench.questions).toEqual([]);
  });

  test("tells what is satisfied, what is refused, and what nobody can know before a step", async () => {
    using bench = new Bench();
    writeFileSync(join(bench.place, "forbidden"), "");
    expect(await bench.check(fixture("90-three-steps"))).toMatchObject({ ok: false, counts: { refused: 1 } });
    const runbook = sheet([
      fence("name=a risk=read timeout=5s", "pwd; touch mine") + fence("name=a-verify kind=verify", "test -e mine"),
      fence("name=b risk=change timeout=5s", "true") + fence("name=b-verify kind=verify", "false"),
      fence("name=c-pre kind=pre", "false") +
        fence("name=c risk=change timeout=5s", "true") +
        fence("name=c-verify kind=verify", "false"),
      fence("name=d risk=read timeout=5s", "false") + fence("name=d-verify kind=verify", "true"),
      fence("name=e risk=change timeout=5s", "true") + fence("name=e-verify kind=verify", "true"),
    ]);
    bench.events.length = 0;
    expect(await bench.check(runbook)).toMatchObject({ ok: true });
    expect(existsSync(bench.said.trim()), "the directory it looked from").toBe(false);
    expect(states(bench)).toEqual(["a satisfied", "b would-run", "c unknowable b", "d unknowable b", "e unknowable b"]);
  });
});

describe.concurrent("a report", () => {
  test("tells the run with its notes, masks addresses, and has no secret", async () => {
    using bench = new Bench();
    const runbook = fixture("90-three-steps");
    await expect(bench.run(runbook)).rejects.toThrow();
    const note = { time: new Date().toISOString(), by: "bob", text: "told carol@example.org | twice <b>" };
    leaveNote(bench.runDirectory, note);
    const before = storyOf(loadRun([bench.runs], bench.name));
    expect(before).toMatchObject({ outcome: "unfinished", resumed: 0, notes: [note] });
    await bench.resume(runbook, { answers: typed });
    const story = storyOf(loadRun([bench.runs], bench.name));
    expect(story).toMatchObject({
      ...{ outcome: "done", resumed: 1, host: "mx.test", impact: "files in a directory.", budgetMs: 600_000 },
      people: ["alice (as root)"],
      steps: [
        { step: "look", state: "done", reason: null },
        { step: "first", state: "done", reason: null },
        { step: "second", state: "done", reason: null },
      ],
      notes: [note],
    });
    const text = storyMarkdown(maskAddresses(story));
    expect(text).toContain("- [ ] told ***@example.org | twice &lt;b&gt; (bob,");
    expect(text).toMatch(/\| second \| confirmed \| alice, answers \|/);
    expect(text).not.toContain("carol@");
    expect(text).not.toContain(canary);
    expect(bench.journal.filter(({ event }) => event === "note")).toHaveLength(1);
  });

  test("is refused of a journal that was changed", async () => {
    using bench = new Bench();
    await bench.run(fixture("90-three-steps"), { answers: typed });
    const path = journalFile(bench.runDirectory);
    const lines = readFileSync(path, "utf8").split("\n");
    for (const changed of [
      lines.toSpliced(3, 1),
      lines.with(4, lines[5] ?? ""),
      lines.with(2, (lines[2] ?? "").replace("origin", "Origin")),
    ]) {
      writeFileSync(path, changed.join("\n"));
      expect(() => loadRun([bench.runs], bench.name)).toThrow("is not as it was written");
    }
  });
});

describe("on the command line", () => {
  test("lists runs, takes notes, reports as Markdown and JSON, checks and undoes", { timeout: 240_000 }, async () => {
    using bench = new Bench();
    const config = join(bench.directory, "spoolsafe.toml");
    writeFileSync(config, `state_directory = ${JSON.stringify(bench.directory)}\nhost = "mx.test"\n`);
    const answers = join(bench.directory, "answers.toml");
    writeFileSync(answers, 'second = "mx.test"\n');
    const path = join(import.meta.dirname, "../fixtures/runbooks/90-three-steps.md");
    const env = { PASSPHRASE: canary, PLACE: bench.place, MAIL_CONFIG: bench.directory };
    const run = (...words: string[]) => spoolsafe(["runbook", ...words, "--config", config], { env });

    expect((await run("check", path)).stdout).toContain("2 would-run, 1 satisfied; nothing was changed");
    const refused = await run("run", path, "--json");
    expect(refused.code).toBe(2);
    expect(refused.json.at(-1)).toMatchObject({
      type: "error",
      kind: "usage",
      hints: [expect.stringContaining("--yes"), expect.stringContaining("--answers")],
    });
    const done = await run("run", path, "--yes", "--answers", answers);
    expect([done.code, done.stderr]).toEqual([
      0,
      expect.stringContaining("[3/3] 3. Make the second file  (destructive; 00:0"),
    ]);
    expect(done.stdout).toContain("looking at");
    expect(done.stdout + done.stderr).not.toContain(canary);

    const list = await run("report", "--json");
    const [first] = list.json;
    expect(list.json).toMatchObject([
      { type: "run", outcome: "done", done: 3, steps: 3 },
      { type: "summary", count: 1 },
    ]);
    const name = String(first?.run);
    expect((await run("note", name, "called", "dave@example.net")).code).toBe(0);
    const story = await run("report", name, "--format", "json");
    expect(story.json.at(-1)).toMatchObject({ type: "summary", run: name, outcome: "done" });
    expect(story.stdout).toContain("called ***@example.net");
    expect((await run("report", name, "--unmasked")).stdout).toContain("called dave@example.net");
    expect((await run("report", "nothing")).code).toBe(2);
    expect((await run("undo", name)).code).toBe(2);
    expect((await run("undo", name, "--yes")).stdout).toContain("undone: 2 steps");
    expect(bench.has("first")).toBe(false);
  });

  test("refuses what lint finds, what is no runbook, and answers that are none", { timeout: 240_000 }, async () => {
    using bench = new Bench();
    const config = join(bench.directory, "spoolsafe.toml");
    writeFileSync(config, `state_directory = ${JSON.stringify(bench.directory)}\n`);
    const bad = join(bench.directory, "92-bad.md");
    writeFileSync(bad, fixture("90-three-steps").text.replace("touch ", "touch ").replace("risk=read ", ""));
    const answers = join(bench.directory, "answers.toml");
    writeFileSync(answers, "second = 3\n");
    const good = join(import.meta.dirname, "../fixtures/runbooks/90-three-steps.md");
    expect(await spoolsafe(["runbook", "run", bad, "--config", config])).toMatchObject({
      code: 2,
      stderr: expect.stringContaining(`${bad}:`),
    });
    const wrong = await spoolsafe(["runbook", "run", good, "--answers", answers, "--config", config]);
    expect(wrong).toMatchObject({ code: 2, stderr: expect.stringContaining("the answer for second is no text") });
  });
});

describe.skipIf(!needs("mount"))("on a full disk", () => {
  test("the run goes on, its journal elsewhere", { timeout: 240_000 }, async () => {
    using bench = new Bench();
    const small = makeScratch({ tmpfs: "2m" });
    const places = [join(small, "runs"), bench.runs];
    const runbook = sheet([
      fence("name=fill risk=change timeout=20s", `head -c 8M /dev/zero > ${small}/rest || touch "$PLACE/full"`) +
        fence("name=fill-verify kind=verify", 'test -e "$PLACE/full"'),
      ...Array.from(
        { length: 9 },
        (_, n) =>
          fence(`name=more-${n} risk=change timeout=20s`, `seq 100000; touch "$PLACE/more-${n}"`) +
          fence(`name=more-${n}-verify kind=verify`, `test -e "$PLACE/more-${n}"`),
      ),
    ]);
    expect(await bench.run(runbook, { world: { places } })).toMatchObject({ done: 10 });
    const warnings = bench.events.flatMap((event) => (event.type === "warning" ? [event.text] : []));
    expect(warnings.join("\n")).toContain("the journal is in");
    expect(loadRun(places, bench.name).progress.outcome).toBe("done");
  });

  test("that is full from the start: the run is kept elsewhere", { timeout: 240_000 }, async () => {
    using bench = new Bench();
    const small = makeScratch({ tmpfs: "1m" });
    const fill = () => writeFileSync(join(small, "rest"), Buffer.alloc(2_000_000));
    expect(fill).toThrow("ENOSPC");
    const places = [join(small, "runs"), bench.runs];
    await bench.run(fixture("90-three-steps"), { answers: typed, world: { places } });
    expect(bench.journal.at(-1)).toMatchObject({ event: "run.end" });
    expect(loadRun(places, bench.name).directory).toBe(bench.runDirectory);
  });
});
