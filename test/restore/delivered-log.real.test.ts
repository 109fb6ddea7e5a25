import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import type { BackupReport } from "../../src/backup/backup.ts";
import type { RestoreReport } from "../../src/restore/report.ts";
import { restoreInto } from "../../src/restore/restore.ts";
import type { Manifest } from "../../src/snapshot/manifest.ts";
import type { CaptureMode } from "../../src/snapshot/snapshot.ts";
import { spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { comeBack, Primary } from "../support/primary.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { allTried, undelivered } from "../support/undelivered.ts";
import { restoreJob } from "./into.ts";

describe.skipIf(!needs("root", "postfix"))("a primary that lived on after its snapshot, and its log", () => {
  const seed = chooseSeed("delivered-log");

  test.concurrent("without the log everybody left is in doubt; with it, nobody gets a message twice or not at all", async () => {
    await using primary = await Primary.start(new Random(seed));
    const { taken, manifest } = await liveAndDie(primary, "hold");
    await using blind = await PrivatePostfix.create({ sink: primary.sink });
    const withoutLog = await restored(primary, taken, blind);
    const left = pairsLeft(manifest);
    expect(pairs(withoutLog.inDoubt)).toEqual(left);
    expect(withoutLog.alreadyDelivered).toEqual([]);
    expect(withoutLog.bound.sentence).toContain("lost 0 of the snapshot;");
    expect(withoutLog.bound.sentence).toContain(`possibly twice: ${left.length}`);

    await using standby = await PrivatePostfix.create({ sink: primary.sink });
    const report = await restored(primary, taken, standby, [write(primary, "mail.log", primary.postfix.log())]);
    expect(ofLogs(report)).toEqual([]);
    expectAccounted(report, left);
    await deliverRest(primary, standby, report);
    expect(mistakes(primary, manifest, report)).toEqual([]);
    expect(missingLater(primary, manifest, report)).toEqual([]);
  });

  test.concurrent("through a content filter, by the command line from the journal's JSON", async () => {
    await using primary = await Primary.start(new Random(seed + 1), {}, "own");
    const { taken, manifest } = await liveAndDie(primary, "live");
    const log = write(primary, "journal.json", journal(primary.postfix.log()));
    await using standby = await PrivatePostfix.create({ sink: primary.sink });
    if (primary.filter !== undefined) comeBack(standby, primary.filter);
    const { code, json, stderr } = await spoolsafe([
      ...["restore", taken.id, "--into", standby.configDirectory, "--delivered-log", log, "--json"],
      ...["--config", primary.site.configure([standby])],
      ...["--identity-file", join(primary.site.directory, "identity.txt")],
    ]);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    const summary = json.at(-1) as unknown as Summary;
    expect(summary).toMatchObject({ type: "summary", deleted: 0 });
    expect(ofLogs(summary)).toEqual([]);
    expect(summary.alreadyDelivered).toBeGreaterThan(0);
    await deliverRest(primary, standby, summary);
    expect(mistakes(primary, manifest, summary)).toEqual([]);
  });

  test.concurrent("through a filter, from rotated files in any order that another instance's mail is in, with the same ids", async () => {
    await using primary = await Primary.start(new Random(seed + 2), { name: "postfix-mx" }, "after");
    const { taken, manifest } = await liveAndDie(primary, "live");
    const files = rotated(primary, withOtherInstance(primary.postfix.log()));
    await using standby = await PrivatePostfix.create({ sink: primary.sink });
    if (primary.filter !== undefined) comeBack(standby, primary.filter);
    const report = await restored(primary, taken, standby, files);
    expect(ofLogs(report)).toEqual([]);
    expectAccounted(report, pairsLeft(manifest));
    await deliverRest(primary, standby, report);
    expect(mistakes(primary, manifest, report)).toEqual([]);
  });

  test.concurrent("a hole of 30 seconds in the log: what was delivered in it is in doubt, and nothing twice", async () => {
    await using primary = await Primary.start(new Random(seed + 3));
    primary.sink.set("slow.test", { rcpt: "450 4.2.0 closed" });
    await primary.send(40, ["slow", "defer", "good", "much-later"]);
    await delay(1000);
    const taken = await primary.snapshot("live");
    const manifest = await primary.site.manifest(taken);
    const from = Math.ceil(Date.now() / 1000) + 4;
    const to = from + 30;
    while (Date.now() / 1000 < to + 4) {
      if (Date.now() / 1000 > from + 8) primary.sink.set("slow.test", {});
      await primary.send(1);
      await delay(200 + primary.random.below(300));
    }
    await primary.crash();
    const lines = primary.postfix.log().split("\n");
    const cut = write(primary, "cut.log", lines.filter((line) => timeOf(line) < from || timeOf(line) >= to).join("\n"));
    await using standby = await PrivatePostfix.create({ sink: primary.sink });
    const report = await restored(primary, taken, standby, [cut]);
    expect(report.warnings).toContainEqual(expect.stringMatching(/^lines are missing in the logs from /));
    // Perhaps all that was delivered of the snapshot was delivered in the hole.
    expectAccounted(report, pairsLeft(manifest), 0);
    const inTheHole = report.inDoubt.filter(({ recipient }) => recipient.endsWith("@slow.test"));
    expect(inTheHole.length).toBeGreaterThan(5);
    await deliverRest(primary, standby, report);
    expect(mistakes(primary, manifest, report)).toEqual([]);
  });
});

type Summary = Pick<RestoreReport, "inDoubt" | "warnings"> & { readonly alreadyDelivered: number };
type Doubtful = Pick<RestoreReport, "inDoubt">;

/** Mail flows, a snapshot is taken, mail flows on, and in the middle of it all is killed. */
async function liveAndDie(primary: Primary, mode: CaptureMode): Promise<{ taken: BackupReport; manifest: Manifest }> {
  await primary.send(50);
  await delay(primary.random.below(1000));
  // What is handed on or bounces while the backup reads is in it twice.
  const flowing = primary.send(30);
  const taken = await primary.snapshot(mode);
  await flowing;
  const manifest = await primary.site.manifest(taken);
  expect(manifest.messages.length).toBeGreaterThan(10);
  await primary.send(20);
  await delay(2000 + primary.random.below(3000));
  const sending = primary.send(30).catch(() => {});
  await delay(200 + primary.random.below(800));
  await primary.crash();
  await sending;
  return { taken, manifest };
}

async function restored(
  primary: Primary,
  taken: BackupReport,
  target: PrivatePostfix,
  deliveredLog: readonly string[] = [],
): Promise<RestoreReport> {
  await using job = await restoreJob(primary.site, taken, target);
  return await restoreInto({ ...job, deliveredLog, stateDirectory: join(target.directory, "state") });
}

/** Warnings that say a log is less than it should be. */
function ofLogs({ warnings }: Pick<RestoreReport, "warnings">): string[] {
  return warnings.filter((warning) => /\blogs?\b|\blines\b|time zone/.test(warning));
}

/** Start the second instance and let it deliver, now that all sites take mail; what is in doubt stays where it is. */
async function deliverRest(primary: Primary, standby: PrivatePostfix, { inDoubt }: Doubtful): Promise<void> {
  for (const domain of ["slow", "later", "much-later", "defer"]) primary.sink.set(`${domain}.test`, {});
  await standby.start();
  await allTried(standby);
  expect(undelivered(standby).sort()).toEqual(inDoubt.map(({ recipient }) => recipient).sort());
}

/** Every recipient left in the snapshot is served, in doubt, or placed to be delivered. */
function expectAccounted(
  { alreadyDelivered, inDoubt, bound }: RestoreReport,
  left: readonly string[],
  leastDone = 1,
): void {
  const counts = { ...bound.counts, done: alreadyDelivered.length, inDoubt: inDoubt.length };
  expect(bound.counts).toEqual(counts);
  expect(counts.done).toBeGreaterThanOrEqual(leastDone);
  expect(counts.done + counts.inDoubt + (bound.counts?.deliver ?? 0)).toBe(left.length);
}

/** Recipients of the snapshot that have got their message more than once, or not at all although they are not in doubt. */
function mistakes(primary: Primary, { messages }: Manifest, { inDoubt }: Doubtful): string[] {
  const doubtful = new Set(pairs(inDoubt));
  return messages.flatMap(({ queueId, sender, messageId, recipients }) =>
    recipients.flatMap(({ address }) => {
      const got = primary.got(messageId, address).length;
      const refused = address.endsWith("@bounce.test");
      const served = refused ? primary.noticed(sender) > 0 : got === 1;
      const right = got <= 1 && (served || doubtful.has(pair({ queueId, recipient: address })));
      return right ? [] : [`${queueId} ${messageId} ${address} came ${got} times`];
    }),
  );
}

/** Letters accepted after the snapshot that somebody has not got, and that are not listed. */
function missingLater(primary: Primary, { messages }: Manifest, { bound }: RestoreReport): string[] {
  const known = new Set(messages.map(({ messageId }) => messageId));
  const listed = new Set(bound.acceptedLater.map(({ messageId }) => messageId));
  // Of the last letters some were not accepted when Postfix was killed.
  return primary.letters.slice(0, -30).flatMap(({ messageId, recipients }) => {
    const waiting = recipients.filter(
      (one) => !one.endsWith("@bounce.test") && primary.got(messageId, one).length === 0,
    );
    return waiting.length === 0 || known.has(messageId) || listed.has(messageId) ? [] : [messageId];
  });
}

function pairsLeft({ messages }: Manifest): string[] {
  const left = messages.flatMap(({ queueId, recipients }) =>
    recipients.flatMap(({ address, done }) => (done ? [] : [{ queueId, recipient: address }])),
  );
  return pairs(left);
}

function pairs(list: readonly { readonly queueId: string; readonly recipient: string }[]): string[] {
  return list.map(pair).sort();
}

function pair({ queueId, recipient }: { readonly queueId: string; readonly recipient: string }): string {
  return `${queueId} ${recipient}`;
}

function write(primary: Primary, name: string, content: string | Buffer): string {
  const path = join(primary.site.directory, name);
  writeFileSync(path, content);
  return path;
}

/** In three files of a rotated set, not in their order. */
function rotated(primary: Primary, log: string): string[] {
  const lines = log.split(/(?<=\n)/);
  const third = Math.ceil(lines.length / 3);
  const part = (number: number) => Buffer.from(lines.slice(number * third, (number + 1) * third).join(""));
  return [
    write(primary, "mail.log.1.zst", zstdCompressSync(part(1))),
    write(primary, "mail.log", part(2)),
    write(primary, "mail.log.2.gz", gzipSync(part(0))),
  ];
}

/** As if an instance beside this one had made the same queue ids, for other mail, and delivered all of it. */
function withOtherInstance(log: string): string {
  return log
    .split(/(?<=\n)/)
    .flatMap((line) => {
      const other = line
        .replace(" postfix-mx/", " postfix-other/")
        .replace(" postfix/reinject/", " postfix-other/reinject/")
        .replace("@letters.test", "@others.test")
        .replace(/from=<[^>]*>/, "from=<other@other.test>")
        .replace(/status=deferred \(.*\)/, "status=sent (250 2.0.0 Ok)");
      return [other, line];
    })
    .join("");
}

/** As `journalctl -o json` prints it. */
function journal(log: string): string {
  return log
    .split("\n")
    .flatMap((line) => {
      const [, identifier, pid, message] = /^.{15} \S+ (\S+)\[(\d+)\]: (.*)$/.exec(line) ?? [];
      if (identifier === undefined) return [];
      const time = String(timeOf(line) * 1e6);
      return [
        JSON.stringify({
          __REALTIME_TIMESTAMP: time,
          SYSLOG_IDENTIFIER: identifier,
          SYSLOG_PID: pid,
          MESSAGE: message,
        }),
      ];
    })
    .join("\n");
}

/** Seconds since 1970 of a line this host wrote this year, in its zone. */
function timeOf(line: string): number {
  return new Date(`${line.slice(0, 6)} ${new Date().getFullYear()} ${line.slice(7, 15)}`).getTime() / 1000;
}
