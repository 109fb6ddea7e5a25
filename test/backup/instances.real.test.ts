import { mkdirSync, symlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { tryLock } from "../../src/system/lock.ts";
import { writersOf } from "../../src/system/processes.ts";
import { builtProgram, spoolsafe } from "../support/cli.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { killQuietly } from "../support/scratch.ts";
import { Site } from "../support/site.ts";

const supported = needs("root", "postfix");

describe.skipIf(!supported)("several instances", () => {
  test("are one snapshot: each in its own mode, equal queue ids apart", async () => {
    await using site = await Site.make();
    await using running = await PrivatePostfix.create({ name: "postfix-out" });
    await using stopped = await PrivatePostfix.create({ name: "postfix-in" });
    await fillDeferred(running, 30, 1);
    await fillDeferred(stopped, 20, 2);
    // A copy of the other queue's message under its id; the inode doesn't fit, and nobody who runs looks at it.
    const [twin = ""] = running.files("deferred");
    const place = join(stopped.queueDirectory, "hold", basename(twin));
    await stopped.run("cp", ["-p", twin, place]);
    await running.start();
    const config = site.configure([running, stopped]);
    const result = await spoolsafe(["backup", "--config", config, "--json"]);
    expect(result.code).toBe(0);
    expect(result.json.at(-1)).toMatchObject({
      type: "summary",
      mode: "hold",
      messages: { total: 51, deferred: 50, hold: 1, inFlight: 0 },
      hold: { held: 30, released: 30 },
    });
    const modes = result.json.filter((line) => line.type === "mode").map((line) => [line.instance, line.mode]);
    expect(modes).toEqual([
      ["postfix-out", "hold"],
      ["postfix-in", "stopped"],
    ]);
    const [ref] = await site.repository.snapshotRefs();
    if (ref === undefined) throw new Error("there is no snapshot");
    const { snapshot } = await site.repository.load(ref);
    expect(snapshot.instances).toMatchObject([
      { name: "postfix-out", running: true, mode: "hold", messages: { total: 30, deferred: 30 } },
      { name: "postfix-in", running: false, mode: "stopped", messages: { total: 21, deferred: 20, hold: 1 } },
    ]);
    const { messages, files } = await site.manifest({ snapshot });
    const twins = messages.filter((message) => message.queueId === basename(twin));
    expect(twins.map((message) => [message.instance, message.queue]).sort()).toEqual([
      ["postfix-in", "hold"],
      ["postfix-out", "deferred"],
    ]);
    for (const postfix of [running, stopped]) {
      expect(files.map((file) => file.path)).toContain(join(postfix.configDirectory, "main.cf"));
    }
    const one = await spoolsafe(["backup", "--config", config, "--instance", "postfix-in", "--json"]);
    expect(one.json.at(-1)).toMatchObject({ type: "summary", mode: "stopped", messages: { total: 21 } });
  });

  test.skipIf(!needs("mount-namespace"))("are all found by postmulti where none is named", async () => {
    await using site = await Site.make();
    await using second = await PrivatePostfix.create({ name: "postfix-second" });
    await using main = await PrivatePostfix.start({
      main: { multi_instance_enable: "yes", multi_instance_directories: second.configDirectory },
    });
    await main.submit([plainLetter({ recipients: ["a@refused.test"] })]);
    await main.settled();
    await second.sendmail(plainLetter({ recipients: ["b@refused.test"] }));
    const config = site.configure([]);
    const program = [process.execPath, join(builtProgram(), "spoolsafe.js"), "backup", "--config", config, "--json"];
    // Bound over /etc/postfix in a mount namespace of the program's own: nobody else sees it.
    const script = 'mount --bind "$0" /etc/postfix && exec env --unset=MAIL_CONFIG "$@"';
    const words = ["--mount", "sh", "-c", script, main.configDirectory, ...program];
    const { code, stdout, stderr } = await main.run("unshare", words);
    expect(code, stderr + stdout).toBe(0);
    const json = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(json.filter((line) => line.type === "mode").map((line) => [line.instance, line.mode])).toEqual([
      ["etc_postfix", "hold"],
      ["postfix-second", "stopped"],
    ]);
    expect(json.at(-1)).toMatchObject({ messages: { total: 2, deferred: 1, maildrop: 1 } });
  });
});

describe.skipIf(!supported)("the run lock", () => {
  test("lets one run at a time at a queue, whatever name it is reached by, and goes with its holder", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 20, 1);
    await postfix.start();
    const config = site.configure([postfix]);
    const other = join(postfix.directory, "elsewhere");
    symlinkSync(postfix.queueDirectory, other);
    const lock = await tryLock(other);
    if (lock === undefined) throw new Error("the lock was taken already");
    try {
      for (const command of [["backup"], ["holds", "release"]]) {
        const result = await spoolsafe([...command, "--config", config, "--json"]);
        expect(result.code).toBe(11);
        expect(result.json.at(-1)).toMatchObject({ type: "error", kind: "locked", exit: 11 });
      }
      expect(await site.repository.snapshotRefs()).toEqual([]);
      expect(postfix.log()).not.toContain("placed on hold");
    } finally {
      await lock.release();
    }
    expect((await spoolsafe(["backup", "--config", config])).code).toBe(0);
    // The same directory by its other name, with the lock held by the first.
    const instance = { ...(await loadInstance(postfix.configDirectory)), queueDirectory: other };
    const held = await tryLock(postfix.queueDirectory);
    await expect(site.backup(postfix, { instances: [instance] })).rejects.toMatchObject({ kind: "locked" });
    await held?.release();
    expect((await site.backup(postfix, { instances: [instance] })).snapshot.messages).toMatchObject({ total: 20 });
  });

  test("ends a run that loses it", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 600, 1);
    await postfix.start();
    let holders: number[] = [];
    const report = (event: { type: string }) => {
      if (event.type !== "mode") return;
      // The children that hold the lock for it are killed by somebody.
      holders = writersOf([postfix.queueDirectory]);
      for (const pid of holders) killQuietly(pid);
    };
    const failed = site.backup(postfix, { holdBatch: 20, report });
    await expect(failed).rejects.toThrow(OperatorError);
    await expect(failed).rejects.toThrow(/the lock of .* was lost/);
    expect(holders).not.toEqual([]);
    expect(postfix.files("hold")).toEqual([]);
    expect(await site.repository.snapshotRefs()).toEqual([]);
  });

  test("goes with a run that is killed", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 400, 1);
    await postfix.start();
    const config = site.configure([postfix], { hold_batch: 20 });
    mkdirSync(join(site.stateDirectory, "holds"));
    const killed = await spoolsafe(["backup", "--config", config], {
      meanwhile: (child) => {
        const onHold = () => postfix.files("hold").length > 0;
        void until(onHold, { everyMs: 2, timeoutMs: 50_000 }).then(() => child.kill("SIGKILL"));
      },
    });
    expect(killed.signal).toBe("SIGKILL");
    const next = await spoolsafe(["backup", "--config", config, "--json"]);
    expect(next.json.at(-1)).toMatchObject({ type: "summary", messages: { total: 400, deferred: 400 } });
    expect(postfix.files("hold")).toEqual([]);
  });
});
