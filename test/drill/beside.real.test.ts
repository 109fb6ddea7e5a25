import { appendFileSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeCalendar } from "../../src/schedule/expression.ts";
import { daemonUnits } from "../../src/schedule/units.ts";
import { drillPhases } from "../../src/snapshot/drill.ts";
import { spoolsafe } from "../support/cli.ts";
import { fingerprints } from "../support/compare.ts";
import { chooseSeed, Random } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { destroyScratch, makeScratch, processesOf } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { drill } from "./drilling.ts";
import { Trap, withHeader } from "./trap.ts";

/*
 * Drills beside what else goes on: a production Postfix with mail that leads out, a backup of it, each other; and drills that
 * are killed.
 */

const long = process.env.SPOOLSAFE_LONG === "1";

describe.skipIf(!needs("root", "postfix", "flock", "mount-namespace"))("beside a Postfix that runs", () => {
  // A short path: Postfix connects to sockets below it.
  const scratch = makeScratch({ parent: "/var/tmp" });
  let sink: Sink | undefined;
  let trap: Trap | undefined;
  let site: Site | undefined;
  let postfix: PrivatePostfix | undefined;
  const used = () => {
    if (trap === undefined || site === undefined || postfix === undefined) throw new Error("nothing was made");
    return { trap, site, postfix };
  };

  beforeAll(async () => {
    sink = await Sink.start({ domains: { "defer.test": { rcpt: "450 4.2.0 try later" } } });
    trap = await Trap.open();
    site = await Site.make();
    const resting = { minimal_backoff_time: "1h", maximal_backoff_time: "2h", queue_run_delay: "1h" };
    postfix = await PrivatePostfix.start({ sink, main: { ...resting, ...trap.leadHere(scratch) } });
    const letters = Array.from({ length: 16 }, (_, at) =>
      withHeader(
        plainLetter({ recipients: [`one${at}@outside.test`, `two${at}@defer.test`] }),
        ["X-Filtered: yes", "X-Redirected: yes", "X-Other: yes"][at % 3] ?? "",
      ),
    );
    const sent = await postfix.submit(letters);
    const { find } = { find: postfix.find.bind(postfix) };
    await until(() => sent.every(({ queueId }) => find(queueId)?.includes("/deferred/")), { what: "deferred mail" });
    await site.backup(postfix);
  });
  afterAll(async () => {
    postfix?.destroy();
    await site?.[Symbol.asyncDispose]();
    await trap?.[Symbol.asyncDispose]();
    await sink?.close();
    destroyScratch(scratch);
  });

  const expectNothingLeft = () => {
    expect(readdirSync(scratch).filter((name) => name.startsWith("spoolsafe-drill-"))).toEqual([]);
    expect(processesOf(scratch)).toEqual([]);
    expect(readFileSync("/proc/self/mounts", "utf8")).not.toContain("spoolsafe-drill-");
  };

  test("two drills and a backup at once don't notice each other, nor does it notice them", async () => {
    const { trap, site, postfix } = used();
    const visitors = trap.visitors;
    const mail = fingerprints(postfix.queueDirectory);
    const log = postfix.log().length;
    const [one, other, { snapshot }] = await Promise.all([
      drill(site, { workDirectory: scratch }),
      // Where no network of its own can be made, its settings alone keep the mail in.
      drill(site, { workDirectory: scratch, network: "shared" }),
      site.backup(postfix, { mode: "hold" }),
    ]);
    expect(snapshot.messages).toMatchObject({ total: 16, vanished: 0, incomplete: 0 });
    for (const facts of [one, other]) {
      expect(facts.failure).toBeNull();
      expect(facts.deviations).toEqual([]);
      expect(facts.messages).toMatchObject({ manifest: 16, restored: 16, readable: 16, identical: 16, inQueue: 16 });
      expect(facts.delivered).toMatchObject({ messages: 16, identical: 16 });
      expect(facts.events.filter(({ type }) => type === "swept")).toEqual([]);
    }
    expect([one, other].map(({ isolation }) => isolation.outsideConnections)).toEqual([0, null]);
    expect(other.isolation.proofs.map(({ detail }) => detail).join(" ")).toContain("settings and services alone");
    expect(trap.visitors).toBe(visitors);
    expect(fingerprints(postfix.queueDirectory)).toEqual(mail);
    expect(postfix.running()).toBe(true);
    expect(postfix.log().slice(log)).not.toMatch(/drill|warning|fatal/);
    expectNothingLeft();
  });

  const seed = chooseSeed("phases in which drills are killed");
  const random = new Random(seed);
  // While it delivers, a Postfix of its own runs.
  const phases = long ? drillPhases : [random.pick(drillPhases.slice(0, -1)), "deliver"];

  test(`killed while it is busy with ${phases.join(", ")}, the next one takes away what is left`, {
    timeout: 600_000,
  }, async () => {
    const { site } = used();
    const config = ["--config", site.configure([]), "--identity-file", join(site.directory, "identity.txt")];
    const command = ["drill", "--deliver", "--json", "--work-directory", scratch, ...config];
    for (const phase of phases) {
      const { signal, stderr } = await spoolsafe(command, {
        timeoutMs: 120_000,
        meanwhile: (child) =>
          child.stdout?.on("data", (chunk: Buffer) => {
            const ms = phase === "deliver" ? 0 : random.below(300);
            if (chunk.toString().includes(`"phase":"${phase}"`)) setTimeout(() => child.kill("SIGKILL"), ms);
          }),
      });
      expect(signal, `${phase}: ${stderr}`).toBe("SIGKILL");
    }
    expect(readdirSync(scratch).filter((name) => name.startsWith("spoolsafe-drill-"))).toHaveLength(1);
    const { code, json, stderr } = await spoolsafe(command, { timeoutMs: 120_000 });
    expect(code, stderr).toBe(0);
    expect(json.filter(({ type }) => type === "swept")).toHaveLength(1);
    expect(json.at(-1)).toMatchObject({
      ...{ type: "summary", ok: true, outsideConnections: 0, deviations: [] },
      messages: { manifest: 16, restored: 16, readable: 16, identical: 16 },
      delivered: { messages: 16, identical: 16 },
    });
    const report = String(json.at(-1)?.report);
    expect(readFileSync(report, "utf8")).toContain("<!doctype html>");
    const record = JSON.parse(readFileSync(join(site.stateDirectory, "jobs", "drill.json"), "utf8"));
    expect(record).toMatchObject({ lastExit: 0, running: null, detail: { snapshot: json.at(-1)?.snapshot } });
    expectNothingLeft();
  });

  test("a missed target is exit 1, an interrupted drill 130, one without an identity 12; nothing is left of any", async () => {
    const { site } = used();
    const config = site.configure([]);
    appendFileSync(config, '[drill]\nrto = "1s"\n');
    const command = ["drill", "--json", "--work-directory", scratch, "--config", config];
    const identity = ["--identity-file", join(site.directory, "identity.txt")];
    const [missed, without, ended] = await Promise.all([
      // With no more than the units of `schedule install` leave of root's powers.
      spoolsafe([...command, ...identity], { timeoutMs: 120_000, under: ["setpriv", "--no-new-privs", ...bounding()] }),
      spoolsafe(command),
      spoolsafe([...command, ...identity], {
        timeoutMs: 120_000,
        meanwhile: (child) =>
          child.stdout?.on("data", (chunk: Buffer) => {
            if (chunk.toString().includes('"phase":"ready"')) child.kill("SIGTERM");
          }),
      }),
    ]);
    expect(ended.code, ended.stderr).toBe(130);
    expect(missed.code, missed.stderr).toBe(1);
    expect(missed.json.at(-1)).toMatchObject({
      ...{ type: "summary", ok: false, deviations: [], delivered: null },
      targets: { rto: { seconds: 1, met: false } },
      messages: { identical: 16 },
      outsideConnections: 0,
    });
    expect(without.code).toBe(12);
    expect(without.json.at(-1)).toMatchObject({ type: "error", kind: "no-identity", exit: 12 });
    expectNothingLeft();
  });
});

/** The capabilities the schedule's service has where drills are on it, as an argument of setpriv(1). */
function bounding(): string[] {
  const drills = { job: "drill", calendar: makeCalendar("0 5 1 * *", "UTC"), jitterMs: 0, catchUpMs: 0 } as const;
  const [unit] = daemonUnits({
    ...{ jobs: [drills], jitterMs: 0, program: ["spoolsafe"], options: [], writes: [] },
    configFile: "/etc/spoolsafe/spoolsafe.toml",
  });
  const named = /^CapabilityBoundingSet=(.*)$/m.exec(unit?.text ?? "")?.[1]?.split(" ") ?? [];
  return [`--bounding-set=-all,${named.map((name) => `+${name.slice(4).toLowerCase()}`).join(",")}`];
}
