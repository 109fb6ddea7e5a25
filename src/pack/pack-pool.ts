import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { AgeIdentities, AgeRecipients } from "../crypto/keys.ts";
import { type LargePack, largeFile, packEntryName, packTarget, SourceChanged } from "./pack.ts";
import type { StageResult, StageTarget } from "./stage.ts";
import { TarImage, tarFileSize } from "./tar.ts";
import { Workers } from "./workers.ts";

/** A pack as it is handed over to be stored. */
export interface FinishedPack {
  /** SHA-256 of the sealed bytes. */
  readonly id: string;
  /** Sealed bytes. */
  readonly bytes: number;
  /** In memory, or a temporary file that is removed when `store` has ended. */
  readonly body: Buffer | { readonly file: string; readonly bytes: number };
  readonly digests: readonly string[];
  /** Bytes of the files in it. */
  readonly plainBytes: number;
}

export interface PackWriterOptions {
  readonly recipients: AgeRecipients;
  /** Worker threads that compress and seal. */
  readonly processors: number;
  /** Store a pack; resolves when it is durable. Several run at once. A failure ends the writer. */
  readonly store: (pack: FinishedPack) => Promise<void>;
  /** For the sealed packs of large files. */
  readonly temporaryDirectory: string;
  readonly signal?: AbortSignal;
  /** Threads to use, for tests; else our own. They are ended with the writer. */
  readonly workers?: Workers;
}

/**
 * Fills packs with files, has worker threads compress and seal them, and hands them to `store`. A digest is stored once,
 * however often it is added. At most `processors` + 2 packs are being built or stored; beyond that `add` waits.
 *
 * The first failure (of a worker, of `store`, or the signal) ends everything: that error is thrown by what waits and by
 * every later call. After `finish` or `close`, also failed ones, no thread and no temporary file is left.
 */
export class PackWriter {
  readonly #options: PackWriterOptions;
  readonly #workers: Workers;
  readonly #packs = new Map<string, string | undefined>();
  readonly #large = new Map<string, Promise<void>>();
  readonly #underway = new Set<Promise<void>>();
  readonly #spare: ArrayBuffer[] = [];
  #open: OpenPack | undefined;
  #failure: { readonly error: unknown } | undefined;
  readonly #onAbort = () => this.#fail(this.#options.signal?.reason);

  constructor(options: PackWriterOptions) {
    this.#options = options;
    this.#workers = options.workers ?? new Workers(options.processors);
    options.signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (options.signal?.aborted) this.#onAbort();
  }

  /**
   * Put a file into the pack that is being filled; its bytes are copied before this returns. Resolves when there is
   * room for more.
   *
   * @param digest SHA-256 of the bytes, hexadecimal
   * @param bytes up to `largeFile`
   */
  async add(digest: string, bytes: Uint8Array): Promise<void> {
    this.#check();
    if (bytes.length > largeFile) throw new RangeError("a file this large goes through addLarge");
    if (!this.#packs.has(digest)) {
      this.#packs.set(digest, undefined);
      this.#place(digest, bytes);
    }
    while (this.#underway.size > this.#options.processors + 1) await this.#oneDone();
  }

  /**
   * Pack a large file by itself. Resolves when the descriptor is not needed any more.
   *
   * @param fd open for reading; read by offset, from another thread
   * @throws SourceChanged when it does not have this digest any more; nothing was stored and the writer goes on
   */
  async addLarge(digest: string, fd: number, bytes: number): Promise<void> {
    this.#check();
    const underway = this.#large.get(digest);
    if (underway !== undefined) return underway;
    if (this.#packs.has(digest)) return;
    this.#packs.set(digest, undefined);
    const sealed = this.#sealLarge(digest, fd, bytes);
    this.#large.set(digest, sealed);
    try {
      await sealed;
    } catch (error) {
      if (error instanceof SourceChanged) this.#packs.delete(digest);
      throw error;
    } finally {
      this.#large.delete(digest);
    }
    while (this.#underway.size > this.#options.processors + 1) await this.#oneDone();
  }

  /** Pack what is left and wait until everything is stored. */
  async finish(): Promise<void> {
    this.#submitOpen();
    await this.#settled();
    const failure = this.#failure;
    await this.close();
    if (failure !== undefined) throw failure.error;
  }

  /** End without packing what is left; safe at any time, also after `finish`. */
  async close(): Promise<void> {
    this.#fail(new Error("the pack writer is closed"));
    await this.#settled();
    await this.#workers.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Id of the pack a digest of this run is in, once that pack is stored. */
  packOf(digest: string): string | undefined {
    return this.#packs.get(digest);
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #place(digest: string, bytes: Uint8Array): void {
    if (tarFileSize(bytes.length) > packTarget) {
      const alone = new OpenPack(new ArrayBuffer(tarFileSize(bytes.length)));
      alone.add(digest, bytes);
      this.#submit(alone);
      return;
    }
    if (this.#open?.image.fits(bytes.length) === false) this.#submitOpen();
    this.#open ??= new OpenPack(this.#spare.pop() ?? new ArrayBuffer(packTarget));
    this.#open.add(digest, bytes);
  }

  #submitOpen(): void {
    const open = this.#open;
    this.#open = undefined;
    if (open !== undefined) this.#submit(open);
  }

  #submit(open: OpenPack): void {
    this.#track(this.#build(open));
  }

  async #build(open: OpenPack): Promise<void> {
    const { recipients } = this.#options;
    const job = { kind: "pack", tar: open.memory, length: open.image.finish(), recipients } as const;
    const { id, sealed, tar } = await this.#workers.run(job, [open.memory]);
    if (tar.byteLength === packTarget) this.#spare.push(tar);
    const body = Buffer.from(sealed);
    await this.#store({ id, bytes: body.length, body, digests: open.digests, plainBytes: open.plainBytes });
  }

  async #sealLarge(digest: string, fd: number, bytes: number): Promise<void> {
    const { recipients, temporaryDirectory } = this.#options;
    const file = join(temporaryDirectory, `${randomBytes(8).toString("hex")}.pack`);
    const job = { kind: "large", fd, digest, bytes, recipients, file } as const;
    const sealing = this.#workers.run(job, []);
    this.#track(this.#storeLarge(digest, bytes, file, sealing));
    await sealing;
  }

  async #storeLarge(digest: string, plainBytes: number, file: string, sealing: Promise<LargePack>): Promise<void> {
    try {
      const { id, bytes } = await sealing;
      await this.#store({ id, bytes, body: { file, bytes }, digests: [digest], plainBytes });
    } catch (error) {
      if (!(error instanceof SourceChanged)) throw error; // else it is for the caller of addLarge alone
    } finally {
      rmSync(file, { force: true });
    }
  }

