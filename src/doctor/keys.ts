import { existsSync } from "node:fs";
import { type AgeRecipients, loadIdentities } from "../crypto/keys.ts";
import { loadSigningKey, loadTrustedKeys, type TrustedKeys } from "../crypto/sign.ts";
import { run } from "../system/exec.ts";
import { bad, type Finding, good, type Role } from "./finding.ts";
import { findProgram } from "./host.ts";

export interface KeysToExamine {
  readonly role: Role;
  readonly identityFile: string | undefined;
  readonly signingKeyFile: string;
  readonly trustedKeysFile: string;
}

export async function examineRecipients(recipients: AgeRecipients, file: string): Promise<readonly Finding[]> {
  const count = recipients.list.length;
  const found = good("age recipients", `${count} (${recipients.kind}) in ${file}`);
  const alone = count === 1 ? "a second one, with its identity kept elsewhere, guards against losing the first" : null;
  const recipientsFinding = { ...found, remedy: alone };
  if (recipients.kind === "x25519" || findProgram("age") === undefined) return [recipientsFinding];
  const version = (await run("age", ["--version"])).stdout.toString().trim();
  const [major = 0, minor = 0] = version.replace(/^v/, "").split(".").map(Number);
  if (major > 1 || (major === 1 && minor >= 3))
    return [recipientsFinding, good("age", `age ${version} reads post-quantum files`)];
  return [
    recipientsFinding,
    good(
      "age",
      `age ${version} does not read post-quantum files`,
      "to recover without spoolsafe: install age 1.3 or newer",
    ),
  ];
}

export async function examineIdentity({ role, identityFile }: KeysToExamine): Promise<readonly Finding[]> {
  if (identityFile === undefined) {
    return role === "primary"
      ? [good("identity", "none here, as it should be on a primary")]
      : [bad("identity", "none is configured: snapshots can't be opened here", "set encryption.identity_file")];
  }
  const { recipients } = await loadIdentities(identityFile);
  const message = `${recipients.length} in ${identityFile}`;
  if (role === "standby") return [good("identity", message)];
  return [
    good(
      "identity",
      `${message}: whoever breaks in here can read every snapshot`,
      "keep it elsewhere; a primary needs the age recipient only",
    ),
  ];
}

export function examineSigningKey({ role, signingKeyFile, trustedKeysFile }: KeysToExamine): readonly Finding[] {
  const trusted = loadTrustedKeys(trustedKeysFile);
  if (role === "standby" && !existsSync(signingKeyFile)) {
    const message = `${signingKeyFile} is not there: a takeover could not be claimed, and the old primary would not know of it`;
    return [
      bad("signing key", message, "`spoolsafe init --role standby` makes it"),
      trustFinding(trusted, undefined, role, trustedKeysFile),
    ];
  }
  const own = loadSigningKey(signingKeyFile);
  return [
    good("signing key", `${own.writer} in ${signingKeyFile}`),
    trustFinding(trusted, own.fingerprint, role, trustedKeysFile),
  ];
}

function trustFinding(trusted: TrustedKeys, own: string | undefined, role: Role, file: string): Finding {
  const others = trusted.fingerprints.filter((fingerprint) => fingerprint !== own).length;
  if (own !== undefined && !trusted.fingerprints.includes(own)) {
    return bad("trusted keys", `${file} does not have this host's own key`, "`spoolsafe init` adds it");
  }
  if (role === "standby" && others === 0) {
    return bad(
      "trusted keys",
      `${file} has no key of a primary`,
      "`spoolsafe key add FILE` with the primary's trusted.pub",
    );
  }
  return good("trusted keys", `${trusted.fingerprints.length} in ${file}`);
}
