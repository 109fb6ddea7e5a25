import { setTimeout as delay } from "node:timers/promises";

/** Time as a thing that is handed in, so that tests own it. */
export interface Clock {
  /** Milliseconds since 1970, as the wall clock has it. */
  now(): number;
  /** Milliseconds on a clock that never steps. */
  monotonic(): number;
  /** Resolve after so many milliseconds; reject with the signal's reason when it aborts first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: async (ms, signal) => {
    await delay(ms, undefined, signal === undefined ? {} : { signal });
  },
};
