import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { ConfigFault, parseConfig } from "../../config/load.ts";
import type { Config } from "../../config/schema.ts";
import { errnoOf, OperatorError } from "../../errors.ts";
import type { RepositoryStatus } from "../../status/report.ts";
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
  const identity = await identityFault(config);
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
    ...(await asking),
    identity: identity.fault,
    unseen: [...unseen, ...directories.unseen, ...found.unseen, ...identity.unseen],
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
async function directoriesOf(context: Context, config: Config): Promise<Directories> {
  const named =
    config.postfix.config_directories ?? (context.mailConfig === undefined ? undefined : [context.mailConfig]);
  if (named !== undefined) return { found: named, unseen: [] };
  const { listedInstances } = await import("../../postfix/instance.ts");
  try {
    return { found: await listedInstances(), unseen: [] };
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    const debian = "/etc/postfix";
    if (existsSync(`${debian}/main.cf`)) return { found: [debian], unseen: [error.message] };
    // A standby may do without Postfix until it is needed.
    return { found: [], unseen: isStandby(config) ? [] : [error.message] };
  }
}

/** A store that hangs must not keep anybody waiting. */
const patienceMs = 5000;

interface Asked {
  readonly repository: RepositoryAnswer;
  readonly stored: RepositoryStatus | null;
}

async function askRepository(context: Context, config: Config): Promise<Asked> {
  const { url } = config.repository;
  if (url === undefined) return { repository: null, stored: null };
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new OperatorError("failed", `no answer within ${patienceMs / 1000} seconds`));
  }, patienceMs);
  const signal = AbortSignal.any([context.signal, AbortSignal.timeout(patienceMs)]);
  try {
    const stored = await Promise.race([openAndLook(context, config, signal), late.promise]);
    return { repository: { url, problem: null, exit: 0 }, stored };
  } catch (error) {
    if (context.signal.aborted) throw error;
    const exit = error instanceof OperatorError ? error.exitCode : 1;
    const problem = (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "";
    return { repository: { url, problem, exit }, stored: null };
  } finally {
    clearTimeout(timer);
  }
}

/** Opened without the cache, which is written. What is in it is looked at on a standby alone. */
async function openAndLook(context: Context, config: Config, signal: AbortSignal): Promise<RepositoryStatus | null> {
  const { Repository } = await import("../../repository/repository.ts");
  const repository = await Repository.open(await context.store(), signal);
  if (!isStandby(config)) return null;
  const { lookAtRepository } = await import("../../status/remote.ts");
  const { loadSeen } = await import("../../repository/chain.ts");
  const now = context.clock.now();
  const seen = loadSeen(config.state_directory, repository.id);
  return await lookAtRepository({ repository, trusted: await context.trustedKeys(), seen, now, signal });
}

function isStandby({ schedule }: Config): boolean {
  return schedule.backup === undefined && (schedule.verify ?? schedule.drill ?? schedule.prune) !== undefined;
}

interface IdentityLook {
  readonly fault: string | null;
  readonly unseen: readonly string[];
}

/** All is well where none is configured: a primary has none. */
async function identityFault({ encryption: { identity_file: file } }: Config): Promise<IdentityLook> {
  if (file === undefined) return { fault: null, unseen: [] };
  const { loadIdentities } = await import("../../crypto/keys.ts");
  try {
    await loadIdentities(file);
    return { fault: null, unseen: [] };
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    // Somebody who may not read it can't tell whether it is good.
    const hidden = errnoOf(error.cause) === "EACCES";
    return { fault: hidden ? null : error.message, unseen: hidden ? [error.message] : [] };
  }
}
