import { createTask, parse, type ScheduledTask, validateDetailed } from "node-cron";

/*
 * Cron expressions in a time zone, and the minutes they are due. node-cron says which fields an expression has and which
 * days it matches; everything about clock changes is done here, because node-cron itself runs nothing for a time in the gap
 * of spring and loses an hour of runs in autumn.
 */

/** Milliseconds. */
export const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;

/** Minutes an expression is due, in a time zone. Times are milliseconds since 1970, whole minutes. */
export interface Calendar {
  readonly expression: string;
  /** IANA name. */
  readonly timezone: string;
  /** Due in every hour of the day: such an expression goes by elapsed time, any other by the clock on the wall. */
  readonly everyHour: boolean;
  /** Due after `from` and not after `to`, in order; found as they are asked for. */
  between(from: number, to: number): Generator<number>;
  /** The first after that time; undefined when there is none in 41 years. */
  next(after: number): number | undefined;
}

/**
 * What is wrong with an expression: it can't be read, has a field of seconds, or never comes. Undefined when all is well.
 * Made for the message of a configuration error: it goes on after the name of the key.
 */
export function expressionProblem(expression: string): string | undefined {
  const words = expression.trim().split(/\s+/);
  if (words.length === 6) return "has six fields: runs are started by the minute, so leave out the seconds";
  const { valid, errors } = validateDetailed(expression);
  if (!valid) {
    const [first] = errors;
    if (first?.message.includes("impossible")) return "never comes: there is no such day in those months";
    if (first?.field === "expression" || first === undefined)
      return 'must be a cron expression with five fields, such as "0 2 * * *"';
    return `is no cron expression: "${first.value ?? ""}" is no ${fieldNames[first.field] ?? first.field}`;
  }
  return makeCalendar(expression, "UTC").next(Date.UTC(2026, 0, 1)) === undefined ? "never comes" : undefined;
}

const fieldNames: Readonly<Record<string, string>> = {
  minute: "minute",
  hour: "hour",
  dayOfMonth: "day of the month",
  month: "month",
  dayOfWeek: "day of the week",
};

/** The time zone of this host, by TZ or /etc/localtime; UTC where they name none, as for the C library. */
export function hostTimezone(): string {
  // ICU says "Etc/Unknown" to TZ="", and nothing to a name it does not know.
  const named: string | undefined = new Intl.DateTimeFormat().resolvedOptions().timeZone;
  return named === undefined || named === "Etc/Unknown" ? "UTC" : named;
}

/**
 * Clock changes, as Debian's cron(8) treats them: a time in the gap of spring is due once, in the first minute behind the
 * gap; a time that comes twice in autumn is due the first time. An expression that is due in every hour goes on at its
 * pace through both.
 *
 * When both day of the month and day of the week are given, one of them is enough (crontab(5)); node-cron wants both.
 *
 * @param expression one without a problem (`expressionProblem`)
 */
export function makeCalendar(expression: string, timezone: string): Calendar {
  const fields = parse(expression);
  const zone = new Zone(timezone);
  const days = new Days(expression, fields.month);
  const times = fields.hour.flatMap((h) => fields.minute.map((m) => h * hour + m * minute)).sort((a, b) => a - b);
  const everyHour = fields.hour.length === 24;
  const timesOfDay = new Set(times);

  const matchesLocal = (local: number) => timesOfDay.has(local - floor(local, day)) && days.match(floor(local, day));

  /** In the first minute of a new offset: whether a time that was skipped is due. */
  const skippedIsDue = (at: number, before: number, offset: number): boolean => {
    if (offset <= before || (everyHour && (offset - before) % hour === 0)) return false;
    for (let local = at + before; local < at + offset; local += minute) if (matchesLocal(local)) return true;
    return false;
  };

  /** Whether the wall clock showed this time once before, because it was set back since. */
  const isSecondTime = (at: number, offset: number): boolean => {
    const before = zone.offsetAt(at - day);
    return before > offset && zone.offsetAt(at + offset - before) === before;
  };

  function* withinOffset(from: number, to: number, offset: number): Generator<number> {
    for (let date = floor(from + offset, day); date <= to + offset; date += day) {
      if (!days.match(date)) continue;
      for (const time of times) {
        const at = date + time - offset;
        if (at >= from && at <= to && (everyHour || !isSecondTime(at, offset))) yield at;
      }
    }
  }

  function* between(from: number, to: number): Generator<number> {
    for (let at = floor(from, minute) + minute; at <= to; ) {
      const offset = zone.offsetAt(at);
      const last = zone.lastWith(offset, at, Math.min(floor(to, minute), at + day - minute));
      const madeUp = skippedIsDue(at, zone.offsetAt(at - minute), offset);
      if (madeUp) yield at;
      for (const due of withinOffset(at, last, offset)) if (!(madeUp && due === at)) yield due;
      at = last + minute;
    }
  }

  const next = (after: number): number | undefined => {
    for (const due of between(after, after + 41 * 366 * day)) return due;
    return undefined;
  };
  return { expression, timezone, everyHour, between, next };
}

