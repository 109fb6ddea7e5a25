import { lstatSync, statSync } from "node:fs";
import { join } from "node:path";
import { recordReleased } from "../holds/released.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { Clock } from "../system/clock.ts";
import type { RunJournal, RunRecord, StagedMessage } from "./journal.ts";
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

/** Note what has left hold: an administrator who holds one of them later is not to be taken for us. */
export function noteReleased(
  {
    instance,
    journal,
    stateDirectory,
    clock,
  }: {
    readonly instance: PostfixInstance;
    readonly journal: RunJournal;
    readonly stateDirectory: string;
    readonly clock: Clock;
  },
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
