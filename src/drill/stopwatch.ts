import type { DrillPhase } from "../snapshot/drill.ts";
import { drillPhases } from "../snapshot/drill.ts";
import type { Clock } from "../system/clock.ts";

/** Measures how long each phase takes, also one that is entered again for another instance. */
export class Stopwatch {
  readonly #clock: Pick<Clock, "monotonic">;
  readonly #entered: (phase: DrillPhase) => void;
  readonly #spent = new Map<DrillPhase, number>();
  #phase: DrillPhase | undefined;
  #since = 0;

  /** @param entered called when a phase begins that is not the one at hand */
  constructor(clock: Pick<Clock, "monotonic">, entered: (phase: DrillPhase) => void) {
    this.#clock = clock;
    this.#entered = entered;
  }

  enter(phase: DrillPhase): void {
    if (phase === this.#phase) return;
    this.stop();
    this.#phase = phase;
    this.#since = this.#clock.monotonic();
    this.#entered(phase);
  }

  stop(): void {
    if (this.#phase === undefined) return;
    const spent = (this.#spent.get(this.#phase) ?? 0) + this.#clock.monotonic() - this.#since;
    this.#spent.set(this.#phase, spent);
    this.#phase = undefined;
  }

  /** Whole milliseconds, in the order of the phases. */
  phases(): { readonly name: DrillPhase; readonly milliseconds: number }[] {
    return drillPhases.flatMap((name) => {
      const spent = this.#spent.get(name);
      return spent === undefined ? [] : [{ name, milliseconds: Math.round(spent) }];
    });
  }
}
