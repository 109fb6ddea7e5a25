import type { DrillReport } from "../snapshot/drill.ts";
import { type Markup, markup } from "./markup.ts";
import { briefly, duration, phaseWords } from "./words.ts";

/*
 * Pictures of a report as inline SVG. Colours are classes: the page has them, for light, dark and paper. All are drawn 360 units
 * wide, so that their text can be read on a phone.
 */

const width = 360;

/** One bar, a piece for each phase as long as it took. */
export function phasesPicture(phases: DrillReport["phases"]): Markup {
  const total = phases.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  const pieces = phases.map(({ name, milliseconds }, at) => {
    const before = phases.slice(0, at).reduce((sum, phase) => sum + phase.milliseconds, 0);
    const [x, wide] = total === 0 ? [0, 0] : [(before / total) * width, (milliseconds / total) * width];
    return markup`<rect class="phase-${name}" x="${round(x)}" y="0" width="${round(wide)}" height="28"><title>${phaseWords[name]}: ${duration(milliseconds / 1000)}</title></rect>`;
  });
  return markup`<svg viewBox="0 0 ${width} 28" role="img" aria-label="Phases of the drill" preserveAspectRatio="none" class="bar">${pieces}</svg>`;
}

export interface HistoryBar {
  readonly started: string;
  /** Null: not known. */
  readonly seconds: number | null;
  readonly ok: boolean;
}

/** A bar for each drill, oldest first, and a line at the target. */
export function historyPicture(name: string, bars: readonly HistoryBar[], target: number | null): Markup {
  const [top, bottom] = [18, 118];
  const most = Math.max(target ?? 0, ...bars.map(({ seconds }) => seconds ?? 0)) * 1.08 || 1;
  const y = (seconds: number) => round(bottom - (Math.max(0, seconds) / most) * (bottom - top));
  const slot = width / Math.max(bars.length, 1);
  const drawn = bars.map(({ started, seconds, ok }, at) => {
    const middle = round(slot * (at + 0.5));
    const wide = Math.min(34, slot * 0.6);
    const last = at === bars.length - 1;
    const colour = ok ? (last ? "bar-now" : "bar-before") : "bar-bad";
    const top = y(seconds ?? 0);
    return markup`<rect class="${colour}" x="${round(middle - wide / 2)}" y="${top}" width="${round(wide)}" height="${round(bottom - top)}"/><text x="${middle}" y="${round(top - 4)}" text-anchor="middle">${briefly(seconds)}</text><text class="faint" x="${middle}" y="${bottom + 14}" text-anchor="middle">${started.slice(5, 10)}</text>`;
  });
  const line =
    target === null
      ? null
      : markup`<line class="target" x1="0" x2="${width}" y1="${y(target)}" y2="${y(target)}"/><text class="target-text" x="2" y="${round(y(target) - 4)}">target ${briefly(target)}</text>`;
  return markup`<svg viewBox="0 0 ${width} 138" role="img" aria-label="${name} of the last drills"><line class="axis" x1="0" x2="${width}" y1="${bottom}" y2="${bottom}"/>${drawn}${line}</svg>`;
}

/** A bar for each age, its pieces the queues. */
export function queuesPicture({ ageLimits, rows }: DrillReport["queues"]): Markup {
  const labels = ageLabels(ageLimits);
  const sums = labels.map((_, column) => rows.reduce((sum, { counts }) => sum + (counts[column] ?? 0), 0));
  const most = Math.max(1, ...sums);
  const [height, left, right] = [18, 100, 40];
  const unit = (width - left - right) / most;
  const bars = labels.map((label, column) => {
    const y = column * height;
    const pieces = rows.map(({ queue, counts }, at) => {
      const before = rows.slice(0, at).reduce((sum, row) => sum + (row.counts[column] ?? 0), 0);
      const count = counts[column] ?? 0;
      if (count === 0) return markup``;
      return markup`<rect class="${queueClass(queue)}" x="${round(left + before * unit)}" y="${y + 3}" width="${round(count * unit)}" height="${height - 6}"><title>${queue}, ${label}: ${count}</title></rect>`;
    });
    const sum = sums[column] ?? 0;
    return markup`<text x="${left - 6}" y="${y + 13}" text-anchor="end">${label}</text>${pieces}<text x="${round(left + sum * unit + 5)}" y="${y + 13}">${sum}</text>`;
  });
  return markup`<svg viewBox="0 0 ${width} ${labels.length * height}" role="img" aria-label="Queue by age">${bars}</svg>`;
}

/** "under 5 min", "5 to 10 min", "over 2 d". */
export function ageLabels(limits: readonly number[]): string[] {
  const [first] = limits;
  const last = limits.at(-1);
  if (first === undefined || last === undefined) return ["all"];
  const between = limits.slice(1).map((limit, at) => `${age(limits[at] ?? 0)} – ${age(limit)}`);
  return [`under ${age(first)}`, ...between, `over ${age(last)}`];
}

function age(seconds: number): string {
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 7200) return `${tidy(seconds / 60)} min`;
  if (seconds < 2 * 86_400) return `${tidy(seconds / 3600)} h`;
  return `${tidy(seconds / 86_400)} d`;
}

function tidy(value: number): string {
  return String(Math.round(value * 10) / 10);
}

const queueClasses = ["incoming", "active", "deferred", "hold", "maildrop"];

/** The class of a queue's colour; its name comes from a record and is not to be one. */
export function queueClass(queue: string): string {
  return `queue-${queueClasses.includes(queue) ? queue : "other"}`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
