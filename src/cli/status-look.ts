import { parentPort, workerData } from "node:worker_threads";
import { z } from "zod";
import { readBackupHistory } from "../jobs/history.ts";
import { readDrills } from "../status/drills.ts";
import type { PageFacts, RepositoryLook } from "../status/page-facts.ts";
import { type Context, createContext } from "./context.ts";
import type { GlobalOptions } from "./globals.ts";
import { Render } from "./render.ts";
import { statusReport } from "./status-report.ts";

/*
 * The thread in which `schedule run` looks around for its status page. A look at a large queue is a third of a second of work
 * without a pause, and a defect in it must not end the daemon that makes backups.
 */

export interface LookAsked {
  /** What is on this host, or what the repository says. */
  readonly what: "host" | "repository";
}

/** What this host knows by itself. */
export type HostLook = Pick<PageFacts, "report" | "history" | "drills" | "timezone">;

export type LookAnswer =
  | { readonly what: "host"; readonly look: HostLook }
  /** Null where no repository is configured. */
  | { readonly what: "repository"; readonly answer: RepositoryLook["answer"] }
  | { readonly what: LookAsked["what"]; readonly error: string };

const dataSchema = z.object({ globals: z.custom<GlobalOptions>(), cwd: z.string() });

parentPort?.on("message", (asked: LookAsked) => void answer(asked));

async function answer({ what }: LookAsked): Promise<void> {
  try {
    parentPort?.postMessage(await (what === "host" ? hostLook() : repositoryLook()));
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    parentPort?.postMessage({ what, error: message } satisfies LookAnswer);
  }
}

/** Made anew each time: a daemon outlives what a context remembers of configuration, Postfix and store. */
function newContext(signal: AbortSignal): Context {
  const { globals, cwd } = dataSchema.parse(workerData);
  const render = new Render({ json: false, quiet: true, verbose: false });
  return createContext({ globals, render, env: process.env, cwd, signal });
}

const drillsShown = 6;

async function hostLook(): Promise<LookAnswer> {
  await using context = newContext(new AbortController().signal);
  const { hostTimezone } = await import("../schedule/expression.ts");
  const { config, stateDirectory } = context;
  const report = await statusReport(context, { remote: false, allHosts: false });
  const look = {
    report,
    history: readBackupHistory(stateDirectory),
    drills: readDrills(stateDirectory, drillsShown),
    timezone: config.schedule.timezone ?? hostTimezone(),
  };
  return { what: "host", look };
}

/** Of each host; two months of nights. */
const backupsShown = 60;
const repositoryPatienceMs = 120_000;

async function repositoryLook(): Promise<LookAnswer> {
  const signal = AbortSignal.timeout(repositoryPatienceMs);
  await using context = newContext(signal);
  const { config, stateDirectory, clock } = context;
  if (config.repository.url === undefined) return { what: "repository", answer: null };
  const { lookAtBackups } = await import("../status/remote.ts");
  const { loadSeen } = await import("../repository/chain.ts");
  const repository = await context.openRepository();
  const now = clock.now();
  const found = await lookAtBackups(
    {
      repository,
      trusted: await context.trustedKeys(),
      seen: loadSeen(stateDirectory, repository.id),
      now,
      signal,
    },
    backupsShown,
  );
  return { what: "repository", answer: { time: new Date(now).toISOString(), ...found } };
}
