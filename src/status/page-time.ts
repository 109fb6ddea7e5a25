/** Milliseconds since 1970 as "2026-11-24 02:00", in the zone of the page. */
export type ShowTime = (time: number) => string;

/** @param timezone an IANA name */
export function showTimeIn(timezone: string): ShowTime {
  const format = new Intl.DateTimeFormat("sv-SE", { timeZone: timezone, dateStyle: "short", timeStyle: "short" });
  return (time) => (Number.isFinite(time) ? format.format(time) : "?");
}
