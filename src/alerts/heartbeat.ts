import { randomUUID } from "node:crypto";
import { attempt, type Patience, usualPatience } from "./attempt.ts";
import { lockedExit } from "./conditions.ts";
import { call } from "./http.ts";

/*
 * Tells a dead man's switch (the kind that healthchecks.io made known) how a run begins and ends: URL/start, then URL after a
 * success, URL/3 after one that is incomplete, URL/fail after any other end, all with the same rid.
 */

export interface HeartbeatOptions {
  readonly url: string;
  readonly patience?: Patience;
  /** Milliseconds until the start is told: a run that finds the lock held is over by then, and has not begun. */
  readonly startAfterMs?: number;
}

export interface Heartbeat {
  /**
   * Tell of the end. Nothing is told of a run that found the lock held, unless its start was told.
   *
   * @param exit null for a run without an exit code
   * @param message goes with a bad end, where the monitor keeps it
   * @returns false when there was nothing to tell
   * @throws when the end could not be told
   */
  end(exit: number | null, message: string | null, patience?: Patience): Promise<boolean>;
}

/** A lock is waited for by up to a second. */
const usualStartAfterMs = 2500;

/** A start that is on its way when the run ends has so long to arrive, in milliseconds. */
const startGraceMs = 2000;

/** The start is told beside the work, which waits for nothing. */
export function startHeartbeat(options: HeartbeatOptions): Heartbeat {
  const { url, patience = usualPatience, startAfterMs = usualStartAfterMs } = options;
  const rid = randomUUID();
  const ending = new AbortController();
  const tooLate = new AbortController();
  let start: Promise<void> | undefined;
  const tellStart = (how: Patience) => {
    const begun = place(url, "/start", rid);
    const send = (signal: AbortSignal) => call(begun, { signal: AbortSignal.any([signal, tooLate.signal]) });
    const sent = attempt(send, how, ending.signal);
    // That it began is told better by how it ends; a monitor that is away shows then.
    start = sent.catch(() => {});
    return start;
  };
  const timer = setTimeout(() => void tellStart(patience), startAfterMs);
  return {
    end: async (exit, message, how = patience) => {
      clearTimeout(timer);
      if (exit === lockedExit && start === undefined) return false;
      ending.abort();
      // In this order: a start that came behind the end would begin a run that never ends.
      const grace = setTimeout(() => tooLate.abort(), Math.min(startGraceMs, how.timeoutMs));
      await (start ?? tellStart({ ...how, tries: 1 }));
      clearTimeout(grace);
      const ended = place(url, pathOf(exit), rid);
      const request = exit === 0 ? {} : { method: "POST", body: `exit ${exit ?? "unknown"}: ${message ?? ""}` };
      await attempt((signal) => call(ended, { ...request, signal }), how);
      return true;
    },
  };
}

/** Tell of a run that began elsewhere and is gone: it was ended from outside, and could not do so itself. */
export async function tellFailure(url: string, message: string, patience: Patience = usualPatience): Promise<void> {
  const failed = new URL(place(url, "/fail"));
  await attempt((signal) => call(failed, { method: "POST", body: message, signal }), patience);
}

function pathOf(exit: number | null): string {
  if (exit === 0) return "";
  return exit === 3 ? "/3" : "/fail";
}

function place(base: string, path: string, rid?: string): URL {
  const url = new URL(base);
  if (path !== "") url.pathname = `${url.pathname.replace(/\/$/, "")}${path}`;
  if (rid !== undefined) url.searchParams.set("rid", rid);
  return url;
}
