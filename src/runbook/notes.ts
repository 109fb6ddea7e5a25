import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";
import type { Journal } from "./journal.ts";

/*
 * A note may come from another terminal while the runner writes its journal, which is one chain and has one writer. So it is
 * a file of its own beside the journal, until the runner, or whoever goes on with the run, takes it over.
 */

const noteSchema = z.object({ time: z.string(), by: z.string(), text: z.string() });

export type WaitingNote = z.infer<typeof noteSchema>;

/** Leave a note for a run; it is on disk when this returns. */
export function leaveNote(runDirectory: string, note: WaitingNote): void {
  makePrivateDirectory(notesOf(runDirectory));
  const name = `${note.time.replaceAll(/[-:.]/g, "")}-${randomBytes(4).toString("hex")}.json`;
  writeFileAtomic(join(notesOf(runDirectory), name), `${JSON.stringify(note)}\n`);
}

/** Notes that nobody has taken over yet, oldest first. */
export function waitingNotes(runDirectory: string): WaitingNote[] {
  return noteFiles(runDirectory).flatMap((path) => readNote(path) ?? []);
}

/** Take the notes into the journal. Its lines have the time of this; the text begins with their own. */
export function takeNotes(runDirectory: string | null, journal: Journal): void {
  if (runDirectory === null) return;
  for (const path of noteFiles(runDirectory)) {
    const note = readNote(path);
    if (note !== undefined) journal.append({ event: "note", step: null, text: note.text, by: note.by, at: note.time });
    journal.sync();
    rmSync(path, { force: true });
  }
}

function notesOf(runDirectory: string): string {
  return join(runDirectory, "notes");
}

function noteFiles(runDirectory: string): string[] {
  const directory = notesOf(runDirectory);
  if (!existsSync(directory)) return [];
  const names = readdirSync(directory).filter((name) => name.endsWith(".json"));
  return names.sort().map((name) => join(directory, name));
}

function readNote(path: string): WaitingNote | undefined {
  try {
    return noteSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return undefined; // taken meanwhile, or written by nobody of us
  }
}
