import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createIdentity, parseRecipients } from "../../src/crypto/keys.ts";
import { createSigningKey, loadSigningKey } from "../../src/crypto/sign.ts";
import { buildPack } from "../../src/pack/pack.ts";
import { buildPart } from "../../src/pack/part.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { formatLine, type ManifestEntry, type MessageEntry, manifestHeader } from "../../src/snapshot/manifest.ts";
import type { ObjectReference, Snapshot, SnapshotInstance } from "../../src/snapshot/snapshot.ts";
import { digestOf } from "../../src/system/digest.ts";
import { noMessages, snapshotOf } from "./records.ts";

/** A host's files and a directory repository with snapshots made by hand, without any Postfix. */
export interface StoredSite {
  readonly directory: string;
  /** Configuration with the identity (0600) set; `--config` of it is all a command needs. */
  readonly config: string;
  readonly identityFile: string;
  readonly recipient: string;
  /** Store a snapshot of these messages; what is not said is something plausible. */
  snapshot(messages: readonly StoredMessage[], over?: Partial<Snapshot>): Promise<string>;
}

export interface StoredMessage {
  readonly bytes: Buffer;
  readonly logs?: Readonly<Partial<Record<"bounce" | "defer" | "trace", string>>>;
  readonly entry: Partial<MessageEntry> & Pick<MessageEntry, "queueId">;
}

export async function makeStoredSite(directory: string): Promise<StoredSite> {
  const path = (name: string) => join(directory, name);
  const { identity, recipient } = await createIdentity(false);
  const { privatePem, publicPem } = createSigningKey();
  writeFileSync(path("identity.txt"), `${identity}\n`, { mode: 0o600 });
  writeFileSync(path("recipients.txt"), `${recipient}\n`);
  writeFileSync(path("signing.key"), privatePem, { mode: 0o600 });
  writeFileSync(path("trusted.pub"), publicPem);
  mkdirSync(path("repository"));
  const repository = await Repository.create(new DirectoryStore(path("repository")));
  writeFileSync(
    path("spoolsafe.toml"),
    [
      'host = "mx1.example.org"',
      `state_directory = "${path("state")}"`,
      `repository.url = "file://${path("repository")}"`,
      `encryption = { recipients_file = "${path("recipients.txt")}", identity_file = "${path("identity.txt")}" }`,
      `signing = { key_file = "${path("signing.key")}", trusted_keys_file = "${path("trusted.pub")}" }`,
      `postfix.config_directories = ["${path("no-postfix")}"]`,
      "",
    ].join("\n"),
  );
  const key = loadSigningKey(path("signing.key"));
  const recipients = parseRecipients(recipient, "test");
  let last: { readonly number: number; readonly id: string } | undefined;

  const snapshot = async (messages: readonly StoredMessage[], over: Partial<Snapshot> = {}): Promise<string> => {
    const files = new Map(messages.flatMap(filesOf).map((bytes) => [digestOf(bytes).digest, bytes]));
    const packs: ObjectReference[] = [];
    if (files.size > 0) {
      const pack = await buildPack(
        [...files].map(([digest, bytes]) => ({ digest, bytes })),
        recipients,
      );
      await repository.putPack(pack.id, pack.sealed);
      packs.push({ id: pack.id, bytes: pack.sealed.length });
    }
    const entries = messages.map((message) => entryOf(message, packs[0]?.id ?? ""));
    const part = await buildPart(manifestText(entries, over.host ?? "mx1.example.org"), recipients);
    await repository.putPart(part.id, part.sealed);
    const record = snapshotOf(key, {
      repository: repository.id,
      number: (last?.number ?? 0) + 1,
      previous: last?.id ?? null,
      parts: [{ id: part.id, bytes: part.sealed.length, kind: "base" }],
      packs,
      recipients: [recipient],
      instances: [...new Set(entries.map(({ instance }) => instance))].map(instanceOf),
      messages: { ...noMessages, total: entries.length, deferred: entries.length },
      ...over,
    });
    const { id } = await repository.commit(record, key);
    last = { number: record.number, id };
    return id;
  };
  return { directory, config: path("spoolsafe.toml"), identityFile: path("identity.txt"), recipient, snapshot };
}

function filesOf({ bytes, logs = {} }: StoredMessage): readonly Buffer[] {
  return [bytes, ...Object.values(logs).map((text) => Buffer.from(text))];
}

function entryOf({ bytes, logs = {}, entry }: StoredMessage, pack: string): MessageEntry {
  const stored = (content: Buffer) => ({ digest: digestOf(content).digest, bytes: content.length, pack });
  return {
    kind: "message",
    instance: "etc_postfix",
    created: "1795500000",
    content: digestOf(bytes).digest,
    queue: "deferred",
    mode: 0o700,
    owner: { user: "postfix", group: "postfix", uid: 102, gid: 105 },
    mtime: 1795503600,
    file: stored(bytes),
    logs: Object.entries(logs).map(([log, text]) => ({
      log: log as "bounce" | "defer" | "trace",
      mode: 0o600,
      mtime: 1795500001,
      ...stored(Buffer.from(text)),
    })),
    sender: "alice@source.test",
    recipients: [{ address: "bob@target.test", done: false }],
    size: bytes.length,
    arrival: 1795500000.25,
    messageId: null,
    contentFilter: null,
    sendopts: 0,
    delayWarning: null,
    inFlight: false,
    role: null,
    finished: false,
    ...entry,
  };
}

function manifestText(entries: readonly ManifestEntry[], host: string): string {
  return manifestHeader("base", host) + entries.map(formatLine).join("");
}

function instanceOf(name: string): SnapshotInstance {
  return {
    name,
    configDirectory: "/etc/postfix",
    queueDirectory: "/var/spool/postfix",
    postfixVersion: "3.7.11",
    running: true,
    mode: "hold",
    messages: noMessages,
  };
}
