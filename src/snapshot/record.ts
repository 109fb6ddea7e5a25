import { createHash } from "node:crypto";
import * as z from "zod";
import { OperatorError } from "../errors.ts";
import type { Claim } from "./claim.ts";
import { type DrillReport, drillPhases, drillScenarios } from "./drill.ts";
import { captureModes, type Snapshot } from "./snapshot.ts";

/**
 * What a prune removes, written and signed before it removes anything. The snapshots it lists may be missing from the
 * chain; the packs and parts it lists are condemned: no later snapshot refers to them, even while they still lie there.
 */
export interface Removal {
  readonly format: 1;
  readonly type: "removal";
  readonly repository: string;
  readonly writer: string;
  /** 1, 2, ... per writer, counted apart from its snapshots. */
  readonly number: number;
  /** Id of this writer's removal before, null for its first. */
  readonly previous: string | null;
  /** RFC 3339 in UTC. */
  readonly time: string;
  readonly snapshots: readonly RemovedSnapshot[];
  readonly packs: readonly string[];
  readonly parts: readonly string[];
}

export interface RemovedSnapshot {
  readonly id: string;
  readonly writer: string;
  readonly number: number;
}

/** The parts of a record file that a signature check needs. */
export interface Signed {
  /** SHA-256 of `line`. */
  readonly id: string;
  /** The first line with its newline: the bytes that are signed. */
  readonly line: Buffer;
  /** Full fingerprint of the key that is said to have signed, 64 hexadecimal digits. */
  readonly key: string;
  /** Base64. Nothing here has checked it. */
  readonly signature: string;
}

export interface SignedSnapshot extends Signed {
  readonly snapshot: Snapshot;
}

export interface SignedRemoval extends Signed {
  readonly removal: Removal;
}

export interface SignedClaim extends Signed {
  readonly claim: Claim;
}

export interface SignedDrill extends Signed {
  readonly drill: DrillReport;
}

/** What signs a record: `SigningKey` of the crypto layer. */
export interface RecordSigner {
  readonly fingerprint: string;
  sign(bytes: Uint8Array): string;
}

/**
 * The two lines of a record file (docs/FORMAT.md, "Record"). The first is canonical: fields in the order of the schema
 * below, no white space, so that one record has one id.
 *
 * @throws ZodError for a record that does not keep the format; that is a defect of the caller
 */
export function formatRecord(record: StoredRecord, signer: RecordSigner): { id: string; bytes: Buffer } {
  const line = recordLine(schemas[record.type].parse(record));
  const signed = JSON.stringify({ key: signer.fingerprint, signature: signer.sign(line) });
  return { id: digestOf(line), bytes: Buffer.concat([line, Buffer.from(`${signed}\n`)]) };
}

/**
 * Read a snapshot's record file. The signature is not checked here: `line`, `key` and `signature` are what
 * `TrustedKeys.check` takes.
 *
 * @param repository id of the repository the file was found in
 * @throws OperatorError `damaged` for anything but a canonical record of a format we know, of this repository
 */
export function parseSnapshotRecord(bytes: Uint8Array, repository: string): SignedSnapshot {
  const { signed, record } = parseRecord(bytes, "snapshot", snapshotSchema);
  checkOrigin(record, signed, repository);
  return { ...signed, snapshot: record };
}

/**
 * Read a removal's record file; the counterpart of `parseSnapshotRecord`.
 *
 * @throws OperatorError `damaged` as there
 */
export function parseRemovalRecord(bytes: Uint8Array, repository: string): SignedRemoval {
  const { signed, record } = parseRecord(bytes, "removal", removalSchema);
  checkOrigin(record, signed, repository);
  return { ...signed, removal: record };
}

/**
 * Read a claim's record file; the counterpart of `parseSnapshotRecord`.
 *
 * @throws OperatorError `damaged` as there
 */
export function parseClaimRecord(bytes: Uint8Array, repository: string): SignedClaim {
  const { signed, record } = parseRecord(bytes, "claim", claimSchema);
  checkOrigin(record, signed, repository);
  return { ...signed, claim: record };
}

/**
 * Read a drill's record file; the counterpart of `parseSnapshotRecord`.
 *
 * @param repository null: of whichever repository it says, for a report that came by other ways
 * @throws OperatorError `damaged` as there
 */
export function parseDrillRecord(bytes: Uint8Array, repository: string | null): SignedDrill {
  const { signed, record } = parseRecord(bytes, "drill", drillSchema);
  checkOrigin(record, signed, repository ?? record.repository);
  const second = Buffer.from(`${JSON.stringify({ key: signed.key, signature: signed.signature })}\n`);
  if (!second.equals(bytes.subarray(signed.line.length)))
    throw unreadable("drill", "its second line is not written the canonical way");
  if (digestOf(Buffer.from(record.publicKey, "base64")) !== signed.key)
    throw unreadable("drill", "its public key is not the key that signed it");
  return { ...signed, drill: record };
}

