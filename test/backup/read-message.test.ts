import { spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { LogPlaces } from "../../src/backup/log-places.ts";
import { type ReadMessage, readMessage } from "../../src/backup/read-message.ts";
import type { LogKind } from "../../src/postfix/queue.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { messageRecords, queueFile } from "../postfix/records.ts";
import { chooseSeed, Random } from "../support/random.ts";

const keepInMemory = 1024 * 1024;

describe("reading a message with its logs", () => {
  let queueDirectory: string;
  let places: LogPlaces;

  beforeEach(() => {
    queueDirectory = mkdtempSync(join(tmpdir(), "spoolsafe-read-"));
    for (const name of ["active", "deferred", "bounce", "defer", "trace"]) mkdirSync(join(queueDirectory, name));
    places = new LogPlaces({ queueDirectory, hashQueues: [], hashDepth: 1 });
  });

  afterEach(() => rmSync(queueDirectory, { recursive: true }));

  test("never sees a recipient done without its bounce record, whatever an agent does meanwhile", async () => {
    const random = new Random(chooseSeed("an agent at work"));
    const ids = Array.from({ length: 20 }, (_, n) => `ABCDE${n}F`);
    for (const id of ids) place(id, 250);
    await whileAgentWorks(ids, 0.15, (reading) => {
      for (let reads = 0; reads < 2000; reads++) reading(random.pick(ids));
    });
  });

  test("nor when an agent deals with one more recipient each time the bounce log has been read", () => {
    place("ABCDE1F", 100);
    const job = jobOf("ABCDE1F");
    const waiting = [...job.recipients];
    class Interfering extends LogPlaces {
      override paths(log: LogKind, id: string): string[] {
        // The trace log is looked for last.
        const recipient = log === "trace" ? waiting.shift() : undefined;
        if (recipient !== undefined) {
          appendFileSync(job.log, `recipient=${recipient.address}\noffset=${recipient.offset}\n\n`);
          mark(job.message, recipient.offset);
        }
        return super.paths(log, id);
      }
    }
    const busy = new Interfering({ queueDirectory, hashQueues: [], hashDepth: 1 });
    const read = readMessage(busy, path("ABCDE1F"), "ABCDE1F", keepInMemory);
    if (read.outcome !== "read") throw new Error(`it was ${read.outcome}`);
    expect(read.settled).toBe(false);
    const done = read.facts.recipients.filter((recipient) => recipient.done).map(({ address }) => address);
    expect(done.length).toBeGreaterThan(5);
    expect(done.filter((address) => !bouncedIn(read).has(address))).toEqual([]);
  });

  /** @param pauseMs of the agent after each recipient */
  async function whileAgentWorks(
    ids: readonly string[],
    pauseMs: number,
    act: (reading: (id: string) => ReadMessage) => void,
  ): Promise<void> {
    const jobs = join(queueDirectory, "jobs");
    writeFileSync(jobs, JSON.stringify(ids.map(jobOf)));
    const agent = spawn(process.execPath, ["-e", agentAtWork, jobs, String(pauseMs)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let between = 0;
    const reading = (id: string) => {
      const read = readMessage(places, path(id), id, keepInMemory);
      if (read.outcome !== "read") throw new Error(`${id} was ${read.outcome}`);
      const done = read.facts.recipients.filter((recipient) => recipient.done).map(({ address }) => address);
      const bounced = bouncedIn(read);
      expect(done.filter((address) => !bounced.has(address))).toEqual([]);
      if (done.length > 0 && done.length < read.facts.recipients.length) between++;
      return read;
    };
    try {
      await new Promise((resolve) => agent.stdout.once("data", resolve));
      act(reading);
      expect(between).toBeGreaterThan(10);
    } finally {
      agent.kill("SIGKILL");
    }
  }

  test("reads by descriptor: a rename meanwhile changes nothing but that it says so", () => {
    place("ABCDE1F", 2);
    expect(readMessage(places, path("ABCDE1F"), "ABCDE1F", keepInMemory)).toMatchObject({
      outcome: "read",
      settled: true,
      facts: { recipients: [{ done: false }, { done: false }] },
    });
    renameSync(path("ABCDE1F"), join(queueDirectory, "deferred", "ABCDE1F"));
    expect(readMessage(places, path("ABCDE1F"), "ABCDE1F", keepInMemory)).toEqual({ outcome: "moved" });
  });

  test("takes nothing that isn't complete", () => {
    place("ABCDE1F", 1);
    for (const mode of [0o600, 0o400, 0o500]) {
      chmodSync(path("ABCDE1F"), mode);
      expect(readMessage(places, path("ABCDE1F"), "ABCDE1F", keepInMemory)).toEqual({ outcome: "incomplete" });
    }
    for (const mode of [0o700, 0o740, 0o710, 0o744]) {
      chmodSync(path("ABCDE1F"), mode);
      expect(readMessage(places, path("ABCDE1F"), "ABCDE1F", keepInMemory)).toMatchObject({ outcome: "read" });
    }
  });

  test("reads a large one through its descriptor, the same", () => {
    place("ABCDE1F", 3);
    const small = readMessage(places, path("ABCDE1F"), "ABCDE1F", keepInMemory);
    const large = readMessage(places, path("ABCDE1F"), "ABCDE1F", 0);
    expect({ ...large, stat: null }).toEqual({ ...small, stat: null, bytes: null });
  });

  function path(id: string): string {
    return join(queueDirectory, "active", id);
  }

  function place(id: string, recipients: number): void {
    const list = Array.from({ length: recipients }, (_, n) => [`r${n}@dest.test`, false] as const);
    writeFileSync(path(id), queueFile(messageRecords({ recipients: list })));
    chmodSync(path(id), 0o700);
  }

  function jobOf(id: string) {
    const { recipients } = readQueueFile(bufferSource(readFileSync(path(id))));
    return { message: path(id), log: join(queueDirectory, "bounce", id), recipients };
  }
});

function mark(path: string, offset: number): void {
  const fd = openSync(path, "r+");
  writeSync(fd, "D", offset);
  closeSync(fd);
}

function bouncedIn(read: ReadMessage): Set<string> {
  const text = read.logs.find((log) => log.log === "bounce")?.bytes.toString() ?? "";
  return new Set([...text.matchAll(/^recipient=(.*)$/gm)].map(([, address = ""]) => address));
}

/**
 * Does what a delivery agent does with recipients that fail (`bounce_append`, then `deliver_completed`): the record in the
 * bounce log, then the mark in the message; recipient after recipient, of one message and another.
 */
const agentAtWork = `
const fs = require("node:fs");
const jobs = JSON.parse(fs.readFileSync(process.argv[1])).map(({ message, log, recipients }) => ({
  message: fs.openSync(message, "r+"), log: fs.openSync(log, "a"), left: recipients }));
process.stdout.write("at work\\n");
while (jobs.length > 0) {
  const at = Math.floor(Math.random() * jobs.length);
  const job = jobs[at];
  const { address, offset } = job.left.shift();
  fs.writeSync(job.log, "<" + address + ">: no such user\\nrecipient=" + address + "\\noffset=" + offset + "\\n\\n");
  fs.writeSync(job.message, "D", offset);
  if (job.left.length === 0) jobs.splice(at, 1);
  for (const until = performance.now() + Number(process.argv[2]); performance.now() < until; );
}`;
