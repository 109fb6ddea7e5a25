import { type Clock, systemClock } from "../system/clock.ts";
import { Progress, progressText, type Work } from "./progress.ts";

/** The part of a stream that progress needs. */
export type ProgressStream = Pick<NodeJS.WriteStream, "isTTY" | "columns">;

export interface ProgressOptions {
  readonly clock?: Pick<Clock, "monotonic"> | undefined;
  /** Time between two lines of a log, and before the first. Milliseconds; default 30 seconds. */
  readonly logMs?: number | undefined;
}

/** Five times a second at most, also when the timer and a report come close together. */
const redrawMs = 200;
const usualLogMs = 30_000;

/**
 * Shows how far work is: on a terminal one line that is written over and over, in a log a line per interval and nothing
 * for work that ends before the first is over. The line moves also while no report comes; the timer behind that keeps no
 * process alive.
 */
export class ProgressOutput {
  readonly #stream: ProgressStream;
  readonly #write: (text: string) => void;
  readonly #clock: Pick<Clock, "monotonic">;
  readonly #everyMs: number;
  #progress: Progress;
  #timer: NodeJS.Timeout | undefined;
  /** Nothing is written before this time of the clock. */
  #next = 0;
  #onScreen = false;

  constructor(stream: ProgressStream, write: (text: string) => void, options: ProgressOptions = {}) {
    this.#stream = stream;
    this.#write = write;
    this.#clock = options.clock ?? systemClock;
    this.#everyMs = stream.isTTY === true ? redrawMs : (options.logMs ?? usualLogMs);
    this.#progress = new Progress(this.#clock);
  }

  show(work: Work): void {
    this.#progress.update(work);
    if (this.#timer === undefined) this.#begin();
    this.#draw();
  }

  /** Make room for something else; the line comes back. */
  clear(): void {
    if (!this.#onScreen) return;
    this.#onScreen = false;
    this.#write("\r\x1b[K");
  }

  /** The work is done: nothing more of it is shown. */
  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#progress = new Progress(this.#clock);
    this.clear();
  }

  #begin(): void {
    const terminal = this.#stream.isTTY === true;
    this.#next = this.#clock.monotonic() + (terminal ? 0 : this.#everyMs);
    this.#timer = setInterval(() => this.#draw(), terminal ? redrawMs + 50 : Math.min(1000, this.#everyMs));
    this.#timer.unref();
  }

  #draw(): void {
    const now = this.#clock.monotonic();
    if (now < this.#next) return;
    const reading = this.#progress.read();
    if (reading === undefined) return;
    this.#next = now + this.#everyMs;
    const text = progressText(reading);
    if (this.#stream.isTTY !== true) {
      this.#write(`${text}\n`);
      return;
    }
    this.#onScreen = true;
    // The last column stays free: some terminals go on in the next line when it is written. No size: of a terminal that has none.
    this.#write(`\r\x1b[K${text.slice(0, Math.max(10, (this.#stream.columns || 80) - 1))}`);
  }
}
