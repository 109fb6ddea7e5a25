import { readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { spoolsafe } from "../support/cli.ts";
import { chooseSeed, fillMixed, mixedSink, Random } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import type { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";

/*
 * Postfix's own qshape counts the queue, and ours the snapshot of it, at the same moment: they print the same. The queue is
 * stopped, and its mail has been made to look up to three days old.
 */

describe.skipIf(!needs("root", "postfix"))("qshape of a snapshot and Postfix's qshape of the queue", () => {
  let sink: Sink;
  let postfix: PrivatePostfix;
  let site: Site;
  let config: string;
  let now: number;

  beforeAll(async () => {
    sink = await mixedSink();
    const resting = { minimal_backoff_time: "1h", maximal_backoff_time: "2h", queue_run_delay: "1h" };
    postfix = await PrivatePostfix.start({ sink, main: resting });
    site = await Site.make();
    await fillMixed(postfix, { messages: 60 });
    await postfix.stop();
    spreadArrivals(postfix);
    const { snapshot } = await site.backup(postfix);
    now = Math.floor(Date.parse(snapshot.time) / 1000);
    config = site.configure([postfix]);
  });
  afterAll(async () => {
    postfix?.destroy();
    await site?.[Symbol.asyncDispose]();
    await sink?.close();
  });

  /** Postfix's program as it is, by a clock that stands at the time of the snapshot. */
  async function theirs(args: readonly string[]): Promise<string> {
    const still = `BEGIN { *CORE::GLOBAL::time = sub () { ${now} } } my $program = shift @ARGV; do $program; die $@ if $@;`;
    const { code, stdout, stderr } = await postfix.run("perl", ["-e", still, "/usr/sbin/qshape", ...args]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    return stdout;
  }

  async function ours(args: readonly string[]): Promise<string> {
    const identity = join(site.directory, "identity.txt");
    const { code, stdout } = await spoolsafe([
      "qshape",
      "latest",
      ...args,
      "--config",
      config,
      "--identity-file",
      identity,
    ]);
    expect(code).toBe(0);
    return stdout;
  }

  test.each(
    [
      [],
      ["deferred"],
      ["hold", "deferred", "active", "incoming"],
      ["-s", "deferred"],
      ["-s", "-b", "6", "-t", "30", "deferred", "hold"],
      ["-l", "-b", "12", "-t", "240", "deferred"],
      ["-b", "1", "deferred"],
    ].map((given) => ({ given })),
  )("print the same: $given", async ({ given }) => {
    const [their, our] = [sortedTies(await theirs(given)), sortedTies(await ours(given))];
    expect(our).toEqual(their);
    expect(their.length).toBeGreaterThan(2);
  });

  test("of maildrop ours counts what theirs can't read: its files begin with a time, as postdrop(1) writes them today", async () => {
    const waiting = postfix.files("maildrop").length;
    expect(waiting).toBeGreaterThan(0);
    expect(await ours(["maildrop"])).toMatch(new RegExp(`^ +good\\.test +${waiting} +${waiting} `, "m"));
    expect(await theirs(["maildrop"])).toMatch(/^ +TOTAL +0 /m);
  });
});

/** qshape leaves lines of equal counts and length in an order that changes from run to run. */
function sortedTies(text: string): string[] {
  const [head = "", total = "", ...domains] = text.trimEnd().split("\n");
  const rank = (line: string) => {
    const [name = "", count = ""] = line.trim().split(/ +/);
    return [-Number(count), name.length] as const;
  };
  const sorted = domains.toSorted((a, b) => {
    const [[countA, lengthA], [countB, lengthB]] = [rank(a), rank(b)];
    return countA - countB || lengthA - lengthB || (a < b ? -1 : 1);
  });
  expect(domains.map(rank)).toEqual(sorted.map(rank));
  return [head, total, ...sorted];
}

/** Arrival, as the T record behind the first has it, up to three days earlier; most of them within hours. */
function spreadArrivals(postfix: PrivatePostfix): void {
  const random = new Random(chooseSeed("arrivals"));
  for (const file of ["incoming", "active", "deferred", "hold"].flatMap((queue) => postfix.files(queue))) {
    const { atime, mtime } = statSync(file);
    const earlier = Math.floor(2 ** (18 * random.next()));
    const text = readFileSync(file, "latin1");
    const older = text.replace(/(?<=T.)\d{10}(?= \d)/s, (time) => String(Number(time) - earlier));
    expect(older).not.toBe(text);
    writeFileSync(file, Buffer.from(older, "latin1"));
    utimesSync(file, atime, mtime);
  }
}
