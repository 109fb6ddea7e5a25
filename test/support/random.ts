/** Numbers from a seed (mulberry32), so that a failing run can be had again. Not for secrets. */
export class Random {
  readonly seed: number;
  private state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.state = seed >>> 0;
  }

  /** At least 0, less than 1. */
  next(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number of at least 0, less than `limit`. */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  pick<T>(list: readonly T[]): T {
    const chosen = list[this.below(list.length)];
    if (chosen === undefined) throw new Error("nothing to pick from");
    return chosen;
  }

  bytes(length: number): Buffer {
    const words = new Uint32Array(Math.ceil(length / 4));
    for (let index = 0; index < words.length; index++) words[index] = this.below(2 ** 32);
    return Buffer.from(words.buffer, 0, length);
  }

  /** Log-normal: half of the results are below the median, few are many times as large. */
  size(median: number, spread = 1): number {
    const normal = Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next());
    return Math.round(median * Math.exp(spread * normal));
  }
}

/** A seed from SPOOLSAFE_SEED or from the clock, printed so that the run can be repeated. */
export function chooseSeed(what: string): number {
  const given = Number(process.env.SPOOLSAFE_SEED);
  const seed = Number.isSafeInteger(given) && given > 0 ? given : Date.now() % 1_000_000_000;
  process.stderr.write(`${what}: seed ${seed} (SPOOLSAFE_SEED=${seed} repeats it)\n`);
  return seed;
}
