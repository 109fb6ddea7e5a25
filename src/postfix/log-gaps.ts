/** A span of time of which the log may not say everything. Seconds since 1970. */
export interface LogGap {
  readonly from: number;
  readonly to: number;
  readonly reason: string;
}

/**
 * Finds where lines of a log are missing, from what is known as it is read:
 *
 * - log services that say so (rate limits), and files missing in a rotated set;
 * - lines that must have been there, told by others: a delivery line's `delay` and `delays` give the moments its message
 *   arrived and became active (`global/log_adhoc.c`);
 * - a silence unlike any other around it.
 *
 * Lines cut out of a log leave a silence, so what is missing is put into the silence where it fits; lines dropped here
 * and there leave none, and then a minute around is in doubt.
 */
export class GapFinder {
  private first = Number.POSITIVE_INFINITY;
  private last = Number.NEGATIVE_INFINITY;
  private lines = 0;
  private stopped = false;
  private readonly told: LogGap[] = [];
  private readonly points: { readonly time: number; readonly reason: string }[] = [];
  private readonly spans: LogGap[] = [];
  private readonly silences: Silence[] = [];

  /** A line of Postfix, in the order of the log. */
  line(time: number): void {
    this.first = Math.min(this.first, time);
    if (time - this.last >= shortestSilence && this.lines > 0) {
      this.silences.push({ from: this.last, to: time, lines: this.lines, stopped: this.stopped });
    }
    this.last = Math.max(this.last, time);
    this.lines++;
    this.stopped = false;
  }

  /** Postfix was told to stop with the last line: the silence that follows is its own. */
  stop(): void {
    this.stopped = true;
  }

  /** Lines are known to be missing between these times. */
  missing(from: number, to: number, reason: string): void {
    this.told.push({ from, to, reason });
  }

  /** Lines are missing between the last line and this time. */
  missingUntil(time: number, reason: string): void {
    if (this.lines > 0) this.missing(Math.min(this.last, time), time, reason);
  }

  /** A line of this moment is missing. Moments before the log began, or just then, prove nothing. */
  missingAt(time: number, reason: string): void {
    if (time > this.first + tolerance && time < this.last - tolerance) this.points.push({ time, reason });
  }

  /** A line is missing at some time between these two. */
  missingBetween(from: number, to: number, reason: string): void {
    this.spans.push({ from, to, reason });
  }

  /** All gaps, in order of time and without overlaps. */
  find(): LogGap[] {
    const gaps = [
      ...this.told,
      ...this.points.map((point) => this.around(point)),
      ...this.spans.map((span) => this.within(span)),
      ...this.unusualSilences(),
    ];
    return join(gaps);
  }

  /** The longest silence near the moment; where there is none, a minute. */
  private around({ time, reason }: { time: number; reason: string }): LogGap {
    const near = this.silencesIn(time - tolerance, time + tolerance);
    const longest = longestOf(near);
    if (longest === undefined) return { from: time - lossy, to: time + lossy, reason };
    return { from: Math.min(longest.from, time), to: Math.max(longest.to, time), reason };
  }

  /** The silence that stands out in the span, else the whole span. */
  private within({ from, to, reason }: LogGap): LogGap {
    const inside = this.silencesIn(from, to);
    const longest = longestOf(inside);
    const second = longestOf(inside.filter((one) => one !== longest));
    const standsOut = longest !== undefined && lengthOf(longest) >= 2 * (second === undefined ? 0 : lengthOf(second));
    return standsOut ? { from: longest.from, to: longest.to, reason } : { from, to, reason };
  }

  private silencesIn(from: number, to: number): Silence[] {
    const found: Silence[] = [];
    for (let at = firstEndingAfter(this.silences, from); at < this.silences.length; at++) {
      const silence = this.silences[at];
      if (silence === undefined || silence.from > to) break;
      found.push(silence);
    }
    return found;
  }

  /**
   * Silences of ten seconds and more that are three times as long as any other within twenty times their length, where
   * the log is busy on both sides. A quiet host has many long silences, and none of them stands out.
   */
  private unusualSilences(): LogGap[] {
    return this.silences.flatMap((silence, at) => {
      if (silence.stopped || lengthOf(silence) < unusual) return [];
      const before = this.linesUntilSimilar(at, -1);
      const after = this.linesUntilSimilar(at, 1);
      if (before < busy || after < busy) return [];
      const seconds = Math.round(lengthOf(silence));
      return [
        {
          from: silence.from,
          to: silence.to,
          reason: `the log, busy before and after, is silent for ${seconds} seconds`,
        },
      ];
    });
  }

  /** Lines between this silence and the end of the neighbourhood; 0 where a silence of a similar length is in it. */
  private linesUntilSimilar(at: number, step: 1 | -1): number {
    const silence = this.silences[at];
    if (silence === undefined) return 0;
    const length = lengthOf(silence);
    for (let other = at + step; ; other += step) {
      const neighbour = this.silences[other];
      const distance =
        neighbour === undefined
          ? Number.POSITIVE_INFINITY
          : step < 0
            ? silence.from - neighbour.to
            : neighbour.from - silence.to;
      if (distance > length * neighbourhood) return linesBetween(silence, neighbour ?? this.edge(step));
      if (neighbour !== undefined && lengthOf(neighbour) * 3 > length) return 0;
    }
  }

  private edge(step: 1 | -1): Pick<Silence, "lines"> {
    return { lines: step < 0 ? 0 : this.lines };
  }
}

interface Silence {
  readonly from: number;
  readonly to: number;
  /** Lines before it. */
  readonly lines: number;
  readonly stopped: boolean;
}

const shortestSilence = 2;
const unusual = 10;
const neighbourhood = 20;
/** So many lines on either side make a log busy. */
const busy = 20;
/** Stamps are whole seconds, delays are rounded, a line may be late. */
const tolerance = 3;
const lossy = 30;

function lengthOf({ from, to }: Silence): number {
  return to - from;
}

function longestOf(silences: readonly Silence[]): Silence | undefined {
  return silences.reduce<Silence | undefined>(
    (longest, one) => (longest === undefined || lengthOf(one) > lengthOf(longest) ? one : longest),
    undefined,
  );
}

function linesBetween(a: Pick<Silence, "lines">, b: Pick<Silence, "lines">): number {
  return Math.abs(a.lines - b.lines);
}

function firstEndingAfter(silences: readonly Silence[], time: number): number {
  let [low, high] = [0, silences.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((silences[middle]?.to ?? 0) < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

function join(gaps: readonly LogGap[]): LogGap[] {
  const joined: LogGap[] = [];
  for (const gap of gaps.toSorted((a, b) => a.from - b.from)) {
    const last = joined.at(-1);
    if (last === undefined || gap.from > last.to) joined.push(gap);
    else if (gap.to > last.to) joined[joined.length - 1] = { ...last, to: gap.to };
  }
  return joined;
}
