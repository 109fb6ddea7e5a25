import { setTimeout as delay } from "node:timers/promises";

/** How long somebody is tried to be told. */
export interface Patience {
  /** Milliseconds for each try. */
  readonly timeoutMs: number;
  readonly tries: number;
  /** Milliseconds before the second try; twice as long before each further one. */
  readonly pauseMs: number;
}

/** A job that has ended waits for this, half a minute at most, and no longer. */
export const usualPatience: Patience = { timeoutMs: 10_000, tries: 3, pauseMs: 1000 };

/** Of a run that was told to end: whoever told it does not wait for long. */
export const shortPatience: Patience = { timeoutMs: 5000, tries: 1, pauseMs: 0 };

/** Why something could not be sent. Its text has no password and no URL: status shows it. */
export class SendFault extends Error {
  /** The same again would get the same answer. */
  readonly permanent: boolean;

  constructor(message: string, { permanent = false, cause }: { permanent?: boolean; cause?: unknown } = {}) {
    super(message, { cause });
    this.name = "SendFault";
    this.permanent = permanent;
  }
}

/**
 * Send, and again when that fails, within the patience. A sender that heeds neither its signal nor the time is left to
 * itself.
 *
 * @param send gets a signal that aborts when its time is over, and the number of this try, from 0
 * @param enough no further try once it aborts; the one at hand is finished
 * @throws the error of the last try
 */
export async function attempt(
  send: (signal: AbortSignal, tryNumber: number) => Promise<void>,
  { timeoutMs, tries, pauseMs }: Patience,
  enough?: AbortSignal,
): Promise<void> {
  for (let number = 0; ; number++) {
    try {
      return await within(timeoutMs, (signal) => send(signal, number));
    } catch (error) {
      const permanent = error instanceof SendFault && error.permanent;
      if (permanent || number + 1 >= tries) throw error;
      await pause(pauseMs * 2 ** number, enough);
      if (enough?.aborted) throw error;
    }
  }
}

async function within(ms: number, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const fault = new SendFault(`no answer within ${ms / 1000} s`);
      reject(fault);
      controller.abort(fault);
    }, ms);
  });
  try {
    await Promise.race([work(controller.signal), over]);
  } finally {
    clearTimeout(timer);
  }
}

async function pause(ms: number, enough: AbortSignal | undefined): Promise<void> {
  try {
    await delay(ms, undefined, enough === undefined ? {} : { signal: enough });
  } catch (error) {
    if (!enough?.aborted) throw error;
  }
}

/** One line that says why, for status: without line ends and not longer than anybody reads. */
export function reasonOf(error: unknown): string {
  const { message, cause } = error instanceof Error ? error : { message: String(error), cause: undefined };
  // "fetch failed" says nothing, and the cause of it all.
  const deeper =
    cause instanceof Error && !message.includes(cause.message) ? `: ${cause.message || errorCode(cause)}` : "";
  return `${message}${deeper}`.replace(/\s+/g, " ").slice(0, 300);
}

/** Of several addresses that were tried, an AggregateError without a message of its own. */
function errorCode(error: Error): string {
  return "code" in error && typeof error.code === "string" ? error.code : error.name;
}
