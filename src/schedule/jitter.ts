import { createHash } from "node:crypto";

/**
 * How much later than its time a job starts on this host: less than `mostMs`, whole seconds, always the same for one host
 * and job, so that many hosts don't ask the store at once and yet each can be reckoned with.
 */
export function jitterOf(host: string, job: string, mostMs: number): number {
  const seconds = Math.floor(mostMs / 1000);
  if (seconds < 1) return 0;
  const digest = createHash("sha256").update(`${host}\0${job}`).digest();
  return (digest.readUIntBE(0, 6) % seconds) * 1000;
}
