import { setTimeout as delay } from "node:timers/promises";

export interface UntilOptions {
  /** Milliseconds before it gives up; default 20 s. */
  readonly timeoutMs?: number;
  /** Milliseconds between two looks; default 50. */
  readonly everyMs?: number;
  /** Said when it gives up: what was waited for, or a function that tells how things stand. */
  readonly what?: string | (() => string);
}

/**
 * Look again and again until the condition gives something truthy, and return that.
 *
 * @throws Error that says what was waited for, after the timeout
 */
export async function until<T>(condition: () => T | Promise<T>, options: UntilOptions = {}): Promise<NonNullable<T>> {
  const timeoutMs = options.timeoutMs ?? 20_000;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > deadline) {
      const what = typeof options.what === "function" ? options.what() : (options.what ?? condition.toString());
      throw new Error(`not within ${timeoutMs} ms: ${what}`);
    }
    await delay(options.everyMs ?? 50);
  }
}
