import { lstatSync } from "node:fs";
import { recordPlaced } from "../holds/placed.ts";
import { release, scanDeferred, scanMaildrop } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { Clock } from "../system/clock.ts";
import type { RunJournal } from "./journal.ts";
import { noteReleased } from "./left-hold.ts";
import { type PlacedMessage, type Placement, Placer, sweepTemporaries } from "./place.ts";
import type { Route } from "./plan.ts";
import { type PlacementProof, provePlaced } from "./prove.ts";
import type { RestoreEvent } from "./report.ts";
import type { Rest } from "./resume.ts";

export interface Placing {
  readonly instance: PostfixInstance;
  readonly route: Route;
  /** Whether Postfix runs: then nothing can keep it from taking what it sees. */
  readonly running: boolean;
  readonly stateDirectory: string;
  readonly journal: RunJournal;
  readonly rest: Rest;
  readonly clock: Clock;
  readonly report?: ((event: RestoreEvent) => void) | undefined;
  /** @throws when Postfix could have started although it was to stay stopped */
  check(): void;
}

export interface Placed {
  readonly placed: readonly PlacedMessage[];
  readonly proof: PlacementProof;
  readonly movedAside: readonly string[];
}

/**
 * Give staged mail its names: what stays on hold first, then what Postfix may deliver; and prove where everything lies.
 * Beside other mail everything that is not of maildrop is put on hold first, where no daemon looks, is proven there, and
 * what is to be delivered is released then, as an administrator would. Nothing in here waits for a signal between two
 * names, so an interrupted run stops before or after the whole of it.
 */
export async function placeRest(placing: Placing): Promise<Placed> {
  const { instance, route, journal, rest, stateDirectory, clock } = placing;
  placing.check();
  placing.report?.({ type: "step", step: "place", messages: rest.toPlace.length });
  const since = new Date(clock.now()).toISOString();
  const renamed = (placement: Placement, id: string) => {
    recordHolds({ instance, route, stateDirectory, since }, journal.run, [{ ...placement, id }]);
    journal.renamed(placement.number, id);
  };
  const placer = new Placer(instance, journal, renamed, route !== "fresh");
  const [first, then] = partition(rest.toPlace, ({ message }) => isHeldFirst(route, message.queue));
  const held = first.map((placement) => placer.place(placement, "hold"));
  placer.sync();
  const toRelease = route === "merge" ? [...held, ...rest.placed].filter((one) => isToRelease(placing, one)) : [];
  const heldProof = route === "merge" ? await prove(placing, [...new Set([...held, ...toRelease])]) : undefined;
  journal.visible();
  const live = then.map((placement) => placer.place(placement));
  placer.sync();
  sweepTemporaries(instance, journal.run, new Set(rest.waiting.map(({ number }) => number))); // of what was not proven
  const placed = [...held, ...live];
  const proof = heldProof ?? (isTakenAtOnce(placing) ? nothingFound : await prove(placing, placed));
  placing.check();
  const stuck = await releaseLive(placing, proof, toRelease);
  if (placing.running && live.some(({ message }) => message.queue === "maildrop")) await scanMaildrop(instance);
  return { placed, proof: withProblems(proof, stuck), movedAside: placer.movedAside };
}

/** Whether a message lies on hold by our hand that Postfix is to deliver. It is told by its inode: names come again. */
function isToRelease({ instance, rest }: Placing, { message, path, inode }: PlacedMessage): boolean {
  return (
    message.queue === "deferred" &&
    !rest.released.has(message.number) &&
    path.startsWith(`${instance.queueDirectory}/hold/`) &&
    inodeOf(path) === inode
  );
}

function withProblems(proof: PlacementProof, more: ReadonlyMap<string, string>): PlacementProof {
  return { ...proof, messages: new Map([...more, ...proof.messages]) };
}

/** Of a route, which mail lies in hold before any of it is visible to Postfix. */
function isHeldFirst(route: Route, queue: PlacedMessage["message"]["queue"]): boolean {
  return queue === "hold" || (route === "merge" && queue === "deferred");
}

/** pickup may take new mail before anybody looks where it was put; its bytes were proven when they were staged. */
function isTakenAtOnce({ route, running }: Placing): boolean {
  return route === "requeue" && running;
}

const nothingFound: PlacementProof = { messages: new Map(), queue: [], changed: [] };

async function prove({ instance, route, rest, report }: Placing, placed: readonly PlacedMessage[]) {
  report?.({ type: "step", step: "check", messages: placed.length });
  return provePlaced(instance, placed, route === "fresh" ? rest.placed : [], { beside: route !== "fresh" });
}

/**
 * Release what was on hold only until it was proven. What was not proven stays there, in doubt, for an operator to judge.
 *
 * @returns by id, why a message that was proven is on hold still
 */
async function releaseLive(
  { instance, journal, running, stateDirectory, clock, report }: Placing,
  proof: PlacementProof,
  candidates: readonly PlacedMessage[],
): Promise<ReadonlyMap<string, string>> {
  const [ready, unproven] = partition(candidates, ({ id }) => !proof.messages.has(id));
  for (const { message, id } of unproven) doubt(journal, message, proof.messages.get(id) ?? "");
  if (ready.length === 0) return new Map();
  report?.({ type: "step", step: "release", messages: ready.length });
  journal.releasing(ready.map(({ message }) => message.number));
  const said = await release(
    instance,
    ready.map(({ id }) => id),
  );
  // What postsuper says it released is done with, also when somebody has put it on hold again a moment later.
  const out = new Set(said.ids);
  const [left, stuck] = partition(ready, ({ id, path, inode }) => out.has(id) || inodeOf(path) !== inode);
  noteReleased(
    { instance, journal, stateDirectory, clock },
    left.map(({ message: { number }, id }) => ({ number, id })),
  );
  for (const { message } of stuck) doubt(journal, message, notReleased);
  if (running) await scanDeferred(instance);
  return new Map(stuck.map(({ id }) => [id, notReleased]));
}

const notReleased = "postsuper did not release it from hold";

/** It stays on hold, and `release --in-doubt` lets it go when an operator has looked. */
function doubt(journal: RunJournal, { number, mode, mtime, recipients }: PlacedMessage["message"], why: string): void {
  journal.doubted(number, { inDoubt: `it could not be proven: ${why}`, mode, mtime, recipients });
}

function inodeOf(path: string): string {
  return String(lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino);
}

/**
 * A later backup keeps why a message is on hold; what is in no list of ours counts as an administrator's. To be called
 * before any of them is in hold/.
 */
export function recordHolds(
  {
    instance,
    route,
    stateDirectory,
    since,
  }: Pick<Placing, "instance" | "route" | "stateDirectory"> & { readonly since: string },
  run: string,
  staged: readonly Placement[],
): void {
  const ours = staged.filter(
    ({ message }) => isHeldFirst(route, message.queue) && (message.role === "restore" || message.queue === "deferred"),
  );
  const record = (kind: "restore" | "fence", by: string, ids: readonly string[]) => {
    if (ids.length > 0) recordPlaced(stateDirectory, instance, { kind, run: by, since, ids });
  };
  record("restore", run, ids(ours));
  const fences = Map.groupBy(staged, ({ entry }) => (entry.role?.kind === "fence" ? entry.role.run : null));
  for (const [fence, held] of fences) if (fence !== null) record("fence", fence, ids(held));
}

function ids(placements: readonly Placement[]): string[] {
  return placements.map(({ id }) => id);
}

function partition<T>(items: readonly T[], first: (item: T) => boolean): [T[], T[]] {
  return [items.filter(first), items.filter((item) => !first(item))];
}
