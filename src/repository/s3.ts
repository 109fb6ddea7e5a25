import { createHash, hash } from "node:crypto";
import { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import type { HeadObjectCommandOutput } from "@aws-sdk/client-s3";
import { OperatorError } from "../errors.ts";
import { bodyBytes, bodyChunks } from "./body.ts";
import { parseObjectKey } from "./layout.ts";
import {
  type ObjectBody,
  ObjectRetained,
  type ObjectStore,
  RemovalRefused,
  type StoredObject,
  staleAfterMs,
} from "./object-store.ts";
import { connect, type S3Connection, type S3Settings, type S3Timing } from "./s3-client.ts";
import { explain, failureOf, isConflict, isMissingKey, isTaken, isUnsupported } from "./s3-errors.ts";
import { S3Locks } from "./s3-locks.ts";

export interface S3StoreOptions extends S3Settings {
  readonly timing?: S3Timing;
  /** Send and expect checksums the server stores; default: on AWS only. */
  readonly checksums?: boolean;
  /** Keys asked for per page of a listing; default: what the server gives, 1000. */
  readonly pageKeys?: number;
  /** Days for which everything written is locked, whole and at most ten years; default: 0, no locks. */
  readonly lockDays?: number | undefined;
  /** Milliseconds since 1970, for locks and what counts as stale; default: the store's clock. */
  readonly now?: () => number;
}

/**
 * Objects below a prefix of a bucket. Bodies go out as buffers: those are signed with their real SHA-256 on every
 * server, can be sent again, and never become `aws-chunked`, which some servers refuse and others store.
 *
 * Conditional writes are not everywhere (Swift answers 501, others ignore them), so a key is looked at before it is
 * written, and `If-None-Match` closes the gap between the two where the server knows it.
 */
export class S3Store implements ObjectStore {
  readonly url: string;
  readonly #options: S3StoreOptions;
  readonly #prefix: string;
  readonly #locks: S3Locks;
  #connection: Promise<S3Connection> | undefined;
  #connected: S3Connection | undefined;
  #knowsConditions = true;

  constructor(options: S3StoreOptions) {
    this.#options = options;
    this.#prefix = options.prefix === "" ? "" : `${options.prefix}/`;
    this.url = `s3://${options.bucket}${options.prefix === "" ? "" : `/${options.prefix}`}`;
    this.#locks = new S3Locks({
      url: this.url,
      bucket: options.bucket,
      days: options.lockDays ?? 0,
      now: () => this.#now(),
      at: (key) => this.#at(key),
      head: (key, signal) => this.#head(key, signal),
      connect: () => this.#connect(),
      worded: (what, error, signal) => this.#worded(what, error, signal),
    });
  }

  /** A bucket has an owner, a region and a policy, and perhaps a lock that can't be added later: it is not ours to make. */
  async prepare(signal?: AbortSignal): Promise<void> {
    await this.#page("", undefined, signal, 1);
  }

  async put(key: string, body: ObjectBody, sha256: string, signal?: AbortSignal): Promise<void> {
    await this.#put(key, body, sha256, signal);
    await this.#locks.keep(key, signal);
  }

  async keepLocked(key: string, signal?: AbortSignal): Promise<void> {
    await this.#locks.keep(key, signal);
  }

  async #put(key: string, body: ObjectBody, sha256: string, signal: AbortSignal | undefined): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const present = await this.#head(key, signal);
      if (present !== undefined) return this.#expectSame(key, bodyBytes(body), sha256, present, signal);
      const outcome = await this.#upload(key, body, sha256, signal);
      if (outcome === "confirmed") return;
      if (outcome === "unconfirmed") return this.#readBack(key, sha256, signal);
      // Taken or in conflict: somebody was faster, or it was our own request whose answer got lost on the way.
      if (attempt === maxConflicts)
        throw this.#failed(`store ${key}`, "other writers of the same key keep getting in the way");
      if (outcome === "conflict") await sleep(500 * attempt, signal);
    }
  }

  async get(key: string, signal?: AbortSignal): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of this.open(key, signal)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  /** A body that is cut or goes silent is continued where it ended, as often as each attempt brings it further. */
  async *open(key: string, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const attempts = this.#options.timing?.attempts ?? 5;
    for (let done = 0, failed = 0; ; ) {
      try {
        for await (const chunk of this.#body(key, done, signal)) {
          done += chunk.length;
          failed = 0;
          yield chunk;
        }
        return;
      } catch (error) {
        if (!(error instanceof BodyCut) || ++failed >= attempts) throw this.#worded(`read ${key}`, error, signal);
        await sleep(100 * 2 ** failed, signal);
      }
    }
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncGenerator<StoredObject, void, undefined> {
    let last = "";
    for (let token: string | undefined; ; ) {
      const page = await this.#page(prefix, token, signal, this.#options.pageKeys);
      for (const { Key = "", Size = 0, LastModified } of page.Contents ?? []) {
        const key = Key.slice(this.#prefix.length);
        if (key === "" || key.endsWith("/")) continue; // what consoles make to show a folder
        if (compareBytes(key, last) <= 0)
          throw this.#failed(`list ${prefix}`, "the server does not list keys in order");
        last = key;
        yield { key, bytes: Size, modified: LastModified?.getTime() ?? 0 };
      }
      if (page.IsTruncated !== true) return;
      if (page.NextContinuationToken === undefined || page.NextContinuationToken === token) {
        throw this.#failed(`list ${prefix}`, "the server says there is more and not where");
      }
      token = page.NextContinuationToken;
    }
  }

  /**
   * A locked object is not even asked for: where versions are kept, the answer to that is a success and a marker that hides the
   * object, which stays; and some servers that know locks only by name destroy it.
   */
  async remove(key: string, signal?: AbortSignal): Promise<void> {
    const head = await this.#head(key, signal);
    const until = head?.ObjectLockRetainUntilDate?.getTime() ?? 0;
    if (head?.ObjectLockLegalHoldStatus === "ON") throw new ObjectRetained(key, null);
    if (until > this.#now()) throw new ObjectRetained(key, until);
    await this.#delete(key, signal);
  }

  async #delete(key: string, signal: AbortSignal | undefined): Promise<void> {
    await this.#request(`remove ${key}`, signal, async ({ client, sdk }, options) => {
      try {
        await client.send(new sdk.DeleteObjectCommand(this.#at(key)), options);
      } catch (error) {
        const failure = failureOf(error);
        if (failure.status === 403) throw new RemovalRefused(key, this.#worded(`remove ${key}`, error, signal));
        if (!isMissingKey(failure)) throw error;
      }
    });
  }

  /** Aborts multipart uploads of packs and parts below our prefix that were begun more than 48 hours ago. */
  async sweep(signal?: AbortSignal): Promise<number> {
    let swept = 0;
    for await (const { key, uploadId, begun } of this.#uploads(signal)) {
      const ours = parseObjectKey("pack", key) ?? parseObjectKey("part", key);
      if (ours === undefined || begun >= this.#now() - staleAfterMs) continue;
      await this.#abortUpload(key, uploadId, signal);
      swept++;
    }
    return swept;
  }

  async close(): Promise<void> {
    const connection = await this.#connection?.catch(() => undefined);
    connection?.client.destroy();
    this.#connection = undefined;
    this.#connected = undefined;
  }

  async #head(key: string, signal: AbortSignal | undefined): Promise<HeadObjectCommandOutput | undefined> {
    return this.#request(`look at ${key}`, signal, async ({ client, sdk }, options) => {
      try {
        return await client.send(new sdk.HeadObjectCommand(this.#at(key)), options);
      } catch (error) {
        if (isMissingKey(failureOf(error))) return undefined;
        throw error;
      }
    });
  }

  async #expectSame(
    key: string,
    bytes: number,
    sha256: string,
    present: HeadObjectCommandOutput,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    if (present.ContentLength === bytes && (await this.#digestOf(key, signal)) === sha256) return;
    throw new OperatorError("store-failed", `${key} is there already, with other bytes (${this.url})`, {
      hints: ["run spoolsafe verify: an object is never rewritten, so this one is damaged or not ours"],
    });
  }

  /** The server named no digest we know, so the bytes themselves are compared; wrong ones are taken away again. */
  async #readBack(key: string, sha256: string, signal: AbortSignal | undefined): Promise<void> {
    if ((await this.#digestOf(key, signal)) === sha256) return;
    await this.#delete(key, signal);
    throw new OperatorError("store-failed", `${key} read back from ${this.url} is not what was sent`, {
      hints: ["the store damages what it is given: do not trust it with backups until its maker explains that"],
    });
  }

  async #digestOf(key: string, signal: AbortSignal | undefined): Promise<string> {
    const sha256 = createHash("sha256");
    for await (const chunk of this.open(key, signal)) sha256.update(chunk);
    return sha256.digest("hex");
  }

  async #upload(key: string, body: ObjectBody, sha256: string, signal: AbortSignal | undefined): Promise<Outcome> {
    try {
      if (bodyBytes(body) > wholeBytes) return await this.#uploadParts(key, body, sha256, signal);
      return await this.#uploadWhole(key, body, sha256, signal);
    } catch (error) {
      const failure = failureOf(error);
      if (isTaken(failure)) return "taken";
      if (isConflict(failure)) return "conflict";
      throw this.#worded(`store ${key}`, error, signal);
    }
  }

  async #uploadWhole(key: string, body: ObjectBody, sha256: string, signal: AbortSignal | undefined): Promise<Outcome> {
    const bytes = await wholeBody(body);
    requireDigest(key, hash("sha256", bytes, "hex"), sha256);
    const lock = await this.#locks.wanted(signal);
    const { client, sdk, checksums } = await this.#connect();
    const answer = await this.#conditionally(signal, (condition) =>
      client.send(
        new sdk.PutObjectCommand({
          ...this.#at(key),
          Body: bytes,
          ContentLength: bytes.length,
          ...digestsOf(bytes, checksums),
          ...lock,
          ...condition,
        }),
        optionsOf(signal),
      ),
    );
    const stored = answer.ChecksumSHA256 === Buffer.from(sha256, "hex").toString("base64");
    return stored || plainTag(answer.ETag) === hash("md5", bytes, "hex") ? "confirmed" : "unconfirmed";
  }

  async #uploadParts(key: string, body: ObjectBody, sha256: string, signal: AbortSignal | undefined): Promise<Outcome> {
    const lock = await this.#locks.wanted(signal);
    const { client, sdk, checksums } = await this.#connect();
    const algorithm = checksums ? { ChecksumAlgorithm: "SHA256" as const } : {};
    const create = new sdk.CreateMultipartUploadCommand({ ...this.#at(key), ...algorithm, ...lock });
    const { UploadId: uploadId } = await client.send(create, optionsOf(signal));
    if (uploadId === undefined) throw this.#failed(`store ${key}`, "the server gave no id for a multipart upload");
    try {
      const parts = await this.#sendParts(key, uploadId, body, sha256, signal);
      const answer = await this.#conditionally(signal, (condition) =>
        client.send(
          new sdk.CompleteMultipartUploadCommand({
            ...this.#at(key),
            UploadId: uploadId,
            MultipartUpload: { Parts: parts.map((part) => part.completed) },
            ...condition,
          }),
          optionsOf(signal),
        ),
      );
      return await this.#confirm(key, answer.ETag, combinedTag(parts.map((part) => part.md5)), signal);
    } catch (error) {
      // The first answer to a completion got lost and the SDK asked again: what is there now is ours, or nobody's.
      if (failureOf(error).name === "NoSuchUpload") return "taken";
      // The failure to tell is the first; parts that stay behind are swept when they are old.
      await this.#abortUpload(key, uploadId, AbortSignal.timeout(abortMs)).catch(() => {});
      throw error;
    }
  }

  /** Ceph 16 answers a completion with an empty tag and has the right one a moment later. */
  async #confirm(
    key: string,
    tag: string | undefined,
    expected: string,
    signal: AbortSignal | undefined,
  ): Promise<Outcome> {
    if (plainTag(tag) === expected) return "confirmed";
    const present = await this.#head(key, signal);
    return plainTag(present?.ETag) === expected ? "confirmed" : "unconfirmed";
  }

  /** Several parts at a time. When one fails the others are ended, and it is its failure that is thrown. */
  async #sendParts(
    key: string,
    uploadId: string,
    body: ObjectBody,
    sha256: string,
    signal: AbortSignal | undefined,
  ): Promise<SentPart[]> {
    const stop = new AbortController();
    const either = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
    const sent: SentPart[] = [];
    const total = createHash("sha256");
    const parts = numberedParts(body, total);
    const sender = async () => {
      for await (const part of parts) sent[part.number - 1] = await this.#sendPart(key, uploadId, part, either);
    };
    const senders = Array.from({ length: partsAtOnce }, () =>
      sender().catch((error) => {
        stop.abort(error);
        throw error;
      }),
    );
    const results = await Promise.allSettled(senders);
    if (stop.signal.aborted) throw stop.signal.reason;
    const failed = results.find((result) => result.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    requireDigest(key, total.digest("hex"), sha256);
    return sent;
  }

  async #sendPart(
    key: string,
    uploadId: string,
    { number, bytes }: NumberedPart,
    signal: AbortSignal,
  ): Promise<SentPart> {
    const { client, sdk, checksums } = await this.#connect();
    const digests = digestsOf(bytes, checksums);
    const answer = await client.send(
      new sdk.UploadPartCommand({
        ...this.#at(key),
        UploadId: uploadId,
        PartNumber: number,
        Body: bytes,
        ContentLength: bytes.length,
        ...digests,
      }),
      optionsOf(signal),
    );
    return {
      md5: hash("md5", bytes, "buffer"),
      completed: {
        PartNumber: number,
        ETag: answer.ETag,
        ...("ChecksumSHA256" in digests ? { ChecksumSHA256: digests.ChecksumSHA256 } : {}),
      },
    };
  }

  /** Write only if nothing is there, as far as the server can tell; one that says it can't is not asked again. */
  async #conditionally<T>(
    signal: AbortSignal | undefined,
    send: (condition: { IfNoneMatch?: "*" }) => Promise<T>,
  ): Promise<T> {
    if (!this.#knowsConditions) return send({});
    try {
      return await send({ IfNoneMatch: "*" });
    } catch (error) {
      if (signal?.aborted || !isUnsupported(failureOf(error))) throw error;
    }
    const answer = await send({});
    this.#knowsConditions = false;
    return answer;
  }

  async #abortUpload(key: string, uploadId: string, signal: AbortSignal | undefined): Promise<void> {
    await this.#request(`abort the upload of ${key}`, signal, async ({ client, sdk }, options) => {
      try {
        await client.send(new sdk.AbortMultipartUploadCommand({ ...this.#at(key), UploadId: uploadId }), options);
      } catch (error) {
        if (failureOf(error).name !== "NoSuchUpload") throw error;
      }
    });
  }

  async *#uploads(signal: AbortSignal | undefined) {
    for (let marker: { KeyMarker?: string; UploadIdMarker?: string } = {}; ; ) {
      const page = await this.#request("list unfinished uploads", signal, async ({ client, sdk }, options) => {
        const where = { Bucket: this.#options.bucket, Prefix: this.#prefix, ...marker };
        try {
          return await client.send(new sdk.ListMultipartUploadsCommand(where), options);
        } catch (error) {
          // A server that keeps no list of them has none for us to end.
          if (isUnsupported(failureOf(error))) return undefined;
          throw error;
        }
      });
      for (const { Key = "", UploadId = "", Initiated } of page?.Uploads ?? []) {
        const key = Key.slice(this.#prefix.length);
        yield { key, uploadId: UploadId, begun: Initiated?.getTime() ?? Number.POSITIVE_INFINITY };
      }
      if (page?.IsTruncated !== true || !page.NextKeyMarker) return;
      marker = { KeyMarker: page.NextKeyMarker, UploadIdMarker: page.NextUploadIdMarker ?? "" };
    }
  }

  /** What one GET brings of an object, from an offset on. @throws BodyCut when the body ends before its length */
  async *#body(key: string, offset: number, signal: AbortSignal | undefined): AsyncGenerator<Buffer, void, undefined> {
    const { client, sdk } = await this.#connect();
    const range = offset === 0 ? {} : { Range: `bytes=${offset}-` };
    const answer = await client.send(new sdk.GetObjectCommand({ ...this.#at(key), ...range }), optionsOf(signal));
    if (!(answer.Body instanceof Readable)) throw new Error("the SDK gave no stream");
    // A server that knows no ranges sends it all again.
    let skip = answer.ContentRange === undefined ? offset : 0;
    let got = 0;
    try {
      for await (const chunk of answer.Body as AsyncIterable<Buffer>) {
        got += chunk.length;
        const fresh = chunk.subarray(Math.min(skip, chunk.length));
        skip -= chunk.length - fresh.length;
        if (fresh.length > 0) yield fresh;
      }
    } catch (error) {
      throw new BodyCut(failureOf(error).message);
    }
    if (got !== answer.ContentLength) throw new BodyCut(`${got} of ${answer.ContentLength} bytes`);
  }

  #page(prefix: string, token: string | undefined, signal: AbortSignal | undefined, most?: number) {
    return this.#request(`list ${prefix || "it"}`, signal, ({ client, sdk }, options) =>
      client.send(
        new sdk.ListObjectsV2Command({
          Bucket: this.#options.bucket,
          Prefix: this.#prefix + prefix,
          ...(token === undefined ? {} : { ContinuationToken: token }),
          ...(most === undefined ? {} : { MaxKeys: most }),
        }),
        options,
      ),
    );
  }

  async #request<T>(
    what: string,
    signal: AbortSignal | undefined,
    send: (connection: S3Connection, options: { abortSignal?: AbortSignal }) => Promise<T>,
  ): Promise<T> {
    try {
      return await send(await this.#connect(), optionsOf(signal));
    } catch (error) {
      throw this.#worded(what, error, signal);
    }
  }

  #connect(): Promise<S3Connection> {
    this.#connection ??= connect(this.#options, this.#options.timing ?? {}, this.#options.checksums).then(
      (connection) => {
        this.#connected = connection;
        return connection;
      },
    );
    return this.#connection;
  }

  /**
   * Locks and ages are the store's, so they go by its clock where ours is wrong: the SDK learns the difference from every answer
   * and signs by it, so that nothing else would show. A lock by a clock that is a year ahead would hold a year longer.
   */
  #now(): number {
    if (this.#options.now !== undefined) return this.#options.now();
    const offset = this.#connected?.client.config.systemClockOffset ?? 0;
    return Date.now() + (Math.abs(offset) < skewMs ? 0 : offset);
  }

  #at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#options.bucket, Key: this.#prefix + key };
  }

  #worded(what: string, error: unknown, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) return signal.reason;
    if (what.startsWith("read ") && isMissingKey(failureOf(error))) {
      return new OperatorError("damaged", `${what.slice("read ".length)} is missing`);
    }
    return explain(what, error, { ...this.#options, url: this.url, endpoint: this.#options.endpoint });
  }

  #failed(what: string, why: string): OperatorError {
    return new OperatorError("store-failed", `could not ${what} at ${this.url}: ${why}`, {
      hints: ["run this again; if it stays so, ask the maker of the store"],
    });
  }
}

