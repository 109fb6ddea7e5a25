import { createHash, generateKeyPairSync, type KeyObject, sign, verify } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import {
  formatRecord,
  parseRemovalRecord,
  parseSnapshotRecord,
  type RecordSigner,
  type Removal,
} from "../../src/snapshot/record.ts";
import { captureModes, type MessageCounts, type Snapshot } from "../../src/snapshot/snapshot.ts";
import { digestFrom, snapshotOf } from "../support/records.ts";

const { publicKey, privateKey } = generateKeyPairSync("ed25519");
const fingerprint = createHash("sha256")
  .update(publicKey.export({ type: "spki", format: "der" }))
  .digest("hex");
const signer: RecordSigner & { writer: string } = {
  fingerprint,
  writer: fingerprint.slice(0, 16),
  sign: (bytes) => sign(null, bytes, privateKey).toString("base64"),
};
const repository = snapshotOf(signer).repository;

const count = fc.nat();
const time = fc
  .date({ min: new Date("2000-01-01"), max: new Date("2100-01-01"), noInvalidDate: true })
  .map((date) => date.toISOString());
const digest = fc.stringMatching(/^[0-9a-f]{64}$/);
const counts: fc.Arbitrary<MessageCounts> = fc.record({
  total: count,
  incoming: count,
  active: count,
  deferred: count,
  hold: count,
  maildrop: count,
  inFlight: fc.option(count),
  incomplete: count,
  vanished: count,
  finishedDuringRun: count,
});
const text = fc.string({ unit: "grapheme" });
const mode = fc.constantFrom(...captureModes);
const snapshot: fc.Arbitrary<Snapshot> = fc.record({
  hold: fc.record({ held: count, longestMs: fc.double({ min: 0, noNaN: true, max: 1e9 }), released: count }),
  parts: fc.array(fc.record({ kind: fc.constantFrom("base", "increment"), bytes: count, id: digest })),
  format: fc.constant(1 as const),
  type: fc.constant("snapshot" as const),
  repository: fc.constant(repository),
  writer: fc.constant(signer.writer),
  number: fc.integer({ min: 1, max: 9_999_999_999 }),
  previous: fc.option(digest),
  host: fc.string({ minLength: 1 }),
  time,
  finished: time,
  mode,
  tags: fc.array(text),
  spoolsafe: text,
  instances: fc.array(
    fc.record({
      name: fc.string({ minLength: 1 }),
      configDirectory: text,
      queueDirectory: text,
      postfixVersion: text,
      running: fc.boolean(),
      mode,
      messages: counts,
    }),
    { maxLength: 2 },
  ),
  messages: counts,
  bytes: count,
  storedBytes: count,
  newMessages: count,
  reusedMessages: count,
  recipients: fc.array(text),
  packs: fc.array(fc.record({ bytes: count, id: digest })),
});
const removal: Removal = {
  format: 1,
  type: "removal",
  repository,
  writer: signer.writer,
  number: 1,
  previous: null,
  time: "2026-11-24T06:00:00.000Z",
  snapshots: [{ id: digestFrom(1), writer: signer.writer, number: 1 }],
  packs: [digestFrom("pack")],
  parts: [digestFrom("part")],
};

