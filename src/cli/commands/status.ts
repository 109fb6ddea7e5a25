import { parseDuration } from "../../config/schema.ts";
import { OperatorError } from "../../errors.ts";
import { muninConfig, muninDirtyConfig, muninValues } from "../../status/munin.ts";
import { nagiosLine, nagiosUnknown } from "../../status/nagios.ts";
import { prometheusText } from "../../status/prometheus.ts";
import type { StatusReport } from "../../status/report.ts";
import { runbookOf } from "../../status/runbook-of.ts";
import { statusSummary } from "../../status/summary.ts";
import { zabbixDocument } from "../../status/zabbix.ts";
import type { Context } from "../context.ts";
import { type StatusChoice, statusReport } from "../status-report.ts";
import { statusText } from "../status-text.ts";
import { writeTextfile } from "../status-textfile.ts";

export const statusFormats = ["text", "json", "nagios", "munin", "zabbix", "prometheus"] as const;
export type StatusFormat = (typeof statusFormats)[number];

export interface StatusOptions {
  readonly format?: StatusFormat | undefined;
  readonly maxAge?: string | undefined;
  readonly allHosts?: true | undefined;
  readonly remote?: true | undefined;
  readonly write?: true | undefined;
}

/** Exit 0 when all is well, 1 with problems; with `--format nagios` 0 to 3, there for every error as well. */
export async function run(context: Context, word: string | undefined, options: StatusOptions): Promise<number> {
  const format = options.format ?? (context.globals.json ? "json" : "text");
  try {
    return await answer(context, format, word, options);
  } catch (error) {
    if (format === "nagios") return unknown(context, error);
    if (format === "munin" && word === "autoconf") return autoconf(context, error);
    if (format === "json" && context.globals.json !== true) return jsonError(context, error);
    throw error;
  }
}

async function answer(
  context: Context,
  format: StatusFormat,
  word: string | undefined,
  options: StatusOptions,
): Promise<number> {
  requireSense(format, word, options);
  if (word === "suggest") return print(context, "status", 0);
  const allHosts = options.allHosts === true;
  const choice = { maxAge: maxAge(options.maxAge), allHosts, remote: allHosts || options.remote === true };
  const making = statusReport(context, choice);
  const report = await (format === "nagios" ? inTime(making) : making);
  requireOwnHost(context, choice, report);
  const exit = report.problems.length === 0 ? 0 : 1;
  switch (format) {
    case "text":
      return print(context, statusText(report, context.render), exit);
    case "json":
      return print(context, jsonLines(report), exit);
    case "nagios": {
      const told = nagiosLine(report);
      return print(context, told.line, told.exit);
    }
    case "munin":
      return munin(context, word, report, exit);
    case "zabbix":
      return print(context, zabbixDocument(report), exit);
    case "prometheus":
      if (options.write === true) writeTextfile(context.config.status.textfile, report);
      else context.render.bytes(Buffer.from(prometheusText(report)));
      return exit;
  }
}

/** "26h" as critical, "20h,26h" as warning and critical; milliseconds. */
function maxAge(value: string | undefined): StatusChoice["maxAge"] {
  if (value === undefined) return undefined;
  const ages = value.split(",").map((part) => parseDuration(part.trim()) ?? 0);
  const [first = 0, critical = first] = ages;
  const warning = ages.length === 1 ? null : first;
  if (ages.length <= 2 && first > 0 && first <= critical) return { warning, critical };
  throw new OperatorError("usage", `--max-age ${value} is no age`, {
    hints: ["give one, such as 26h, or two, the shorter first: 20h,26h warns at 20 hours"],
  });
}

function print(context: Context, text: string, exit: number): number {
  context.render.bytes(Buffer.from(`${text}\n`));
  return exit;
}

/** What a munin plugin is called with; nothing, or `fetch`, asks for values. */
const muninWords = ["autoconf", "suggest", "config", "dirtyconfig", "fetch"];

function requireSense(format: StatusFormat, word: string | undefined, options: StatusOptions): void {
  if (word !== undefined && (format !== "munin" || !muninWords.includes(word))) {
    throw new OperatorError("usage", `status does not know the word ${word}`, {
      hints: [`with --format munin: ${muninWords.join(", ")}`],
    });
  }
  if (options.write === true && format !== "prometheus") {
    throw new OperatorError("usage", "only --format prometheus can be written to a file", {
      hints: ["spoolsafe status --format prometheus --write"],
    });
  }
}

function requireOwnHost({ globals }: Context, { remote }: StatusChoice, { host }: StatusReport): void {
  if (remote || globals.host === undefined || globals.host === host) return;
  throw new OperatorError("usage", `what is on this host says nothing of ${globals.host}`, {
    hints: [`ask the repository: spoolsafe status --remote --host ${globals.host}`],
  });
}

/** Nagios ends a plugin without an answer after ten seconds. */
const nagiosSeconds = 9;

async function inTime(making: Promise<StatusReport>): Promise<StatusReport> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new OperatorError("failed", `there was no answer within ${nagiosSeconds} seconds`));
  }, nagiosSeconds * 1000);
  try {
    return await Promise.race([making, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** A line for each problem and each host, then the summary. */
function jsonLines(report: StatusReport): string {
  const lines = [
    ...report.problems.map((problem) => ({ type: "problem", ...problem, runbook: runbookOf(problem.name) })),
    { type: "summary", ...statusSummary(report) },
  ];
  return lines.map((line) => JSON.stringify(line)).join("\n");
}

function munin(context: Context, word: string | undefined, report: StatusReport, exit: number): number {
  switch (word) {
    case "autoconf":
      return autoconf(context, nothingToWatch(report));
    case "config":
      return print(context, muninConfig(report), exit);
    case "dirtyconfig":
      return print(context, muninDirtyConfig(report), exit);
    default:
      return print(context, muninValues(report), exit);
  }
}

function nothingToWatch({ instances, jobs }: StatusReport): OperatorError | undefined {
  if (instances.length > 0 || jobs.some(({ lastStart }) => lastStart !== null)) return undefined;
  return new OperatorError("failed", "no Postfix and no backup here");
}

/** The plugin contract: `yes`, or `no` with the reason, and 0 in any case. */
function autoconf(context: Context, reason: unknown): number {
  return print(context, reason === undefined ? "yes" : `no (${firstLine(reason)})`, 0);
}

function unknown(context: Context, error: unknown): number {
  const hints = error instanceof OperatorError ? error.hints.slice(0, 1).map((hint) => `: ${hint}`) : [];
  const { line, exit } = nagiosUnknown(`${firstLine(error)}${hints.join("")}`);
  return print(context, line, exit);
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "";
}

function jsonError(context: Context, error: unknown): number {
  if (!(error instanceof OperatorError)) throw error;
  const { kind, message, hints, exitCode } = error;
  return print(context, JSON.stringify({ type: "error", kind, message, hints, exit: exitCode }), exitCode);
}
