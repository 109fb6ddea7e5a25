import { appendFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { systemClock } from "../../src/system/clock.ts";
import { spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { destroyScratch, makeScratch, processesOf } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { drill } from "./drilling.ts";

/*
 * Drills on hosts that lack something: powers of root, room on a disk.
 */

describe.skipIf(!needs("root", "postfix", "flock", "mount-namespace"))("on another host", () => {
  const scratch = makeScratch();
  let site: Site | undefined;
  const command = () => {
    if (site === undefined) throw new Error("nothing was backed up");
    const config = ["--config", site.configure([]), "--identity-file", join(site.directory, "identity.txt")];
    return ["drill", "--json", ...config];
  };

  beforeAll(async () => {
    site = await Site.make();
    await using sink = await Sink.start({ domains: { "defer.test": { rcpt: "450 4.2.0 try later" } } });
    const resting = { minimal_backoff_time: "1h", maximal_backoff_time: "2h", queue_run_delay: "1h" };
    await using postfix = await PrivatePostfix.start({ sink, main: resting });
    const [sent] = await postfix.submit([plainLetter({ recipients: ["one@defer.test"] })]);
    await until(() => postfix.find(sent?.queueId ?? "")?.includes("/deferred/") === true, { what: "deferred mail" });
    await postfix.stop();
    await postfix.sendmail(plainLetter({ recipients: ["two@far.test"] }));
    await site.backup(postfix);
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    destroyScratch(scratch);
  });

  test("with no more powers than a container has by default, all of it ends with the drill", async () => {
    const { code, json, stderr } = await spoolsafe([...command(), "--deliver", "--work-directory", scratch], {
      timeoutMs: 120_000,
      under: ["setpriv", `--bounding-set=-all,${containers.map((name) => `+${name}`).join(",")}`],
    });
    expect(processesOf(scratch)).toEqual([]);
    expect(readdirSync(scratch).filter((name) => name.startsWith("spoolsafe-drill-"))).toEqual([]);
    expect({ code, stderr, last: json.at(-1) }).toMatchObject({
      code: 0,
      last: { type: "summary", ok: true, deviations: [], outsideConnections: null, delivered: { identical: 2 } },
    });
  });

  test("a log that is not as it was saved is a deviation: its sender would be told something else", async () => {
    if (site === undefined) throw new Error("nothing was backed up");
    const changed: string[] = [];
    const facts = await drill(site, {
      ...{ workDirectory: scratch, deliver: false },
      report: (event) => {
        if (event.type !== "phase" || event.phase !== "check") return;
        const entries = readdirSync(scratch, { recursive: true, withFileTypes: true });
        const logs = entries.filter((entry) => entry.isFile() && /\/spool\/defer(\/|$)/.test(entry.parentPath));
        for (const { parentPath, name } of logs) appendFileSync(join(parentPath, name), "\n");
        changed.push(...logs.map(({ name }) => name));
      },
    });
    expect(changed).toHaveLength(1);
    expect(facts).toMatchObject({ ok: false, failure: null });
    expect(facts.deviations).toEqual([expect.stringContaining("logs: 0 of 1 bounce, defer and trace logs")]);
  });

  test("without room for it it fails with a report, and leaves nothing", async () => {
    if (site === undefined) throw new Error("nothing was backed up");
    const small = makeScratch({ tmpfs: "40k" });
    try {
      const { failure, ok } = await drill(site, { workDirectory: small, deliver: false });
      expect({ failure, ok }).toMatchObject({
        failure: { kind: "failed", message: expect.stringContaining("ENOSPC") },
        ok: false,
      });
      expect(readdirSync(small).filter((name) => name.startsWith("spoolsafe-drill-"))).toEqual([]);
      expect(processesOf(small)).toEqual([]);
    } finally {
      destroyScratch(small);
    }
  });

  test("a clock that is wrong, and is set meanwhile, makes no drill quick and no snapshot fresh", async () => {
    if (site === undefined) throw new Error("nothing was backed up");
    let behindMs = 24 * 3_600_000;
    const facts = await drill(site, {
      ...{ workDirectory: scratch, deliver: false, targets: { rpo: 3_600_000, rto: 100 } },
      clock: { ...systemClock, now: () => systemClock.now() - behindMs },
      report: (event) => {
        if (event.type === "phase" && event.phase === "ready") behindMs += 600_000;
      },
    });
    expect(facts.targets).toEqual({ rpo: { seconds: 3600, met: false }, rto: { seconds: 0, met: false } });
    expect(facts.rpoSeconds).toBeNull();
    expect(facts.rtoSeconds).toBeGreaterThan(0);
    expect(Date.parse(facts.ended)).toBeGreaterThan(Date.parse(facts.started));
    expect(facts.deviations).toEqual(["the snapshot is of later than now: a clock is wrong, there or here"]);
  });
});

/** What Docker leaves of root's powers: neither CAP_SYS_ADMIN nor CAP_SYS_PTRACE. */
const containers = [
  ...["audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod", "net_bind_service", "net_raw"],
  ...["setfcap", "setgid", "setpcap", "setuid", "sys_chroot"],
];
