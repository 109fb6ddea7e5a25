import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createSigningKey, loadSigningKey } from "../../src/crypto/sign.ts";
import { snapshotKey } from "../../src/repository/layout.ts";
import { lookAtRepository } from "../../src/status/remote.ts";
import type { RepositoryStatus } from "../../src/status/report.ts";
import { HandMade } from "../support/hand-made.ts";
import { noMessages, snapshotOf } from "../support/records.ts";

const now = Date.parse("2026-11-24T12:00:00Z");
let made: HandMade;
beforeEach(async () => {
  made = await HandMade.make();
});
afterEach(() => made[Symbol.asyncDispose]());

function look(seen = new Map()): Promise<RepositoryStatus> {
  const { repository, trusted } = made;
  return lookAtRepository({ repository, trusted, seen, now, signal: new AbortController().signal });
}

const take = (host: string, time: string, total = 0) =>
  made.take({ over: { host, time, messages: { ...noMessages, total, deferred: total } } });

describe("of a repository", () => {
  test("the newest of every host is told, with its queues", async () => {
    await take("mx1", "2026-11-24T02:00:00.000Z", 5);
    const { signed } = await take("mx2", "2026-11-23T02:00:00.000Z", 7);
    await take("mx1", "2026-11-24T10:00:00.000Z", 6);
    const { hosts, faults } = await look();
    expect(faults).toEqual([]);
    expect(hosts).toMatchObject([
      { host: "mx1", snapshots: 2, lastBackup: { ageSeconds: 7200, messages: 6 }, queues: { deferred: 6 } },
      { host: "mx2", snapshots: 1, lastBackup: { ageSeconds: 34 * 3600, snapshot: signed.id } },
    ]);
  });

  test("what is dated in the future does not count", async () => {
    await take("mx1", "2026-11-20T02:00:00.000Z");
    await take("mx1", "2027-01-01T02:00:00.000Z");
    const { hosts } = await look();
    expect(hosts).toMatchObject([{ future: 1, lastBackup: { time: "2026-11-20T02:00:00.000Z" } }]);
  });

  test("what a stranger signed does not count", async () => {
    await take("mx1", "2026-11-20T02:00:00.000Z");
    writeFileSync(join(made.directory, "stranger.key"), createSigningKey().privatePem, { mode: 0o600 });
    const stranger = loadSigningKey(join(made.directory, "stranger.key"));
    const record = { repository: made.repository.id, host: "mx1", time: "2026-11-24T11:00:00.000Z" };
    await made.repository.commit(snapshotOf(stranger, record), stranger);
    const { hosts } = await look();
    expect(hosts).toMatchObject([{ untrusted: 1, snapshots: 2, lastBackup: { time: "2026-11-20T02:00:00.000Z" } }]);
  });

  test("what is missing, or cut off at the end, is told", async () => {
    await take("mx1", "2026-11-22T02:00:00.000Z");
    const { signed } = await take("mx1", "2026-11-23T02:00:00.000Z");
    const { signed: last } = await take("mx1", "2026-11-24T02:00:00.000Z");
    const seen = new Map([[last.snapshot.writer, { number: 3, id: last.id }]]);
    expect((await look(seen)).faults).toEqual([]);
    rmSync(made.path(snapshotKey({ ...signed.snapshot, id: signed.id })));
    expect((await look(seen)).faults).toEqual([expect.stringContaining("number 2 is missing")]);
    rmSync(made.path(snapshotKey({ ...last.snapshot, id: last.id })));
    const { faults, hosts } = await look(seen);
    expect(faults).toHaveLength(1);
    expect(hosts).toMatchObject([{ lastBackup: { time: "2026-11-22T02:00:00.000Z" } }]);
  });

  test("a damaged record is told and does not take the others along", async () => {
    await take("mx1", "2026-11-23T02:00:00.000Z");
    const { signed } = await take("mx1", "2026-11-24T02:00:00.000Z");
    writeFileSync(made.path(snapshotKey({ ...signed.snapshot, id: signed.id })), "{}\n");
    const { faults, hosts } = await look();
    expect(faults).toHaveLength(1);
    expect(hosts).toMatchObject([{ lastBackup: { time: "2026-11-23T02:00:00.000Z" } }]);
  });

  test("with nothing in it there is no host", async () => {
    expect(await look()).toEqual({ hosts: [], faults: [] });
  });
});
