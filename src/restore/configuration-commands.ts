import { closeSync, existsSync, openSync } from "node:fs";
import { OperatorError } from "../errors.ts";
import { compiledFiles } from "../postfix/maps.ts";
import { run } from "../system/exec.ts";
import { inDirectory, nameBeside, type Place, parentOf, remove } from "./configuration-place.ts";
import type { PlannedCommand, PlannedTable } from "./configuration-plan.ts";

export interface CommandResult extends PlannedCommand {
  /** Null when it was not run. */
  readonly code: number | null;
  /** What it said. */
  readonly lines: readonly string[];
}

/**
 * Run `postfix -c DIR COMMAND` and hand back what it said, whatever its exit code.
 *
 * @param configDirectory the target's
 */
export async function runPostfix(configDirectory: string, planned: PlannedCommand): Promise<CommandResult> {
  if (!planned.runs) return { ...planned, code: null, lines: [] };
  const okCodes = Array.from({ length: 256 }, (_, code) => code);
  const { code, stdout, stderr } = await run("postfix", ["-c", configDirectory, planned.command], {
    okCodes,
    timeoutMs: 10 * 60_000,
    env: { MAIL_CONFIG: undefined },
  });
  return { ...planned, code, lines: linesOf(`${stdout.toString("utf8")}\n${stderr}`) };
}

function linesOf(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.replace(/^postfix\/postfix-script: /, "").trim())
    .filter((line) => line !== "")
    .map(withoutValues);
}

/** postconf(1) quotes parameters it doesn't know with their values. */
function withoutValues(line: string): string {
  return line.replace(/(unused parameter: [^=]+=).*/, "$1…");
}

/**
 * Whether `postfix set-permissions` may be run for a configuration directory. For the default instance it sets owners and
 * modes of everything Postfix; for one in `multi_instance_directories` of what is that instance's own (Postfix
 * `conf/post-install`). Any other directory is taken for the default instance's and would have the programs of the whole
 * host changed to its settings.
 */
export async function setPermissionsPlan(configDirectory: string): Promise<PlannedCommand> {
  const command = "set-permissions";
  const standard = await ask("-dh", "config_directory");
  if (configDirectory === standard) return { command, runs: true, why: `${standard} is the default instance` };
  const listed = existsSync(`${standard}/main.cf`)
    ? await ask("-c", standard, "-xh", "multi_instance_directories")
    : "";
  if (listed.split(/[\s,]+/).includes(configDirectory)) {
    return { command, runs: true, why: `${configDirectory} is in multi_instance_directories of ${standard}` };
  }
  const why = `${configDirectory} is not in multi_instance_directories of ${standard}: it would change the owners of the programs all instances share`;
  return { command, runs: false, why };
}

async function ask(...args: string[]): Promise<string> {
  const { stdout } = await run("postconf", args, { env: { MAIL_CONFIG: undefined } });
  return stdout.toString("utf8").trim();
}

export interface TableResult {
  readonly source: string;
  readonly type: string;
  readonly compiled: readonly string[];
  /** What postmap(1) warned of; of a secret table only how often. */
  readonly warnings: readonly string[];
  /** Null when it was built. */
  readonly problem: string | null;
}

/**
 * Compile a table beside its source under a temporary name, so that neither Postfix nor a crash ever sees half of one. As
 * on the command line postmap(1) becomes the source's owner, unless that one may not write in the directory.
 *
 * @param source where the source lies
 * @param settings a directory with the main.cf and master.cf that will be in force
 * @param temporary a name nobody else uses; the compiled files have their suffixes behind it
 * @param ownDirectory whether the source's owner owns its directory
 */
export async function buildTable(
  table: PlannedTable,
  source: Place,
  settings: string,
  temporary: string,
  ownDirectory: boolean,
): Promise<TableResult> {
  const { program, type, ofFiles, secret } = table;
  const result = { source: table.source, type, compiled: table.compiled };
  const made = { base: source.base, steps: [...source.steps.slice(0, -1), temporary] };
  // The directory by its descriptor: what it is called may have changed.
  const fd = inDirectory(parentOf(source), (at) => openSync(at("."), "r"));
  try {
    nameBeside(source, temporary);
    const flags = ["-c", settings, ...(ofFiles ? ["-F"] : []), ...(ownDirectory ? [] : ["-o"])];
    const { stderr } = await run(program, [...flags, `${type}:${temporary}`], {
      cwd: `/proc/${process.pid}/fd/${fd}`,
      timeoutMs: 60 * 60_000,
      env: { MAIL_CONFIG: undefined },
    });
    const said = linesOf(stderr).map((line) => line.replaceAll(temporary, table.source));
    return { ...result, warnings: secret ? countOnly(said) : said, problem: null };
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    for (const suffix of compiledFiles(type, "")) remove(beside(made, suffix));
    const problem = secret ? `${program} failed; what it said is not shown, as the table is secret` : error.message;
    return { ...result, warnings: [], problem: problem.replaceAll(temporary, table.source) };
  } finally {
    remove(made);
    closeSync(fd);
  }
}

function beside({ base, steps }: Place, suffix: string): Place {
  return { base, steps: [...steps.slice(0, -1), `${steps.at(-1) ?? ""}${suffix}`] };
}

function countOnly(lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : [`${lines.length} warnings, not shown, as the table is secret`];
}
