import { existsSync } from "node:fs";
import { loadSigningKey, loadTrustedKeys, type SigningKey, type TrustedKeys } from "../crypto/sign.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { checkChains, loadSeen } from "../repository/chain.ts";
import type { DamagedRecord, Repository, SignedSnapshot } from "../repository/repository.ts";
import { type SelectionScope, selectSnapshot } from "../snapshot/select.ts";
import type { Clock } from "../system/clock.ts";
import { bad, type Finding, good } from "./finding.ts";

/** What a standby has to take over with. */
export interface TakeoverToExamine {
  readonly stateDirectory: string;
  readonly identityFile: string | undefined;
  readonly signingKeyFile: string;
  readonly trustedKeysFile: string;
  openRepository(): Promise<Repository>;
  /** Whose newest snapshot is meant; without an own host, that of the first instance here. */
  readonly scope: SelectionScope;
  /** Milliseconds; an older snapshot is worth a word. */
  readonly maxAgeMs: number;
  /** The instance of the snapshot, where not all of them are meant. */
  readonly instance: string | undefined;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** The snapshot a takeover would begin with, by its record alone. */
export interface Newest {
  readonly repository: Repository;
  readonly signed: SignedSnapshot;
  /** The other records of its writer that can be read, and those that can't. */
  readonly readable: readonly SignedSnapshot[];
  readonly damaged: readonly DamagedRecord[];
  readonly trusted: TrustedKeys;
  /** This host's own key, undefined where there is none. */
  readonly own: SigningKey | undefined;
  /** Instances of this host. */
  readonly here: readonly PostfixInstance[];
}

/**
 * Find what would be taken over, and read its record from the store: the newest snapshot of the host that is meant. What this
 * host itself has written counts only where there is nothing else.
 *
 * @throws OperatorError `failed` without any snapshot, `usage` when hosts can't be told apart, and what the store throws
 */
export async function findNewest(setup: TakeoverToExamine, here: readonly PostfixInstance[]): Promise<Newest> {
  const { signal, scope } = setup;
  const repository = await setup.openRepository();
  const { snapshots, damaged } = await repository.loadReadable(await repository.snapshotRefs(signal), signal);
  const own = existsSync(setup.signingKeyFile) ? loadSigningKey(setup.signingKeyFile) : undefined;
  const others = snapshots.filter(({ key }) => key !== own?.fingerprint);
  const meant = scope.host === undefined && others.length > 0 ? others : snapshots;
  const ownHost = scope.ownHost ?? here[0]?.host;
  const { id, snapshot } = selectSnapshot("latest", meant, { host: scope.host, ownHost });
  const { writer, number } = snapshot;
  return {
    repository,
    signed: await repository.loadFromStore({ writer, number, id }, signal),
    readable: snapshots.filter((one) => one.snapshot.writer === writer),
    damaged: damaged.filter(({ ref }) => ref.writer === writer),
    trusted: loadTrustedKeys(setup.trustedKeysFile),
    own,
    here,
  };
}

export function describeNewest(
  { signed }: Newest,
  { clock, maxAgeMs }: Pick<TakeoverToExamine, "clock" | "maxAgeMs">,
): Finding {
  const { host, time, messages } = signed.snapshot;
  const ageMs = clock.now() - Date.parse(time);
  const minutes = Math.max(0, Math.round(ageMs / 60_000));
  const age = minutes < 120 ? `${minutes} minutes` : `${Math.floor(minutes / 60)} hours`;
  const found = `${signed.id.slice(0, 8)} of ${host}, taken ${age} ago (${time}), ${messages.total} messages`;
  const old = "it is older than alerts.max_age: see on the primary why; what came since would not be taken over";
  return good("newest snapshot", found, ageMs > maxAgeMs ? old : null);
}

export function examineSignature({ signed, trusted, own }: Newest): readonly Finding[] {
  const { key, line, signature, snapshot } = signed;
  const name = "signature";
  switch (trusted.check(key, line, signature)) {
    case "trusted":
      if (own?.fingerprint !== key) return [good(name, `by the trusted key ${snapshot.writer}`)];
      return [
        bad(
          name,
          `it is signed by this host's own key: this is ${snapshot.host} itself, or it signs with a copy of its key`,
          "give the standby a signing key of its own: move signing.key_file away, then `spoolsafe init --role standby`",
        ),
      ];
    case "stranger":
      return [
        bad(
          name,
          `it is signed by a key this host does not trust (${snapshot.writer})`,
          `if it is the key of ${snapshot.host} (\`spoolsafe key show\` there says), trust it: \`spoolsafe key add FILE\``,
        ),
      ];
    case "forged":
      return [
        bad(
          name,
          `its signature is not one of the key it names (${snapshot.writer}): the record was changed`,
          "find out who can write to the repository; an older snapshot may be good: `spoolsafe verify --all`",
        ),
      ];
  }
}

/** Whether it is the newest of its writer: none that this host has seen is gone, and no record is damaged. */
export async function examineChain(
  newest: Newest,
  { stateDirectory, signal }: TakeoverToExamine,
): Promise<readonly Finding[]> {
  const { repository, signed, readable, damaged, trusted } = newest;
  const { writer } = signed.snapshot;
  const believed = readable.filter(({ key, line, signature }) => trusted.check(key, line, signature) === "trusted");
  const links = [
    ...believed.map(({ id, snapshot: { number, previous } }) => ({ id, writer, number, previous })),
    ...damaged.map(({ ref }) => ({ ...ref, previous: undefined })),
  ];
  const removed = (await repository.trustedRemovals(trusted, signal)).flatMap(({ removal }) => removal.snapshots);
  const seen = loadSeen(stateDirectory, repository.id).get(writer);
  const findings = checkChains(links, removed, new Map(seen === undefined ? [] : [[writer, seen]]));
  const problems = [...damaged.map(({ error }) => error.message), ...findings.map(({ problem }) => problem)];
  if (problems.length === 0) return [good("chain", `all ${links.length} snapshots of its writer are there`)];
  const remedy = "`spoolsafe verify --all` says more; another copy of the repository may still have what is missing";
  return problems.map((problem) => bad("chain", problem, remedy));
}
