import type { Clock } from "../system/clock.ts";
import type { Pace } from "./release-order.ts";

/** What has become of messages that were let go: delivered, deferred again, returned to the sender, or still on their way. */
export interface Outcomes {
  readonly done: number;
  readonly cameBack: number;
  readonly returned: number;
  readonly open: number;
}

/** Where mail is let go, and seen again. */
export interface Outlet<Mail> {
  /** Resolves when all of the batch is in Postfix's hands. */
  release(batch: readonly Mail[]): Promise<void>;
  look(batch: readonly Mail[]): Outcomes;
  /** Why most of a batch was not delivered, as Postfix says it; null when it doesn't. */
  reason(batch: readonly Mail[]): string | null;
}

/** What is done when most of a batch is not delivered. Milliseconds. */
export interface Patience {
  /** The first wait; each further one is twice as long, but at most `longestMs`. */
  readonly firstMs: number;
  readonly longestMs: number;
  /** Give up when the waits would come to more than this. */
  readonly giveUpMs: number;
  /** Messages tried after a wait, and how long their fate is waited for. */
  readonly probe: number;
  readonly probeMs: number;
  /** Between two looks at a probe. */
  readonly lookMs: number;
}

export const usualPatience: Patience = {
  firstMs: 60_000,
  longestMs: 15 * 60_000,
  giveUpMs: 60 * 60_000,
  probe: 10,
  probeMs: 60_000,
  lookMs: 1000,
};

export type PaceEvent =
  | {
      readonly type: "paused";
      readonly cameBack: number;
      readonly returned: number;
      readonly of: number;
      readonly reason: string | null;
      readonly waitMs: number;
    }
  | { readonly type: "probe"; readonly messages: number }
  | { readonly type: "resumed" };

export interface PacedRelease {
  /** Messages let go, from the start of the list. */
  readonly released: number;
  readonly pauses: number;
  /** It gave up: mail was still not delivered. */
  readonly gaveUp: boolean;
  /** Why most was not delivered when that was seen last. */
  readonly reason: string | null;
}

export interface PacedJob<Mail> {
  /** In the order in which it goes. */
  readonly mail: readonly Mail[];
  readonly outlet: Outlet<Mail>;
  readonly pace: Pace;
  readonly patience: Patience;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: PaceEvent) => void) | undefined;
}

/**
 * Let mail go batch by batch and watch what becomes of it. When most of a batch is deferred again, or returned to its
 * senders, wait, try a few, and go on once they get through; what has not been let go by then stays where it is.
 *
 * @throws the signal's reason between two batches
 */
export async function releasePaced<Mail>(job: PacedJob<Mail>): Promise<PacedRelease> {
  return await new PacedRun(job).run();
}

/** Batches that are still watched: a slow site may take minutes to refuse. */
const watchedBatches = 10;

class PacedRun<Mail> {
  readonly #job: PacedJob<Mail>;
  #next = 0;
  #pauses = 0;
  #reason: string | null = null;
  #watched: (readonly Mail[])[] = [];

  constructor(job: PacedJob<Mail>) {
    this.#job = job;
  }

  async run(): Promise<PacedRelease> {
    const { mail, pace, patience, clock, signal } = this.#job;
    while (this.#next < mail.length) {
      const start = clock.monotonic();
      const batch = await this.#release(pace.batch);
      if (this.#next === mail.length) await this.#settled(batch, Math.min(pace.intervalMs, patience.probeMs));
      else await clock.sleep(Math.max(0, start + pace.intervalMs - clock.monotonic()), signal);
      const bad = this.#watched.find((one) => this.#mostFailed(one));
      if (bad === undefined) continue;
      this.#reason = this.#job.outlet.reason(bad);
      if (this.#next < mail.length && !(await this.#pause(bad))) return this.#end(true);
    }
    return this.#end(false);
  }

  #end(gaveUp: boolean): PacedRelease {
    return { released: this.#next, pauses: this.#pauses, gaveUp, reason: this.#reason };
  }

  async #release(size: number): Promise<readonly Mail[]> {
    const { mail, outlet, signal } = this.#job;
    signal?.throwIfAborted();
    const batch = mail.slice(this.#next, this.#next + size);
    await outlet.release(batch);
    this.#next += batch.length;
    this.#watched = [...this.#watched, batch].slice(-watchedBatches);
    return batch;
  }

  /** @returns whether to go on: what was tried got through, or there is nothing left to try */
  async #pause(bad: readonly Mail[]): Promise<boolean> {
    const { mail, outlet, patience, clock, signal, report } = this.#job;
    let waited = 0;
    let refused = bad;
    for (let waitMs = patience.firstMs; waited + waitMs <= patience.giveUpMs; waitMs = this.#longer(waitMs)) {
      const { cameBack, returned } = outlet.look(refused);
      report?.({ type: "paused", cameBack, returned, of: refused.length, reason: this.#reason, waitMs });
      this.#pauses++;
      await clock.sleep(waitMs, signal);
      waited += waitMs;
      refused = await this.#release(patience.probe);
      report?.({ type: "probe", messages: refused.length });
      await this.#settled(refused, patience.probeMs);
      if (!this.#mostFailed(refused)) {
        this.#watched = [refused];
        report?.({ type: "resumed" });
        return true;
      }
      this.#reason = outlet.reason(refused) ?? this.#reason;
      if (this.#next === mail.length) return true;
    }
    return false;
  }

  #longer(waitMs: number): number {
    return Math.min(waitMs * 2, this.#job.patience.longestMs);
  }

  /** Wait until it is known what became of these, or so long. */
  async #settled(batch: readonly Mail[], timeoutMs: number): Promise<void> {
    const { outlet, patience, clock, signal } = this.#job;
    const until = clock.monotonic() + timeoutMs;
    while (outlet.look(batch).open > 0 && clock.monotonic() < until) await clock.sleep(patience.lookMs, signal);
  }

  #mostFailed(batch: readonly Mail[]): boolean {
    const { cameBack, returned } = this.#job.outlet.look(batch);
    return cameBack + returned > batch.length / 2;
  }
}
