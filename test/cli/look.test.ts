import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createSigningKey } from "../../src/crypto/sign.ts";
import { bufferSource, messageText } from "../../src/postfix/queue-file.ts";
import { messageRecords, queueFile } from "../postfix/records.ts";
import { spoolsafe } from "../support/cli.ts";
import { makeKeys } from "../support/keys.ts";
import { digestFrom } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { makeStoredSite, type StoredSite } from "../support/stored.ts";

let directory: string;
let site: StoredSite;
let older: string;
let newest: string;
const bytes = queueFile(messageRecords({ text: "Subject: one\r\n\nfirst line\n.second\u00ff\nno end of line" }));
const deferLog = "<bob@target.test>\nrecipient=bob@target.test\nreason=connect refused\x1b[2J\n";

beforeAll(async () => {
  directory = makeScratch();
  site = await makeStoredSite(directory);
  older = await site.snapshot([], {
    time: "2026-11-23T02:00:00.000Z",
    tags: ["before move"],
    mode: "freeze",
    bytes: 4321,
  });
  newest = await site.snapshot([
    {
      bytes,
      logs: { defer: deferLog },
      entry: {
        queueId: "7E48C16210F",
        recipients: [
          { address: "bob@target.test", done: true },
          { address: "eve\x1b]0;owned\x07@target.test", done: false },
        ],
        inFlight: null,
        messageId: "<1@source.test>",
      },
    },
    {
      bytes: queueFile(messageRecords({ text: "other" })),
      entry: { queueId: "7E48C16210F", instance: "postfix-out", queue: "hold", sender: "", role: { kind: "admin" } },
    },
    {
      bytes: queueFile(messageRecords({ text: "third" })),
      entry: { queueId: "4Z5j73J8pzBvYj", queue: "active", arrival: 1795500001 },
    },
  ]);
});
afterAll(() => destroyScratch(directory));

const run = (...args: string[]) => spoolsafe([...args, "--config", site.config]);

describe("snapshots", () => {
  test("in JSON, oldest first, the fields of the interface", async () => {
    const { code, json } = await run("snapshots", "--json");
    expect(code).toBe(0);
    expect(json.map(({ id }) => id)).toEqual([older, newest, undefined]);
    expect(json[0]).toEqual({
      type: "snapshot",
      id: older,
      host: "mx1.example.org",
      time: "2026-11-23T02:00:00.000Z",
      mode: "freeze",
      messages: expect.objectContaining({ total: 0, inFlight: 0, incomplete: 0, vanished: 0, finishedDuringRun: 0 }),
      bytes: 4321,
      tags: ["before move"],
      signed: true,
    });
    expect(json.at(-1)).toEqual({ type: "summary", count: 2 });
  });

  test("as a table without borders", async () => {
    const { code, stdout, stderr } = await run("snapshots");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const [head, first] = stdout.split("\n");
    expect(head?.split(/ {2,}/)).toEqual([
      "ID",
      "TIME",
      "HOST",
      "MODE",
      "MESSAGES",
      "DEFERRED",
      "HOLD",
      "SIZE",
      "SIGNED",
      "TAGS",
    ]);
    expect(first).toMatch(new RegExp(`^${older.slice(0, 8)}  2026-11-2\\d .* freeze .* 4\\.32 kB +yes +before move$`));
  });

  test("--host keeps one host's", async () => {
    const { json } = await run("snapshots", "--json", "--host", "mx2.example.org");
    expect(json).toEqual([{ type: "summary", count: 0 }]);
  });

  test("those of a stranger are shown as not signed", async () => {
    const config = join(directory, "stranger.toml");
    writeFileSync(join(directory, "stranger.pub"), createSigningKey().publicPem);
    writeFileSync(config, readFileSync(site.config, "utf8").replace("/trusted.pub", "/stranger.pub"));
    const { json } = await spoolsafe(["snapshots", "--json", "--config", config]);
    expect(json.map(({ signed }) => signed)).toEqual([false, false, undefined]);
    const { stderr } = await spoolsafe(["snapshots", "--config", config]);
    expect(stderr).toContain("2 of them not signed by a key this host trusts");
  });

  test("one damaged record does not take the others along: they are listed, and the exit is 13", async () => {
    const broken = makeScratch();
    try {
      const other = await makeStoredSite(broken);
      const [first, second] = [await other.snapshot([]), await other.snapshot([])];
      const records = join(broken, "repository/snapshots");
      const [name = ""] = readdirSync(records, { recursive: true, encoding: "utf8" }).filter((each) =>
        each.endsWith(second),
      );
      const record = readFileSync(join(records, name), "utf8");
      writeFileSync(join(records, name), record.replace('"bytes":0', '"bytes":1'));
      const { code, json } = await spoolsafe(["snapshots", "--json", "--config", other.config]);
      expect(code).toBe(13);
      expect(json).toMatchObject([
        { type: "damaged", message: expect.stringContaining(second) },
        { type: "snapshot", id: first },
        { type: "summary", count: 1 },
      ]);
      const latest = await spoolsafe(["ls", "latest", "--config", other.config]);
      expect(latest.code).toBe(0);
      expect(latest.stderr).toContain(`warning: snapshots/`);
      expect(latest.stderr).toContain(`0 messages in ${first.slice(0, 8)}`);
    } finally {
      destroyScratch(broken);
    }
  });

  test("where there is no repository: exit 10, and none is made", async () => {
    const { code, json } = await run("snapshots", "--json", "--repository", `file://${directory}/nowhere`);
    expect(code).toBe(10);
    expect(json).toMatchObject([{ type: "error", kind: "no-repository", exit: 10 }]);
    expect(readdirSync(directory)).not.toContain("nowhere");
  });
});