  async #store(pack: FinishedPack): Promise<void> {
    this.#check();
    await this.#options.store(pack);
    for (const digest of pack.digests) this.#packs.set(digest, pack.id);
  }

  /** Count something as under way until it ends; its failure is the writer's. */
  #track(task: Promise<void>): void {
    const tracked: Promise<void> = task
      .catch((error) => this.#fail(error))
      .finally(() => this.#underway.delete(tracked));
    this.#underway.add(tracked);
  }

  async #oneDone(): Promise<void> {
    await Promise.race(this.#underway);
    this.#check();
  }

  async #settled(): Promise<void> {
    while (this.#underway.size > 0) await Promise.all(this.#underway);
  }

  /** Remember the first failure and end the threads; what waits for them is rejected with it. */
  #fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    this.#open = undefined;
    this.#options.signal?.removeEventListener("abort", this.#onAbort);
    void this.#workers.close(error);
  }
}

/** A pack that is being filled. */
class OpenPack {
  readonly memory: ArrayBuffer;
  readonly image: TarImage;
  readonly digests: string[] = [];
  plainBytes = 0;

  constructor(memory: ArrayBuffer) {
    this.memory = memory;
    this.image = new TarImage(memory);
  }

  add(digest: string, bytes: Uint8Array): void {
    this.image.add(packEntryName(digest), bytes);
    this.digests.push(digest);
    this.plainBytes += bytes.length;
  }
}

/** Opens packs in worker threads: decrypt, decompress, untar, and every digest checked. */
export class PackReader {
  readonly #identities: AgeIdentities;
  readonly #workers: Workers;

  constructor(options: { identities: AgeIdentities; processors: number; workers?: Workers }) {
    this.#identities = options.identities;
    this.#workers = options.workers ?? new Workers(options.processors);
  }

  /** `readPack` in a thread. Calls beyond `processors` queue up, with their packs in memory. */
  async read(sealed: Uint8Array): Promise<Map<string, Buffer>> {
    const copy = new Uint8Array(sealed);
    const job = { kind: "read", sealed: copy, identities: this.#identities } as const;
    const { memory, files } = await this.#workers.run(job, [copy.buffer]);
    return new Map(files.map(([digest, offset, length]) => [digest, Buffer.from(memory, offset, length)]));
  }

  /** Open a pack and write files of it, in a thread; nothing is written unless the whole pack is sound. See `stageFiles`. */
  async stage(sealed: Uint8Array, targets: readonly StageTarget[]): Promise<StageResult> {
    const copy = new Uint8Array(sealed);
    const job = { kind: "stage", sealed: copy, identities: this.#identities, targets } as const;
    return this.#workers.run(job, [copy.buffer]);
  }

  /** End the threads; what is still being read is rejected with the reason. */
  close(reason?: unknown): Promise<void> {
    return this.#workers.close(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
