import { lstatSync, statSync } from "node:fs";
import { join } from "node:path";
import { placedHolds } from "../holds/placed.ts";
import { recordGivenBack, recordReleased } from "../holds/released.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { locateInQueue } from "../postfix/spool.ts";
import type { Clock } from "../system/clock.ts";
import { RunJournal, type RunRecord, type StagedMessage } from "./journal.ts";
import { type SpoolPlace, temporaryPath } from "./place.ts";
import { type RunFile, whereabouts } from "./whereabouts.ts";

/**
 * Of what a call that died was releasing, what has left hold. A file that is on hold and was moved after the journal's last
 * line is one of them: somebody has put it on hold again since. One under its temporary name is none: it waits there, or an
 * undo has put it there. To be asked, and noted, before a further line is written.
 */
export function releasedMeanwhile(instance: SpoolPlace, record: RunRecord): RunFile[] {
  const { mtimeNs } = statSync(join(record.directory, "journal.jsonl"), { bigint: true });
  const staged = record.staged.filter(({ number }) => record.releasing.has(number) && !record.released.has(number));
  return whereabouts(instance, { ...record, staged }).filter((file) => {
    if (hasTemporaryName(instance, record.run, file.staged)) return false;
    const stat =
      file.at === "hold" && file.path !== null
        ? lstatSync(file.path, { bigint: true, throwIfNoEntry: false })
        : undefined;
    return stat === undefined || stat.ctimeNs >= mtimeNs;
  });
}

function hasTemporaryName(instance: SpoolPlace, run: string, { number, inode }: StagedMessage): boolean {
  const path = temporaryPath(instance, "message", run, number);
  return String(lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino) === inode;
}

/** Where it is noted what has left hold, and of which queue. */
interface NotePlace {
  readonly instance: PostfixInstance;
  readonly stateDirectory: string;
  readonly clock: Clock;
}

/** Note what has left hold: an administrator who holds one of them later is not to be taken for us. */
export function noteReleased(
  { instance, journal, stateDirectory, clock }: NotePlace & { readonly journal: RunJournal },
  left: readonly Pick<StagedMessage, "number" | "id">[],
): void {
  if (left.length === 0) return;
  const time = new Date(clock.now()).toISOString();
  recordReleased(stateDirectory, instance, { run: journal.run, time, ids: left.map(({ id }) => id) });
  journal.released(
    left.map(({ number }) => number),
    clock.now(),
  );
}

/** To be called before anything is written into the journals of earlier runs: a new line makes an earlier move untold. */
export function settleReleases(place: NotePlace, runs: readonly RunRecord[]): void {
  for (const record of runs) {
    const out = record.releasing.size === 0 ? [] : releasedMeanwhile(place.instance, record);
    if (out.length === 0) continue;
    const journal = RunJournal.reopen(record);
    noteReleased(
      { ...place, journal },
      out.map(({ staged }) => staged),
    );
    journal.close();
  }
}

/**
 * Files of earlier runs whose inodes others have now are gone: somebody has delivered or deleted them. The next file of the
 * same message may get the very same name, which has the inode in it, and then be another's: an administrator's, or in doubt.
 * To be called before any of the new files is in hold/.
 */
export function noteReused(
  { instance, stateDirectory, clock }: NotePlace,
  runs: readonly RunRecord[],
  staged: readonly Pick<StagedMessage, "inode" | "id">[],
): void {
  const inodes = new Set(staged.map(({ inode }) => inode));
  const time = new Date(clock.now()).toISOString();
  for (const record of runs) {
    const gone = record.staged.filter(({ inode, number }) => inodes.has(inode) && !record.released.has(number));
    if (gone.length === 0) continue;
    recordReleased(stateDirectory, instance, { run: record.run, time, ids: gone.map(({ id }) => id) });
    const numbers = gone.map(({ number }) => number).filter((number) => !record.undone.has(number));
    if (numbers.length === 0) continue;
    const journal = RunJournal.reopen(record);
    journal.released(numbers, clock.now());
    journal.close();
  }
  const holds = placedHolds(stateDirectory, instance);
  for (const { id } of staged) {
    const hold = holds.get(id);
    if (hold?.kind !== "fence" || locateInQueue(instance, "hold", id) !== undefined) continue;
    recordGivenBack(stateDirectory, instance, { claim: hold.run, time, ids: [id] });
  }
}
