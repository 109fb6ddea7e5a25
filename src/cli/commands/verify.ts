import type { AgeIdentities } from "../../crypto/keys.ts";
import { OperatorError } from "../../errors.ts";
import { PackReader } from "../../pack/pack-pool.ts";
import { loadSeen, saveSeen } from "../../repository/chain.ts";
import type { RecordPlace } from "../../repository/layout.ts";
import type { Repository, SignedSnapshot } from "../../repository/repository.ts";
import { ofHost } from "../../snapshot/select.ts";
import type { Damage } from "../../verify/damage.ts";
import { type DeepProgress, verifyDeep } from "../../verify/deep.ts";
import { type SealedReport, verifySealed } from "../../verify/sealed.ts";
import { chooseSnapshot, newestOfMeant } from "../choose.ts";
import type { Context } from "../context.ts";
import { type Leave, recorded } from "../job.ts";
import { printable } from "../table.ts";

export interface VerifyOptions {
  readonly all?: true | undefined;
  readonly level?: "sealed" | "deep" | undefined;
  /** Percent. */
  readonly sample?: number | undefined;
}

/**
 * `spoolsafe verify [SNAP|--all]`: the newest of this host, or of each where none of several hosts is this one. Exit 13 when anything
 * is wrong; all that is wrong is listed.
 */
export async function run(context: Context, spec: string | undefined, options: VerifyOptions): Promise<number> {
  if (spec !== undefined && options.all === true) {
    throw new OperatorError("usage", "--all and the name of a snapshot don't go together", {
      hints: ["leave one of them out"],
    });
  }
  // An old snapshot, or a sample, says little about whether the next restore will work: status goes by the others.
  const tellsOfAll = (spec === undefined || spec === "latest") && (options.sample ?? 100) === 100;
  const work = (leave: Leave) => check(context, spec, options, leave);
  return tellsOfAll ? await recorded(context, "verify", work) : await work(() => {});
}

async function check(
  context: Context,
  spec: string | undefined,
  options: VerifyOptions,
  leave: Leave,
): Promise<number> {
  const identities = options.level === "sealed" ? undefined : await identitiesFor(context, options.level);
  const repository = await context.openRepository();
  const refs = await chooseRefs(context, repository, spec, options.all === true);
  const share = (options.sample ?? 100) / 100;
  const newest = options.all === true || refs.length > 1 ? null : (refs[0]?.id ?? null);
  leave({ level: identities === undefined ? "sealed" : "deep", snapshot: newest, snapshots: refs.length });
  const sealed = await checkSealed(context, repository, refs, identities === undefined ? share : 0);
  if (identities === undefined) return tell(context, { ...sealed, level: "sealed" });
  const deep = await checkDeep(context, repository, await believable(context, repository, refs), identities, share);
  return tell(context, {
    ...deep,
    level: "deep",
    snapshots: refs.length,
    damaged: [...sealed.damaged, ...deep.damaged],
  });
}

/** A level that is asked for is done or fails; without one, deep where an identity is configured. */
function identitiesFor(context: Context, level: "deep" | undefined): Promise<AgeIdentities | undefined> {
  return level === "deep" ? context.identities() : context.identitiesIfAny();
}

async function chooseRefs(
  context: Context,
  repository: Repository,
  spec: string | undefined,
  all: boolean,
): Promise<readonly RecordPlace[]> {
  if (all) return await everyRef(context, repository);
  const chosen =
    spec === undefined ? await newestOfMeant(context, repository) : [await chooseSnapshot(context, repository, spec)];
  return chosen.map(({ id, snapshot: { writer, number } }) => ({ id, writer, number }));
}

/** Of the host that is named, with what can't be read and so may be of it; else of all. */
async function everyRef(
  { globals: { host }, signal }: Context,
  repository: Repository,
): Promise<readonly RecordPlace[]> {
  const refs = await repository.snapshotRefs(signal);
  if (host === undefined) return refs;
  const { taken, damaged } = await repository.takeReadable(
    refs,
    ({ id, snapshot: { host: of, time, number, writer } }) => ({ id, snapshot: { host: of, time, number, writer } }),
    signal,
  );
  const own = new Set(ofHost(taken, { host, ownHost: undefined }).map(({ id }) => id));
  for (const { ref } of damaged) own.add(ref.id);
  return refs.filter(({ id }) => own.has(id));
}

