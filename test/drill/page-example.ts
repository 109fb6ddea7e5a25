import type { SigningKey } from "../../src/crypto/sign.ts";
import { signReport } from "../../src/drill/report.ts";
import type { SignedDrill } from "../../src/snapshot/record.ts";
import { factsOf, onDay } from "../support/drills.ts";

/*
 * The report of a drill of a thousand messages, the sixth of its host: one before had failed, one was slow.
 * docs/drill-report.png is made of it (scripts/drill-report.ts).
 */
export function exampleReport(key: SigningKey): SignedDrill {
  const place = { repository: "5b0f1c6be1a94c2c9d2f64d3a7e80b17", previous: null };
  const past = [
    { rtoSeconds: 63.1, rpoSeconds: 10_800 },
    { rtoSeconds: 58.4, rpoSeconds: 10_802 },
    { rtoSeconds: 71.9, rpoSeconds: 97_300, ok: false },
    { rtoSeconds: 49.7, rpoSeconds: 10_801 },
    { rtoSeconds: 44.2, rpoSeconds: 14_400 },
  ];
  const before = past.map((facts, at) => {
    const started = onDay(4 + at * 4);
    return signReport(factsOf({ ...facts, started }), { ...place, number: at + 1 }, [], key).signed.drill;
  });
  return signReport(factsOf(), { ...place, number: 6, previous: "9".repeat(64) }, before, key).signed;
}