describe("ls", () => {
  test("in JSON, the fields of the interface", async () => {
    const { code, json } = await run("ls", "latest", "--json");
    expect(code).toBe(0);
    expect(json.map(({ queue }) => queue)).toEqual(["active", "deferred", "hold", undefined]);
    expect(json[1]).toEqual({
      type: "message",
      instance: "etc_postfix",
      queueId: "7E48C16210F",
      queue: "deferred",
      sender: "alice@source.test",
      recipients: [
        { address: "bob@target.test", done: true },
        { address: "eve\x1b]0;owned\x07@target.test", done: false },
      ],
      size: bytes.length,
      arrivalTime: "2026-11-24T06:00:00.250Z",
      retryTime: "2026-11-24T07:00:00.000Z",
      inFlight: null,
      sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    expect(json[0]).toMatchObject({ retryTime: null });
    expect(json.at(-1)).toEqual({ type: "summary", snapshot: newest, count: 3 });
  });

  test("as a table that no address can steer", async () => {
    const { stdout } = await run("ls", newest.slice(0, 6));
    expect(stdout).toContain("INSTANCE");
    expect(stdout).toContain("eve?]0;owned?@target.test (1 done)");
    expect(stdout).not.toContain("\x1b");
    expect(stdout).toMatch(/postfix-out +7E48C16210F +hold .* <> +bob@target\.test/);
  });

  test("--instance keeps one instance's; one that is not there lists those that are", async () => {
    const { json } = await run("ls", "latest", "--json", "--instance", "postfix-out");
    expect(json.map(({ instance }) => instance)).toEqual(["postfix-out", undefined]);
    const { code, stderr } = await run("ls", "latest", "--instance", "postfix-in");
    expect(code).toBe(2);
    expect(stderr).toContain("its instances are: etc_postfix, postfix-out");
  });

  test("with a wrong identity: exit 12 and no line of the list", async () => {
    const { identity } = await makeKeys();
    writeFileSync(join(directory, "wrong.txt"), `${identity}\n`, { mode: 0o600 });
    const { code, json } = await run("ls", "latest", "--json", "--identity-file", join(directory, "wrong.txt"));
    expect(code).toBe(12);
    expect(json).toHaveLength(1);
  });
});

describe("show", () => {
  test("envelope, recipients with their marks, logs", async () => {
    const { code, stdout, stderr } = await run("show", "latest", "7E48C16210F", "--instance", "etc_postfix");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    for (const line of [
      /^sender +alice@source.test$/m,
      /^message-id +<1@source.test>$/m,
      /^in flight +unknown$/m,
      /^mode +0700 postfix:postfix$/m,
      /^ {2}done {2}bob@target.test$/m,
      /^ {2}open {2}eve\?\]0;owned\?@target.test$/m,
      /^defer log$/m,
      /^ {2}reason=connect refused\?\[2J$/m,
    ]) {
      expect(stdout).toMatch(line);
    }
    expect(stdout).not.toContain("\x1b");
  });

  test("in JSON, with the logs' text", async () => {
    const { json } = await run("show", "latest", "7E48C16210F", "--instance", "etc_postfix", "--json");
    expect(json[0]).toMatchObject({
      type: "message",
      queueId: "7E48C16210F",
      mode: "0700",
      role: null,
      finished: false,
      logs: [{ log: "defer", text: deferLog }],
    });
    expect(json.at(-1)).toEqual({ type: "summary", count: 1 });
  });

  test("--eml is the text, byte for byte", async () => {
    const { code, stdoutBytes, stderr } = await run(
      "show",
      "latest",
      "7E48C16210F",
      "--instance",
      "etc_postfix",
      "--eml",
    );
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdoutBytes).toEqual(Buffer.concat([...messageText(bufferSource(bytes))]));
    expect(stdoutBytes.toString()).toContain("first line\n");
  });

  test("an id of several instances asks which; an id of none says how to list", async () => {
    const several = await run("show", "latest", "7E48C16210F");
    expect(several).toMatchObject({ code: 2, stdout: "" });
    expect(several.stderr).toContain("name one with --instance: etc_postfix, postfix-out");
    const none = await run("show", "latest", "0000011111", "--json");
    expect(none.code).toBe(1);
    expect(none.json).toMatchObject([{ type: "error", kind: "failed" }]);
    expect(await run("show", "latest", "4Z5j73J8pzBvYj", "--eml", "--json")).toMatchObject({ code: 2 });
  });

  test("a damaged pack is exit 13 and no byte of the message is shown", async () => {
    const broken = makeScratch();
    try {
      const other = await makeStoredSite(broken);
      await other.snapshot([{ bytes, entry: { queueId: "7E48C16210F" } }]);
      const packs = join(broken, "repository/packs");
      const [name = ""] = readdirSync(packs, { recursive: true, encoding: "utf8" }).filter((each) => each.length > 64);
      const pack = readFileSync(join(packs, name));
      pack.writeUInt8(pack.readUInt8(300) ^ 1, 300);
      writeFileSync(join(packs, name), pack);
      const { code, stdout } = await spoolsafe(["show", "latest", "7E48C16210F", "--eml", "--config", other.config]);
      expect({ code, stdout }).toEqual({ code: 13, stdout: "" });
    } finally {
      destroyScratch(broken);
    }
  });
});

describe("SNAP and --host", () => {
  test("the configured host is meant; another must be named; without one, the hosts are listed", async () => {
    const shared = makeScratch();
    try {
      const other = await makeStoredSite(shared);
      const mine = await other.snapshot([], { time: "2026-11-20T02:00:00.000Z" });
      const theirs = await other.snapshot([], { host: "mx2.example.org" });
      const ls = async (...args: string[]) => spoolsafe(["ls", "--json", "--config", other.config, ...args]);
      expect((await ls("latest")).json).toMatchObject([{ snapshot: mine }]);
      expect((await ls("latest", "--host", "mx2.example.org")).json).toMatchObject([{ snapshot: theirs }]);
      expect((await ls(theirs.slice(0, 12))).json).toMatchObject([{ snapshot: theirs }]);
      writeFileSync(other.config, readFileSync(other.config, "utf8").replace(/^host = .*\n/, ""));
      const { code, json } = await ls("latest");
      expect(code).toBe(2);
      expect(json).toMatchObject([{ hints: ["say which with --host: mx1.example.org, mx2.example.org"] }]);
    } finally {
      destroyScratch(shared);
    }
  });
});

test("a reader that has seen enough is no failure", async () => {
  const many = Array.from({ length: 20_000 }, (_, index) => ({
    bytes,
    entry: { queueId: `7E48C${index.toString(16).toUpperCase().padStart(6, "0")}`, content: digestFrom(index) },
  }));
  const id = await site.snapshot(many, { time: "2026-11-20T02:00:00.000Z" });
  const { code, signal, stderr } = await spoolsafe(["ls", id, "--json", "--quiet", "--config", site.config], {
    meanwhile: (child) => child.stdout?.once("data", () => child.stdout?.destroy()),
  });
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: "" });
});
