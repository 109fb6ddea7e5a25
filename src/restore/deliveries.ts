import { accessSync, constants, statSync } from "node:fs";
import { OperatorError } from "../errors.ts";
import { gatherEvidence, isOfInstance, type LogEvidence } from "../postfix/log-evidence.ts";
import type { LogGap } from "../postfix/log-gaps.ts";
import { type LogRecord, lineOf } from "../postfix/mail-log.ts";
import { newestMissing, readMailLogs } from "../postfix/mail-log-files.ts";
import { entryKey, type Manifest } from "../snapshot/manifest.ts";
import type { Snapshot } from "../snapshot/snapshot.ts";
import type { Clock } from "../system/clock.ts";
import { clock as timeOf } from "./fate.ts";
import { type LogSettings, readLogSettings } from "./log-settings.ts";
import type { RestoreSource } from "./source.ts";
import {
  acceptedLater,
  boundOf,
  type DeliveryBound,
  judge,
  type LaterMessage,
  type RecipientVerdict,
  sayBound,
  watchOf,
} from "./verdict.ts";

export interface DeliveriesRequest {
  readonly source: Pick<RestoreSource, "repository" | "signed" | "identities">;
  readonly manifest: Manifest;
  /** Whose messages are asked for. */
  readonly instance: string;
  /** Surviving mail logs of the snapshot's host, in any order. */
  readonly files: readonly string[];
  /** Of the log's host, for stamps that name none: an IANA name or an offset; default the snapshot's, else this host's. */
  readonly zone?: string | undefined;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
}

/** What surviving logs say of the mail of a snapshot. */
export interface Deliveries {
  /** By `entryKey`: a verdict for each recipient of the message, in its order. */
  readonly verdicts: ReadonlyMap<string, readonly RecipientVerdict[]>;
  /** What makes the logs, or a part of them, say less than they could. */
  readonly warnings: readonly string[];
  /** Times of the first and last line of Postfix, seconds since 1970; null without one. */
  readonly covered: { readonly from: number; readonly to: number } | null;
  readonly bound: DeliveryBound;
  /** The bound in words. */
  readonly sentence: string;
  /** Accepted after the snapshot and unfinished when the logs end: in no snapshot. */
  readonly later: readonly LaterMessage[];
}

/**
 * Judge by the mail logs of a snapshot's host what became of each recipient after the snapshot. Changes nothing.
 *
 * The logs are believed to reach to the end of the host: what they can't tell because lines are missing in them is in
 * doubt, but what was delivered after their last line can't be known from them.
 *
 * @throws OperatorError `usage` that names every file that is none, or that can't be opened, and for a zone nobody knows;
 * `failed` for one that is damaged
 */
export async function judgeDeliveries(request: DeliveriesRequest): Promise<Deliveries> {
  const { manifest, instance, source, signal } = request;
  refuseUnreadable(request.files);
  const messages = manifest.messages.filter((message) => message.instance === instance);
  const settings = await readLogSettings(manifest, instance, source, signal);
  const seen: Seen = { files: new Map(), names: new Map() };
  const gathered = await gatherEvidence(readAll(request, settings, seen), watchOf(messages), settings.names);
  const window = windowOf(source.signed.snapshot, settings);
  const short = shortfalls(gathered, request, settings, seen);
  const log = { ...gathered, gaps: [...gathered.gaps, ...short] };
  const judgement = judge(messages, log, window);
  const later = acceptedLater(log, window.snapshotTime, judgement.followed);
  const bound = boundOf(judgement, later);
  return {
    verdicts: new Map(judgement.messages.map(({ message, recipients }) => [entryKey(message), recipients])),
    warnings: [...settings.warnings, ...warningsOf(log, window, seen), ...judgement.warnings],
    covered: log.first === null || log.last === null ? null : { from: log.first, to: log.last },
    bound,
    sentence: sayBound(bound),
    later,
  };
}

/** All at once: whoever typed them corrects the line once. */
function refuseUnreadable(files: readonly string[]): void {
  const problems = files.flatMap((path) => {
    const problem = problemOf(path);
    return problem === undefined ? [] : [`${path}: ${problem}`];
  });
  if (problems.length === 0) return;
  throw new OperatorError("usage", `mail logs can't be read: ${problems.join("; ")}`, {
    hints: [
      "name each file of the log, plain, gzip or zstd, in any order; the shell expands /old/var/log/mail.log*",
      "of the journal: journalctl -o json SYSLOG_FACILITY=2 > FILE, and name that",
    ],
  });
}