describe("a record", () => {
  test("comes back as it was, whatever the order of its fields", () => {
    fc.assert(
      fc.property(snapshot, (record) => {
        const { id, bytes } = formatRecord(record, signer);
        const parsed = parseSnapshotRecord(bytes, repository);
        // -0 and 0 are one number in JSON.
        expect(JSON.parse(JSON.stringify(parsed.snapshot))).toEqual(JSON.parse(JSON.stringify(record)));
        expect(parsed.id).toBe(id);
      }),
      { numRuns: 50 },
    );
  });

  test("is two lines; its id is the digest of the first, which the second signs", () => {
    const { id, bytes } = formatRecord(snapshotOf(signer), signer);
    const lines = bytes.toString().split("\n");
    expect(lines).toHaveLength(3);
    expect(lines[2]).toBe("");
    const body = Buffer.from(`${lines[0]}\n`);
    expect(id).toBe(createHash("sha256").update(body).digest("hex"));
    expect(lines[1]).toMatch(/^\{"key":"[0-9a-f]{64}","signature":"[A-Za-z0-9+/=]{88}"\}$/);
    const parsed = parseSnapshotRecord(bytes, repository);
    expect(parsed.line.equals(body)).toBe(true);
    expect(isSigned(publicKey, parsed.line, parsed.signature)).toBe(true);
  });

  test("of a removal comes back as it was", () => {
    const { id, bytes } = formatRecord(removal, signer);
    expect(parseRemovalRecord(bytes, repository)).toMatchObject({ id, removal, key: fingerprint });
  });

  const good = formatRecord(snapshotOf(signer), signer).bytes.toString();
  const change = (from: string | RegExp, to: string) => {
    const changed = good.replace(from, to);
    expect(changed).not.toBe(good);
    return changed;
  };

  test.each<[string, () => string, RegExp]>([
    ["of a later format", () => change('"format":1', '"format":2'), /has format 2, this spoolsafe reads format 1/],
    ["of another type", () => change('"type":"snapshot"', '"type":"claim"'), /its type is "claim"/],
    ["that is a removal", () => formatRecord(removal, signer).bytes.toString(), /its type is "removal"/],
    ["with an unknown field", () => change('"host"', '"color":"red","host"'), /not as the format says/],
    ["without a field", () => change(/"mode":"hold",/, ""), /its mode is not as the format says/],
    ["with an unknown mode", () => change('"mode":"hold"', '"mode":"warm"'), /its mode is not/],
    ["with a number of zero", () => change('"number":1', '"number":0'), /its number is not/],
    ["with a time that is none", () => change("2026-11-24T02:00:00.000Z", "yesterday"), /its time is not/],
    ["with white space", () => change('"host":', '"host": '), /canonical/],
    [
      "with its fields in another order",
      () => change('"format":1,"type":"snapshot"', '"type":"snapshot","format":1'),
      /canonical/,
    ],
    ["with a field twice", () => change('"host":', '"host":"mx2","host":'), /canonical/],
    ["cut short", () => good.slice(0, -1), /two whole lines/],
    ["without its signature", () => `${good.split("\n")[0]}\n`, /two whole lines/],
    ["with a third line", () => `${good}\n`, /two whole lines/],
    ["with a second line of something else", () => change('"signature"', '"sig"'), /second line/],
    [
      "whose writer is not its key",
      () => change(/"key":"./, '"key":"x').replace('"key":"x', `"key":"${fingerprint[0] === "0" ? "1" : "0"}`),
      /writer is not the key/,
    ],
    ["that is no JSON", () => "hello\nworld\n", /not JSON/],
    ["that is empty", () => "", /two whole lines/],
    ["with a NUL in it", () => change('"tags"', '"\0tags"'), /not JSON/],
  ])("%s is refused", (_, make, message) => {
    const error = thrown(() => parseSnapshotRecord(Buffer.from(make()), repository));
    expect(error.kind).toBe("damaged");
    expect(error.message).toMatch(message);
  });

  test("of another repository is refused by name", () => {
    const error = thrown(() => parseSnapshotRecord(Buffer.from(good), "f".repeat(32)));
    expect(error.kind).toBe("damaged");
    expect(error.message).toContain(`belongs to another repository (${repository}, this is ${"f".repeat(32)})`);
  });

  test("that does not keep the format is not written", () => {
    expect(() => formatRecord(snapshotOf(signer, { number: 0 }), signer)).toThrow();
    expect(() => formatRecord(snapshotOf(signer, { host: "" }), signer)).toThrow();
  });
});

function isSigned(key: KeyObject, bytes: Uint8Array, signature: string): boolean {
  return verify(null, bytes, key, Buffer.from(signature, "base64"));
}

function thrown(act: () => unknown): OperatorError {
  try {
    act();
  } catch (error) {
    if (error instanceof OperatorError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}
