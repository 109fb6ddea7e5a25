import { join } from "node:path";
import * as z from "zod";
import { type JobName, jobNames } from "../jobs/record.ts";
import { makePrivateDirectory, textIfThere, writeFileAtomic } from "../system/files.ts";
import { parseJson } from "../system/json.ts";
import type { JobState } from "./engine.ts";

/*
 * `<state>/schedule.json`: what the daemon owes. Times are RFC 3339 in UTC there, for people who look; milliseconds here.
 */

const time = z.codec(z.iso.datetime(), z.number(), {
  decode: (text) => Date.parse(text),
  encode: (value) => new Date(value).toISOString(),
});

const jobSchema = z.object({
  expression: z.string(),
  timezone: z.string(),
  seenUntil: time,
  lastDone: time.nullable().default(null),
  owed: z.object({ due: time, notBefore: time, deaths: z.int() }).nullable(),
  running: z
    .object({
      due: time,
      deaths: z.int(),
      startedAt: time,
      process: z.object({ pid: z.int(), startTicks: z.string() }),
    })
    .nullable(),
});

const fileSchema = z.object({ version: z.literal(1), jobs: z.partialRecord(z.enum(jobNames), jobSchema) });

export type JobStates = Readonly<Partial<Record<JobName, JobState>>>;

/**
 * What an earlier daemon left. Nothing where none ever ran.
 *
 * @returns `damaged` when the file is no such state: the schedule then starts anew, as if no daemon had run before
 */
export function loadStates(stateDirectory: string): { readonly jobs: JobStates; readonly damaged: boolean } {
  const text = textIfThere(stateFile(stateDirectory));
  if (text === undefined) return { jobs: {}, damaged: false };
  const parsed = fileSchema.safeDecode(parseJson(text) as never);
  return parsed.success ? { jobs: parsed.data.jobs, damaged: false } : { jobs: {}, damaged: true };
}

/** Durable when it returns. Makes the state directory where it is missing. */
export function saveStates(stateDirectory: string, jobs: JobStates): void {
  makePrivateDirectory(stateDirectory);
  const text = JSON.stringify(fileSchema.encode({ version: 1, jobs }), null, 1);
  writeFileAtomic(stateFile(stateDirectory), `${text}\n`);
}

export function stateFile(stateDirectory: string): string {
  return join(stateDirectory, "schedule.json");
}
