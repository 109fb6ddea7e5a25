import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { errnoOf } from "../errors.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";

/*
 * The last backups of this host, good or not: `<state>/jobs/backup-history.json`. A repository knows those that ended well;
 * this is for people who look at the nights before. Nothing is decided by it.
 */

const runSchema = z.object({
  /** RFC 3339 in UTC. */
  start: z.string(),
  end: z.string(),
  exit: z.int(),
  snapshot: z.string().nullable(),
  messages: z.number().nullable(),
  heldLongestMs: z.number().nullable(),
});

const fileSchema = z.object({ format: z.literal(1), runs: z.array(runSchema) });

export type BackupRun = Readonly<z.infer<typeof runSchema>>;

/** Two months of nights, or two and a half days of every hour. */
export const runsKept = 60;

/** Oldest first; none where the file is not there or is not one. */
export function readBackupHistory(stateDirectory: string): readonly BackupRun[] {
  try {
    const parsed = fileSchema.safeParse(JSON.parse(readFileSync(fileOf(stateDirectory), "utf8")));
    return parsed.success ? parsed.data.runs : [];
  } catch (error) {
    if (errnoOf(error) === "ENOENT" || error instanceof SyntaxError) return [];
    throw error;
  }
}

/** Add a run that has ended, durably, and forget the oldest. */
export function addBackupRun(stateDirectory: string, run: BackupRun): void {
  makePrivateDirectory(join(stateDirectory, "jobs"));
  const runs = [...readBackupHistory(stateDirectory), run].slice(-runsKept);
  writeFileAtomic(fileOf(stateDirectory), `${JSON.stringify({ format: 1, runs })}\n`);
}

function fileOf(stateDirectory: string): string {
  return join(stateDirectory, "jobs", "backup-history.json");
}
