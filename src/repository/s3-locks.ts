import { setTimeout as delay } from "node:timers/promises";
import type { HeadObjectCommandOutput } from "@aws-sdk/client-s3";
import { OperatorError } from "../errors.ts";
import type { S3Connection } from "./s3-client.ts";
import { failureOf, isUnsupported } from "./s3-errors.ts";

/** What the locks need of the store they belong to. */
export interface LockedBucket {
  /** For people. */
  readonly url: string;
  readonly bucket: string;
  /** Whole days every object is to stay locked; 0 for no locks. */
  readonly days: number;
  /** Milliseconds since 1970. */
  now(): number;
  at(key: string): { Bucket: string; Key: string };
  /** Undefined for a key that is not there. */
  head(key: string, signal: AbortSignal | undefined): Promise<HeadObjectCommandOutput | undefined>;
  connect(): Promise<S3Connection>;
  /** An error in words. */
  worded(what: string, error: unknown, signal: AbortSignal | undefined): unknown;
}

/**
 * The retention of objects in a bucket with Object Lock. The mode is COMPLIANCE: GOVERNANCE ends where somebody has the right
 * to bypass it, which on most stores the owner of the bucket has, so that it would hold only as long as the credentials in use
 * are the narrow ones. A compliance lock is for everybody, and can be made longer and not shorter.
 *
 * Stores are not believed. Swift answers 200 to a put with lock headers and keeps no lock, Ceph before 19 loses the lock of a
 * multipart upload without a word, and Swift answers PutObjectRetention by writing the request's XML in the place of the
 * object. So nothing is sent before the bucket itself has said that it keeps locks, and every lock is read back.
 */
export class S3Locks {
  readonly #bucket: LockedBucket;
  #known: Promise<void> | undefined;
  /** Ends of locks this process has read; a compliance lock never ends earlier. */
  readonly #until = new Map<string, number>();

  constructor(bucket: LockedBucket) {
    this.#bucket = bucket;
  }

  /**
   * What a request that writes an object says of its lock.
   *
   * @throws OperatorError `store-failed` when the bucket keeps none
   */
  async wanted(signal: AbortSignal | undefined): Promise<LockHeaders | Record<string, never>> {
    if (this.#bucket.days === 0) return {};
    await this.#requireLocks(signal);
    return { ObjectLockMode: "COMPLIANCE", ObjectLockRetainUntilDate: this.#granted() };
  }

  /**
   * See to it that an object is locked for the whole time from now on, and read back that it is. A lock is given for an
   * eighth longer than that, so that an object which one snapshot after the other refers to needs a longer one only every
   * few days.
   *
   * @throws OperatorError `damaged` for an object that is not there, `store-failed` when the store keeps no such lock
   */
  async keep(key: string, signal: AbortSignal | undefined): Promise<void> {
    const { days, now } = this.#bucket;
    if (days === 0 || (this.#until.get(key) ?? 0) >= now() + days * dayMs) return;
    await this.#requireLocks(signal);
    if (await this.#isKept(key, signal)) return;
    await this.#extend(key, signal);
    if (await this.#isKept(key, signal)) return;
    throw new OperatorError("store-failed", `${this.#bucket.url} keeps no lock of ${days} days on ${key}`, {
      hints: [
        "the store took the request and did not do it: it is not fit for object_lock_days",
        "a clock of this host that is days behind does the same: timedatectl",
      ],
    });
  }

  /** By the store's clock as well: no lock is shorter than it should be because ours is behind. */
  async #isKept(key: string, signal: AbortSignal | undefined): Promise<boolean> {
    const head = await this.#bucket.head(key, signal);
    if (head === undefined) throw new OperatorError("damaged", `${key} is missing`);
    const until = head.ObjectLockRetainUntilDate?.getTime() ?? 0;
    const from = Math.max(this.#bucket.now(), head.LastModified?.getTime() ?? 0);
    if (head.ObjectLockMode !== "COMPLIANCE" || until < from + this.#bucket.days * dayMs) return false;
    this.#until.set(key, until);
    return true;
  }

  /** OVH refuses this within a second of the object's own put (kopia/kopia#5590). */
  async #extend(key: string, signal: AbortSignal | undefined): Promise<void> {
    const Retention = { Mode: "COMPLIANCE", RetainUntilDate: this.#granted() } as const;
    const { client, sdk } = await this.#bucket.connect();
    const options = signal === undefined ? {} : { abortSignal: signal };
    for (let refused = 0; ; ) {
      try {
        await client.send(new sdk.PutObjectRetentionCommand({ ...this.#bucket.at(key), Retention }), options);
        return;
      } catch (error) {
        if (signal?.aborted || failureOf(error).status !== 403 || ++refused === 3) {
          throw this.#bucket.worded(`lock ${key}`, error, signal);
        }
      }
      await delay(700);
    }
  }

  #granted(): Date {
    const { days, now } = this.#bucket;
    return new Date(Math.ceil(now() / 1000) * 1000 + (days + Math.ceil(days / 8)) * dayMs);
  }

  #requireLocks(signal: AbortSignal | undefined): Promise<void> {
    this.#known ??= this.#askBucket(signal).catch((error) => {
      this.#known = undefined;
      throw error;
    });
    return this.#known;
  }

  async #askBucket(signal: AbortSignal | undefined): Promise<void> {
    const { bucket: Bucket, url } = this.#bucket;
    try {
      const { client, sdk } = await this.#bucket.connect();
      const options = signal === undefined ? {} : { abortSignal: signal };
      const answer = await client.send(new sdk.GetObjectLockConfigurationCommand({ Bucket }), options);
      if (answer.ObjectLockConfiguration?.ObjectLockEnabled === "Enabled") return;
    } catch (error) {
      const failure = failureOf(error);
      const hasNone = failure.name === "ObjectLockConfigurationNotFoundError" || isUnsupported(failure);
      if (signal?.aborted || !hasNone) throw this.#bucket.worded("ask whether the bucket keeps locks", error, signal);
    }
    throw new OperatorError("store-failed", `${url} keeps no locks, and object_lock_days is ${this.#bucket.days}`, {
      hints: [
        "Object Lock belongs to a bucket from its making on: make a new one with it, and spoolsafe init there",
        "where the store knows no Object Lock, set object_lock_days = 0: nothing then protects snapshots from who may delete",
      ],
    });
  }
}

interface LockHeaders {
  readonly ObjectLockMode: "COMPLIANCE";
  readonly ObjectLockRetainUntilDate: Date;
}

const dayMs = 24 * 60 * 60 * 1000;
