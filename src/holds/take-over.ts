import { rmSync } from "node:fs";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { masterState } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { Clock } from "../system/clock.ts";
import { tryLock } from "../system/lock.ts";
import { takenBy } from "./claimed-mail.ts";
import type { FencingClaim } from "./fence-claims.ts";
import { journalDirectory } from "./journal.ts";
import { recordPlaced } from "./placed.ts";
import { releaseHeld, wakeDeferred } from "./recover.ts";
import { fencedMail, recordedBy, recordGivenBack } from "./released.ts";
import { listAside, putBack } from "./set-aside.ts";

export interface GiveBackRequest {
  readonly instance: PostfixInstance;
  readonly stateDirectory: string;
  /** The claim whose mail this host takes back. */
  readonly claim: string;
  /** Claims of other hosts that stand, without this one: what one of them took as well stays fenced, because of it. */
  readonly others: readonly FencingClaim[];
  readonly clock: Clock;
}

export interface GiveBackReport {
  readonly instance: string;
  /** Back in deferred, or in maildrop under the name given here. */
  readonly released: readonly string[];
  /** Still fenced, because of another claim. */
  readonly kept: readonly { readonly queueId: string; readonly claim: string }[];
  /** postsuper did not release it. */
  readonly stillHeld: readonly string[];
}

/**
 * Give exactly the messages back to Postfix that a claim had fenced. What an administrator holds, and what waits for a
 * restore's sign-off, stays; killed at any point, it is finished by running it again.
 *
 * @throws OperatorError `locked`
 */
export async function giveBack(request: GiveBackRequest): Promise<GiveBackReport> {
  const { instance } = request;
  const lock = await tryLock(instance.queueDirectory);
  if (lock === undefined) {
    throw new OperatorError("locked", `another run works on ${instance.queueDirectory}`, {
      hints: ["wait until it has ended, and run this again"],
    });
  }
  try {
    return await giveBackLocked(request);
  } finally {
    await lock.release();
  }
}

async function giveBackLocked(request: GiveBackRequest): Promise<GiveBackReport> {
  const { instance, stateDirectory, claim, clock } = request;
  const fenced = fencedMail(stateDirectory, instance).filter((file) => file.claim === claim);
  const aside = listAside(stateDirectory, instance).filter((file) => file.claim === claim);
  const toMove = fenced.map(({ path, id }) => ({ path, queueId: id }));
  const toPutBack = aside.map((one) => ({ ...one, path: one.file }));
  const held = sortOut(toMove, request);
  const dropped = sortOut(toPutBack, request);
  handOver(request, held.kept);
  const stillHeld = await release(
    request,
    held.ours.map(({ queueId }) => queueId),
  );
  const returned = dropped.ours.map((one) => putBack(one, instance));
  if (held.ours.length > 0 && (await masterState(instance)) !== "stopped") await wakeDeferred(instance, clock);
  const left = new Set(stillHeld);
  return {
    instance: instance.name,
    released: [...held.ours.flatMap(({ queueId }) => (left.has(queueId) ? [] : [queueId])), ...returned],
    kept: [...held.kept, ...dropped.kept].map(({ file, claim: other }) => ({ queueId: file.queueId, claim: other })),
    stillHeld,
  };
}

interface Movable {
  readonly path: string;
  readonly queueId: string;
}

interface Kept<File extends Movable> {
  readonly file: File;
  /** The other claim that has taken it. */
  readonly claim: string;
}

function sortOut<File extends Movable>(
  files: readonly File[],
  { instance, others }: GiveBackRequest,
): { readonly kept: readonly Kept<File>[]; readonly ours: readonly File[] } {
  const kept: Kept<File>[] = [];
  const ours: File[] = [];
  for (const file of files) {
    const claim = takenBy(file, instance.name, others);
    if (claim === undefined) ours.push(file);
    else kept.push({ file, claim });
  }
  return { kept, ours };
}

/** From now on it is on hold because of the other claim. */
function handOver({ instance, stateDirectory, clock }: GiveBackRequest, kept: readonly Kept<Movable>[]): void {
  const since = new Date(clock.now()).toISOString();
  for (const [claim, some] of Map.groupBy(kept, (one) => one.claim)) {
    const ids = some.map(({ file }) => file.queueId);
    recordPlaced(stateDirectory, instance, { kind: "fence", run: claim, since, ids });
  }
}

/** @returns what is still on hold */
async function release(
  { instance, stateDirectory, claim, clock }: GiveBackRequest,
  ids: readonly string[],
): Promise<string[]> {
  const output = join(journalDirectory(stateDirectory), `fence.${instance.name.replaceAll("/", "_")}.release.stderr`);
  const left = ids.length === 0 ? [] : await releaseHeld(instance, ids, output);
  rmSync(output, { force: true });
  // All that is recorded and not held by this claim: also what an earlier call released before it died.
  const held = fencedMail(stateDirectory, instance).filter((file) => file.claim === claim);
  const still = new Set(held.map(({ id }) => id));
  const gone = recordedBy(stateDirectory, instance, claim).filter((id) => !still.has(id));
  recordGivenBack(stateDirectory, instance, { claim, time: new Date(clock.now()).toISOString(), ids: gone });
  return left;
}
