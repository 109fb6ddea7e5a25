import { describe, expect, test } from "vitest";
import { isQueueId } from "../../src/postfix/queue-id.ts";
import { layOut } from "../../src/restore/layout.ts";
import type { FileEntry, MessageEntry } from "../../src/snapshot/manifest.ts";
import { noMessages, snapshotOf } from "../support/records.ts";
import { file, message } from "./entries.ts";

const snapshot = snapshotOf(
  { writer: "0123456789abcdef" },
  {
    instances: [
      {
        name: "mx",
        configDirectory: "/etc/postfix",
        queueDirectory: "/var/spool/postfix",
        postfixVersion: "3.7.11",
        running: true,
        mode: "hold",
        messages: noMessages,
      },
    ],
  },
);

function paths(messages: readonly MessageEntry[], files: readonly FileEntry[] = [], instance?: string) {
  return layOut(snapshot, { messages, files }, instance).entries.map(({ path }) => path);
}

describe("a snapshot as files", () => {
  test("has messages by queue, and each log beside those of its kind", () => {
    const logs = (["bounce", "defer", "trace"] as const).map((log) => ({
      ...{ log, digest: "d", bytes: 1, pack: "p", mode: 0o600, mtime: 1 },
    }));
    expect(paths([message({ logs })])).toEqual([
      "mx/queue/deferred/7E48C16210F",
      "mx/queue/bounce/7E48C16210F",
      "mx/queue/defer/7E48C16210F",
      "mx/queue/trace/7E48C16210F",
    ]);
  });

  test("has every other file where its area says", () => {
    const files = [
      file({ type: "directory", path: "/etc/postfix", file: null }),
      file({ path: "/etc/postfix/sasl/passwd" }),
      file({ area: "named", path: "/etc/aliases" }),
      file({ area: "report", path: "postconf-n" }),
      file({ area: "evidence", path: "corrupt/ABCDEF1" }),
      file({ instance: null, area: "service", path: "/etc/opendkim.conf" }),
      file({ instance: null, area: "include", path: "/srv/x" }),
    ];
    expect(paths([], files)).toEqual([
      "mx/config",
      "mx/config/sasl/passwd",
      "mx/files/etc/aliases",
      "mx/reports/postconf-n",
      "mx/queue/corrupt/ABCDEF1",
      "host/files/etc/opendkim.conf",
      "host/files/srv/x",
    ]);
  });

  test("of one instance has nothing of the others", () => {
    const host = file({ instance: null, area: "include", path: "/srv/x" });
    expect(paths([message(), message({ instance: "other" })], [host], "mx")).toEqual(["mx/queue/deferred/7E48C16210F"]);
  });

  test("tells two messages of one name apart by a name that is no queue id", () => {
    const layout = layOut(snapshot, { messages: [message(), message({ created: "1" })], files: [] }, undefined);
    const to = "mx/queue/deferred/7E48C16210F.2";
    expect(layout.renamed).toEqual([{ from: "mx/queue/deferred/7E48C16210F", to }]);
    expect(isQueueId(to.split("/").at(-1) ?? "")).toBe(false);
  });

  test("never lets a link be a step of another entry's path", () => {
    const link = file({ area: "named", path: "/etc/alias", type: "link", file: null, target: "/tmp" });
    const inside = file({ area: "named", path: "/etc/alias/passwd" });
    expect(paths([], [link, inside])).toEqual(["mx/files/etc/alias.2", "mx/files/etc/alias/passwd"]);
    expect(paths([], [inside, link])).toEqual(["mx/files/etc/alias/passwd", "mx/files/etc/alias.2"]);
  });

  test.each([
    ["a message's instance", [message({ instance: "../mx" })], []],
    ["an instance that is two steps up", [message({ instance: "a/../../b" })], []],
    ["a named file", [], [file({ area: "named", path: "/etc/../../x" })]],
    ["a file of the configuration directory", [], [file({ path: "/etc/postfix/../../x" })]],
    ["evidence", [], [file({ area: "evidence", path: "corrupt/../../../x" })]],
    ["a report with a NUL", [], [file({ area: "report", path: "a\0b" })]],
  ])("refuses a name that leads elsewhere: %s", (_, messages, files) => {
    expect(() => paths(messages, files)).toThrow(/would lead elsewhere/);
  });

  test("takes an absolute name for one below its own directory", () => {
    expect(paths([], [file({ area: "evidence", path: "/etc/shadow" })])).toEqual(["mx/queue/etc/shadow"]);
  });
});
