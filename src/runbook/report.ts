import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { JournalLine } from "./journal.ts";
import { waitingNotes } from "./notes.ts";
import { readRunbook } from "./parse.ts";
import type { StepState } from "./progress.ts";
import type { FoundRun } from "./run-directory.ts";

/** Something that happened in a run, as the report tells it. */
export interface TimelineEntry {
  /** RFC 3339, UTC. */
  readonly time: string;
  readonly step: string | null;
  readonly event: string;
  /** Null where there is no more to say. */
  readonly detail: string | null;
}

/** What a run did, for those who were not there: times are RFC 3339 in UTC, lengths milliseconds. */
export interface RunStory {
  readonly run: string;
  readonly runbook: { readonly id: string; readonly name: string; readonly title: string; readonly sha256: string };
  readonly host: string;
  readonly postfix: string | null;
  readonly tool: string;
  readonly people: readonly string[];
  readonly started: string;
  /** Of the last line; the run may go on. */
  readonly ended: string;
  readonly outcome: "done" | "undone" | "unfinished";
  readonly impact: string;
  readonly budgetMs: number;
  readonly tookMs: number;
  /** How often it was gone on with. */
  readonly resumed: number;
  readonly steps: readonly {
    readonly step: string;
    readonly heading: string;
    readonly state: StepState;
    /** How long it took; null where it wasn't done. */
    readonly ms: number | null;
    readonly reason: string | null;
  }[];
  readonly variables: readonly { readonly name: string; readonly value: string | null; readonly origin: string }[];
  readonly timeline: readonly TimelineEntry[];
  readonly notes: readonly { readonly time: string; readonly by: string; readonly text: string }[];
  /** Of the journal that this was told from, whose chain was found whole. */
  readonly journal: { readonly path: string; readonly lines: number; readonly last: string };
}

/** Tell a run by its journal, which has been proved when it was read. */
export function storyOf({ run, directory, journal, progress }: FoundRun): RunStory {
  const { lines } = journal;
  const { start, startedAt } = progress;
  const ended = lines.at(-1)?.time ?? startedAt;
  const notes = lines.flatMap((line) =>
    line.event === "note" ? [{ time: line.at ?? line.time, by: line.by, text: line.text }] : [],
  );
  return {
    run,
    runbook: {
      id: start.runbook.id,
      name: start.runbook.name,
      title: start.runbook.title,
      sha256: start.runbook.sha256,
    },
    ...{ host: start.host, postfix: start.postfix, tool: start.tool, people: peopleOf(lines) },
    ...{ started: startedAt, ended, outcome: progress.outcome ?? "unfinished", impact: impactOf(directory) },
    ...{ budgetMs: start.budget, tookMs: Date.parse(ended) - Date.parse(startedAt) },
    resumed: lines.filter(({ event }) => event === "run.resume").length,
    steps: progress.steps.map(({ name, state }, index) => ({
      ...{ step: name, heading: start.steps[index]?.heading ?? name, state },
      ...timeAndReason(lines, name),
    })),
    variables: lines.flatMap((line) => (line.event === "variables" ? line.values : [])),
    timeline: lines.flatMap((line) => entryOf(line) ?? []),
    notes: [...notes, ...waitingNotes(directory)].sort((a, b) => (a.time < b.time ? -1 : 1)),
    journal: { path: journal.path, lines: lines.length, last: journal.last },
  };
}

function peopleOf(lines: readonly JournalLine[]): string[] {
  const names = lines.flatMap((line) =>
    line.event === "run.start" || line.event === "run.resume"
      ? [line.sudoUser === null ? line.user : `${line.sudoUser} (as ${line.user})`]
      : [],
  );
  return [...new Set(names)];
}

/** From the copy that the run keeps: the file may have changed since. */
function impactOf(directory: string): string {
  const path = join(directory, "runbook.md");
  return existsSync(path) ? (readRunbook(readFileSync(path, "utf8"), path).runbook?.impact ?? "") : "";
}

function timeAndReason(lines: readonly JournalLine[], step: string): { ms: number | null; reason: string | null } {
  const own = lines.filter((line) => "step" in line && line.step === step);
  const done = own.findLast((line) => line.event === "step.done");
  const why = own.findLast((line) => line.event === "step.failed" || line.event === "step.skipped");
  return {
    ms: done?.event === "step.done" ? done.ms : null,
    reason: done === undefined && why !== undefined && "reason" in why ? why.reason : null,
  };
}

