import { OperatorError } from "../errors.ts";
import type { DamagedRecord, Repository, SignedSnapshot } from "../repository/repository.ts";
import { selectSnapshot } from "../snapshot/select.ts";
import type { Context } from "./context.ts";
import { noticeChains, seenBefore } from "./look.ts";

/**
 * The snapshot a SNAP argument means, among those of the host that is meant.
 *
 * @throws OperatorError `usage` or `failed` when it means none or several
 */
export async function chooseSnapshot(context: Context, repository: Repository, spec: string): Promise<SignedSnapshot> {
  return (await chooseInChain(context, repository, spec)).signed;
}

/** A snapshot that was chosen, and what is wrong with the chain of its writer: each in a sentence. */
export interface ChosenInChain {
  readonly signed: SignedSnapshot;
  readonly problems: readonly string[];
}

/** As `chooseSnapshot` does. */
export async function chooseInChain(context: Context, repository: Repository, spec: string): Promise<ChosenInChain> {
  const { snapshots, damaged, findings } = await readableSnapshots(context, repository);
  refuseDamaged(spec, snapshots, damaged);
  const meant = { host: context.globals.host, ownHost: await ownHost(context, snapshots) };
  const signed = selectSnapshot(spec, snapshots, meant);
  const { writer } = signed.snapshot;
  const problems = [
    ...damaged.filter(({ ref }) => ref.writer === writer).map(({ error }) => error.message),
    ...findings.filter((finding) => finding.writer === writer).map(({ problem }) => problem),
  ];
  return { signed, problems };
}

/**
 * The newest snapshot of the host that is meant; where several hosts share the repository and none of them is meant, as on a
 * standby, of each.
 *
 * @throws OperatorError `usage` or `failed` when there is none
 */
export async function newestOfMeant(context: Context, repository: Repository): Promise<readonly SignedSnapshot[]> {
  const { snapshots, damaged } = await readableSnapshots(context, repository);
  refuseDamaged("latest", snapshots, damaged);
  const hosts = [...new Set(snapshots.map(({ snapshot }) => snapshot.host))].sort();
  const own = context.globals.host ?? (await ownHost(context, snapshots));
  const several = context.globals.host === undefined && hosts.length > 1 && !hosts.some((host) => host === own);
  const scopes = several
    ? hosts.map((host) => ({ host, ownHost: undefined }))
    : [{ host: context.globals.host, ownHost: own }];
  return scopes.map((scope) => selectSnapshot("latest", snapshots, scope));
}

/** What was asked for is there and can't be used, which is something else than not being there. */
function refuseDamaged(spec: string, readable: readonly SignedSnapshot[], damaged: readonly DamagedRecord[]): void {
  const asked = (id: string) => id.startsWith(spec.toLowerCase());
  if (readable.some(({ id }) => asked(id))) return;
  const meant = damaged.find(({ ref }) => readable.length === 0 || asked(ref.id));
  if (meant !== undefined) throw meant.error;
}

/** Every snapshot whose record can be read. Of the others there is a warning each: `latest` may not be what it seems. */
export async function readableSnapshots(context: Context, repository: Repository) {
  const { signal, render } = context;
  const seen = seenBefore(context, repository);
  const found = await repository.loadReadable(await repository.snapshotRefs(signal), signal);
  for (const {
    error: { message, hints },
  } of found.damaged) {
    render.line({ type: "damaged", message, hints });
    render.warn(message);
  }
  const findings = await noticeChains(context, repository, seen, found.snapshots, found.damaged);
  return { ...found, findings };
}

/** What this host is called in snapshots. Postfix is asked only where it makes a difference, and need not be here. */
async function ownHost(context: Context, all: readonly SignedSnapshot[]): Promise<string | undefined> {
  const several = new Set(all.map(({ snapshot }) => snapshot.host)).size > 1;
  if (context.config.host !== undefined || context.globals.host !== undefined || !several) return context.config.host;
  try {
    return (await context.instances())[0]?.host;
  } catch (error) {
    if (error instanceof OperatorError) return undefined;
    throw error;
  }
}

/** An entry of a snapshot belongs to the instance that was asked for, or to any if none was. */
export function ofInstance(context: Context, instance: string): boolean {
  return context.globals.instance === undefined || context.globals.instance === instance;
}

/** @throws OperatorError `usage` that lists the instances there are, when the one asked for is not among them */
export function requireInstance(context: Context, { snapshot, id }: SignedSnapshot): void {
  const { instance } = context.globals;
  const names = snapshot.instances.map(({ name }) => name);
  if (instance === undefined || names.includes(instance)) return;
  throw new OperatorError("usage", `snapshot ${id.slice(0, 8)} has no instance ${instance}`, {
    hints: [`its instances are: ${names.join(", ")}`],
  });
}
