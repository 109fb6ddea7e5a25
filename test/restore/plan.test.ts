import { describe, expect, test } from "vitest";
import { type Land, planRestore } from "../../src/restore/plan.ts";
import { refuseWithoutRoom, type TargetFacts } from "../../src/restore/target.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { choice, knowing, message, noon, target } from "./entries.ts";

const source = { snapshot: "5a", host: "mx1", time: "2026-11-24T11:00:00Z", postfixVersion: "3.7.11" };

function plan(messages: readonly MessageEntry[], land: Land = "original", facts: Partial<TargetFacts> = {}) {
  return planRestore({ messages, files: [] }, source, choice({ land }), target(facts), knowing());
}

function placed(over: Partial<MessageEntry>, land: Land = "original", facts: Partial<TargetFacts> = {}) {
  return plan([message(over)], land, facts).place[0];
}

describe("where a message lands", () => {
  test("deferred mail stays deferred, with its retry time and the bits that mean something to qmgr", () => {
    expect(placed({ mode: 0o754 })).toMatchObject({ queue: "deferred", mtime: noon + 300, mode: 0o750, role: null });
  });

  test.each(["active", "incoming"] as const)("%s mail goes to deferred and is due at once", (queue) => {
    expect(placed({ queue, mtime: noon + 60 })).toMatchObject({ queue: "deferred", mtime: noon });
    expect(placed({ queue, mtime: noon - 60 })).toMatchObject({ queue: "deferred", mtime: noon - 60 });
  });

  test.each(["original", "hold"] as const)("what an administrator held stays held, land %s", (land) => {
    expect(placed({ queue: "hold", role: { kind: "admin" } }, land)).toMatchObject({ queue: "hold", role: "admin" });
    expect(placed({ queue: "hold", role: null }, land)).toMatchObject({ queue: "hold", role: "admin" });
  });

  test("what waited for release after a restore, or was fenced, stays held for that reason", () => {
    const held = (kind: "restore" | "fence") => placed({ queue: "hold", role: { kind, run: "r1" } });
    expect(held("restore")).toMatchObject({ queue: "hold", role: "restore" });
    expect(held("fence")).toMatchObject({ queue: "hold", role: "fence" });
  });

  test("land hold puts all other mail on hold for release", () => {
    expect(placed({}, "hold")).toMatchObject({ queue: "hold", role: "restore", mtime: noon + 300 });
    expect(placed({ queue: "active" }, "hold")).toMatchObject({ queue: "hold", role: "restore" });
  });

  test("files belong to the mail owner of the target, by its numbers", () => {
    expect(placed({})).toMatchObject({ uid: 995, gid: 996 });
  });

  test("maildrop mail stays in maildrop, its sender's own, with all its permission bits", () => {
    const owner = { user: "alice", group: "postdrop", uid: 4711, gid: 12 };
    expect(placed({ queue: "maildrop", mode: 0o744, owner })).toMatchObject({
      queue: "maildrop",
      mode: 0o744,
      uid: 1000,
      gid: 997,
      role: null,
    });
  });

  test("maildrop mail of a user who does not exist here is skipped, and said so", () => {
    const owner = { user: "bob", group: "postdrop", uid: 4711, gid: 12 };
    const { place, skip } = plan([message({ queue: "maildrop", owner }), message()]);
    expect(place).toHaveLength(1);
    expect(skip).toMatchObject([{ reason: "its owner bob (uid 4711 on the source host) does not exist here" }]);
  });

  test("mail of other instances is none of the plan's business", () => {
    expect(plan([message({ instance: "other" })])).toMatchObject({ place: [], skip: [] });
  });
});

describe("mail that may have been delivered already", () => {
  test.each([
    ["it was being delivered while it was read", { inFlight: true }],
    ["whether it was being delivered while it was read could not be seen", { inFlight: null }],
    ["it had left every queue of its host when the backup ended", { finished: true, inFlight: true }],
  ])("%s: it goes on hold", (reason, over) => {
    expect(placed({ queue: "active", ...over })).toMatchObject({ queue: "hold", role: "restore", inDoubt: reason });
  });

  test("the doubt is about the recipients that are not done", () => {
    const recipients = [true, false, true, false].map((done, n) => ({ address: `r${n}@dst.test`, done }));
    expect(placed({ inFlight: true, recipients })).toMatchObject({ recipients: [1, 3] });
  });

  test("with every recipient done there is nothing to doubt: Postfix removes it at the first look", () => {
    const recipients = [{ address: "b@dst.test", done: true }];
    expect(placed({ finished: true, recipients })).toMatchObject({ queue: "deferred", inDoubt: null, recipients: [] });
  });

  test("an administrator's hold is kept, and the doubt with it", () => {
    expect(placed({ queue: "hold", role: { kind: "admin" }, inFlight: true })).toMatchObject({
      role: "admin",
      inDoubt: "it was being delivered while it was read",
    });
  });
});

describe("what a plan needs", () => {
  test("a retry time further ahead than Postfix would put it is brought back, and said so", () => {
    const { place, forecasts } = plan([message({ mtime: noon + 9999 }), message()]);
    expect(place[0]?.mtime).toBe(noon + 4000);
    expect(forecasts).toMatchObject([{ kind: "late", messages: 1 }]);
  });

  test("room is counted in whole blocks and inodes, logs included", () => {
    const log = { log: "defer" as const, digest: "d", bytes: 10, pack: "p", mode: 0o600, mtime: noon };
    expect(plan([message({ logs: [log] })]).needs).toEqual({ bytes: 8192 + 4096, inodes: 2 });
  });

  test("too few bytes or inodes are refused with the numbers", () => {
    const refusal = (facts: Partial<TargetFacts>) => () => refuseWithoutRoom(plan([message()], "original", facts));
    expect(refusal({})).not.toThrow();
    expect(refusal({ freeBytes: 15_360_000 + 8191 })).toThrow("15368192 bytes");
    expect(refusal({ freeInodes: 300 })).toThrow("301 inodes, and has 300");
    expect(refusal({ freeInodes: null })).not.toThrow();
  });
});
