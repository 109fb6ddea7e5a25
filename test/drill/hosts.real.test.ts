import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { systemClock } from "../../src/system/clock.ts";
import { spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { destroyScratch, makeScratch, processesOf } from "../support/scratch.ts";
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
    await using postfix = await PrivatePostfix.create({});
    for (const at of [0, 1]) await postfix.sendmail(plainLetter({ recipients: [`someone${at}@far.test`] }));
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
