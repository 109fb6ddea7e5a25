import { expect, test } from "vitest";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { Sightings } from "../../src/snapshot/sightings.ts";

function message(queueId: string, over: Partial<MessageEntry> = {}): MessageEntry {
  return {
    kind: "message",
    instance: "mx",
    queueId,
    created: "1795400000",
    content: "c",
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 1, gid: 1 },
    mtime: 1,
    file: { digest: "a".repeat(64), bytes: 900, pack: "b".repeat(64) },
    logs: [],
    sender: "alice@a.test",
    recipients: [],
    size: 700,
    arrival: 2,
    messageId: null,
    contentFilter: null,
    sendopts: 0,
    delayWarning: null,
    inFlight: false,
    role: null,
    finished: false,
    ...over,
  };
}

const night = (day: number) => ({ id: `id${day}`, time: `2026-11-2${day}T02:00:00.000Z` });

test("first and last by the time of the snapshots, in whatever order they are read, as the newest has it", () => {
  const sightings = new Sightings();
  for (const day of [2, 4, 1, 3]) sightings.add("mx1", night(day), [message("A", { mtime: day })]);
  expect(sightings.list()).toMatchObject([
    { host: "mx1", first: night(1), last: night(4), snapshots: 4, entry: { mtime: 4 } },
  ]);
});

test("messages of two hosts, and a queue id that came again, are apart; the oldest message first", () => {
  const sightings = new Sightings();
  sightings.add("mx1", night(1), [message("A"), message("A", { created: "1795499999", arrival: 1 })]);
  sightings.add("mx2", night(2), [message("A", { arrival: 3 })]);
  const found = sightings.list().map(({ host, entry, snapshots }) => [host, entry.created, snapshots]);
  expect(found).toEqual([
    ["mx1", "1795499999", 1],
    ["mx1", "1795400000", 1],
    ["mx2", "1795400000", 1],
  ]);
});
