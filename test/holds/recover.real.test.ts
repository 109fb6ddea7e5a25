import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { uptime } from "node:os";
import { basename, join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { HoldJournal, postsuperOutput, readJournals } from "../../src/holds/journal.ts";
import { type HoldRecovery, recoverHolds } from "../../src/holds/recover.ts";
import { hold } from "../../src/postfix/control.ts";
import { loadInstance, type PostfixInstance } from "../../src/postfix/instance.ts";
import { systemClock } from "../../src/system/clock.ts";
import { writersOf } from "../../src/system/processes.ts";
import { spoolsafe } from "../support/cli.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, until } from "../support/postfix.ts";
import { Site } from "../support/site.ts";

describe.skipIf(!needs("root", "postfix"))("recovery of what a dead run held", () => {
  let site: Site;
  let postfix: PrivatePostfix;
  let instance: PostfixInstance;
  let admins: string[];

  beforeAll(async () => {
    site = await Site.make();
    postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 60, 1);
    await postfix.start();
    admins = deferred().slice(0, 3);
    await postfix.hold(admins);
    instance = await loadInstance(postfix.configDirectory);
  });

  afterEach(async () => {
    await postfix.release(onHold().filter((id) => !admins.includes(id)));
    rmSync(join(site.stateDirectory, "holds"), { recursive: true, force: true });
  });

  afterAll(async () => {
    postfix?.destroy();
    await site?.[Symbol.asyncDispose]();
  });

  test("waits for a postsuper that outlived its spoolsafe, and gives everything back after it", async () => {
    const config = site.configure([postfix]);
    const env = { PATH: `${stoppingPostsuper(site)}:${process.env.PATH ?? ""}` };
    const before = retryTimes();
    const all = deferred();
    const killed = await spoolsafe(["backup", "--config", config], {
      env,
      meanwhile: (child) => {
        void until(() => stopped() !== undefined, { everyMs: 5, timeoutMs: 50_000 }).then(() => child.kill("SIGKILL"));
      },
    });
    expect(killed.signal).toBe("SIGKILL");
    expect(onHold()).toHaveLength(admins.length + 20);
    await expect(recover({ waitMs: 300 })).rejects.toThrow(/postsuper \(pid \d+\) of an earlier run is still at work/);
    await expect(recover({ signal: AbortSignal.timeout(100) })).rejects.toThrow();
    expect(onHold()).toHaveLength(admins.length + 20);

    const recovering = recover({});
    const pid = stopped();
    if (pid === undefined) throw new Error("the postsuper of the dead run has ended");
    process.kill(pid, "SIGCONT");
    const [recovery] = await recovering;
    expect([...(recovery?.released ?? [])].sort()).toEqual(all);
    expect(recovery).toMatchObject({ stillHeld: [], unclear: [] });
    expect(onHold()).toEqual(admins);
    expect(retryTimes()).toEqual(before);
    expect(await recover({})).toEqual([]);
  });

  test("releases what postsuper had moved and not yet reported when it was killed", async () => {
    const ids = deferred().slice(0, 10);
    await killedAfter(5, ids);
    await postfix.hold(ids.slice(5, 6));
    expect(await recover({})).toMatchObject([{ released: ids.slice(0, 6), unclear: [] }]);
    expect(onHold()).toEqual(admins);
  });

  test("leaves what an administrator held later, and says so", async () => {
    const ids = deferred().slice(0, 10);
    await killedAfter(5, ids, 60_000);
    await postfix.hold(ids.slice(5, 6));
    expect(await recover({})).toMatchObject([{ released: ids.slice(0, 5), unclear: ids.slice(5, 6) }]);
    expect(onHold()).toEqual([...admins, ...ids.slice(5, 6)].sort());
  });

  test("leaves what postsuper had passed over and somebody held in the same moment", async () => {
    const ids = deferred().slice(0, 10);
    // The third wasn't in deferred when its turn came: the report goes on with the fourth.
    await killedAfter(5, ids, 0, (id) => id !== ids[2]);
    await postfix.hold(ids.slice(2, 3));
    const reported = ids.slice(0, 6).filter((id) => id !== ids[2]);
    expect(await recover({})).toMatchObject([{ released: reported, unclear: ids.slice(2, 3) }]);
    expect(onHold()).toEqual([...admins, ...ids.slice(2, 3)].sort());
  });

  test("never releases what was on hold before the run, whatever else is said of it", async () => {
    const ids = deferred().slice(0, 5);
    const journal = await killedAfter(0, [...admins, ...ids]);
    expect(readJournals(site.stateDirectory)[0]?.start.preheld.sort()).toEqual(admins);
    expect(await recover({})).toMatchObject([{ released: [], unclear: [] }]);
    expect(onHold()).toEqual(admins);
    expect(journal).toBeDefined();
  });

  test("leaves what an administrator put on hold again after our release", async () => {
    const ids = deferred().slice(0, 5);
    const journal = await killedAfter(5, ids);
    const said = await postfix.release(ids.slice(0, 2));
    writeFileSync(postsuperOutput(journal, 0, "release"), said);
    await postfix.hold(ids.slice(0, 1));
    expect(await recover({})).toMatchObject([{ released: ids.slice(2), unclear: [] }]);
    expect(onHold()).toEqual([...admins, ...ids.slice(0, 1)].sort());
  });

  test("releases what was announced and moved before the host went down, though its report is lost", async () => {
    const ids = deferred().slice(0, 5);
    const journal = await killedAfter(5, ids);
    writeFileSync(postsuperOutput(journal, 0, "hold"), "");
    writeFileSync(journal, readFileSync(journal, "utf8").replace(/"bootId":"[^"]*"/, '"bootId":"another boot"'));
    await until(() => Date.now() > lstatSync(join(postfix.queueDirectory, "hold", ids[0] ?? "")).ctimeMs + 1000);
    // As if it were booting at this moment; what is held later is not ours.
    const booting = Date.now() - 500 + uptime() * 1000;
    await postfix.release(ids.slice(4));
    await postfix.hold(ids.slice(4));
    const recovered = await recover({ clock: { ...systemClock, now: () => booting } });
    expect(recovered).toMatchObject([{ released: ids.slice(0, 4), unclear: ids.slice(4) }]);
    expect(onHold()).toEqual([...admins, ...ids.slice(4)].sort());
  });

  test("leaves what an administrator held between the death of a run and a reboot, and says so", async () => {
    const ids = deferred().slice(0, 5);
    // Announced a minute ago; the run died before its postsuper held anything.
    const journal = await killedAfter(0, ids, 60_000);
    writeFileSync(journal, readFileSync(journal, "utf8").replace(/"bootId":"[^"]*"/, '"bootId":"another boot"'));
    await postfix.hold(ids.slice(0, 2));
    const booting = Date.now() + 1000 + uptime() * 1000;
    const recovered = await recover({ clock: { ...systemClock, now: () => booting } });
    expect(recovered).toMatchObject([{ released: [], unclear: ids.slice(0, 2) }]);
    expect(onHold()).toEqual([...admins, ...ids.slice(0, 2)].sort());
  });

  test("touches no mail of another queue directory", async () => {
    await killedAfter(5, deferred().slice(0, 5));
    await using other = await PrivatePostfix.create();
    const others = await loadInstance(other.configDirectory);
    const { stateDirectory } = site;
    expect(await recoverHolds({ instance: others, stateDirectory, clock: systemClock })).toEqual([]);
    expect(onHold()).toHaveLength(admins.length + 5);
    // The name of the instance or its paths may change; the directory is the same.
    const renamed = { ...instance, name: "renamed", queueDirectory: `${instance.queueDirectory}/../spool` };
    expect(await recoverHolds({ instance: renamed, stateDirectory, clock: systemClock })).toMatchObject([
      { instance: "renamed", stillHeld: [] },
    ]);
    expect(onHold()).toEqual(admins);
  });

  /**
   * What a run leaves whose postsuper was killed after so many reports: a journal with one batch, and the reports of
   * those that really were put on hold, without closing line.
   */
  async function killedAfter(
    reports: number,
    ids: readonly string[],
    agoMs = 0,
    isThere: (id: string) => boolean = () => true,
  ): Promise<string> {
    const since = new Date(Date.now() - agoMs).toISOString();
    const { name, configDirectory, queueDirectory } = instance;
    const start = { run: "run", mode: "hold" as const, instance: name, configDirectory, queueDirectory, since };
    const journal = HoldJournal.begin(site.stateDirectory, { ...start, preheld: onHold() });
    journal.batch(
      0,
      since,
      ids.map((id) => [id, lstatSync(postfix.find(id) ?? "").mtimeMs / 1000] as const),
    );
    const output = postsuperOutput(journal.path, 0, "hold");
    await hold(instance, ids.filter(isThere).slice(0, reports), ["deferred"], output);
    const said = reports === 0 ? "" : readFileSync(output, "utf8");
    writeFileSync(output, said.replace(/^postsuper: Placed on hold: .*\n/m, ""));
    utimesSync(output, new Date(Date.now() - agoMs), new Date(Date.now() - agoMs));
    journal.close();
    return journal.path;
  }

  function recover(more: Partial<Parameters<typeof recoverHolds>[0]>): Promise<HoldRecovery[]> {
    return recoverHolds({ instance, stateDirectory: site.stateDirectory, clock: systemClock, ...more });
  }

  function deferred(): string[] {
    return namesIn("deferred");
  }

  function onHold(): string[] {
    return namesIn("hold");
  }

  function namesIn(queue: string): string[] {
    return postfix
      .files(queue)
      .map((path) => basename(path))
      .sort();
  }

  function retryTimes(): Map<string, number> {
    const files = postfix.files("deferred").map((path) => [basename(path), lstatSync(path).mtimeMs] as const);
    return new Map(files.sort());
  }

  /** The pid of the run's postsuper once it is stopped. */
  function stopped(): number | undefined {
    const directory = join(site.stateDirectory, "holds");
    const names = existsSync(directory) ? readdirSync(directory) : [];
    const outputs = names.filter((name) => name.endsWith(".hold.stderr")).map((name) => join(directory, name));
    return writersOf(outputs).find(isStopped);
  }
});

function isStopped(pid: number): boolean {
  return /^State:\tT/m.test(read(`/proc/${pid}/status`));
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // it has ended
  }
}

/** A directory with a postsuper that holds the first twenty messages, stops (SIGSTOP), and goes on with the others. */
function stoppingPostsuper(site: Site): string {
  const directory = join(site.directory, "bin");
  mkdirSync(directory);
  const script = `#!/bin/sh
case " $* " in *" -h "*)
  ids=
  n=0
  while [ $n -lt 20 ] && read -r id; do ids="$ids$id
"; n=$((n + 1)); done
  printf %s "$ids" | /usr/sbin/postsuper "$@"
  kill -STOP $$
esac
exec /usr/sbin/postsuper "$@"
`;
  writeFileSync(join(directory, "postsuper"), script);
  chmodSync(join(directory, "postsuper"), 0o755);
  return directory;
}
