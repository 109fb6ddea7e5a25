import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { HoldJournal, postsuperOutput } from "../../src/holds/journal.ts";
import { recordEnd, recordStart } from "../../src/jobs/record.ts";
import { hold } from "../../src/postfix/control.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { type CliOptions, spoolsafe } from "../support/cli.ts";
import { flood, trustsXclient } from "../support/flood.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Site } from "../support/site.ts";
import { tree } from "../support/tree.ts";

/*
 * One instance, to which one thing after the other happens: triage finds it, names its runbook, and leaves every file of the
 * queue, the configuration and the state as it was.
 */
describe.skipIf(!needs("root", "postfix"))("triage", { timeout: 120_000 }, () => {
  let site: Site;
  let postfix: PrivatePostfix;
  let config: string;
  let deferred: string;

  beforeAll(async () => {
    site = await Site.make();
    postfix = await PrivatePostfix.start({ main: { ...trustsXclient, message_size_limit: "1000000" } });
    config = site.configure([postfix]);
    const [letter] = await postfix.submit([plainLetter({ recipients: ["a@elsewhere.test"] })]);
    await postfix.settled();
    deferred = letter?.queueId ?? "";
    const run = recordStart(site.stateDirectory, { job: "backup", now: new Date() });
    recordEnd(site.stateDirectory, run, { exit: 0, now: new Date(), detail: { snapshot: "ab", messages: 1 } });
  }, 60_000);
  afterAll(async () => {
    postfix.destroy();
    await site[Symbol.asyncDispose]();
  });

  async function triage(options: CliOptions = {}) {
    const places = [postfix.queueDirectory, postfix.configDirectory, site.stateDirectory];
    const before = tree(...places);
    const ended = await spoolsafe(["triage", "--json", "--config", config], options);
    expect(tree(...places), "what it was to leave alone").toEqual(before);
    const findings = ended.json.filter(({ type }) => type === "finding");
    const summary = ended.json.at(-1) ?? {};
    expect(summary).toMatchObject({ type: "summary", ok: findings.length === 0 });
    expect(ended.code).toBe(findings.length === 0 ? 0 : 1);
    return { names: findings.map(({ name }) => name), open: summary.open, findings, summary };
  }

  test("finds nothing where all is well, and says what it measured", async () => {
    const { names, summary } = await triage();
    expect({ names, unseen: summary.unseen }).toEqual({ names: [], unseen: [] });
    expect(summary.instances).toMatchObject([{ running: true, locked: false, corrupt: [], heldByOthers: 0 }]);
    expect(summary.logs).toMatchObject([{ source: postfix.logFile }]);
    const { code, stdout } = await spoolsafe(["triage", "--config", config]);
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining("\nnothing was found\n") });
  });

  test("a damaged message, and one that Postfix doesn't see", async () => {
    const path = join(postfix.queueDirectory, "corrupt", "4XYZ0abc");
    writeFileSync(path, "no queue file");
    chmodSync(postfix.find(deferred) ?? "", 0o600);
    const { names, open } = await triage();
    expect({ names, open }).toEqual({ names: ["corrupt", "invisible"], open: ["02-queue-corruption"] });
    chmodSync(postfix.find(deferred) ?? "", 0o700);
    rmSync(path);
  });

  test("mail that a dead backup holds, beside an administrator's", async () => {
    const [theirs, ours] = await postfix.submit([
      plainLetter({ recipients: ["b@elsewhere.test"] }),
      plainLetter({ recipients: ["c@elsewhere.test"] }),
    ]);
    await postfix.settled();
    await postfix.hold([theirs?.queueId ?? ""]);
    await holdAsDeadBackup(ours?.queueId ?? "");
    const { names, open, summary } = await triage();
    expect({ names, open }).toEqual({ names: ["hold-capture"], open: ["09-stuck-hold"] });
    expect(summary.instances).toMatchObject([{ heldByOthers: 1 }]);
    expect((await spoolsafe(["holds", "release", "--config", config])).code).toBe(0);
  });

  test("a repository that is away", async () => {
    const place = join(site.directory, "repository");
    renameSync(place, `${place}.away`);
    const { names, open } = await triage();
    expect({ names, open }).toEqual({ names: ["repository-unreachable"], open: ["06-storage-unreachable"] });
    renameSync(`${place}.away`, place);
  });

  test("a standby whose primary makes no backups any more", async () => {
    const { snapshot } = await site.backup(postfix);
    const text = readFileSync(config, "utf8");
    const fresh = join(site.directory, "fresh");
    const standby = text.replace(/^state_directory = .*$/m, `state_directory = ${JSON.stringify(fresh)}`);
    writeFileSync(config, `${standby}[schedule]\nverify = "30 4 * * 0"\n[alerts]\nmax_age = "1s"\n`);
    await until(() => Date.now() - Date.parse(snapshot.time) > 2000);
    const { findings, open } = await triage();
    expect(open).toEqual(["01-primary-lost"]);
    expect(findings).toMatchObject([{ name: "backup-age", problem: expect.stringContaining("mx1.source.test is ") }]);
    writeFileSync(config, text);
  });

  test("more deferred mail than the configuration allows", async () => {
    const text = readFileSync(config, "utf8");
    writeFileSync(config, `${text}[thresholds]\ndeferred = [1, 1000]\n`);
    const { names, open } = await triage();
    expect({ names, open }).toEqual({ names: ["queue-deferred"], open: ["11-deferred-backlog"] });
    writeFileSync(config, text);
  });

  test("a configuration that is wrong does not keep it from anything", async () => {
    const text = readFileSync(config, "utf8");
    const path = join(postfix.queueDirectory, "corrupt", "4XYZ0abc");
    writeFileSync(path, "no queue file");
    for (const broken of [`${text}nonsense = 1\n`, `${text}= [[[\n`]) {
      writeFileSync(config, broken);
      const { names, summary } = await triage();
      expect(names).toEqual(["corrupt"]);
      expect(summary.unseen).toMatchObject([expect.stringContaining("the configuration can't be used")]);
    }
    rmSync(config);
    expect((await triage({ env: { MAIL_CONFIG: postfix.configDirectory } })).names).toContain("corrupt");
    writeFileSync(config, text);
    rmSync(path);
  });

  test("without Postfix's tools it goes by the text of main.cf", async () => {
    const hide = 'mount --bind /dev/null "$(command -v postconf)" && exec "$@"';
    const { names, summary } = await triage({ under: ["unshare", "--mount", "sh", "-c", hide, "sh"] });
    expect(names).toEqual([]);
    expect(summary.instances).toMatchObject([{ running: true, state: { queues: { deferred: { messages: 2 } } } }]);
    expect(summary.unseen).toMatchObject([expect.stringContaining("was read as text")]);
  });

  test("a spool in which Postfix has no room", async () => {
    await postfix.setParameter("queue_minfree", "900000000000000");
    const { names, open } = await triage();
    expect({ names, open }).toEqual({ names: ["disk"], open: ["10-spool-disk-full"] });
    await postfix.setParameter("queue_minfree", "0");
  });

  test("a storm of notices, then a stolen login: the flood comes first", async () => {
    await postfix.submit(
      Array.from({ length: 100 }, (_, n) => plainLetter({ sender: "", recipients: [`u${n}@forged.test`] })),
    );
    await postfix.settled();
    const storm = await triage();
    expect({ names: storm.names, open: storm.open }).toEqual({ names: ["bounce-storm"], open: ["12-bounce-storm"] });
    const recipients = Array.from({ length: 120 }, (_, n) => `v${n}@bought.test`);
    await flood(postfix.port, { login: "alice", address: "192.0.2.7", recipients });
    await postfix.settled();
    const { names, open, findings } = await triage();
    expect(names).toEqual(["login-flood", "login-rate"]);
    expect(open).toEqual(["13-spam-flood"]);
    expect(findings[0]).toMatchObject({ problem: expect.stringMatching(/^120 \(alice\) messages of 222 /) });
  });

  test("a Postfix that is down, and whose queue is gone", async () => {
    await postfix.stop();
    const down = await triage();
    expect(down.names).toContain("postfix-down");
    expect(down.open).not.toContain("03-mail-deleted");
    for (const queue of ["deferred", "hold", "active", "incoming", "maildrop"]) {
      rmSync(join(postfix.queueDirectory, queue), { recursive: true });
      mkdirSync(join(postfix.queueDirectory, queue));
    }
    const { names, open } = await triage();
    expect(names[0]).toBe("postfix-down");
    expect(open).toContain("03-mail-deleted");
  });

  /** What is left of a backup that was killed between the hold and the release of a batch, an hour ago. */
  async function holdAsDeadBackup(id: string): Promise<void> {
    const instance = await loadInstance(postfix.configDirectory);
    const since = new Date(Date.now() - 3_600_000).toISOString();
    const { name, configDirectory, queueDirectory } = instance;
    const start = {
      run: "dead",
      mode: "hold" as const,
      instance: name,
      configDirectory,
      queueDirectory,
      since,
      preheld: [],
    };
    const journal = HoldJournal.begin(site.stateDirectory, start);
    journal.batch(0, since, [[id, Date.now() / 1000]]);
    await hold(instance, [id], ["deferred"], postsuperOutput(journal.path, 0, "hold"));
    journal.close();
  }
});
