import { posix } from "node:path";
import { fingerprintOfPem } from "../crypto/sign.ts";
import { listClaims, readDigests, requireChecked, type StandingClaim } from "../repository/claims.ts";
import { overlapOf } from "../snapshot/claim.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { TakeoverToExamine } from "./newest-snapshot.ts";
import type { Opened } from "./opened-snapshot.ts";

/** Whether another host has taken over mail of the snapshot: then a takeover here is refused. */
export async function examineClaims(opened: Opened, { signal }: TakeoverToExamine): Promise<readonly Finding[]> {
  const { repository, trusted, signed, own } = opened;
  const { host } = signed.snapshot;
  const claims = await listClaims(repository, trusted, signal);
  requireChecked(claims);
  const standing = claims.standing.filter(({ claim }) => claim.host === host);
  const ours = standing.filter(({ claim }) => claim.writer === own?.writer);
  const findings = ours.map(ownClaim);
  for (const other of standing.filter((one) => !ours.includes(one))) {
    const digests = await readDigests(repository, other.claim, signal);
    const nobody = { writer: "", by: "", into: "", shard: null };
    const overlap = overlapOf({ ...nobody, host, messages: opened.manifest.messages }, other.claim, digests);
    if (overlap?.reason === "messages") findings.push(foreignClaim(other, overlap.messages));
  }
  for (const { claim } of claims.strangers) {
    if (claim?.state !== "claimed" || claim.host !== host) continue;
    const said = `${claim.by} says it has taken over mail of ${host}, signed by a key this host does not trust (${claim.writer})`;
    findings.push(
      good("claims", said, "if it is a standby of yours, let this host trust it: `spoolsafe key add FILE`"),
    );
  }
  return findings.length > 0
    ? findings
    : [good("claims", `nobody has taken over mail of ${host} that is in the snapshot`)];
}

function ownClaim({ id, claim }: StandingClaim): Finding {
  return good(
    "claims",
    `this host itself claimed ${claim.digests.messages} messages at ${claim.time} (${id.slice(0, 8)}, run ${claim.run})`,
    "a takeover has begun here: go on with it, or undo it",
  );
}

function foreignClaim({ id, claim }: StandingClaim, messages: number): Finding {
  return bad(
    "claims",
    `${claim.by} has taken over ${messages} of the snapshot's messages (claim ${id.slice(0, 8)}, ${claim.time})`,
    "let it have them; or give the claim up there first: `spoolsafe holds take-over --withdraw`",
  );
}

/**
 * Whether the fence of the old primary will believe a claim of this host. The primary's list of trusted keys is known here
 * only where it is among the files of the snapshot.
 */
export async function examinePrimaryTrust(
  { own, signed, manifest, saved }: Opened,
  { signingKeyFile }: TakeoverToExamine,
): Promise<readonly Finding[]> {
  const name = "primary's trust";
  const { host } = signed.snapshot;
  if (own === undefined) {
    return [
      bad(name, "this host has no signing key that could be trusted", "`spoolsafe init --role standby` makes it"),
    ];
  }
  const remedy = `on ${host}: spoolsafe key add FILE, with what openssl pkey -in ${signingKeyFile} -pubout prints here`;
  const lists = manifest.files.filter(({ path, file }) => file !== null && posix.basename(path) === "trusted.pub");
  if (lists.length === 0) {
    return [
      good(
        name,
        `can't be seen from here: ${host} has to trust the key of this host (${own.writer}), or mail that is taken over is delivered twice when it comes back`,
        `${remedy}; with its trusted.pub in postfix.include, this is seen here`,
      ),
    ];
  }
  for (const { file } of lists) {
    if (file !== null && fingerprintsIn(await saved.read(file)).includes(own.fingerprint)) {
      return [good(name, `${host} trusts the key of this host (${own.writer})`)];
    }
  }
  const message = `${host} does not trust the key of this host (${own.writer}): it would not hold what is taken over when it comes back`;
  return [bad(name, message, remedy)];
}

function fingerprintsIn(text: Buffer): string[] {
  const keys = text.toString("latin1").match(/-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/g) ?? [];
  return keys.flatMap((pem) => {
    try {
      return [fingerprintOfPem(pem)];
    } catch {
      return []; // no key, so not this host's
    }
  });
}
