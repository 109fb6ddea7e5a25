import type { Clock } from "../system/clock.ts";
import { printable, size } from "./table.ts";

/** How far long work is, as the operation that does it counts. */
export interface Work {
  /** What is being done, for people: "reading". When it changes, measuring begins anew. */
  readonly doing: string;
  /** What is counted, in the plural: "messages". */
  readonly unit: string;
  /** Null where nothing is counted on the way. */
  readonly done: number | null;
  /** Null where nobody knows. More may be done than was there at the beginning: the total grows along then. */
  readonly total: number | null;
  readonly bytes?: number | undefined;
  readonly bytesTotal?: number | undefined;
  /** What else there is to say. */
  readonly more?: string | undefined;
}

/** What can be said of work at one moment. Null: not yet, or not at all. */
export interface Reading {
  readonly work: Work;
  readonly bytesPerSecond: number | null;
  readonly unitsPerSecond: number | null;
  /** Milliseconds; from bytes where their total is known, because messages differ in size by orders of magnitude. */
  readonly leftMs: number | null;
}

interface Sample {
  readonly at: number;
  readonly done: number;
  readonly bytes: number;
}

const windowMs = 10_000;
/** Samples closer than this are one: operations report each file. */
const apartMs = 250;
/** A rate measured over less says little, and a time left would jump. */
const shortestRateMs = 1000;
const shortestForecastMs = 2000;

/**
 * Measures work that is reported as it goes on. Rates are those of the last ten seconds, or of the last step where a step
 * takes longer; while nothing comes they sink, and the time left grows.
 */
export class Progress {
  readonly #clock: Pick<Clock, "monotonic">;
  #work: Work | undefined;
  #samples: Sample[] = [];

  constructor(clock: Pick<Clock, "monotonic">) {
    this.#clock = clock;
  }

  /** Cheap enough to be called for every file. */
  update(work: Work): void {
    const before = this.#work;
    this.#work = work;
    if (before === undefined || before.doing !== work.doing || before.unit !== work.unit) this.#samples = [];
    const sample = { at: this.#clock.monotonic(), done: work.done ?? 0, bytes: work.bytes ?? 0 };
    const [last, secondLast] = [this.#samples.at(-1), this.#samples.at(-2)];
    if (last?.done === sample.done && last.bytes === sample.bytes) return;
    if (last !== undefined && secondLast !== undefined && last.at - secondLast.at < apartMs) this.#samples.pop();
    this.#samples.push(sample);
  }

  /** Undefined before anything was reported. */
  read(): Reading | undefined {
    const work = this.#work;
    if (work === undefined) return undefined;
    const { ms, done, bytes } = this.#recent();
    const rate = (amount: number) => (ms < shortestRateMs || amount <= 0 ? null : (amount / ms) * 1000);
    const [bytesPerSecond, unitsPerSecond] = [rate(bytes), rate(done)];
    const leftMs = ms < shortestForecastMs ? null : forecast(work, bytesPerSecond, unitsPerSecond);
    return { work, bytesPerSecond, unitsPerSecond, leftMs };
  }

  /** What was done since the oldest sample that counts, and how long that took. */
  #recent(): { readonly ms: number; readonly done: number; readonly bytes: number } {
    const now = this.#clock.monotonic();
    const samples = this.#samples;
    while (samples.length > 2 && (samples[1]?.at ?? now) <= now - windowMs) samples.shift();
    const [first, last] = [samples[0], samples.at(-1)];
    if (first === undefined || last === undefined) return { ms: 0, done: 0, bytes: 0 };
    return { ms: now - first.at, done: last.done - first.done, bytes: last.bytes - first.bytes };
  }
}

function forecast(work: Work, bytesPerSecond: number | null, unitsPerSecond: number | null): number | null {
  const { bytes, bytesTotal, done, total } = work;
  if (bytes !== undefined && bytesTotal !== undefined && bytes < bytesTotal) {
    return bytesPerSecond === null ? null : ((bytesTotal - bytes) / bytesPerSecond) * 1000;
  }
  if (done === null || total === null || done >= total || unitsPerSecond === null) return null;
  return ((total - done) / unitsPerSecond) * 1000;
}

/** One line without its end: `reading: 1200 of 5000 messages, 4.2 MB of 17.5 MB, 850 kB/s, 16 s left`. */
export function progressText({ work, bytesPerSecond, unitsPerSecond, leftMs }: Reading): string {
  const parts = [
    `${work.doing}: ${unitsText(work)}`,
    bytesText(work),
    work.bytes === undefined ? unitRate(unitsPerSecond, work.unit) : byteRate(bytesPerSecond),
    work.more ?? "",
    leftMs === null ? "" : `${timeText(leftMs)} left`,
  ];
  return printable(parts.filter((part) => part !== "").join(", "));
}

function unitsText({ unit, done, total }: Work): string {
  if (done === null) return total === null ? unit : `${total} ${unit}`;
  return total === null ? `${done} ${unit}` : `${done} of ${Math.max(done, total)} ${unit}`;
}

function bytesText({ bytes, bytesTotal }: Work): string {
  if (bytes === undefined) return "";
  return bytesTotal === undefined ? size(bytes) : `${size(bytes)} of ${size(Math.max(bytes, bytesTotal))}`;
}

function byteRate(perSecond: number | null): string {
  return perSecond === null ? "" : `${size(Math.round(perSecond))}/s`;
}

function unitRate(perSecond: number | null, unit: string): string {
  if (perSecond === null) return "";
  return perSecond < 10 ? `${Math.round(perSecond * 60)} ${unit}/min` : `${Math.round(perSecond)} ${unit}/s`;
}

/** In the unit that changes a few times a minute at most, and never "0 s" for what is not done. */
function timeText(ms: number): string {
  const seconds = Math.max(1, Math.round(ms / 1000));
  if (seconds < 100) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 100 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}
