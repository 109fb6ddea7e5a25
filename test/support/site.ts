import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type BackupEvent, type BackupReport, type BackupRequest, backup } from "../../src/backup/backup.ts";
import { type AgeIdentities, createIdentity, loadIdentities, loadRecipients } from "../../src/crypto/keys.ts";
import { createSigningKey, loadSigningKey, loadTrustedKeys } from "../../src/crypto/sign.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { loadManifest } from "../../src/repository/manifest-reader.ts";
import type { ObjectStore } from "../../src/repository/object-store.ts";
import { Repository } from "../../src/repository/repository.ts";
import type { Manifest } from "../../src/snapshot/manifest.ts";
import { systemClock } from "../../src/system/clock.ts";
import type { PrivatePostfix } from "./postfix.ts";
import { destroyScratch, makeScratch } from "./scratch.ts";

export interface SiteOptions {
  readonly postQuantum?: boolean;
  /** Default: a directory store below the site. */
  readonly store?: ObjectStore;
}

/** What a primary has beside its Postfix: keys, state directory, repository; and the identity it should not have. */
export class Site implements AsyncDisposable {
  readonly directory: string;
  readonly repository: Repository;
  readonly identities: AgeIdentities;

  private constructor(directory: string, repository: Repository, identities: AgeIdentities) {
    this.directory = directory;
    this.repository = repository;
    this.identities = identities;
  }

  static async make(options: SiteOptions = {}): Promise<Site> {
    const directory = makeScratch({});
    mkdirSync(join(directory, "state"), { mode: 0o700 });
    const { identity, recipient } = await createIdentity(options.postQuantum ?? false);
    writeFileSync(join(directory, "identity.txt"), `${identity}\n`, { mode: 0o600 });
    writeFileSync(join(directory, "recipients.txt"), `${recipient}\n`);
    const { privatePem, publicPem } = createSigningKey();
    writeFileSync(join(directory, "signing.key"), privatePem, { mode: 0o600 });
    writeFileSync(join(directory, "trusted.pub"), publicPem);
    const store = options.store ?? new DirectoryStore(join(directory, "repository"));
    if (options.store === undefined) mkdirSync(join(directory, "repository"));
    const repository = await Repository.create(store);
    return new Site(directory, repository, await loadIdentities(join(directory, "identity.txt")));
  }

  /** Forget everything stored, here and in the repository (a directory): the next backup is a first one. */
  async renew(): Promise<void> {
    const repository = join(this.directory, "repository");
    for (const directory of [repository, this.stateDirectory]) {
      rmSync(directory, { recursive: true, force: true });
      mkdirSync(directory, { mode: 0o700 });
    }
    await Repository.create(new DirectoryStore(repository));
  }

  get stateDirectory(): string {
    return join(this.directory, "state");
  }

  /** The request of a backup of these instances; every field can be replaced. */
  async request(postfixes: readonly PrivatePostfix[], more: Partial<BackupRequest> = {}): Promise<BackupRequest> {
    return {
      instances: await Promise.all(postfixes.map((one) => loadInstance(one.configDirectory))),
      host: "mx1.source.test",
      mode: "hold",
      tags: [],
      repository: this.repository,
      recipients: loadRecipients(join(this.directory, "recipients.txt")),
      signingKey: loadSigningKey(join(this.directory, "signing.key")),
      trusted: loadTrustedKeys(join(this.directory, "trusted.pub")),
      stateDirectory: this.stateDirectory,
      holdBatch: 500,
      holdLimitMs: 2000,
      freezeLimitMs: 300_000,
      barrierMs: 30_000,
      drainMs: 60_000,
      include: [],
      mailServices: false,
      processors: 2,
      uploadBytesPerSecond: undefined,
      version: "test",
      clock: systemClock,
      signal: new AbortController().signal,
      report: () => {},
      ...more,
    };
  }

  async backup(
    postfix: PrivatePostfix,
    more: Partial<BackupRequest> = {},
  ): Promise<BackupReport & { events: BackupEvent[] }> {
    const events: BackupEvent[] = [];
    const report = await backup(await this.request([postfix], { report: (event) => events.push(event), ...more }));
    return { ...report, events };
  }

  /** Write a configuration for the command line that speaks of these instances (none: of all there are), and return its path. */
  configure(
    postfixes: readonly PrivatePostfix[],
    postfixKeys: Readonly<Record<string, string | number | boolean>> = {},
  ): string {
    const path = join(this.directory, "spoolsafe.toml");
    const more = Object.entries({ mail_services: false, ...postfixKeys }).map(
      ([key, value]) => `${key} = ${JSON.stringify(value)}`,
    );
    const lines = [
      'host = "mx1.source.test"',
      `state_directory = ${JSON.stringify(this.stateDirectory)}`,
      "[repository]",
      `url = ${JSON.stringify(this.repository.store.url)}`,
      "[encryption]",
      `recipients_file = ${JSON.stringify(join(this.directory, "recipients.txt"))}`,
      "[signing]",
      `key_file = ${JSON.stringify(join(this.directory, "signing.key"))}`,
      `trusted_keys_file = ${JSON.stringify(join(this.directory, "trusted.pub"))}`,
      "[postfix]",
      ...(postfixes.length === 0
        ? []
        : [`config_directories = ${JSON.stringify(postfixes.map((one) => one.configDirectory))}`]),
      ...more,
    ];
    writeFileSync(path, `${lines.join("\n")}\n`);
    return path;
  }

  manifest(report: Pick<BackupReport, "snapshot">): Promise<Manifest> {
    return loadManifest(this.repository, report.snapshot, this.identities);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    destroyScratch(this.directory);
  }
}