type StoredRecord = Snapshot | Removal | Claim | DrillReport;

function parseRecord<Record>(bytes: Uint8Array, type: string, schema: z.ZodType<Record>) {
  const signed = splitRecord(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), type);
  const json = parseJson(signed.line, type);
  checkFormat(json, type);
  const result = schema.safeParse(json);
  if (!result.success) {
    throw unreadable(type, `its ${result.error.issues[0]?.path.join(".") || "content"} is not as the format says`);
  }
  if (!recordLine(result.data).equals(signed.line)) throw unreadable(type, "it is not written the canonical way");
  return { signed, record: result.data };
}

function splitRecord(file: Buffer, type: string): Signed {
  const end = file.indexOf(0x0a) + 1;
  if (end === 0 || file.indexOf(0x0a, end) !== file.length - 1) throw unreadable(type, "it is not two whole lines");
  const line = Buffer.from(file.subarray(0, end));
  const second = signatureSchema.safeParse(parseJson(file.subarray(end), type));
  if (!second.success) throw unreadable(type, "its second line is not a signature");
  return { id: digestOf(line), line, ...second.data };
}

function parseJson(line: Buffer, type: string): unknown {
  try {
    return JSON.parse(line.toString("utf8"));
  } catch (cause) {
    throw unreadable(type, "a line of it is not JSON", cause);
  }
}

function checkFormat(json: unknown, type: string): void {
  const head = z.object({ format: z.int(), type: z.string() }).safeParse(json);
  if (!head.success) throw unreadable(type, "it says no format and type");
  if (head.data.format !== 1) {
    throw new OperatorError(
      "damaged",
      `a ${type} record has format ${head.data.format}, this spoolsafe reads format 1`,
      {
        hints: ["use the spoolsafe version that wrote it, or a newer one"],
      },
    );
  }
  if (head.data.type !== type) throw unreadable(type, `its type is ${JSON.stringify(head.data.type)}`);
}

function checkOrigin(record: StoredRecord, signed: Signed, repository: string): void {
  if (record.repository !== repository) {
    throw new OperatorError(
      "damaged",
      `${record.type} ${signed.id.slice(0, 8)} belongs to another repository (${record.repository}, this is ${repository})`,
      { hints: ["somebody copied it here by hand; look at it in the repository it came from"] },
    );
  }
  if (record.writer !== signed.key.slice(0, record.writer.length)) {
    throw unreadable(record.type, "its writer is not the key that signed it");
  }
}

function unreadable(type: string, why: string, cause?: unknown): OperatorError {
  return new OperatorError("damaged", `a ${type} record can't be read: ${why}`, { cause });
}

function recordLine(record: unknown): Buffer {
  return Buffer.from(`${JSON.stringify(record)}\n`);
}

function digestOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

const digest = z.string().regex(/^[0-9a-f]{64}$/);
const repositoryId = z.string().regex(/^[0-9a-f]{32}$/);
const writerId = z.string().regex(/^[0-9a-f]{16}$/);
const sequence = z.int().min(1).max(9_999_999_999);
const count = z.int().min(0);
const time = z.iso.datetime();
const signatureSchema = z.strictObject({ key: digest, signature: z.base64() });

// The order of the fields is the order in the file: part of the format.
const counts = z.strictObject({
  total: count,
  incoming: count,
  active: count,
  deferred: count,
  hold: count,
  maildrop: count,
  inFlight: count.nullable(),
  incomplete: count,
  vanished: count,
  finishedDuringRun: count,
});
const reference = { id: digest, bytes: count };
const snapshotSchema = z.strictObject({
  format: z.literal(1),
  type: z.literal("snapshot"),
  repository: repositoryId,
  writer: writerId,
  number: sequence,
  previous: digest.nullable(),
  host: z.string().min(1),
  time,
  finished: time,
  mode: z.enum(captureModes),
  tags: z.array(z.string()),
  spoolsafe: z.string(),
  instances: z.array(
    z.strictObject({
      name: z.string().min(1),
      configDirectory: z.string(),
      queueDirectory: z.string(),
      postfixVersion: z.string(),
      running: z.boolean(),
      mode: z.enum(captureModes),
      messages: counts,
    }),
  ),
  messages: counts,
  bytes: count,
  storedBytes: count,
  newMessages: count,
  reusedMessages: count,
  hold: z.strictObject({ held: count, longestMs: z.number().min(0), released: count }),
  recipients: z.array(z.string()),
  parts: z.array(z.strictObject({ ...reference, kind: z.enum(["base", "increment"]) })),
  packs: z.array(z.strictObject(reference)),
});
const removalSchema = z.strictObject({
  format: z.literal(1),
  type: z.literal("removal"),
  repository: repositoryId,
  writer: writerId,
  number: sequence,
  previous: digest.nullable(),
  time,
  snapshots: z.array(z.strictObject({ id: digest, writer: writerId, number: sequence })),
  packs: z.array(digest),
  parts: z.array(digest),
});

