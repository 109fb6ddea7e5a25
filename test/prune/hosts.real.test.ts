import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadRecipients } from "../../src/crypto/keys.ts";
import { createSigningKey, loadSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import { PackReader } from "../../src/pack/pack-pool.ts";
import { type PruneReport, prune } from "../../src/prune/prune.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { indexPath } from "../../src/repository/stored-index.ts";
import { verifyDeep } from "../../src/verify/deep.ts";
import { verifySealed } from "../../src/verify/sealed.ts";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";
import { DatedStore } from "./dated-store.ts";

/*
 * Two hosts back up at one time and a third prunes between any two calls of theirs, while days pass: up to the longest run within
 * a backup, and some backups end half-way. Whatever is left must verify to the last byte.
 */
const rounds = process.env.SPOOLSAFE_LONG === "1" ? 40 : 8;

describe.skipIf(!needs("root", "postfix"))("two hosts that back up while a third prunes", () => {
  const random = new Random(chooseSeed("hosts and a prune"));
  // In memory: durability is proven elsewhere, and this stores and removes thousands of small files.
  const directory = makeScratch({ tmpfs: "256m" });
  const store = new DatedStore(new DirectoryStore(join(directory, "repository")));
  const hosts: Host[] = [];
  const prunes: PruneReport[] = [];
  let pruning = false;

  beforeAll(async () => {
    mkdirSync(join(directory, "repository"));
    const { privatePem, publicPem } = createSigningKey();
    writeFileSync(join(directory, "signing.key"), privatePem, { mode: 0o600 });
    hosts.push(...(await Promise.all([Host.make("mx1.test", store, 71), Host.make("mx2.test", store, 72)])));
    const keys = hosts.map(({ site }) => readFileSync(join(site.directory, "trusted.pub"), "utf8"));
    writeFileSync(join(directory, "trusted.pub"), [publicPem, ...keys].join(""));
  });
  afterAll(async () => {
    for (const host of hosts) await host.destroy();
    destroyScratch(directory);
  });

  const trusted = () => loadTrustedKeys(join(directory, "trusted.pub"));

  async function pruneOnce(last = 1 + random.below(2)): Promise<void> {
    if (pruning) return;
    pruning = true;
    try {
      const [first] = hosts;
      if (first === undefined) throw new Error("no host");
      const report = await prune({
        repository: first.site.repository,
        signingKey: loadSigningKey(join(directory, "signing.key")),
        trusted: trusted(),
        policy: { last, hourly: 0, daily: 0, weekly: 0, monthly: 0 },
        timeZone: "UTC",
        proved: null,
        onlyHost: null,
        stateDirectory: join(directory, "state"),
        clock: store.clock,
        signal: new AbortController().signal,
        report: () => {},
      });
      prunes.push(report);
    } finally {
      pruning = false;
    }
  }

  test("leave snapshots that verify deep, all of them, every time", async () => {
    await using reader = new PackReader({ identities: hosts[0]?.site.identities ?? none(), processors: 2 });
    const reasons: string[] = [];
    for (let round = 0; round < rounds; round++) {
      let hoursLeft = 47;
      store.faults = {
        before: async ({ name }) => {
          if (pruning || random.next() > 0.25) return;
          const hours = random.below(hoursLeft + 1);
          hoursLeft -= hours;
          store.pass(hours);
          if (name !== "open") await pruneOnce();
        },
      };
      for (const host of hosts) host.change(random);
      const runs = await Promise.allSettled(hosts.map((host) => host.backup(trusted(), hosts, random, round === 2)));
      reasons.push(...runs.flatMap((run) => (run.status === "rejected" ? [String(run.reason.message)] : [])));
      store.faults = {};
      await expectWhole(reader, false);
      store.pass(random.below(72));
      await pruneOnce();
      await expectWhole(reader, false);
    }
    // Left alone, in the end nothing is there that no snapshot refers to.
    for (let days = 0; days < 3; days++) {
      store.pass(49);
      await pruneOnce(1);
    }
    const sum = (of: (report: PruneReport) => number) => prunes.reduce((total, report) => total + of(report), 0);
    const removed = [
      sum((one) => one.removed.snapshots),
      sum((one) => one.removed.packs),
      sum((one) => one.removed.parts),
    ];
    process.stderr.write(
      `${prunes.length} prunes removed ${removed.join(", ")} snapshots, packs, parts; ${reasons.length} backups ended early\n`,
    );
    expect(Math.min(...removed)).toBeGreaterThan(0);
    expect(
      reasons.filter((reason) => !/^ended half-way$|^a prune has removed packs that this backup built/.test(reason)),
    ).toEqual([]);
    expect(prunes.flatMap(({ problems }) => problems)).toEqual([]);
    const last = prunes.at(-1)?.plan;
    expect([last?.condemn, last?.waiting, last?.young]).toEqual([[], [], []]);
    await expectWhole(reader, true);
  });

  /** Snapshots that were opened to the last byte; that no byte of them has changed since, a sealed check tells. */
  const opened = new Set<string>();

  async function expectWhole(reader: PackReader, again: boolean): Promise<void> {
    const [{ site }] = hosts as [Host];
    const { repository, identities } = site;
    const refs = await repository.snapshotRefs();
    const sealed = await verifySealed({ repository, refs, trusted: trusted(), seen: new Map(), report: () => {} });
    const snapshots = await repository.loadAll(refs.filter(({ id }) => again || !opened.has(id)));
    const deep = await verifyDeep({ repository, snapshots, identities, reader, processors: 2 });
    expect([...sealed.damaged, ...deep.damaged], `seed ${random.seed}`).toEqual([]);
    for (const { id } of refs) opened.add(id);
  }
});

function none() {
  return { identities: [], recipients: [] };
}

/** One that backs up, with mail that comes and goes. */
class Host {
  readonly name: string;
  readonly site: Site;
  readonly postfix: PrivatePostfix;
  readonly #away: { readonly from: string; readonly to: string }[] = [];

  private constructor(name: string, site: Site, postfix: PrivatePostfix) {
    this.name = name;
    this.site = site;
    this.postfix = postfix;
  }

  static async make(name: string, store: DatedStore, seed: number): Promise<Host> {
    const postfix = await PrivatePostfix.create({ tmpfs: "64m" });
    await fillDeferred(postfix, 60, seed);
    return new Host(name, await Site.make({ store }), postfix);
  }

  /** Some mail goes, some comes. */
  change(random: Random): void {
    const away = join(this.postfix.directory, "away");
    mkdirSync(away, { recursive: true });
    for (const one of this.#away.splice(0)) {
      if (random.next() < 0.5) renameSync(one.to, one.from);
      else this.#away.push(one);
    }
    const share = random.pick([0.1, 0.3, 0.9]);
    for (const from of this.postfix.files("deferred")) {
      if (random.next() > share) continue;
      const to = join(away, from.replaceAll("/", "_"));
      renameSync(from, to);
      this.#away.push({ from, to });
    }
  }

  /** One in five ends at a pack or part it was about to store, one in ten has lost its index. */
  async backup(
    trusted: ReturnType<typeof loadTrustedKeys>,
    [first]: readonly Host[],
    random: Random,
    forgets: boolean,
  ): Promise<void> {
    const { site, name } = this;
    const signingKey = loadSigningKey(join(site.directory, "signing.key"));
    const of = { repository: site.repository.id, writer: signingKey.writer, host: name, recipients: [] };
    if (forgets || random.next() < 0.1) rmSync(indexPath(site.stateDirectory, of), { force: true });
    const store = site.repository.store as DatedStore;
    const controller = new AbortController();
    const ends = random.next() < 0.2;
    await site.backup(this.postfix, {
      host: name,
      trusted,
      signal: controller.signal,
      clock: store.clock,
      mode: "live",
      processors: 1,
      recipients: loadRecipients(join((first ?? this).site.directory, "recipients.txt")),
      report: (event) => {
        if (ends && event.type === "stored") controller.abort(new Error("ended half-way"));
      },
    });
  }

  async destroy(): Promise<void> {
    this.postfix.destroy();
    await this.site[Symbol.asyncDispose]();
  }
}
