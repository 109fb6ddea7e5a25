import { isIP, isIPv6 } from "node:net";
import { OperatorError } from "../errors.ts";
import { readPack } from "../pack/pack.ts";
import {
  type MasterService,
  type PostfixParameters,
  parseParameters,
  parseServices,
  type Scope,
  scopes,
  splitWords,
} from "../postfix/parameters.ts";
import type { Manifest } from "../snapshot/manifest.ts";
import { storedBytes } from "./configuration-bytes.ts";
import type { RestoreSource } from "./source.ts";
import { secondsOf } from "./target.ts";

/** What decides how the log of a snapshot's instance is to be read. */
export interface LogSettings {
  /** `syslog_name` of the instance and of its services; undefined when that is not known: every line may be its own. */
  readonly names: readonly string[] | undefined;
  readonly queueRunDelayS: number;
  readonly maximalBackoffS: number;
  /** IP addresses the instance is known to have beside loopback. */
  readonly ownAddresses: readonly string[];
  /** Time zone of its host; undefined when the snapshot does not tell. */
  readonly zone: string | undefined;
  /** Why less is known than could be. */
  readonly warnings: readonly string[];
}

/**
 * Read from the configuration kept with a snapshot what its instance called itself in the log, and how often it tried.
 * What is not kept, or can't be read any more, leaves Postfix's defaults, and lines of every instance: then messages are
 * still told apart by time, Message-ID, sender and size.
 */
export async function readLogSettings(
  manifest: Manifest,
  instance: string,
  source: Pick<RestoreSource, "repository" | "identities">,
  signal?: AbortSignal,
): Promise<LogSettings> {
  const kept = manifest.files.flatMap(({ area, path, instance: of, file }) =>
    area === "report" && of === instance && file !== null ? [{ path, file }] : [],
  );
  const reports = new Map<string, string>();
  const reader = { read: (sealed: Uint8Array) => readPack(sealed, source.identities) };
  try {
    const files = kept.map(({ file }) => file);
    for await (const [digest, bytes] of storedBytes(files, { source, reader, signal })) {
      for (const { path, file } of kept) if (file.digest === digest) reports.set(path, bytes.toString());
    }
  } catch (error) {
    // A damaged configuration takes nothing from what the logs prove.
    if (!(error instanceof OperatorError) || error.kind !== "damaged") throw error;
    return logSettingsOf(
      new Map(),
      `the configuration of ${instance} in the snapshot can't be read (${error.message})`,
    );
  }
  return logSettingsOf(reports, `the snapshot has no configuration of ${instance}`);
}

/**
 * The same from the texts of the reports. Pure.
 *
 * @param lacking what to say when they are not there
 */
export function logSettingsOf(reports: ReadonlyMap<string, string>, lacking: string): LogSettings {
  const main = reports.get("postconf-n");
  const zone = reports.get("timezone")?.trim() || undefined;
  if (main === undefined) {
    const warning = `${lacking}: lines of every Postfix instance in the logs count, and its retry times are taken for the default ones`;
    return {
      names: undefined,
      queueRunDelayS: 300,
      maximalBackoffS: 4000,
      ownAddresses: [],
      zone,
      warnings: [warning],
    };
  }
  const services = parseServices(reports.get("postconf-M") ?? "", reports.get("postconf-P") ?? "");
  const parameters = parametersOf(parseParameters(main), services);
  const views = scopes(parameters);
  const [inMain] = views;
  const ofQmgr = services.find(({ command }) => command === "qmgr" || command === "nqmgr");
  const qmgr = views.find(({ label }) => label === `${ofQmgr?.name}/${ofQmgr?.type}`) ?? inMain;
  return {
    names: namesOf(views),
    queueRunDelayS: secondsOf(qmgr?.value("queue_run_delay") ?? "300s", "s"),
    maximalBackoffS: secondsOf(qmgr?.value("maximal_backoff_time") ?? "4000s", "s"),
    ownAddresses: addressesOf(views, services),
    zone,
    warnings: [],
  };
}

/** Built-in values of what is asked here; a snapshot keeps those that were set. `service_name`: postconf(5). */
const builtIn: ReadonlyMap<string, string> = new Map([
  ["syslog_name", "$(multi_instance_name?{$multi_instance_name}:{postfix})"],
  ["multi_instance_name", ""],
  ["service_name", ""],
  ["queue_run_delay", "300s"],
  ["maximal_backoff_time", "4000s"],
  ...["inet_interfaces", "proxy_interfaces", "smtp_bind_address", "smtp_bind_address6"].map(
    (name): [string, string] => [name, ""],
  ),
]);

function parametersOf(explicit: ReadonlyMap<string, string>, services: readonly MasterService[]): PostfixParameters {
  const named = services.map((service) => {
    return { ...service, overrides: new Map([["service_name", service.name], ...service.overrides]) };
  });
  return { configDirectory: "", explicit, defaults: builtIn, services: named, mapTypes: [], reports: new Map() };
}

/** A name made of what is not known here (`$myhostname` that was never set) could be any. */
function namesOf(views: readonly Scope[]): readonly string[] | undefined {
  const names = views.map((view) => view.expandKnown("syslog_name").replace(/\/+$/, ""));
  if (names.some((name) => name === "" || name.includes("$"))) return undefined;
  const all = [...new Set(names)];
  return all.filter((name) => !all.some((other) => name.startsWith(`${other}/`)));
}

/** What it listens on or sends from. `all`, names and what is not written down can't be known here. */
function addressesOf(views: readonly Scope[], services: readonly MasterService[]): readonly string[] {
  const settings = ["inet_interfaces", "proxy_interfaces", "smtp_bind_address", "smtp_bind_address6"];
  const named = views.flatMap((view) => settings.flatMap((name) => splitWords(view.value(name))));
  const listening = services.flatMap(({ name, type }) => (type === "inet" ? name.replace(/:[^:]*$/, "") : []));
  const addresses = [...named, ...listening].flatMap(
    (text) => canonicalAddress(text.replace(/^\[(.*)\]$/, "$1")) ?? [],
  );
  return [...new Set(addresses)];
}

/** As inet_ntop(3) writes it, and the log with it. */
function canonicalAddress(text: string): string | undefined {
  if (isIP(text) === 0) return undefined;
  return isIPv6(text) ? new URL(`http://[${text}]/`).hostname.slice(1, -1) : text;
}