/** Undefined for what tells nothing to those who were not there. */
function entryOf(line: JournalLine): TimelineEntry | undefined {
  const step = "step" in line ? line.step : null;
  const entry = (event: string, detail: string | null = null): TimelineEntry => ({
    time: line.time,
    step,
    event,
    detail,
  });
  switch (line.event) {
    case "run.start":
      return entry("run begun", `${line.runbook.name} on ${line.host} by ${line.sudoUser ?? line.user}`);
    case "run.resume":
      return entry("run gone on with", `by ${line.sudoUser ?? line.user}`);
    case "step.confirmed":
      return line.how === "not asked"
        ? undefined
        : entry("confirmed", line.how === line.by ? line.by : `${line.by}, ${line.how}`);
    case "step.started":
      return entry("started");
    case "step.exit":
      return entry("ended", `${line.outcome}${line.code === null ? "" : `, exit code ${line.code}`}, ${line.ms} ms`);
    case "verify":
      return entry(line.ok ? "verified" : "not verified", line.got ?? line.block);
    case "step.done":
      return entry("done", line.how === "run" ? null : line.how);
    case "step.failed":
    case "step.refused":
    case "step.skipped":
    case "undo.failed":
      return entry(line.event.replace(".", " "), line.reason);
    case "step.undone":
      return entry("undone", line.stillHolds === true ? "its verify still holds" : null);
    case "warning":
      return entry("warning", `${line.text} (acknowledged: ${line.acknowledged})`);
    case "note":
      return { ...entry("note", `${line.by}: ${line.text}`), time: line.at ?? line.time };
    case "run.stopped":
      return entry("run stopped", line.reason);
    case "run.end":
      return entry(`run ${line.outcome}`);
    default:
      return undefined;
  }
}

/** Mail addresses, local parts taken out; in every text of a value of JSON. */
export function maskAddresses<Value>(value: Value): Value {
  const mask = (text: string) => text.replaceAll(/[^\s<>"'(),;:@|]+@(?=[A-Za-z0-9[])/g, "***@");
  return JSON.parse(JSON.stringify(value), (_, each: unknown) => (typeof each === "string" ? mask(each) : each));
}

/** As a post-mortem begins: what happened, how long it took against the budget, when what, and what is left to do. */
export function storyMarkdown(story: RunStory): string {
  const { runbook, outcome, started, ended, steps, notes, journal } = story;
  const time = (ms: number) => `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
  const over = story.tookMs > story.budgetMs ? ", over the budget" : "";
  const rows = (cells: readonly (readonly string[])[]) => cells.map((row) => `| ${row.map(cell).join(" | ")} |`);
  return [
    `# ${runbook.title}: ${started.slice(0, 10)} on ${story.host}`,
    "",
    "## Overview",
    "",
    "| | |",
    "|---|---|",
    ...rows([
      ["Runbook", `${runbook.name} (${runbook.id}), SHA-256 ${runbook.sha256.slice(0, 16)}`],
      ["Run", story.run],
      ["Outcome", outcome],
      ["By", story.people.join(", ")],
      ["Begun, ended (UTC)", `${utc(started)}, ${utc(ended)}`],
      ["Gone on with", story.resumed === 0 ? "no" : `${story.resumed} times`],
      ["Postfix, spoolsafe", `${story.postfix ?? "none"}, ${story.tool}`],
    ]),
    "",
    "## Impact",
    "",
    story.impact === "" ? "To be written." : story.impact,
    "",
    "To be added: messages late, lost, delivered twice; who noticed; who was told.",
    "",
    "## Time",
    "",
    `Budget ${time(story.budgetMs)}, taken ${time(story.tookMs)}${over}.`,
    "",
    "| Step | State | Seconds | |",
    "|---|---|---|---|",
    ...rows(
      steps.map(({ heading, state, ms, reason }) => [
        heading,
        state,
        ms === null ? "" : (ms / 1000).toFixed(1),
        reason ?? "",
      ]),
    ),
    "",
    "## Timeline",
    "",
    "| Time (UTC) | Step | Event | |",
    "|---|---|---|---|",
    ...rows(story.timeline.map((each) => [utc(each.time), each.step ?? "", each.event, each.detail ?? ""])),
    "",
    "## Action items",
    "",
    ...(notes.length === 0
      ? ["None was noted."]
      : notes.map(({ time: at, by, text }) => `- [ ] ${line(text)} (${by}, ${utc(at)})`)),
    "",
    `Told from ${journal.path}: ${journal.lines} lines, the chain whole, ending in ${journal.last.slice(0, 16)}.`,
    "",
  ].join("\n");
}

function utc(time: string): string {
  return time.slice(0, 19).replace("T", " ");
}

/** On one line, and nothing in it a table or a page would take for its own. */
function cell(text: string): string {
  return line(text).replaceAll("|", "\\|");
}

function line(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, "; ").replaceAll(/[<>]/g, (mark) => (mark === "<" ? "&lt;" : "&gt;"));
}
