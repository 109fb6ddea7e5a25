import { describe, expect, test } from "vitest";
import { manifestDifference } from "../../src/snapshot/difference.ts";
import type { FileEntry, Manifest, MessageEntry } from "../../src/snapshot/manifest.ts";

const stored = (digest: string) => ({ digest: digest.repeat(64), bytes: 900, pack: "b".repeat(64) });

function message(queueId: string, over: Partial<MessageEntry> = {}): MessageEntry {
  return {
    kind: "message",
    instance: "mx",
    queueId,
    created: "1795400000",
    content: queueId,
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 1, gid: 1 },
    mtime: 1_795_500_000,
    file: stored("a"),
    logs: [],
    sender: "alice@a.test",
    recipients: [
      { address: "bob@b.test", done: false },
      { address: "bob@b.test", done: false },
    ],
    size: 700,
    arrival: 1_795_400_000,
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

function file(path: string, over: Partial<FileEntry> = {}): FileEntry {
  return {
    kind: "file",
    instance: "mx",
    area: "config",
    path,
    type: "file",
    mode: 0o644,
    owner: { user: "root", group: "root", uid: 0, gid: 0 },
    mtime: 1,
    file: stored("a"),
    target: null,
    ...over,
  };
}

const of = (messages: readonly MessageEntry[], files: readonly FileEntry[] = []): Manifest => ({ messages, files });

describe("of messages", () => {
  test("what came, what went, what stayed as it was", () => {
    const difference = manifestDifference(of([message("A"), message("B")]), of([message("B"), message("C")]));
    expect(difference).toMatchObject({ added: [{ queueId: "C" }], gone: [{ queueId: "A" }], changed: [], same: 1 });
  });

  test.each<[string, Partial<MessageEntry>, object]>([
    ["queue", { queue: "hold" }, { queue: { from: "deferred", to: "hold" }, retry: { from: 1_795_500_000, to: null } }],
    ["retry time", { mtime: 1_795_503_600 }, { queue: null, retry: { from: 1_795_500_000, to: 1_795_503_600 } }],
    [
      "marks",
      {
        recipients: [
          { address: "bob@b.test", done: true },
          { address: "bob@b.test", done: false },
        ],
      },
      { done: ["bob@b.test"], open: [] },
    ],
    ["end", { finished: true }, { finished: { from: false, to: true } }],
  ])("a change of its %s", (_, over, change) => {
    const { changed, same } = manifestDifference(of([message("A")]), of([message("A", over)]));
    expect(same).toBe(0);
    expect(changed).toMatchObject([change]);
  });

  test("what says nothing to an administrator is no change", () => {
    const over = {
      mode: 0o740,
      inFlight: null,
      file: stored("c"),
      logs: [{ log: "defer" as const, mode: 1, mtime: 1, ...stored("d") }],
    };
    expect(manifestDifference(of([message("A")]), of([message("A", over)]))).toMatchObject({ changed: [], same: 1 });
  });

  test("one that was restored under another name, on another instance, is the same one", () => {
    const restored = message("Z", {
      content: "A",
      instance: "mx2",
      recipients: [{ address: "eve@b.test", done: false }],
    });
    const { added, gone, changed } = manifestDifference(of([message("A")]), of([restored]));
    expect({ added, gone }).toEqual({ added: [], gone: [] });
    expect(changed).toMatchObject([
      {
        queueId: { from: "A", to: "Z" },
        instance: { from: "mx", to: "mx2" },
        queue: null,
        done: ["bob@b.test", "bob@b.test"],
        open: ["eve@b.test"],
      },
    ]);
  });

  test("of two copies of one the one with its name is taken, and the other came", () => {
    const copies = [message("Z", { content: "A" }), message("A")];
    expect(manifestDifference(of([message("A")]), of(copies))).toMatchObject({ added: [{ queueId: "Z" }], same: 1 });
  });
});

describe("of files", () => {
  test("names, and what of them; times say nothing", () => {
    const before = [
      file("/etc/postfix/main.cf"),
      file("/etc/postfix/old"),
      file("/etc/postfix/same"),
      file("/etc/postfix/x"),
    ];
    const after = [
      file("/etc/postfix/x", { type: "link", target: "/x", file: null }),
      file("/etc/postfix/same", { mtime: 99, owner: { user: "root", group: "root", uid: 7, gid: 7 } }),
      file("/etc/postfix/new"),
      file("/etc/postfix/main.cf", { file: stored("c"), mode: 0o600, owner: { user: "", group: "", uid: 5, gid: 5 } }),
    ];
    const { files } = manifestDifference(of([], before), of([], after));
    expect(files.map(({ change, entry, what }) => [change, entry.path, ...what])).toEqual([
      ["changed", "/etc/postfix/main.cf", "content", "mode", "owner"],
      ["added", "/etc/postfix/new"],
      ["gone", "/etc/postfix/old"],
      ["changed", "/etc/postfix/x", "type"],
    ]);
  });

  test("a link that goes elsewhere", () => {
    const link = (target: string) => file("/etc/aliases", { type: "link", file: null, target });
    expect(manifestDifference(of([], [link("/a")]), of([], [link("/b")])).files).toMatchObject([{ what: ["target"] }]);
  });
});
