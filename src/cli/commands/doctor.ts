import { ConfigFault } from "../../config/load.ts";
import { examineHost, examineSetup, type Finding, type Role } from "../../doctor/doctor.ts";
import type { Context } from "../context.ts";

export interface DoctorOptions {
  readonly role: Role;
  readonly probe?: true | undefined;
}

/** `spoolsafe doctor`: exit 1 when anything is in the way. */
export async function run(context: Context, { role, probe }: DoctorOptions): Promise<number> {
  const { render } = context;
  let ok = true;
  const report = (finding: Finding) => {
    ok &&= finding.ok;
    render.line(finding);
    render.text(findingText(context, finding));
  };
  await examineHost({ role, nodeVersion: process.versions.node, uid: process.getuid?.() ?? -1 }, report);
  if (configIsSound(context, report)) {
    const { encryption, signing, state_directory: stateDirectory } = context.config;
    const setup = {
      role,
      stateDirectory,
      recipientsFile: encryption.recipients_file,
      identityFile: encryption.identity_file,
      signingKeyFile: signing.key_file,
      trustedKeysFile: signing.trusted_keys_file,
      findInstances: () => context.instances(),
      openRepository: () => context.openRepository(),
      probe: probe === true,
      signal: context.signal,
    };
    await examineSetup(setup, report);
  }
  render.summary({ ok });
  render.text(ok ? "this host is ready" : "this host is not ready");
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

function findingText({ render }: Context, { ok, name, message, remedy }: Finding): string {
  const [style, word] = ok
    ? remedy === null
      ? (["green", "ok  "] as const)
      : (["yellow", "note"] as const)
    : (["red", "FAIL"] as const);
  const first = `${render.colour(style, word)}  ${name}: ${message}`;
  return remedy === null ? first : `${first}\n      ${remedy}`;
}
