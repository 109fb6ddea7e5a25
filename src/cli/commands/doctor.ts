import { ConfigFault } from "../../config/load.ts";
import { listenAddress } from "../../config/schema.ts";
import { type AlertsToExamine, examineAlerts } from "../../doctor/alerts.ts";
import { examineSetup, type SetupToExamine } from "../../doctor/doctor.ts";
import { type Finding, good, type Role } from "../../doctor/finding.ts";
import { examineHost } from "../../doctor/host.ts";
import { Score } from "../../doctor/score.ts";
import type { Context } from "../context.ts";
import { isLoopbackAddress } from "../status-server.ts";

export interface DoctorOptions {
  readonly role: Role;
  readonly probe?: true | undefined;
  readonly probePort25?: string | undefined;
}

/** `spoolsafe doctor`: exit 1 when anything is in the way. */
export async function run(context: Context, options: DoctorOptions): Promise<number> {
  const { role } = options;
  const { render } = context;
  const score = new Score();
  const report = (finding: Finding) => {
    score.add(finding);
    render.line(finding);
    render.text(findingText(context, finding));
  };
  await examineHost({ role, nodeVersion: process.versions.node, uid: process.getuid?.() ?? -1 }, report);
  if (configIsSound(context, report)) {
    reportStatusPage(context, report);
    await examineSetup(setupOf(context, options), report);
    for (const finding of examineAlerts(alertsOf(context))) report(finding);
  }
  return role === "primary" ? concludePrimary(context, score) : concludeStandby(context, score);
}

function alertsOf({ config: { schedule, alerts } }: Context): AlertsToExamine {
  const { webhook_url, command, smtp, heartbeat_url, drill_heartbeat_url } = alerts;
  const channels = { webhook_url, command: command.length > 0 ? command : undefined, smtp };
  return {
    scheduled: (["backup", "verify", "drill", "prune"] as const).filter((job) => schedule[job] !== undefined),
    channels: Object.entries(channels).flatMap(([name, value]) => (value === undefined ? [] : [name])),
    heartbeat: heartbeat_url !== undefined,
    drillHeartbeat: drill_heartbeat_url !== undefined,
  };
}

function setupOf(context: Context, { role, probe, probePort25 }: DoctorOptions): SetupToExamine {
  const { encryption, signing, host, state_directory: stateDirectory } = context.config;
  return {
    role,
    stateDirectory,
    recipientsFile: encryption.recipients_file,
    identityFile: encryption.identity_file,
    signingKeyFile: signing.key_file,
    trustedKeysFile: signing.trusted_keys_file,
    findInstances: () => context.instances(),
    openRepository: () => context.openRepository(),
    scope: { host: context.globals.host, ownHost: host },
    instance: context.globals.instance,
    maxAgeMs: context.config.alerts.max_age,
    port25: probePort25,
    probe: probe === true,
    clock: context.clock,
    signal: context.signal,
  };
}

function concludePrimary({ render }: Context, { allOk: ok }: Score): number {
  render.summary({ ok });
  render.text(ok ? "this host is ready" : "this host is not ready");
  return ok ? 0 : 1;
}

function concludeStandby({ render }: Context, score: Score): number {
  const { allOk: ok, ready, of } = score;
  render.summary({ ok, ready: ok, score: { ready, of } });
  const verdict = ok ? "a takeover could start now" : "a takeover could not start now";
  render.text(`${ready} of ${of} ready: ${verdict}`);
  return ok ? 0 : 1;
}

/** A broken configuration is a finding like any other; what it would have named can't be looked at then. */
function configIsSound(context: Context, report: (finding: Finding) => void): boolean {
  const finding = { type: "finding", name: "configuration" } as const;
  try {
    void context.config;
  } catch (error) {
    if (!(error instanceof ConfigFault)) throw error;
    for (const { where, key, message } of error.problems) {
      const text = [where, key, message].filter((part) => part !== "").join(": ");
      report({ ...finding, ok: false, message: text, remedy: error.hints[0] ?? `correct it in ${context.configFile}` });
    }
    return false;
  }
  report({ ...finding, ok: true, message: context.configFile, remedy: null });
  return true;
}

function reportStatusPage({ config }: Context, report: (finding: Finding) => void): void {
  const { listen } = config.status;
  const host = listen === undefined ? undefined : listenAddress(listen)?.host;
  if (listen === undefined || host === undefined) return;
  const alone = host.toLowerCase() === "localhost" || isLoopbackAddress(host);
  const advice = `whoever can reach ${listen} can read it: a firewall, or 127.0.0.1 behind a web server that asks for a password`;
  report(
    good("status page", alone ? `${listen}, for this host only` : `${listen}, for other hosts`, alone ? null : advice),
  );
}

function findingText({ render }: Context, { ok, name, message, remedy }: Finding): string {
  const [style, word] = ok
    ? remedy === null
      ? (["green", "ok  "] as const)
      : (["yellow", "note"] as const)
    : (["red", "FAIL"] as const);
  const first = `${render.colour(style, word)}  ${name}: ${message}`;
  return remedy === null ? first : `${first}\n      ${remedy}`;
}
