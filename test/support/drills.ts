import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { version } from "../../src/cli/version.ts";
import { loadTrustedKeys, type SigningKey, type TrustedKeys } from "../../src/crypto/sign.ts";
import { type KeepRequest, type Kept, keepReport } from "../../src/drill/keep.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import type { ObjectStore } from "../../src/repository/object-store.ts";
import { Repository } from "../../src/repository/repository.ts";
import type { DrillFacts } from "../../src/snapshot/drill.ts";
import { newSigningKey, trustFile } from "./claims.ts";
import { digestFrom } from "./records.ts";

/** What a drill without any trouble finds out, with what a test cares about put over it. */
export function factsOf(over: Partial<DrillFacts> = {}): DrillFacts {
  return {
    id: digestFrom(over.started ?? "drill").slice(0, 12),
    host: "mx1.example.org",
    scenario: null,
    attended: false,
    user: "root",
    sudoUser: null,
    where: {
      hostname: "standby.example.org",
      system: "Debian GNU/Linux 12, Linux 6.1.0 x86_64",
      postfix: "3.7.11",
      spoolsafe: version,
      node: "24.11.0",
    },
    store: { url: "s3://mail-backups/mx1", objectLockDays: 30 },
    snapshot: {
      id: digestFrom("snapshot"),
      number: 412,
      time: "2026-11-25T02:00:00.000Z",
      mode: "hold",
      host: "mx1.example.org",
      signedBy: digestFrom("key of mx1"),
      instances: ["etc_postfix"],
    },
    started: "2026-11-25T05:00:00.000Z",
    ready: "2026-11-25T05:00:41.300Z",
    ended: "2026-11-25T05:02:10.000Z",
    phases: [
      { name: "fetch", milliseconds: 9200 },
      { name: "open", milliseconds: 4100 },
      { name: "place", milliseconds: 14_800 },
      { name: "repair", milliseconds: 1900 },
      { name: "check", milliseconds: 8700 },
      { name: "ready", milliseconds: 2600 },
      { name: "deliver", milliseconds: 88_700 },
    ],
    rpoSeconds: 10_800,
    rtoSeconds: 41.3,
    targets: { rpo: { seconds: 93_600, met: true }, rto: { seconds: 1800, met: true } },
    isolation: {
      proofs: [
        { name: "network", ok: true, detail: "a namespace with loopback and nothing else" },
        { name: "transports", ok: true, detail: "every transport leads to the drill's own sink" },
        { name: "connections", ok: true, detail: "no packet found a way out" },
      ],
      outsideConnections: 0,
    },
    messages: {
      manifest: 1002,
      finished: 2,
      restored: 1000,
      readable: 1000,
      identical: 1000,
      inQueue: 993,
      heldByAdmin: 24,
      maildrop: 7,
      inDoubt: 3,
    },
    queues: {
      ageLimits: [300, 600, 1200, 2400, 4800, 9600, 19_200, 86_400, 172_800],
      rows: [
        { queue: "incoming", counts: [21, 4, 0, 0, 0, 0, 0, 0, 0, 0] },
        { queue: "active", counts: [17, 12, 3, 0, 0, 0, 0, 0, 0, 0] },
        { queue: "deferred", counts: [3, 41, 88, 120, 164, 171, 140, 121, 49, 15] },
        { queue: "hold", counts: [0, 0, 2, 5, 4, 0, 3, 4, 6, 0] },
        { queue: "maildrop", counts: [7, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
      ],
    },
    delivered: {
      messages: 1000,
      recipients: 1204,
      identical: 1000,
      promised: { messages: 1000, recipients: 1204 },
      kept: 0,
      expired: ["4Z5j73J8pzBvYj", "4Z5j73J8pzBvYk", "4Z5j73J8pzBvYm", "7E48C16210F", "7E48C16210E"],
      deviating: [],
    },
    checks: [
      { name: "postfix check", ok: true, detail: "says nothing" },
      { name: "maps", ok: true, detail: "11 of 11 answer" },
      { name: "postqueue -j", ok: true, detail: "equals the manifest" },
      { name: "postcat -q", ok: true, detail: "reads every message" },
    ],
    deviations: [],
    failure: null,
    ok: true,
    ...over,
  };
}

/** A host that drills: state directory, signing key, keys it trusts, and a repository in a directory. */
export class DrillHost {
  readonly directory: string;
  readonly key: SigningKey;
  readonly trusted: TrustedKeys;
  readonly repository: Repository;

  private constructor(directory: string, key: SigningKey, trusted: TrustedKeys, repository: Repository) {
    this.directory = directory;
    this.key = key;
    this.trusted = trusted;
    this.repository = repository;
  }

  /** @param directory of a test's own, where all of it is made */
  static async make(directory: string, store?: ObjectStore): Promise<DrillHost> {
    for (const name of ["state", "repository"]) mkdirSync(join(directory, name), { mode: 0o700 });
    const key = newSigningKey(directory, "standby");
    const trusted = loadTrustedKeys(trustFile(directory, "standby", [key]));
    const repository = await Repository.create(store ?? new DirectoryStore(join(directory, "repository")));
    return new DrillHost(directory, key, trusted, repository);
  }

  get stateDirectory(): string {
    return join(this.directory, "state");
  }

  keep(facts: Partial<DrillFacts> = {}, over: Partial<KeepRequest> = {}): Promise<Kept> {
    const { stateDirectory, repository, key, trusted } = this;
    const { signal } = new AbortController();
    return keepReport(factsOf(facts), { stateDirectory, repository, key, trusted, signal, ...over });
  }

  /** Keep the reports of drills on so many days, the first of them the oldest. */
  async days(count: number, of: (day: number) => Partial<DrillFacts> = () => ({})): Promise<Kept[]> {
    const kept: Kept[] = [];
    for (let day = 1; day <= count; day++) kept.push(await this.keep({ started: onDay(day), ...of(day) }));
    return kept;
  }
}

export function onDay(day: number): string {
  return `2026-11-${String(day).padStart(2, "0")}T05:00:00.000Z`;
}