async function checkSealed(
  context: Context,
  repository: Repository,
  refs: readonly RecordPlace[],
  share: number,
): Promise<SealedReport> {
  const { render, signal, stateDirectory } = context;
  const report = await verifySealed({
    repository,
    refs,
    share,
    trusted: await context.trustedKeys(),
    seen: loadSeen(stateDirectory, repository.id),
    signal,
    report: ({ objects: done, objectsTotal: total, bytes, bytesTotal }) =>
      render.progress({ doing: "reading", unit: "objects", done, total, bytes, bytesTotal }),
  });
  saveSeen(stateDirectory, repository.id, report.seen);
  return report;
}

/** Records signed by a key this host trusts; the others are damage already, and what they name proves nothing. */
async function believable(
  context: Context,
  repository: Repository,
  refs: readonly RecordPlace[],
): Promise<readonly SignedSnapshot[]> {
  const trusted = await context.trustedKeys();
  const believed: SignedSnapshot[] = [];
  for (const ref of refs) {
    const signed = await loadIfWhole(repository, ref, context.signal);
    if (signed !== undefined && trusted.check(signed.key, signed.line, signed.signature) === "trusted")
      believed.push(signed);
  }
  return believed;
}

async function loadIfWhole(
  repository: Repository,
  ref: RecordPlace,
  signal: AbortSignal,
): Promise<SignedSnapshot | undefined> {
  try {
    return await repository.load(ref, signal);
  } catch (error) {
    // The sealed check has told of it.
    if (error instanceof OperatorError && error.kind === "damaged") return undefined;
    throw error;
  }
}

async function checkDeep(
  { config, render, signal }: Context,
  repository: Repository,
  snapshots: readonly SignedSnapshot[],
  identities: AgeIdentities,
  sample: number,
) {
  const { processors } = config.limits;
  await using reader = new PackReader({ identities, processors });
  const report = ({ packs: done, packsTotal: total, bytes, bytesTotal }: DeepProgress) =>
    render.progress({ doing: "opening", unit: "packs", done, total, bytes, bytesTotal });
  return await verifyDeep({ repository, snapshots, identities, reader, processors, sample, signal, report });
}

interface Verdict {
  readonly level: "sealed" | "deep";
  readonly snapshots: number;
  readonly packs: number;
  readonly messages: number;
  readonly damaged: readonly Damage[];
}

/** Findings a person is shown one by one. */
const shown = 50;

function tell({ render, config }: Context, { level, snapshots, packs, messages, damaged }: Verdict): number {
  for (const { snapshot, object, message, problem } of damaged.slice(0, shown)) {
    const where = [
      snapshot === null ? "" : `snapshot ${snapshot.slice(0, 12)}`,
      message === null ? "" : `message ${message}`,
    ];
    const what = object === null ? problem : `${object}: ${problem}`;
    render.warn(printable([...where.filter((part) => part !== ""), what].join(", ")));
  }
  if (damaged.length > shown) render.warn(`and ${damaged.length - shown} more: --json lists them all`);
  const hints = hintsFor(damaged, config.repository.object_lock_days > 0);
  render.summary({ level, snapshots, packs, messages, damaged, hints });
  const verdict =
    damaged.length === 0 ? render.colour("green", "nothing wrong") : render.colour("red", `${damaged.length} findings`);
  render.text(`${level}: ${snapshots} snapshots, ${packs} packs, ${messages} messages: ${verdict}`);
  for (const hint of hints) render.note(hint);
  return damaged.length === 0 ? 0 : 13;
}

/** Next steps. @param locked in a bucket with Object Lock nothing can be destroyed before its time, only hidden */
function hintsFor(damaged: readonly Damage[], locked: boolean): readonly string[] {
  if (damaged.length === 0) return [];
  const about = (kind: string) => damaged.some(({ object }) => object?.startsWith(kind));
  return [
    ...(locked
      ? ["the bucket keeps what was removed or overwritten, as older versions: docs/OBJECT-LOCK.md brings it back"]
      : []),
    ...(about("packs/") || about("parts/")
      ? [
          "a backup goes on using what is stored: move the damaged objects out of the repository, then run spoolsafe backup, which stores anew what it misses",
        ]
      : []),
    ...(about("snapshots/") ? ["a key of a host you know is trusted with: spoolsafe key add FILE.pub"] : []),
    "spoolsafe verify --all tells which snapshots are whole: restore one of those",
  ];
}