/** Up to here an object goes out in one request. */
const wholeBytes = 16 * 1024 * 1024;
const smallestPart = 8 * 1024 * 1024;
/** AWS takes 10,000 parts, Swift 1000 (`max_upload_part_num`). */
const mostParts = 1000;
const partsAtOnce = 3;
const maxConflicts = 5;
/** The `Date` of an answer has whole seconds and was on its way; a clock that is further off is wrong. */
const skewMs = 240_000;
/** How long a failed put may take to abort its upload. */
const abortMs = 5000;

/**
 * How a write ended: the server named the digest we expect, or none we know; the key was there; or it must be tried
 * again.
 */
type Outcome = "confirmed" | "unconfirmed" | "taken" | "conflict";

interface NumberedPart {
  readonly number: number;
  readonly bytes: Buffer;
}

interface SentPart {
  readonly md5: Buffer;
  readonly completed: { PartNumber: number; ETag: string | undefined; ChecksumSHA256?: string };
}

/** A body that ended, broke or went silent before it was whole. */
class BodyCut extends Error {
  override readonly name = "IncompleteBody";
}

async function* numberedParts(body: ObjectBody, total: { update(bytes: Uint8Array): unknown }) {
  let number = 0;
  for await (const bytes of bodyChunks(body, partBytes(bodyBytes(body)))) {
    total.update(bytes);
    yield { number: ++number, bytes };
  }
}

