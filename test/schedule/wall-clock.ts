/*
 * When a cron expression is due in a year, found by looking at what the wall clock shows in every single minute: nothing of
 * node-cron and nothing of src/ is used here, so that both can be compared. Intl is asked at both ends of each quarter of an
 * hour, and about all its minutes where the clock was set in between.
 */

export const minute = 60_000;
const hour = 60 * minute;
const quarter = 15 * minute;

/** The minutes of a span of time and what a clock on the wall shows in each. */
export class Wall {
  readonly timezone: string;
  /** By minute since `from`; as if local time were UTC. */
  readonly #shown: number[] = [];
  readonly #firstShown = new Map<number, number>();
  readonly #due = new Map<string, readonly number[]>();
  readonly #from: number;

  constructor(timezone: string, from: number, to: number) {
    this.timezone = timezone;
    this.#from = from;
    const format = new Intl.DateTimeFormat("sv-SE", { timeZone: timezone, dateStyle: "short", timeStyle: "short" });
    const read = (at: number) => Date.parse(`${format.format(at).replace(" ", "T")}:00Z`);
    let atStart = read(from);
    for (let start = from; start < to; start += quarter) {
      const atEnd = read(start + quarter);
      const even = atEnd - atStart === quarter;
      for (let at = start; at < start + quarter; at += minute) {
        const shown = even ? atStart + (at - start) : read(at);
        this.#shown.push(shown);
        if (!this.#firstShown.has(shown)) this.#firstShown.set(shown, at);
      }
      atStart = atEnd;
    }
  }

  /** All times an expression is due, each once, in order. */
  due(expression: string): readonly number[] {
    const known = this.#due.get(expression) ?? this.#find(expression);
    this.#due.set(expression, known);
    return known;
  }

  #find(expression: string): number[] {
    const matches = matcher(expression);
    const everyHour = expression.split(" ")[1] === "*";
    const found = new Set<number>();
    for (const [index, shown] of this.#shown.entries()) {
      const at = this.#from + index * minute;
      if (matches(shown) && (everyHour || this.#firstShown.get(shown) === at)) found.add(at);
      this.#gapBefore(index).forEach((skipped, _, gap) => {
        const wholeHours = (gap.length * minute) % hour === 0;
        if (matches(skipped) && !(everyHour && wholeHours)) found.add(at);
      });
    }
    return [...found].sort((a, b) => a - b);
  }

  /** What the wall clock did not show, before this minute. */
  #gapBefore(index: number): number[] {
    const [before, shown] = [this.#shown[index - 1], this.#shown[index]];
    if (before === undefined || shown === undefined || shown <= before + minute) return [];
    return Array.from({ length: (shown - before) / minute - 1 }, (_, skipped) => before + (skipped + 1) * minute);
  }
}

/** Fields of numbers, `*`, lists, ranges and steps; day of month or day of week is enough when both are given. */
function matcher(expression: string): (shown: number) => boolean {
  const [minutes, hours, ofMonth, months, ofWeek] = expression.split(" ").map(values);
  const either = !expression.split(" ")[2]?.startsWith("*") && !expression.split(" ")[4]?.startsWith("*");
  return (shown) => {
    const time = new Date(shown);
    if (!minutes?.has(time.getUTCMinutes()) || !hours?.has(time.getUTCHours())) return false;
    if (!months?.has(time.getUTCMonth() + 1)) return false;
    const [day, weekday] = [ofMonth?.has(time.getUTCDate()), ofWeek?.has(time.getUTCDay())];
    return either ? day === true || weekday === true : day === true && weekday === true;
  };
}

function values(field: string): Set<number> {
  return new Set(
    field.split(",").flatMap((part) => {
      const [range = "", step = "1"] = part.split("/");
      const [low = 0, high = low] = range === "*" ? [0, 59] : range.split("-").map(Number);
      return Array.from({ length: high - low + 1 }, (_, index) => low + index).filter(
        (value) => (value - low) % Number(step) === 0,
      );
    }),
  );
}
