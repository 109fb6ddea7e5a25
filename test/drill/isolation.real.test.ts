import { appendFileSync, mkdirSync, readFileSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DrillPostfix } from "../../src/drill/instance.ts";
import { checkPostfix, proveAfter, proveBefore, proveProcesses } from "../../src/drill/isolation.ts";
import { type DrillNetwork, openNetwork } from "../../src/drill/network.ts";
import { systemClock } from "../../src/system/clock.ts";
import { programPath } from "../../src/system/exec.ts";
import { needs } from "../support/needs.ts";
import { until } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Trap } from "./trap.ts";

/*
 * What tries to leave a drill: programs in its network, and a Postfix whose settings were spoilt so that they lead out, to a
 * listener on this host's loopback and to another host.
 */

describe.skipIf(!needs("root", "postfix", "flock", "mount-namespace"))("out of a drill's network", () => {
  // A short path: Postfix connects to sockets below it.
  const scratch = makeScratch({ parent: "/var/tmp" });
  let network: DrillNetwork | undefined;
  let trap: Trap | undefined;
  beforeAll(async () => {
    network = await openNetwork(scratch);
    trap = await Trap.open();
  });
  afterAll(async () => {
    await network?.close();
    await trap?.[Symbol.asyncDispose]();
    destroyScratch(scratch);
  });

  test("a spoilt Postfix sends nothing, and is found out before and after", async () => {
    if (network?.kind !== "own" || trap === undefined) throw new Error(`no network: ${network?.reason}`);
    const directory = join(scratch, "1");
    mkdirSync(directory, { mode: 0o711 });
    const postfix = DrillPostfix.make(directory, "drill0", {}, network);
    const instance = await postfix.load();
    expect(await checkPostfix(instance, network, undefined)).toMatchObject({ ok: true });
    expect((await proveBefore([postfix], network, undefined)).filter(({ ok }) => !ok)).toEqual([]);

    spoil(postfix, {
      default_transport: `smtp:[127.0.0.1]:${trap.port}`,
      transport_maps: "inline:{far.test=smtp:[203.0.113.9]}",
    });
    const proofs = await proveBefore([postfix], network, undefined);
    expect(proofs.filter(({ ok }) => !ok).map(({ name }) => name)).toEqual(["settings", "services"]);

    const env = { ...process.env, PATH: programPath(), MAIL_CONFIG: postfix.configDirectory };
    for (const address of ["near@near.test", "far@far.test"]) {
      await network.run("sendmail", ["-i", "-f", "me@near.test", "--", address], {
        input: "Subject: out\n\nout\n",
        env,
      });
    }
    await postfix.start(instance, systemClock);
    expect(proveProcesses(postfix, network)).toMatchObject([{ ok: true }]);
    const tried = (address: string) => readFileSync(postfix.logFile, "utf8").includes(`to=<${address}>`);
    await until(() => tried("near@near.test") && tried("far@far.test"), { what: "both attempts" });
    const log = readFileSync(postfix.logFile, "utf8");
    expect(log).toMatch(/to=<near@near\.test>.*status=deferred .*Connection refused/);
    expect(log).toMatch(/to=<far@far\.test>.*status=deferred .*Network is unreachable/);
    expect(trap.visitors).toBe(0);
    await postfix.stop(systemClock);
    expect(proveAfter(network)).toMatchObject([{ name: "connections outside loopback", ok: false }]);
  });

  test("a process that is in another network is seen", () => {
    expect(network?.holds(process.pid)).toBe(false);
  });

  test("a network with a way out is seen", async () => {
    const proofOf = async (interfaces: string[], routes: number) => {
      const other = { ...network, kind: "own", look: () => ({ interfaces, routes, listening: 0, attempts: 0 }) };
      const proofs = await proveBefore([], other as DrillNetwork, undefined);
      expect(proofs).toMatchObject([{ ok: true }, { ok: true }, { name: "network" }]);
      return proofs.at(-1);
    };
    expect(await proofOf(["lo", "eth0"], 0)).toMatchObject({ ok: false });
    expect(await proofOf(["lo"], 1)).toMatchObject({ ok: false });
    // What the kernel adds where its modules are loaded.
    const tunnels = await proofOf(["lo", "tunl0", "sit0"], 0);
    expect(tunnels).toMatchObject({ ok: true, detail: expect.stringContaining("that are down (tunl0, sit0)") });
    expect(await proofOf(["lo", "tunl0", "sit0"], 1)).toMatchObject({ ok: false });
  });
});

/** As nobody but a test does. */
function spoil(postfix: DrillPostfix, settings: Readonly<Record<string, string>>): void {
  const main = join(postfix.configDirectory, "main.cf");
  appendFileSync(
    main,
    Object.entries(settings)
      .map(([name, value]) => `${name} = ${value}\n`)
      .join(""),
  );
  utimesSync(main, 1_000_000_000, 1_000_000_000);
  appendFileSync(join(postfix.configDirectory, "master.cf"), "smtp unix - - n - - smtp\n");
}
