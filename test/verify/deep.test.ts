import { copyFileSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PackReader } from "../../src/pack/pack-pool.ts";
import { Workers } from "../../src/pack/workers.ts";
import { packKey, partKey } from "../../src/repository/layout.ts";
import type { SignedSnapshot } from "../../src/repository/repository.ts";
import type { Manifest, ManifestEntry, MessageEntry } from "../../src/snapshot/manifest.ts";
import type { Damage } from "../../src/verify/damage.ts";
import { type DeepRequest, verifyDeep } from "../../src/verify/deep.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { makeKeys } from "../support/keys.ts";

function fixture(name: string): Buffer {
  const bytes = queueFiles.get(name);
  if (bytes === undefined) throw new Error(`no fixture ${name}`);
  return bytes;
}

const workers = new Workers(1);
afterAll(() => workers.close());

function request(made: HandMade, snapshots: readonly SignedSnapshot[], more: Partial<DeepRequest> = {}): DeepRequest {
  const { repository, identities } = made;
  const reader = new PackReader({ identities: more.identities ?? identities, processors: 1, workers });
  return { repository, snapshots, identities, reader, processors: 1, ...more };
}

const found = (damaged: readonly Damage[]) => damaged.map(({ snapshot, message }) => `${snapshot} ${message}`).sort();

describe("deep verification of two snapshots that share a pack", () => {
  let made: HandMade;
  let first: { signed: SignedSnapshot; manifest: Manifest };
  let second: { signed: SignedSnapshot; manifest: Manifest };
  beforeAll(async () => {
    made = await HandMade.make();
    const shared = [
      { bytes: fixture("plain"), logs: { defer: "a log" } },
      { bytes: fixture("partly-done") },
      { bytes: fixture("milter-edited") },
    ];
    const files = [
      { bytes: Buffer.from("myhostname = mx.test\n"), over: { area: "config", path: "/etc/postfix/main.cf" } },
    ] as const;
    first = await made.take({ messages: [...shared, { bytes: fixture("dsn") }], files });
    second = await made.take({
      messages: [...shared, { bytes: fixture("null-sender"), over: { queueId: "ABCDEF12" } }],
      files,
    });
  });
  afterAll(async () => made[Symbol.asyncDispose]());

  const both = () => [first.signed, second.signed];

  test("finds nothing wrong, and opens each pack once", async () => {
    const report = await verifyDeep(request(made, both()));
    expect(report).toEqual({ snapshots: 2, packs: 2, messages: 5, damaged: [] });
  });

  test("needs an identity that opens them", async () => {
    const { identities } = await makeKeys();
    await expect(verifyDeep(request(made, both(), { identities }))).rejects.toMatchObject({ kind: "no-identity" });
  });

  test("of a sample reads so many of the packs", async () => {
    const report = await verifyDeep(request(made, both(), { sample: 0.4 }));
    expect(report).toMatchObject({ packs: 1, damaged: [] });
  });

  /** Objects of the repository with what has to be named when they are damaged. */
  const objects = () => {
    const [shared = "", own = ""] = second.signed.snapshot.packs.map(({ id }) => id);
    const [base = "", increment = ""] = second.signed.snapshot.parts.map(({ id }) => id);
    const of = ({ signed, manifest }: typeof first, pack: string) =>
      manifest.messages
        .flatMap(({ file, logs, queueId }) => [file, ...logs].map((stored) => ({ stored, queueId })))
        .filter(({ stored }) => stored.pack === pack)
        .map(({ queueId }) => `${signed.id} ${queueId}`);
    const config = both().map(({ id }) => `${id} null`);
    return [
      {
        name: "the pack both need",
        key: packKey(shared),
        affects: [...of(first, shared), ...of(second, shared), ...config],
      },
      { name: "the pack the second alone needs", key: packKey(own), affects: of(second, own) },
      { name: "the base both read", key: partKey(base), affects: config },
      { name: "the increment of the second", key: partKey(increment), affects: [`${second.signed.id} null`] },
    ];
  };

  const damages: [string, (path: string, other: string) => void][] = [
    ...[0, 0.01, 0.3, 0.6, 0.999].map((place): [string, (path: string) => void] => [
      `has one bit flipped at ${place * 100} %`,
      (path) => {
        const bytes = readFileSync(path);
        const at = Math.floor(bytes.length * place);
        bytes[at] = (bytes[at] ?? 0) ^ 1;
        writeFileSync(path, bytes);
      },
    ]),
    ["is cut short by one byte", (path) => truncateSync(path, readFileSync(path).length - 1)],
    ["is cut in half", (path) => truncateSync(path, readFileSync(path).length >> 1)],
    ["is empty", (path) => truncateSync(path, 0)],
    ["is longer by one byte", (path) => writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.from("x")]))],
    ["is gone", (path) => rmSync(path)],
    ["is another object", (path, other) => copyFileSync(other, path)],
  ];

  test.each([0, 1, 2, 3].flatMap((index) => damages.map(([name, spoil]) => ({ index, name, spoil }))))(
    "object $index that $name: names every snapshot and message it takes along",
    async ({ index, spoil }) => {
      const all = objects();
      const { key = "", affects = [] } = all[index] ?? {};
      const path = made.path(key);
      const whole = readFileSync(path);
      try {
        spoil(path, made.path(all[(index + 1) % 4]?.key ?? ""));
        const { damaged } = await verifyDeep(request(made, both()));
        expect(new Set(damaged.map(({ object }) => object))).toEqual(new Set([key]));
        expect(found(damaged)).toEqual([...affects].sort());
      } finally {
        writeFileSync(path, whole);
      }
    },
  );
});

