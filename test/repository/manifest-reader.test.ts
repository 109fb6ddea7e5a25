import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { loadManifest, ManifestReader } from "../../src/repository/manifest-reader.ts";
import { Repository } from "../../src/repository/repository.ts";
import type { Manifest } from "../../src/snapshot/manifest.ts";
import type { Snapshot } from "../../src/snapshot/snapshot.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";

let made: HandMade;
let store: FaultyStore;
let repository: Repository;
const nights: { readonly snapshot: Snapshot; readonly manifest: Manifest }[] = [];

beforeAll(async () => {
  made = await HandMade.make();
  store = new FaultyStore(new DirectoryStore(join(made.directory, "repository")));
  repository = await Repository.open(store);
  const bytes = [...queueFiles.values()];
  const messages = bytes.map((each, index) => ({ bytes: each, over: { queueId: `4FA3C${index}` } }));
  for (const [from, to] of [
    [0, 3],
    [1, 5],
    [2, 6],
  ]) {
    const { signed, manifest } = await made.take({ messages: messages.slice(from, to) });
    nights.push({ snapshot: signed.snapshot, manifest });
  }
});
afterAll(() => made[Symbol.asyncDispose]());

const queueIds = ({ messages }: Manifest) => messages.map(({ queueId }) => queueId).sort();

/** Reads them in this order, each as `loadManifest` does. @returns the number of parts that were fetched */
async function read(order: readonly number[]): Promise<number> {
  const reader = new ManifestReader(repository, made.identities);
  const before = store.calls.length;
  for (const index of order) {
    const { snapshot, manifest } = nights[index] ?? never();
    expect(queueIds(await reader.read(snapshot))).toEqual(queueIds(manifest));
  }
  return store.calls.slice(before).filter(({ name }) => name === "get").length;
}

function never(): never {
  throw new Error("no such night");
}

test("the nights of a host one after another: every part is read once", async () => {
  expect(await read([0, 1, 2, 2])).toBe(3);
});

test("in any other order all of it is right, and read again", async () => {
  expect(await read([2, 0, 1])).toBe(3 + 1 + 1);
  expect(await read([1, 0, 2])).toBe(2 + 1 + 2);
});

test("one that can't be read leaves nothing behind for the next", async () => {
  const [first, second, third] = nights.map(({ snapshot }) => snapshot);
  if (first === undefined || second === undefined || third === undefined) throw new Error("nights are missing");
  const reader = new ManifestReader(repository, made.identities);
  await reader.read(first);
  const broken = second.parts.at(-1)?.id ?? "";
  store.faults = { read: (key, bytes) => (key.includes(broken) ? Buffer.from("no") : bytes) };
  await expect(reader.read(second)).rejects.toMatchObject({ kind: "damaged" });
  store.faults = {};
  expect(await reader.read(third)).toEqual(await loadManifest(repository, third, made.identities));
});
