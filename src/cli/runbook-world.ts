import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { hostname, userInfo } from "node:os";
import { resolve } from "node:path";
import { readToml, TomlFault } from "../config/toml.ts";
import { errnoOf, OperatorError } from "../errors.ts";
import { loadInstance, type PostfixInstance } from "../postfix/instance.ts";
import { runPlaces } from "../runbook/run-directory.ts";
import type { People, RunEvent, RunWorld } from "../runbook/world.ts";
import type { Context } from "./context.ts";
import { askLine } from "./prompt.ts";
import { printable } from "./table.ts";
import { version } from "./version.ts";

/** Where this host keeps runs, also when its configuration can't be read: a runbook may be what mends that. */
export function placesOfRuns(context: Context): string[] {
  return runPlaces(setting(context, () => context.stateDirectory) ?? "/var/lib/spoolsafe");
}

export interface WorldOptions {
  /** --answers. */
  readonly answers?: string | undefined;
  /** --set MAIL_CONFIG=... names the instance. */
  readonly mailConfig?: string | undefined;
}

/** The world of a run as this command line has it. What can't be read of the configuration is warned of and left out. */
export async function runWorld(
  context: Context,
  { answers, mailConfig }: WorldOptions,
  report: (event: RunEvent) => void,
): Promise<RunWorld> {
  const instance = await instanceOf(context, mailConfig);
  const host = context.globals.host ?? setting(context, () => context.config.host) ?? instance?.host ?? hostname();
  return {
    places: placesOfRuns(context),
    command: [process.execPath, process.argv[1] ?? ""],
    configFile: existsSync(context.configFile) ? context.configFile : null,
    environment: environmentOf(context, instance),
    host,
    roles: rolesOf(context),
    instance,
    version,
    uid: process.getuid?.() ?? -1,
    clock: context.clock,
    people: peopleOf(context, answers),
    report,
  };
}

/** Undefined where the configuration can't say; it is warned of once. */
function setting<T>(context: Context, ask: () => T): T | undefined {
  try {
    return ask();
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    if (!warned.has(context))
      context.render.warn(`the configuration can't be used, and the run goes without: ${error.message}`);
    warned.add(context);
    return undefined;
  }
}

const warned = new WeakSet<Context>();

/** The one that is named, else the first of the configuration, else Debian's. Null where there is none to be read. */
async function instanceOf(context: Context, mailConfig: string | undefined): Promise<PostfixInstance | null> {
  const { instance } = context.globals;
  const named = mailConfig ?? (instance === undefined ? context.mailConfig : undefined);
  const first = setting(context, () => context.config.postfix.config_directories)?.[0] ?? "/etc/postfix";
  try {
    if (named === undefined && instance !== undefined) return await byName(context, instance);
    return await loadInstance(named ?? first);
  } catch (error) {
    if (!(error instanceof OperatorError) || error.kind === "usage") throw error;
    context.render.detail(`there is no Postfix instance to speak of: ${error.message}`);
    return null;
  }
}

async function byName(context: Context, name: string): Promise<PostfixInstance> {
  const all = await context.instances();
  const found = all.find((each) => each.name === name);
  if (found !== undefined) return found;
  throw new OperatorError("usage", `there is no instance ${name} here`, {
    hints: [`its instances are: ${all.map((each) => each.name).join(", ")}`],
  });
}

function environmentOf(context: Context, instance: PostfixInstance | null): Record<string, string | undefined> {
  const { globals, repositoryUrl } = context;
  return {
    ...context.environment,
    ...(instance === null ? {} : { MAIL_CONFIG: instance.configDirectory }),
    ...(repositoryUrl === undefined ? {} : { SPOOLSAFE_REPOSITORY: repositoryUrl }),
    ...(globals.identityFile === undefined
      ? {}
      : { SPOOLSAFE_IDENTITY_FILE: resolve(context.cwd, globals.identityFile) }),
  };
}

/** A host with an identity can stand by; one that has none, or backs up by itself all the same, serves mail. */
function rolesOf(context: Context): RunWorld["roles"] {
  const standby = setting(context, () => context.config.encryption.identity_file !== undefined) ?? false;
  const backsUp = setting(context, () => context.config.schedule.backup !== undefined) ?? false;
  return [...(standby ? (["standby"] as const) : []), ...(!standby || backsUp ? (["primary"] as const) : [])];
}

function peopleOf(context: Context, answersFile: string | undefined): People {
  return {
    ask: async ({ text, secret = false, signal }) => {
      return await askLine({ text: printableLines(text), secret, ...(signal === undefined ? {} : { signal }) });
    },
    name: personName(context),
    account: userInfo().username,
    sudoUser: context.environment.SUDO_USER ?? null,
    terminal: terminalName(),
    yes: context.globals.yes === true,
    answers: answersFile === undefined ? new Map() : readAnswers(resolve(context.cwd, answersFile)),
    onInterrupt,
    terminated: context.signal,
  };
}

/** Who is at the keyboard, also behind sudo. */
export function personName({ environment }: Context): string {
  return environment.SUDO_USER || userInfo().username;
}

/** Ctrl-C asks here, and does not end us: what listened before has its turn again afterwards. */
function onInterrupt(listener: () => void): () => void {
  const before = process.rawListeners("SIGINT");
  process.removeAllListeners("SIGINT");
  process.on("SIGINT", listener);
  // The loss of the terminal ends neither us nor what we started.
  process.on("SIGHUP", ignore);
  return () => {
    process.off("SIGINT", listener);
    process.off("SIGHUP", ignore);
    for (const each of before) process.on("SIGINT", each as NodeJS.SignalsListener);
  };
}

function ignore(): void {}

function terminalName(): string | null {
  if (!process.stdin.isTTY) return null;
  try {
    return readlinkSync("/proc/self/fd/0");
  } catch {
    return null;
  }
}

/**
 * `step = "answer"`, one per line, in TOML.
 *
 * @throws OperatorError `usage`
 */
export function readAnswers(path: string): Map<string, string> {
  const values = parsed(path);
  const wrong = Object.entries(values).filter(([, value]) => typeof value !== "string");
  if (wrong.length > 0) {
    throw new OperatorError("usage", `${path}: the answer for ${wrong.map(([name]) => name).join(", ")} is no text`, {
      hints: ['an answer is a text in quotes, such as release = "yes"'],
    });
  }
  return new Map(Object.entries(values).map(([name, value]) => [name, String(value)]));
}

function parsed(path: string): Record<string, unknown> {
  try {
    return readToml(readFileSync(path, "utf8")).values;
  } catch (error) {
    const why = error instanceof TomlFault ? `line ${error.line}: ${error.message}` : (errnoOf(error) ?? String(error));
    throw new OperatorError("usage", `the answers in ${path} can't be read: ${why}`, { cause: error });
  }
}

/** Line by line: what a block said must not steer the terminal. */
export function printableLines(text: string): string {
  return text
    .split("\n")
    .map((line) => printable(line.replaceAll("\t", "    ")))
    .join("\n");
}
