import { readFileSync, statSync } from "node:fs";
import { certificatesOf, judgeCertificate, type NamedCertificate } from "../postfix/certificates.ts";
import { type PostfixParameters, type Scope, scopes } from "../postfix/parameters.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Opened, Pair, SavedFiles } from "./opened-snapshot.ts";
import { perInstance } from "./pairs.ts";

/** Where a certificate is from, and where its file may be besides. */
interface Origin {
  readonly label: "in the snapshot" | "here";
  readonly remedy: string;
  read(path: string): Promise<Buffer | undefined>;
}

const local: Origin = {
  label: "here",
  remedy: "renew it here, or correct the setting",
  read: async (path) => (statSync(path, { throwIfNoEntry: false })?.isFile() ? readFileSync(path) : undefined),
};

/**
 * The certificates that the saved configuration names and those of Postfix here.
 *
 * @param now milliseconds since 1970
 */
export async function examineCertificates(
  { saved }: Opened,
  pairs: readonly Pair[],
  now: number,
): Promise<readonly Finding[]> {
  const found = await Promise.all(
    pairs.map(async (pair) => ({ ...pair, findings: await pairFindings(pair, saved, now) })),
  );
  return perInstance(found, ({ findings }) => findings);
}

async function pairFindings(pair: Pair, files: SavedFiles, now: number): Promise<readonly Finding[]> {
  const theirs = pair.saved === undefined ? [] : await namedBy(pair.saved, savedOrigin(pair, files));
  const own = await namedBy(pair.here, local);
  const findings = [...theirs, ...own].flatMap((one) => judge(one, now));
  if (findings.length > 0) return findings;
  const count = new Set([...theirs, ...own].map(({ path }) => path)).size;
  return [good("certificates", count === 0 ? "Postfix uses none" : `${count} are valid for a month and more`)];
}

/** A file of the snapshot; what it does not have may be one of this host, which stays. */
function savedOrigin({ tree }: Pair, files: SavedFiles): Origin {
  return {
    label: "in the snapshot",
    remedy: "renew it on the primary, and back up again",
    read: async (path) => {
      const stored = tree.file(path)?.file;
      return stored === undefined || stored === null ? local.read(path) : files.read(stored);
    },
  };
}

interface Named {
  readonly origin: Origin;
  readonly setting: string;
  readonly path: string;
  readonly serverName: string | null;
  /** Undefined for a file that is not there. */
  readonly certificate: Pick<NamedCertificate, "pem" | "key"> | undefined;
}

/** Each file once for clients and once for each server name, by the first setting an administrator wrote down for it. */
async function namedBy(parameters: PostfixParameters, origin: Origin): Promise<Named[]> {
  const named: Named[] = [];
  for (const scope of scopes(parameters)) {
    const given = scope.names.filter((name) => scope.given(name));
    for (const { name, path, keyPath } of given.flatMap((one) => certificatesOf(scope, one))) {
      if (named.some((one) => one.path === path && one.serverName === serverName(scope, name))) continue;
      const pem = await origin.read(path);
      const certificate = pem && { pem, key: await keyOf(keyPath, origin) };
      named.push({ origin, setting: `${scope.label} ${name}`, path, serverName: serverName(scope, name), certificate });
    }
  }
  return named;
}

function serverName(scope: Scope, parameter: string): string | null {
  return parameter.startsWith("smtpd_") ? scope.value("myhostname") : null;
}

async function keyOf(path: string | null, origin: Origin): Promise<Buffer | null> {
  const bytes = path === null ? undefined : await origin.read(path);
  return bytes?.includes("PRIVATE KEY-----") ? bytes : null;
}

function judge({ origin, setting, path, serverName, certificate }: Named, now: number): Finding[] {
  const name = "certificates";
  const which = `${path} ${origin.label} (${setting})`;
  if (certificate === undefined) return [bad(name, `${path} is not ${origin.label} (${setting})`, origin.remedy)];
  return judgeCertificate({ ...certificate, serverName }, now).map(({ level, finding }) =>
    level === "wrong"
      ? bad(name, `${which}: ${finding}`, origin.remedy)
      : good(name, `${which}: ${finding}`, origin.remedy),
  );
}
