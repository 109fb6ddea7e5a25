import { snapshotKey } from "../repository/layout.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Newest, TakeoverToExamine } from "./newest-snapshot.ts";
import type { StoreTime } from "./repository.ts";

/** Milliseconds. Clocks that are kept by NTP agree far better; S3 refuses at 15 minutes. */
const tolerated = 60_000;

/**
 * Compare this host's clock with the others that can be seen: the store's, by which the newest record was written in the
 * past, and the primary's, by which it was made in the past. Only an object written now shows a clock that is ahead.
 */
export async function examineClock(
  { repository, signed }: Newest,
  { clock, signal }: TakeoverToExamine,
  written: StoreTime | undefined,
): Promise<readonly Finding[]> {
  const name = "clock";
  const remedy = "let NTP set it (timedatectl, chronyc tracking): retry times, expiry and certificates go by it";
  const { host, finished } = signed.snapshot;
  const now = clock.now();
  const recorded = await modified(newestKey(signed), repository, signal);
  const behindStore = Math.max((recorded ?? 0) - now, written === undefined ? 0 : written.store - written.after);
  if (behindStore > tolerated) {
    return [bad(name, `this host's clock is ${seconds(behindStore)} behind that of ${repository.store.url}`, remedy)];
  }
  const aheadOfStore = written === undefined ? 0 : written.before - written.store;
  if (aheadOfStore > tolerated) {
    return [
      bad(name, `this host's clock is ${seconds(aheadOfStore)} ahead of that of ${repository.store.url}`, remedy),
    ];
  }
  const future = Date.parse(finished) - now;
  if (future > tolerated) {
    const which = `this host's clock is behind, or that of ${host} is ahead`;
    return [bad(name, `the newest snapshot will have been taken in ${seconds(future)}: ${which}`, remedy)];
  }
  const compared = written === undefined ? "not behind" : "within a minute of";
  const more = written === undefined ? " (--probe also tells whether it is ahead)" : "";
  return [good(name, `${compared} the clock of the repository, and not behind that of ${host}${more}`)];
}

function newestKey({ id, snapshot: { writer, number } }: Newest["signed"]): string {
  return snapshotKey({ writer, number, id });
}

async function modified(
  key: string,
  { store }: Newest["repository"],
  signal: AbortSignal,
): Promise<number | undefined> {
  for await (const object of store.list(key, signal)) if (object.key === key) return object.modified;
  return undefined;
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1000)} s`;
}