function problemOf(path: string): string | undefined {
  try {
    const stat = statSync(path);
    if (stat.isDirectory()) return "it is a directory";
    if (!stat.isFile()) return "it is not a regular file";
    accessSync(path, constants.R_OK);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** What was noticed on the way. */
interface Seen {
  /** Lines of Postfix per file. */
  readonly files: Map<string, number>;
  /** Time of the last line under each name. */
  readonly names: Map<string, number>;
}

async function* readAll(
  { files, zone, clock, signal }: DeliveriesRequest,
  settings: LogSettings,
  seen: Seen,
): AsyncGenerator<readonly LogRecord[]> {
  const options = {
    reference: clock.now() / 1000,
    zone: zone ?? settings.zone,
    onFile: (path: string, lines: number) => void seen.files.set(path, lines),
  };
  for await (const batch of readMailLogs(files, options)) {
    signal?.throwIfAborted();
    for (const { name, time } of batch) {
      if (name !== "" && time > (seen.names.get(name) ?? Number.NEGATIVE_INFINITY)) seen.names.set(name, time);
    }
    yield batch;
  }
}

interface Window {
  readonly snapshotTime: number;
  readonly snapshotFinished: number;
  readonly queueRunDelayS: number;
  readonly maximalBackoffS: number;
  readonly ownAddresses: readonly string[];
}

function windowOf({ time, finished }: Snapshot, settings: LogSettings): Window {
  const { queueRunDelayS, maximalBackoffS, ownAddresses } = settings;
  return {
    ...{ snapshotTime: Date.parse(time) / 1000, snapshotFinished: Date.parse(finished) / 1000 },
    ...{ queueRunDelayS, maximalBackoffS, ownAddresses },
  };
}

/**
 * What is missing at the end. An instance that was running has written at least something after its snapshot, or the
 * logs are not all, or not its own; mail of one that was stopped went nowhere until it was started.
 */
function shortfalls(
  log: LogEvidence,
  { files, instance, source }: DeliveriesRequest,
  { names }: LogSettings,
  seen: Seen,
): LogGap[] {
  if (log.last === null) return [];
  const { time, instances } = source.signed.snapshot;
  const since = Date.parse(time) / 1000;
  const gaps: LogGap[] = [];
  const newest = newestMissing(files);
  if (newest !== undefined) gaps.push({ from: log.last, to: Infinity, reason: `${newest} is not among the logs` });
  const own = [...seen.names].filter(([name]) => isOfInstance(name, names)).map(([, last]) => last);
  const running = instances.find(({ name }) => name === instance)?.running ?? true;
  if (own.length === 0) {
    const others = [...new Set([...seen.names.keys()].map(rootOf))].sort();
    const reason = `the logs have no line of ${instance} (${names?.join(", ")}), only of ${others.join(", ")}`;
    gaps.push({ from: since, to: Infinity, reason });
  } else if (running && Math.max(...own) + wholeSecond < since) {
    gaps.push({ from: Math.max(...own), to: Infinity, reason: `the logs of ${instance} end before the snapshot` });
  }
  return gaps;
}

/** Stamps are cut to whole seconds. */
const wholeSecond = 1;

/** Of `postfix/submission`, which is one of an instance's services, `postfix`. */
function rootOf(name: string): string {
  return name.split("/", 1)[0] ?? name;
}

function warningsOf(log: LogEvidence, { snapshotTime }: Window, seen: Seen): string[] {
  const empty = [...seen.files].flatMap(([path, lines]) => (lines === 0 ? [`${path} has no line of Postfix`] : []));
  const late =
    log.first !== null && log.first > snapshotTime
      ? [`the logs begin at ${timeOf(log.first)}, after the snapshot: what was delivered before is in doubt`]
      : [];
  const gaps = log.gaps.flatMap(({ from, to, reason }) => {
    if (to <= snapshotTime) return [];
    return [`lines are missing in the logs from ${timeOf(from)} to ${timeOf(to)}: ${reason}`];
  });
  const changes = log.massChanges.flatMap(({ action, time, line }) =>
    action === "held" || time < snapshotTime ? [] : [`mail was ${action} without a word of which: ${lineOf(line)}`],
  );
  return [...empty, ...late, ...firstOf(gaps), ...firstOf(changes)];
}

/** A log with holes everywhere must not fill the screen. */
function firstOf(warnings: readonly string[]): string[] {
  const rest = warnings.length - mostOfAKind;
  return rest <= 0 ? [...warnings] : [...warnings.slice(0, mostOfAKind), `… and ${rest} more such`];
}

const mostOfAKind = 10;
