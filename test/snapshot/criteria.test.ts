import { describe, expect, test } from "vitest";
import { meets, parseCriteria } from "../../src/snapshot/criteria.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";

const now = Date.parse("2026-11-24T12:00:00Z");

function message(over: Partial<MessageEntry> = {}): MessageEntry {
  return {
    kind: "message",
    instance: "etc_postfix",
    queueId: "4FA3C1",
    created: String(now / 1000 - 30 * 3600),
    content: "c".repeat(64),
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 1, gid: 1 },
    mtime: 1,
    file: { digest: "a".repeat(64), bytes: 900, pack: "b".repeat(64) },
    logs: [],
    sender: "Alice@a.test",
    recipients: [
      { address: "bob@b.test", done: false },
      { address: "dave@d.test", done: true },
    ],
    size: 700,
    arrival: 1,
    messageId: "<2026.ABC@a.test>",
    contentFilter: null,
    sendopts: 0,
    delayWarning: null,
    inFlight: false,
    role: null,
    finished: false,
    ...over,
  };
}

const found = (criteria: readonly string[], over: Partial<MessageEntry> = {}) =>
  meets(message(over), parseCriteria(criteria, ""), now);

describe("a message meets", () => {
  test.each([
    [[]],
    [["recipient=bob@b.test"]],
    [["recipient=dave@d.test"]],
    [["domain=d.test", "recipient=dave@*"]],
    [["message-id=<2026.ABC@a.test>"]],
    [["message-id=2026.abc@a.test"]],
    [["message-id=x@y, <2026.*>"]],
    [["sender=alice@*", "queue=hold,deferred", "older-than=1d"]],
  ])("%j", (criteria) => expect(found(criteria)).toBe(true));
});

describe("a message does not meet", () => {
  test.each([
    [["domain=b.test", "recipient=dave@*"]],
    [["recipient=carol@b.test"]],
    [["message-id=2026.ABC"]],
    [["message-id=!x"]],
    [["sender=alice@*", "queue=hold"]],
    [["newer-than=1d"]],
  ])("%j", (criteria) => expect(found(criteria)).toBe(false));

  test("a message-id where it has none", () => expect(found(["message-id=*"], { messageId: null })).toBe(false));
});

test("what can't be understood is told as it was typed", () => {
  const errorOf = (given: string, option: "--only " | "") => {
    try {
      return parseCriteria([given], option);
    } catch (error) {
      return error;
    }
  };
  expect(errorOf("colour=red", "")).toMatchObject({
    kind: "usage",
    message: "colour=red can't be understood",
    hints: [expect.stringContaining("message-id")],
  });
  expect(errorOf("queue=outgoing", "--only ")).toMatchObject({
    message: "--only queue=outgoing: outgoing is not one of the queues maildrop, incoming, active, deferred, hold",
  });
});
