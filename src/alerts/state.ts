import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { jobNames } from "../jobs/record.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";
import { parseJson } from "../system/json.ts";
import { conditionKinds } from "./conditions.ts";

/*
 * `<state>/alerts/state.json`: what is wrong, and who was told. `<state>/alerts/unsent.json`, for status: what could not be
 * told, as a list of {time, channel, error}. Times are RFC 3339 in UTC.
 */

const conditionSchema = z.object({
  key: z.string(),
  kind: z.enum(conditionKinds),
  job: z.enum(jobNames),
  severity: z.enum(["warning", "critical"]),
  message: z.string(),
  exit: z.int().nullable(),
  since: z.iso.datetime(),
});

const unsentSchema = z.object({
  /** Of what could not be told. */
  time: z.iso.datetime(),
  /** Which event; a newer try of the same takes its place. */
  what: z.string(),
  error: z.string(),
});

const channelSchema = z.object({
  told: z.record(z.string(), z.object({ at: z.iso.datetime(), condition: conditionSchema })),
  /** What could not be told since it worked last. */
  unsent: z.array(unsentSchema),
  /** How often in a row it did not work, and when it may be tried again by those who come by each minute. */
  failures: z.int(),
  retryAt: z.iso.datetime().nullable(),
});

const stateSchema = z.object({
  version: z.literal(1),
  /** When somebody looked for the first time. */
  watchedSince: z.iso.datetime(),
  conditions: z.record(z.string(), conditionSchema),
  schedules: z.partialRecord(z.enum(jobNames), z.object({ schedule: z.string(), since: z.iso.datetime() })).default({}),
  reasons: z.partialRecord(z.enum(jobNames), z.object({ start: z.string(), message: z.string() })),
  backups: z.array(z.object({ start: z.string(), messages: z.int() })),
  channels: z.record(z.string(), channelSchema),
});

export type ChannelState = Readonly<z.infer<typeof channelSchema>>;
export type AlertState = Readonly<z.infer<typeof stateSchema>>;

/** An alert or a heartbeat that could not be sent, as status reads it from unsent.json. */
export interface Unsent {
  readonly time: string;
  /** `webhook`, `command`, `smtp`, `heartbeat` or `drill heartbeat`. */
  readonly channel: string;
  readonly error: string;
}

export const newChannel: ChannelState = { told: {}, unsent: [], failures: 0, retryAt: null };

export function alertDirectory(stateDirectory: string): string {
  return join(stateDirectory, "alerts");
}

/**
 * What was left by those who looked before. A file that can't be read or is no such state is as good as none: everything is
 * told anew.
 */
export function loadAlertState(stateDirectory: string, now: Date): AlertState {
  const parsed = stateSchema.safeParse(parseJson(textIfAny(stateFile(stateDirectory))));
  if (parsed.success) return parsed.data;
  return {
    version: 1,
    watchedSince: now.toISOString(),
    conditions: {},
    schedules: {},
    reasons: {},
    backups: [],
    channels: {},
  };
}

/** Durable when it returns. Makes the directory where it is missing. */
export function saveAlertState(stateDirectory: string, state: AlertState): void {
  makePrivateDirectory(alertDirectory(stateDirectory));
  writeFileAtomic(stateFile(stateDirectory), `${JSON.stringify(state, null, 1)}\n`);
  writeFileAtomic(join(alertDirectory(stateDirectory), "unsent.json"), `${JSON.stringify(unsentOf(state), null, 1)}\n`);
}

export function unsentOf(state: AlertState): readonly Unsent[] {
  return Object.entries(state.channels).flatMap(([channel, { unsent }]) =>
    unsent.map(({ time, error }) => ({ time, channel, error })),
  );
}

function stateFile(stateDirectory: string): string {
  return join(alertDirectory(stateDirectory), "state.json");
}

function textIfAny(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