/** Bytes per part, in whole MiB: as small as 8 MiB, and so large that 1000 suffice. */
export function partBytes(bytes: number): number {
  const mebibyte = 1024 * 1024;
  return Math.max(smallestPart, Math.ceil(bytes / mostParts / mebibyte) * mebibyte);
}

async function wholeBody(body: ObjectBody): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of bodyChunks(body, wholeBytes)) chunks.push(chunk);
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks);
}

function requireDigest(key: string, found: string, wanted: string): void {
  if (found === wanted) return;
  throw new OperatorError("store-failed", `the bytes for ${key} are not those of its digest; nothing was stored`, {
    hints: ["this machine's memory or temporary disk may be failing: see dmesg"],
  });
}

/** Content-MD5 is what every server checks on arrival; a SHA-256 is checked and kept by those that know it. */
function digestsOf(bytes: Buffer, checksums: boolean) {
  const md5 = { ContentMD5: hash("md5", bytes, "base64") };
  if (!checksums) return md5;
  return { ...md5, ChecksumAlgorithm: "SHA256" as const, ChecksumSHA256: hash("sha256", bytes, "base64") };
}

/** The ETag of a multipart object where it is a digest: MD5 of the parts' MD5s, and their number. */
function combinedTag(digests: readonly Buffer[]): string {
  return `${hash("md5", Buffer.concat(digests), "hex")}-${digests.length}`;
}

function compareBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

function plainTag(tag: string | undefined): string | undefined {
  return tag?.replaceAll('"', "").toLowerCase();
}

function optionsOf(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal };
}

async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await delay(ms, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    throw signal?.aborted ? signal.reason : error;
  }
}
