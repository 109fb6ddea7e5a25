import { parentPort } from "node:worker_threads";
import type { AgeIdentities, AgeRecipients } from "../crypto/keys.ts";
import { type ErrorKind, OperatorError } from "../errors.ts";
import { buildLargePack, type LargePack, readPack, SourceChanged, sealPack } from "./pack.ts";
import { type StageResult, type StageTarget, stageFiles } from "./stage.ts";

/** What a worker is asked; one thing at a time. Buffers travel by transfer, without a copy. */
export type Job =
  | { kind: "pack"; tar: ArrayBuffer; length: number; recipients: AgeRecipients }
  | { kind: "large"; fd: number; digest: string; bytes: number; recipients: AgeRecipients; file: string }
  | { kind: "read"; sealed: Uint8Array<ArrayBuffer>; identities: AgeIdentities }
  | { kind: "stage"; sealed: Uint8Array<ArrayBuffer>; identities: AgeIdentities; targets: readonly StageTarget[] };

export interface Results {
  /** `tar` is the memory that was handed in, to be used again. */
  pack: { id: string; sealed: ArrayBuffer; tar: ArrayBuffer };
  large: LargePack;
  /** Every file as digest, offset and length in `memory`. */
  read: { memory: ArrayBuffer; files: readonly (readonly [string, number, number])[] };
  stage: StageResult;
}

export type Answer =
  | { ok: true; result: Results[keyof Results] }
  | { ok: false; failure: "operator"; kind: ErrorKind; message: string; hints: readonly string[]; cause: string }
  | { ok: false; failure: "changed"; digest: string }
  | { ok: false; failure: "defect"; message: string };

parentPort?.on("message", (job: Job) => void answer(job));

async function answer(job: Job): Promise<void> {
  try {
    const { result, transfer } = await work(job);
    parentPort?.postMessage({ ok: true, result } satisfies Answer, transfer);
  } catch (error) {
    parentPort?.postMessage(failureOf(job, error));
  }
}

interface Done<K extends keyof Results> {
  readonly result: Results[K];
  readonly transfer: ArrayBuffer[];
}

function work(job: Job): Promise<Done<keyof Results>> {
  switch (job.kind) {
    case "pack":
      return pack(job);
    case "large":
      return large(job);
    case "read":
      return read(job);
    case "stage":
      return stage(job);
  }
}

async function pack(job: Job & { kind: "pack" }): Promise<Done<"pack">> {
  const { id, sealed } = await sealPack(new Uint8Array(job.tar, 0, job.length), job.recipients);
  const memory = ownMemory(sealed);
  return { result: { id, sealed: memory, tar: job.tar }, transfer: [memory, job.tar] };
}

async function large(job: Job & { kind: "large" }): Promise<Done<"large">> {
  const result = await buildLargePack(job.fd, job.digest, job.bytes, job.recipients, job.file);
  return { result, transfer: [] };
}

async function read(job: Job & { kind: "read" }): Promise<Done<"read">> {
  const found = [...(await readPack(job.sealed, job.identities))];
  // All entries lie in the one buffer the archive was decompressed into.
  const first = found[0]?.[1];
  if (first === undefined) return { result: { memory: new ArrayBuffer(0), files: [] }, transfer: [] };
  const base = found.map(([digest, bytes]) => [digest, bytes.byteOffset, bytes.length] as const);
  const memory = first.buffer;
  if (memory instanceof ArrayBuffer && memory.byteLength > 64 * 1024) {
    return { result: { memory, files: base }, transfer: [memory] };
  }
  return packTogether(found);
}

/** A small archive may lie in memory that Node shares between buffers: copy it out. */
function packTogether(found: readonly (readonly [string, Buffer])[]): Done<"read"> {
  const memory = new ArrayBuffer(found.reduce((sum, [, bytes]) => sum + bytes.length, 0));
  let at = 0;
  const files = found.map(([digest, bytes]) => {
    new Uint8Array(memory).set(bytes, at);
    at += bytes.length;
    return [digest, at - bytes.length, bytes.length] as const;
  });
  return { result: { memory, files }, transfer: [memory] };
}

async function stage(job: Job & { kind: "stage" }): Promise<Done<"stage">> {
  return { result: stageFiles(await readPack(job.sealed, job.identities), job.targets), transfer: [] };
}

function ownMemory(buffer: Buffer): ArrayBuffer {
  const whole = buffer.buffer;
  if (whole instanceof ArrayBuffer && whole.byteLength === buffer.byteLength) return whole;
  return new Uint8Array(buffer).buffer;
}

function failureOf(job: Job, error: unknown): Answer {
  if (error instanceof SourceChanged && job.kind === "large") {
    return { ok: false, failure: "changed", digest: job.digest };
  }
  if (error instanceof OperatorError) {
    const { kind, message, hints, cause } = error;
    return { ok: false, failure: "operator", kind, message, hints, cause: cause === undefined ? "" : String(cause) };
  }
  const message = error instanceof Error ? `${error.message}` : String(error);
  return { ok: false, failure: "defect", message };
}
