import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { ConfigFault, parseConfig } from "../../config/load.ts";
import type { Config } from "../../config/schema.ts";
import { OperatorError } from "../../errors.ts";
import type { RepositoryAnswer } from "../../triage/report.ts";
import type { Context } from "../context.ts";
import { changed, limitsOf, scheduleOf } from "../status-report.ts";
import { triageText } from "../triage-text.ts";

/** Exit 0 when nothing was found, 1 otherwise. What can't be read is left out and told of: it is the broken host that needs this. */
export async function run(context: Context): Promise<number> {
  const { knownInstances } = await import("../../triage/instances.ts");
  const { triage } = await import("../../triage/look.ts");
  const { clock, render, configFile } = context;
  const { config, unseen } = usableConfig(context);
  const asking = askRepository(context, config);
  const directories = await directoriesOf(context, config);
  const found = await knownInstances(directories.found);
  const instances = chosen(context, found.known);
  const report = await triage({
    host: context.globals.host ?? config.host ?? instances[0]?.instance.host ?? hostname(),
    stateDirectory: config.state_directory,
    instances,
    schedule: await scheduleOf(config, clock.now()),
    scheduledSince: changed(configFile) ?? clock.now(),
    limits: limitsOf(config, {}),
    repository: await asking,
    identity: await identityFault(config),
    unseen: [...unseen, ...directories.unseen, ...found.unseen],
    clock,
  });
  const { findings, open, ...facts } = report;
  for (const finding of findings) render.line({ type: "finding", ...finding });
  render.summary({ ok: findings.length === 0, open, findings: findings.length, ...facts });
  render.text(() => triageText(report, render));
  return findings.length === 0 ? 0 : 1;
}

function chosen<Known extends { readonly instance: { readonly name: string } }>(
  { globals }: Context,
  all: readonly Known[],
): readonly Known[] {
  if (globals.instance === undefined) return all;
  const found = all.filter(({ instance }) => instance.name === globals.instance);
  if (found.length > 0) return found;
  throw new OperatorError("usage", `there is no Postfix instance ${globals.instance} here`, {
    hints: [`its instances are: ${all.map(({ instance }) => instance.name).join(", ")}`],
  });
}

/** The configuration; of one that is wrong what says where things are, and otherwise what an empty one says. */
function usableConfig(context: Context): { readonly config: Config; readonly unseen: readonly string[] } {
  try {
    return { config: context.config, unseen: [] };
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    const { configFile, cwd } = context;
    const text = existsSync(configFile) ? placesIn(readFileSync(configFile, "utf8")) : "";
    const unseen = [`the configuration can't be used, so what it says was guessed: ${error.message}`];
    const sources = { flags: {}, env: {}, cwd };
    try {
      return { config: parseConfig(text, configFile, sources), unseen };
    } catch (again) {
      if (!(again instanceof ConfigFault)) throw again;
      return { config: parseConfig("", configFile, sources), unseen };
    }
  }
}

/** The lines that name the state directory, the host and the instances, whatever is wrong with the others. */
function placesIn(text: string): string {
  const line = (pattern: RegExp) => pattern.exec(text)?.[0] ?? "";
  return [
    line(/^state_directory\s*=\s*"[^"\n]*"/m),
    line(/^host\s*=\s*"[^"\n]*"/m),
    "[postfix]",
    line(/^config_directories\s*=\s*\[[^\]]*\]/m),
  ].join("\n");
}

interface Directories {
  readonly found: readonly string[];
  readonly unseen: readonly string[];
}

/** Those of the configuration, else the one the environment names, else those postmulti knows, else Debian's. */
async function directoriesOf(context: Context, { postfix, schedule }: Config): Promise<Directories> {
  const named = postfix.config_directories ?? (context.mailConfig === undefined ? undefined : [context.mailConfig]);
  if (named !== undefined) return { found: named, unseen: [] };
  const { listedInstances } = await import("../../postfix/instance.ts");
  try {
    return { found: await listedInstances(), unseen: [] };
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    const debian = "/etc/postfix";
    if (existsSync(`${debian}/main.cf`)) return { found: [debian], unseen: [error.message] };
    // A standby may do without Postfix until it is needed.
    const standby = schedule.backup === undefined && (schedule.verify ?? schedule.drill) !== undefined;
    return { found: [], unseen: standby ? [] : [error.message] };
  }
}

/** A store that hangs must not keep anybody waiting. */
const patienceMs = 5000;

async function askRepository(context: Context, { repository: { url } }: Config): Promise<RepositoryAnswer> {
  if (url === undefined) return null;
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new OperatorError("failed", `no answer within ${patienceMs / 1000} seconds`));
  }, patienceMs);
  const { Repository } = await import("../../repository/repository.ts");
  const signal = AbortSignal.any([context.signal, AbortSignal.timeout(patienceMs)]);
  const opening = context.store().then((store) => Repository.open(store, signal));
  try {
    await Promise.race([opening, late.promise]);
    return { url, problem: null, exit: 0 };
  } catch (error) {
    if (context.signal.aborted) throw error;
    const exit = error instanceof OperatorError ? error.exitCode : 1;
    return { url, problem: (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "", exit };
  } finally {
    clearTimeout(timer);
  }
}

/** Null where none is configured: a primary has none. */
async function identityFault({ encryption: { identity_file: file } }: Config): Promise<string | null> {
  if (file === undefined) return null;
  const { loadIdentities } = await import("../../crypto/keys.ts");
  try {
    await loadIdentities(file);
    return null;
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    return error.message;
  }
}
