import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { AgeIdentities, AgeRecipients } from "../../src/crypto/keys.ts";
import { createSigningKey, loadSigningKey, loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import { buildPack } from "../../src/pack/pack.ts";
import { buildPart } from "../../src/pack/part.ts";
import type { LogKind } from "../../src/postfix/queue.ts";
import { messageQueues } from "../../src/postfix/queue.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository, type SignedSnapshot } from "../../src/repository/repository.ts";
import {
  entryKey,
  type FileEntry,
  formatLine,
  type LogEntry,
  type Manifest,
  type ManifestEntry,
  type MessageEntry,
  manifestHeader,
  type StoredFile,
} from "../../src/snapshot/manifest.ts";
import type { ObjectReference, PartReference, Snapshot } from "../../src/snapshot/snapshot.ts";
import { makeKeys } from "./keys.ts";
import { snapshotOf } from "./records.ts";
import { destroyScratch, makeScratch } from "./scratch.ts";

/** Queue files a real Postfix wrote, by name; see their README. */
export const queueFiles: ReadonlyMap<string, Buffer> = new Map(
  readdirSync(join(import.meta.dirname, "../fixtures/queue-files"))
    .filter((name) => !name.includes("."))
    .map((name) => [name, readFileSync(join(import.meta.dirname, "../fixtures/queue-files", name))]),
);

export interface HandMadeMessage {
  readonly bytes: Buffer;
  readonly logs?: Readonly<Partial<Record<LogKind, string>>>;
  readonly over?: Partial<MessageEntry>;
}

export interface HandMadeFile {
  readonly bytes?: Buffer;
  readonly over: Partial<FileEntry> & Pick<FileEntry, "path" | "area">;
}

export interface HandMadeSnapshot {
  readonly messages?: readonly HandMadeMessage[];
  readonly files?: readonly HandMadeFile[];
  /** Changes made before the manifest is written: for manifests that are not right. */
  readonly spoil?: (entries: ManifestEntry[]) => ManifestEntry[];
  readonly over?: Partial<Snapshot>;
}

/** A repository in a directory, with snapshots made by hand and no Postfix: small, quick, and as wrong as a test wants. */
export class HandMade implements AsyncDisposable {
  readonly directory: string;
  readonly repository: Repository;
  readonly identities: AgeIdentities;
  readonly recipients: AgeRecipients;
  readonly key: SigningKey;
  readonly #stored = new Map<string, StoredFile>();
  readonly #packs = new Map<string, ObjectReference>();
  readonly #before = new Map<string, string>();
  #parts: PartReference[] = [];
  #last: SignedSnapshot | undefined;

  private constructor(directory: string, repository: Repository, keys: Awaited<ReturnType<typeof makeKeys>>) {
    this.directory = directory;
    this.repository = repository;
    this.identities = keys.identities;
    this.recipients = keys.recipients;
    this.key = loadSigningKey(join(directory, "signing.key"));
  }

  static async make(): Promise<HandMade> {
    const directory = makeScratch();
    const { privatePem, publicPem } = createSigningKey();
    writeFileSync(join(directory, "signing.key"), privatePem, { mode: 0o600 });
    writeFileSync(join(directory, "trusted.pub"), publicPem);
    mkdirSync(join(directory, "repository"));
    const keys = await makeKeys();
    writeFileSync(join(directory, "identity.txt"), `${keys.identity}\n`, { mode: 0o600 });
    const repository = await Repository.create(new DirectoryStore(join(directory, "repository")));
    return new HandMade(directory, repository, keys);
  }

  get trusted() {
    return loadTrustedKeys(join(this.directory, "trusted.pub"));
  }

  /** Where an object lies. */
  path(key: string): string {
    return join(this.directory, "repository", key);
  }

  /** Store what is new in one pack and one part (the first a base, all others increments), and sign the record. */
  async take(wanted: HandMadeSnapshot): Promise<{ signed: SignedSnapshot; manifest: Manifest }> {
    const { messages = [], files = [], spoil = (entries) => entries } = wanted;
    await this.#store([
      ...messages.flatMap(({ bytes, logs }) => [bytes, ...Object.values(logs ?? {}).map((log) => Buffer.from(log))]),
      ...files.flatMap(({ bytes }) => bytes ?? []),
    ]);
    const entries = spoil([
      ...messages.map((one, index) => this.#message(one, index)),
      ...files.map((one) => this.#file(one)),
    ]);
    await this.#writePart(entries);
    const manifest = {
      messages: entries.filter((entry) => entry.kind === "message"),
      files: entries.filter((entry) => entry.kind === "file"),
    };
    const snapshot = this.#record(manifest, wanted.over ?? {});
    const { id } = await this.repository.commit(snapshot, this.key);
    const { writer, number } = snapshot;
    this.#last = await this.repository.load({ writer, number, id });
    return { signed: this.#last, manifest };
  }

  async #store(all: readonly Buffer[]): Promise<void> {
    const fresh = new Map(all.map((bytes) => [sha256(bytes), bytes]));
    for (const digest of this.#stored.keys()) fresh.delete(digest);
    if (fresh.size === 0) return;
    const pack = await buildPack(
      [...fresh].map(([digest, bytes]) => ({ digest, bytes })),
      this.recipients,
    );
    await this.repository.putPack(pack.id, pack.sealed);
    this.#packs.set(pack.id, { id: pack.id, bytes: pack.sealed.length });
    for (const [digest, bytes] of fresh) this.#stored.set(digest, { digest, bytes: bytes.length, pack: pack.id });
  }

  #storedOf(bytes: Buffer): StoredFile {
    const stored = this.#stored.get(sha256(bytes));
    if (stored === undefined) throw new Error("not stored");
    return stored;
  }

  #message({ bytes, logs = {}, over = {} }: HandMadeMessage, index: number): MessageEntry {
    const facts = readQueueFile(bufferSource(bytes));
    const logEntries = Object.entries(logs).map(([log, text]): LogEntry => {
      return { log: log as LogKind, ...this.#storedOf(Buffer.from(text)), mode: 0o600, mtime: 1_795_000_000 };
    });
    return {
      kind: "message",
      instance: "mx",
      queueId: `7E48C${(0x16210f + index).toString(16).toUpperCase()}`,
      created: facts.created,
      content: facts.content,
      queue: "deferred",
      mode: 0o700,
      owner: { user: "postfix", group: "postfix", uid: 102, gid: 105 },
      mtime: 1_795_000_000.5 + index,
      file: this.#storedOf(bytes),
      logs: logEntries,
      sender: facts.sender,
      recipients: facts.recipients.map(({ address, done }) => ({ address, done })),
      size: facts.size,
      arrival: facts.arrival,
      messageId: facts.messageId,
      contentFilter: facts.contentFilter,
      sendopts: facts.sendopts,
      delayWarning: facts.delayWarning,
      inFlight: false,
      role: null,
      finished: false,
      ...over,
    };
  }

  #file({ bytes, over }: HandMadeFile): FileEntry {
    return {
      kind: "file",
      instance: "mx",
      type: "file",
      mode: 0o644,
      owner: { user: "root", group: "root", uid: 0, gid: 0 },
      mtime: 1_795_000_000,
      file: bytes === undefined ? null : this.#storedOf(bytes),
      target: null,
      ...over,
    };
  }

  async #writePart(entries: readonly ManifestEntry[]): Promise<void> {
    const kind = this.#parts.length === 0 ? "base" : "increment";
    const lines = new Map(entries.map((entry) => [entryKey(entry), formatLine(entry)]));
    const gone = [...this.#before.keys()].filter((key) => !lines.has(key));
    const changed = [...lines].filter(([key, line]) => this.#before.get(key) !== line);
    const text = [
      manifestHeader(kind, "mx1.test"),
      ...changed.map(([, line]) => line),
      ...gone.map((key) => formatLine({ kind: "gone", key })),
    ];
    this.#before.clear();
    for (const [key, line] of lines) this.#before.set(key, line);
    const part = await buildPart(text.join(""), this.recipients);
    await this.repository.putPart(part.id, part.sealed);
    this.#parts = [...this.#parts, { id: part.id, bytes: part.sealed.length, kind }];
  }

  #record({ messages: all, files }: Manifest, over: Partial<Snapshot>): Snapshot {
    const messages = all.filter(({ finished }) => !finished);
    const stored = [...all.flatMap(({ file, logs }) => [file, ...logs]), ...files.flatMap(({ file }) => file ?? [])];
    const counts = {
      total: messages.length,
      ...{ incoming: 0, active: 0, deferred: 0, hold: 0, maildrop: 0, incomplete: 0, vanished: 0 },
      ...Object.fromEntries(
        messageQueues.map((queue) => [queue, messages.filter((one) => one.queue === queue).length]),
      ),
      inFlight: messages.some(({ inFlight }) => inFlight === null)
        ? null
        : messages.filter((one) => one.inFlight).length,
      finishedDuringRun: all.length - messages.length,
    };
    const bytes = all.flatMap(({ file, logs }) => [file, ...logs]).reduce((sum, file) => sum + file.bytes, 0);
    return snapshotOf(this.key, {
      repository: this.repository.id,
      number: (this.#last?.snapshot.number ?? 0) + 1,
      previous: this.#last?.id ?? null,
      host: "mx1.test",
      instances: [
        {
          name: "mx",
          configDirectory: "/etc/postfix",
          queueDirectory: "/var/spool/postfix",
          postfixVersion: "3.7.11",
          running: false,
          mode: "stopped",
          messages: counts,
        },
      ],
      messages: counts,
      bytes,
      parts: this.#parts,
      packs: [...new Set(stored.map(({ pack }) => pack))].flatMap((id) => this.#packs.get(id) ?? []),
      ...over,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    destroyScratch(this.directory);
  }
}

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}