const claimHead = {
  format: z.literal(1),
  type: z.literal("claim"),
  repository: repositoryId,
  writer: writerId,
  number: sequence,
  previous: digest.nullable(),
  time,
};
const claimSchema = z.discriminatedUnion("state", [
  z.strictObject({
    ...claimHead,
    state: z.literal("claimed"),
    host: z.string().min(1),
    snapshot: digest,
    run: z.string().min(1),
    by: z.string().min(1),
    into: z.string().min(1),
    shard: z.strictObject({ k: z.int().min(1), n: z.int().min(1) }).nullable(),
    overrules: z.array(digest),
    salt: z.base64().length(44),
    digests: z.strictObject({ ...reference, messages: count }),
  }),
  z.strictObject({ ...claimHead, state: z.literal("withdrawn"), withdraws: digest, reason: z.string() }),
]);

const drillId = z.string().regex(/^[0-9a-f]{12}$/);
const seconds = z.number();
const check = z.strictObject({ name: z.string(), ok: z.boolean(), detail: z.string() });
const target = z.strictObject({ seconds, met: z.boolean() }).nullable();
const drillSchema = z.strictObject({
  format: z.literal(1),
  type: z.literal("drill"),
  repository: repositoryId,
  writer: writerId,
  number: sequence,
  previous: digest.nullable(),
  publicKey: z.base64(),
  drawing: z.int().min(1),
  id: drillId,
  host: z.string().min(1),
  scenario: z
    .strictObject({ name: z.enum(drillScenarios), expected: z.string(), happened: z.string(), ok: z.boolean() })
    .nullable(),
  attended: z.boolean(),
  user: z.string(),
  sudoUser: z.string().nullable(),
  where: z.strictObject({
    hostname: z.string(),
    system: z.string(),
    postfix: z.string().nullable(),
    spoolsafe: z.string(),
    node: z.string(),
  }),
  store: z.strictObject({ url: z.string(), objectLockDays: count.nullable() }),
  snapshot: z
    .strictObject({
      id: digest,
      number: sequence,
      time,
      mode: z.enum(captureModes),
      host: z.string().min(1),
      signedBy: digest.nullable(),
      instances: z.array(z.string()),
    })
    .nullable(),
  started: time,
  ready: time.nullable(),
  ended: time,
  phases: z.array(z.strictObject({ name: z.enum(drillPhases), milliseconds: z.number().min(0) })),
  rpoSeconds: seconds.nullable(),
  rtoSeconds: seconds.nullable(),
  targets: z.strictObject({ rpo: target, rto: target }),
  isolation: z.strictObject({ proofs: z.array(check), outsideConnections: count.nullable() }),
  messages: z.strictObject({
    manifest: count,
    finished: count,
    restored: count,
    readable: count,
    identical: count,
    inQueue: count,
    heldByAdmin: count,
    maildrop: count,
    inDoubt: count,
  }),
  queues: z.strictObject({
    ageLimits: z.array(count),
    rows: z.array(z.strictObject({ queue: z.string(), counts: z.array(count) })),
  }),
  delivered: z
    .strictObject({
      messages: count,
      recipients: count,
      identical: count,
      promised: z.strictObject({ messages: count, recipients: count }),
      kept: count,
      expired: z.array(z.string()),
      deviating: z.array(z.strictObject({ queueId: z.string(), detail: z.string() })),
    })
    .nullable(),
  checks: z.array(check),
  deviations: z.array(z.string()),
  failure: z.strictObject({ kind: z.string(), message: z.string(), hints: z.array(z.string()) }).nullable(),
  ok: z.boolean(),
  before: z
    .array(
      z.strictObject({
        id: drillId,
        started: time,
        ok: z.boolean(),
        rpoSeconds: seconds.nullable(),
        rtoSeconds: seconds.nullable(),
      }),
    )
    .max(5),
});
const schemas = { snapshot: snapshotSchema, removal: removalSchema, claim: claimSchema, drill: drillSchema };