describe("deep verification of a manifest that is not true", () => {
  const taken = async (spoil: (entries: ManifestEntry[]) => ManifestEntry[], over = {}) => {
    const made = await HandMade.make();
    const messages = [{ bytes: fixture("partly-done"), logs: { bounce: "a log" } }, { bytes: fixture("plain") }];
    const { signed } = await made.take({ messages, spoil, over });
    return { made, signed };
  };
  const onFirst = (change: (entry: MessageEntry) => Partial<MessageEntry>) => (entries: ManifestEntry[]) =>
    entries.map((entry, index) => (index === 0 && entry.kind === "message" ? { ...entry, ...change(entry) } : entry));

  test.each([
    ["another sender", onFirst(() => ({ sender: "x@src.test" })), /its sender is/],
    [
      "a recipient's mark",
      onFirst(({ recipients }) => ({ recipients: recipients.map((one) => ({ ...one, done: true })) })),
      /recipient 2/,
    ],
    ["a recipient less", onFirst(({ recipients }) => ({ recipients: recipients.slice(1) })), /3 recipients/],
    ["another text", onFirst(() => ({ content: "0".repeat(64) })), /text does not have the digest/],
    ["another creation time", onFirst(() => ({ created: "1" })), /created at/],
    ["another size", onFirst(({ size }) => ({ size: size + 1 })), /bytes, the manifest has/],
    ["another file size", onFirst(({ file }) => ({ file: { ...file, bytes: file.bytes + 1 } })), /the manifest says/],
    [
      "a digest that is in no pack",
      onFirst(({ file }) => ({ file: { ...file, digest: "0".repeat(64) } })),
      /does not hold it/,
    ],
    [
      "a log that is in no pack",
      onFirst(({ logs }) => ({ logs: logs.map((log) => ({ ...log, digest: "0".repeat(64) })) })),
      /its bounce log: .*does not hold it/,
    ],
  ])("names the message with %s", async (_, spoil, problem) => {
    const { made, signed } = await taken(spoil);
    await using _made = made;
    const { damaged } = await verifyDeep(request(made, [signed]));
    const ofMessage = damaged.filter(({ message }) => message === "7E48C16210F");
    expect(ofMessage).toMatchObject([{ snapshot: signed.id, problem: expect.stringMatching(problem) }]);
    expect(damaged.filter(({ message, object }) => message !== "7E48C16210F" && object !== null)).toEqual([]);
  });

  test("names a message whose bytes Postfix would not read, though they are the bytes that were stored", async () => {
    const made = await HandMade.make();
    await using _made = made;
    const cut = fixture("plain").subarray(0, -1);
    const { signed } = await made.take({
      messages: [{ bytes: fixture("plain") }],
      files: [{ bytes: cut, over: { area: "config", path: "/etc/postfix/x" } }],
      spoil: (entries) => {
        const stored = entries.find((entry) => entry.kind === "file")?.file;
        return entries.map((entry) => (entry.kind === "message" && stored ? { ...entry, file: stored } : entry));
      },
    });
    const { damaged } = await verifyDeep(request(made, [signed]));
    expect(damaged).toMatchObject([{ message: "7E48C16210F", problem: expect.stringMatching(/the file ends/) }]);
  });

  test("names a pack the record names and nobody needs, and one that is needed and not named", async () => {
    const { made, signed } = await taken((entries) => entries, { packs: [{ id: "ab".repeat(32), bytes: 1 }] });
    await using _made = made;
    const { damaged } = await verifyDeep(request(made, [signed]));
    expect(damaged).toMatchObject([
      { message: "7E48C16210F", problem: expect.stringMatching(/record does not name it/) },
      { object: packKey("ab".repeat(32)), problem: expect.stringMatching(/manifest needs nothing of it/) },
      { object: packKey("ab".repeat(32)), problem: expect.stringMatching(/missing/) },
    ]);
  });

  test("holds every count of the record to the manifest", async () => {
    const { made, signed } = await taken((entries) => entries.slice(1));
    await using _made = made;
    const lying = {
      ...signed,
      snapshot: { ...signed.snapshot, bytes: 1, messages: { ...signed.snapshot.messages, total: 9, hold: 1 } },
    };
    const { damaged } = await verifyDeep(request(made, [lying]));
    expect(damaged.map(({ problem }) => problem)).toEqual([
      "the record counts 9 total, the manifest has 1",
      "the record counts 1 hold, the manifest has 0",
      expect.stringMatching(/^the record counts 1 bytes of mail/),
    ]);
  });
});
