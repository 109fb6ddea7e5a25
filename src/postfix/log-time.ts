import { OperatorError } from "../errors.ts";

/** Reads wall clock times of a zone. */
export class LocalTime {
  private readonly zone: string | undefined;
  private readonly format: Intl.DateTimeFormat | undefined;
  private readonly offsets = new Map<number, readonly number[]>();
  private last = Number.NEGATIVE_INFINITY;

  /**
   * @param zone an IANA name or an offset such as `+01:00`; undefined: the zone of this process
   * @throws OperatorError `usage` for a zone nobody knows
   */
  constructor(zone?: string) {
    this.zone = zone;
    try {
      this.format = zone === undefined ? undefined : new Intl.DateTimeFormat("en-US", { timeZone: zone, ...allFields });
    } catch (cause) {
      throw new OperatorError("usage", `there is no time zone ${JSON.stringify(zone)}`, {
        hints: ["name one as Europe/Paris or +01:00"],
        cause,
      });
    }
  }

  /**
   * @param wall seconds since 1970 as if the wall clock showed UTC
   * @returns seconds since 1970. An hour that came twice is read in the order of the calls: the second time once the
   * first has passed. One that never was is read as if the clock had not been put forward
   */
  toTime(wall: number): number {
    const candidates = this.offsetsAt(Math.floor(wall / 3600)).map((offset) => wall - offset);
    const time = candidates.find((one) => one >= this.last - outOfOrder) ?? candidates.at(-1) ?? wall;
    this.last = time;
    return time;
  }

  /** Offsets under which a wall clock can show this hour, earlier time first. */
  private offsetsAt(hour: number): readonly number[] {
    const known = this.offsets.get(hour);
    if (known !== undefined) return known;
    const wall = hour * 3600;
    const [before, after] = [this.offset(wall - day), this.offset(wall + day)];
    const fitting = [...new Set([before, after])].filter((offset) => this.offset(wall - offset) === offset);
    const found = fitting.length === 0 ? [before] : fitting.sort((a, b) => b - a);
    this.offsets.set(hour, found);
    return found;
  }

  /** Seconds east of Greenwich at a time. */
  private offset(time: number): number {
    if (this.zone === undefined || this.format === undefined) return new Date(time * 1000).getTimezoneOffset() * -60;
    const parts = new Map(this.format.formatToParts(time * 1000).map(({ type, value }) => [type, Number(value)]));
    const of = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? 0;
    return Date.UTC(of("year"), of("month") - 1, of("day"), of("hour"), of("minute"), of("second")) / 1000 - time;
  }
}

const day = 86_400;
/** Lines of one log may be this many seconds out of order. */
const outOfOrder = 600;
const allFields = {
  hourCycle: "h23",
  year: "numeric",
  month: "numeric",
  day: "numeric",
  hour: "numeric",
  minute: "numeric",
  second: "numeric",
} as const;

/**
 * Counts the turns of the year in stamps that name none, by what they say one after the other: a date more than a week
 * before the last one is of the next year.
 */
export class YearCounter {
  /** The date of the last stamp, null before the first readable one; `turns` counts new years since the first stamp. */
  date: { readonly month: number; readonly day: number; readonly turns: number } | null = null;
  private seen = "";
  private turns = 0;
  private dayOfYear = 0;
  private latest: { readonly month: number; readonly day: number; readonly turns: number } | null = null;
  private readonly leapTurns = new Set<number>();

  /**
   * @param stamp its first six characters, such as `Nov 24` or `Nov  4`
   * @returns whether that is a date
   */
  see(stamp: string): boolean {
    if (stamp === this.seen) return true;
    const month = months.indexOf(stamp.slice(0, 3));
    const day = Number(stamp.slice(4, 6));
    if (month < 0 || month % 3 !== 0 || !(day >= 1 && day <= 31)) return false;
    this.seen = Buffer.from(stamp).toString(); // a copy: a slice would keep the whole chunk it was cut from
    this.turnTo(month / 3, day);
    return true;
  }

  private turnTo(month: number, day: number): void {
    const dayOfYear = month * 31 + day;
    const step = this.date === null ? 0 : dayOfYear - this.dayOfYear;
    if (step < -week) this.turns++;
    // 31 December behind 1 January is a late line, not the end of the new year.
    const late = step > 12 * 31 - week ? 1 : 0;
    if (late === 0) this.dayOfYear = dayOfYear;
    this.date = { month, day, turns: this.turns - late };
    if (late === 0) this.latest = this.date;
    if (month === 1 && day === 29) this.leapTurns.add(this.turns - late);
  }

  /**
   * The last year in which the first stamp can be, so that the latest one is not after the reference and each
   * 29 February is in a leap year.
   *
   * @param reference seconds since 1970
   * @param seconds of the latest stamp, since its midnight
   */
  firstYear(reference: number, seconds: number, zone: string | undefined): number {
    const { month, day, turns } = this.latest ?? { month: 0, day: 1, turns: 0 };
    const fits = (year: number) => {
      const wall = Date.UTC(year + turns, month, day) / 1000 + seconds;
      return new LocalTime(zone).toTime(wall) <= reference + clockDifference;
    };
    const leap = (year: number) => new Date(Date.UTC(year, 1, 29)).getUTCMonth() === 1;
    const thisYear = new Date(reference * 1000).getUTCFullYear();
    for (let year = thisYear + 1; year > thisYear - 100; year--) {
      if ([...this.leapTurns].every((turn) => leap(year + turn)) && fits(year)) return year;
    }
    return thisYear;
  }

  /** Midnight of the last stamp's day on the wall clock, seconds since 1970. */
  dayStart(firstYear: number): number {
    const { month, day, turns } = this.date ?? { month: 0, day: 1, turns: 0 };
    return Date.UTC(firstYear + turns, month, day) / 1000;
  }
}

const months = "JanFebMarAprMayJunJulAugSepOctNovDec";
const week = 7;
/** The clocks of two hosts may differ by so many seconds. */
const clockDifference = 600;