function floor(time: number, unit: number): number {
  return Math.floor(time / unit) * unit;
}

/** Which days an expression matches; a day is its midnight as if local time were UTC. */
class Days {
  readonly #months: ReadonlySet<number>;
  readonly #tasks: readonly ScheduledTask[];
  readonly #known = new Map<number, boolean>();

  constructor(expression: string, months: readonly number[]) {
    this.#months = new Set(months);
    const nickname = expression.trim().startsWith("@");
    const [, , ofMonth = "*", month = "*", ofWeek = "*"] = expression.trim().split(/\s+/);
    const either = !nickname && [ofMonth, ofWeek].every((field) => !/^[*?]/.test(field));
    const patterns = nickname
      ? [dayOfNickname(expression)]
      : either
        ? [`0 0 ${ofMonth} ${month} *`, `0 0 * ${month} ${ofWeek}`]
        : [`0 0 ${ofMonth} ${month} ${ofWeek}`];
    this.#tasks = patterns.map((pattern) => createTask(pattern, () => {}, { timezone: "UTC" }));
  }

  match(date: number): boolean {
    const known = this.#known.get(date);
    if (known !== undefined) return known;
    const time = new Date(date);
    const found = this.#months.has(time.getUTCMonth() + 1) && this.#tasks.some((task) => task.match(time));
    if (this.#known.size > 1000) this.#known.clear();
    this.#known.set(date, found);
    return found;
  }
}

/** The days of "@weekly" and the like, as an expression for midnight. */
function dayOfNickname(expression: string): string {
  const { dayOfMonth, month, dayOfWeek } = parse(expression);
  return `0 0 ${dayOfMonth.join(",")} ${month.join(",")} ${dayOfWeek.join(",")}`;
}

/** Offsets from UTC in a time zone; no zone changes its offset twice within a day. */
class Zone {
  readonly #format: Intl.DateTimeFormat;
  /** By quarter of an hour, for those in which it does not change. */
  readonly #known = new Map<number, number>();

  constructor(timezone: string) {
    this.#format = new Intl.DateTimeFormat("en-GB", {
      timeZone: timezone,
      calendar: "gregory",
      numberingSystem: "latn",
      hourCycle: "h23",
      year: "numeric",
      month: "numeric",
      day: "numeric",
      hour: "numeric",
      minute: "numeric",
    });
  }

  /** Milliseconds that local time is ahead of UTC at a whole minute. */
  offsetAt(at: number): number {
    const quarter = floor(at, 15 * minute);
    const known = this.#known.get(quarter);
    if (known !== undefined) return known;
    const [first, last] = [this.#read(quarter), this.#read(quarter + 14 * minute)];
    if (first !== last) return this.#read(at);
    if (this.#known.size > 1000) this.#known.clear();
    this.#known.set(quarter, first);
    return first;
  }

  /** The last minute from `from` to `to` (less than a day) up to which the offset stays. */
  lastWith(offset: number, from: number, to: number): number {
    if (this.offsetAt(to) === offset) return to;
    let [same, other] = [from, to];
    while (other - same > minute) {
      const middle = floor((same + other) / 2, minute);
      if (this.offsetAt(middle) === offset) same = middle;
      else other = middle;
    }
    return same;
  }

  #read(at: number): number {
    const parts = new Map(this.#format.formatToParts(at).map(({ type, value }) => [type, Number(value)]));
    const part = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? Number.NaN;
    return Date.UTC(part("year"), part("month") - 1, part("day"), part("hour"), part("minute")) - floor(at, minute);
  }
}
