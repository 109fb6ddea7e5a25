import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { SigningKey, TrustedKeys } from "../../src/crypto/sign.ts";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { recordBytes } from "../../src/drill/evidence.ts";
import { signReport } from "../../src/drill/report.ts";
import { readReport } from "../../src/drill/reports.ts";
import { OperatorError } from "../../src/errors.ts";
import { type DrillReport, drillScenarios } from "../../src/snapshot/drill.ts";
import { newSigningKey, trustFile } from "../support/claims.ts";
import { factsOf, onDay } from "../support/drills.ts";
import { chooseSeed } from "../support/random.ts";
import { digestFrom } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const repository = "00112233445566778899aabbccddeeff";
const first = { repository, number: 1, previous: null };
let directory: string;
let key: SigningKey;
let trusted: TrustedKeys;
beforeAll(() => {
  directory = makeScratch();
  key = newSigningKey(directory, "standby");
  trusted = loadTrustedKeys(trustFile(directory, "standby", [key]));
});
afterAll(() => destroyScratch(directory));

describe("a report", () => {
  test("reads back as the facts that were signed, with its place and key", () => {
    const facts = factsOf();
    const { signed, bytes } = signReport(facts, { repository, number: 7, previous: digestFrom("six") }, [], key);
    expect(readReport(bytes, repository, trusted)).toEqual({ signed, bytes, verdict: "trusted" });
    expect(signed.drill).toMatchObject({ ...facts, number: 7, previous: digestFrom("six"), writer: key.writer });
    expect(recordBytes(signed)).toEqual(bytes);
    expect(key.publicPem).toContain(signed.drill.publicKey);
  });

  test("of another repository, or signed by a stranger, is known as that", () => {
    const { bytes } = signReport(factsOf(), first, [], key);
    expect(() => readReport(bytes, "ffeeddccbbaa99887766554433221100", trusted)).toThrow("another repository");
    const { bytes: theirs } = signReport(factsOf(), first, [], newSigningKey(directory, "stranger"));
    expect(readReport(theirs, repository, trusted).verdict).toBe("stranger");
  });

  test("with a public key that did not sign is refused", () => {
    const { bytes } = signReport(factsOf(), first, [], key);
    const other = newSigningKey(directory, "other");
    const { signed } = signReport(factsOf(), first, [], other);
    const own = readReport(bytes, repository, trusted).signed.drill.publicKey;
    const swapped = Buffer.from(bytes.toString().replace(own, signed.drill.publicKey));
    expect(() => readReport(swapped, repository, trusted)).toThrow("its public key is not the key that signed it");
  });

  test("changed in any single byte is never taken for a trusted one (every byte of the signature, a quarter of the rest)", () => {
    const { bytes, signed } = signReport(factsOf(), first, [], key);
    const offset = chooseSeed("bytes of a drill report") % 4;
    const passed: number[] = [];
    for (let at = 0; at < bytes.length; at++) {
      if (at < signed.line.length && at % 4 !== offset) continue;
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      if (isTrusted(changed)) passed.push(at);
    }
    expect(passed).toEqual([]);
    expect(isTrusted(bytes)).toBe(true);
    expect(isTrusted(bytes.subarray(0, -1))).toBe(false);
    expect(isTrusted(Buffer.concat([bytes, Buffer.from("\n")]))).toBe(false);
  });

  test("spelled differently in its second line is not the one that was signed", () => {
    const { bytes } = signReport(factsOf(), first, [], key);
    const [line = "", second = ""] = bytes.toString().split("\n");
    for (const spelled of [` ${second}`, second.replace(",", ", "), second.replace('"key"', '"\\u006bey"')]) {
      expect(() => readReport(Buffer.from(`${line}\n${spelled}\n`), repository, trusted)).toThrow("canonical");
    }
  });
});

function isTrusted(bytes: Buffer): boolean {
  try {
    return readReport(bytes, repository, trusted).verdict === "trusted";
  } catch (error) {
    if (error instanceof OperatorError && error.kind === "damaged") return false;
    throw error;
  }
}

describe("a report is compared with", () => {
  function of(over: Parameters<typeof factsOf>[0]): DrillReport {
    return signReport(factsOf(over), first, [], key).signed.drill;
  }
  const compared = (over: Parameters<typeof factsOf>[0], before: readonly DrillReport[]) =>
    signReport(factsOf(over), first, before, key).signed.drill.before.map(({ started }) => started);

  test("the five before it, newest first", () => {
    const before = [3, 1, 7, 2, 9, 4, 5, 6].map((day) => of({ started: onDay(day) }));
    expect(compared({ started: onDay(8) }, before)).toEqual([7, 6, 5, 4, 3].map(onDay));
  });

  test("those of the same host and kind only", () => {
    const scenario = (name: (typeof drillScenarios)[number]) => ({ name, expected: "", happened: "", ok: true });
    const before = [
      of({ started: onDay(1), host: "mx2.example.org" }),
      of({ started: onDay(2), scenario: scenario("missing-pack") }),
      of({ started: onDay(3), scenario: scenario("damaged-pack") }),
      of({ started: onDay(4) }),
    ];
    expect(compared({ started: onDay(9) }, before)).toEqual([onDay(4)]);
    expect(compared({ started: onDay(9), scenario: scenario("missing-pack") }, before)).toEqual([onDay(2)]);
    expect(drillScenarios).toHaveLength(6);
  });
});
