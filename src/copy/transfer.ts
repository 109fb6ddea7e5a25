import { randomBytes } from "node:crypto";
import { mkdirSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { objectKey } from "../repository/layout.ts";
import type { ObjectBody } from "../repository/object-store.ts";
import { mapConcurrently, type Repository } from "../repository/repository.ts";
import type { NeededObject } from "./plan.ts";
import type { CopyRequest } from "./request.ts";

/** Sends packs and parts, at a pace, and knows which of them can't be sent. */
export class Transfer {
  readonly #request: CopyRequest;
  readonly #target: Repository;
  readonly #of: number;
  readonly #temporary: string;
  /** What is wrong with those that can't be copied, by key. */
  readonly #bad = new Map<string, string>();
  #free: number;
  objects = 0;
  bytes = 0;

  /** @param of how many objects are to be sent, for those who watch */
  constructor(request: CopyRequest, target: Repository, of: number) {
    this.#request = request;
    this.#target = target;
    this.#of = of;
    this.#free = request.clock.monotonic();
    this.#temporary = join(request.stateDirectory, "repositories", target.id, "copying");
    // Only one copy runs here at a time, so what is there was left by one that was killed.
    rmSync(this.#temporary, { recursive: true, force: true });
  }

  /**
   * Copy those of a snapshot's objects that are not there: packs, then parts.
   *
   * @returns what is wrong with those that can't be copied
   */
  async copyObjects(needs: readonly NeededObject[], there: Map<string, number>): Promise<string[]> {
    const problems: string[] = [];
    for (const kind of ["pack", "part"] as const) {
      if (problems.length > 0) break;
      const missing = needs.filter(
        (object) => object.kind === kind && there.get(objectKey(kind, object.id)) !== object.bytes,
      );
      const found = await mapConcurrently(missing, width, (object) => this.#copyOnce(object, there));
      problems.push(...found.filter((problem) => problem !== undefined));
    }
    return problems;
  }

  async #copyOnce(object: NeededObject, there: Map<string, number>): Promise<string | undefined> {
    const key = objectKey(object.kind, object.id);
    const known = this.#bad.get(key);
    if (known !== undefined) return known;
    const problem = there.has(key)
      ? `${key} has the wrong size in the copy at ${this.#target.store.url}: remove it there, then copy again`
      : await this.#copy(object, key);
    if (problem === undefined) there.set(key, object.bytes);
    else this.#bad.set(key, problem);
    return problem;
  }

  async #copy(object: NeededObject, key: string): Promise<string | undefined> {
    const { kind, id } = object;
    const read = await this.#read(object, key);
    if ("problem" in read) return read.problem;
    try {
      await this.#pace(object.bytes);
      const { signal } = this.#request;
      if (kind === "pack") await this.#target.putPack(id, read.body, signal);
      else await this.#target.putPart(id, read.body, signal);
    } finally {
      if ("file" in read.body) rmSync(read.body.file, { force: true });
    }
    this.objects++;
    this.bytes += object.bytes;
    this.#request.report({ type: "copied", objects: this.objects, of: this.#of, bytes: this.bytes });
    return undefined;
  }

  /** Nothing goes before all of it was compared with its name. */
  async #read({ kind, id, bytes }: NeededObject, key: string): Promise<{ body: ObjectBody } | { problem: string }> {
    const { source, signal } = this.#request;
    try {
      const body =
        bytes > inMemory ? await this.#readToFile({ kind, id, bytes }) : await source.object(kind, id, signal);
      const found = "file" in body ? body.bytes : body.length;
      return found === bytes ? { body } : { problem: `${key} has another size than its snapshot says` };
    } catch (error) {
      if (signal.aborted || !(error instanceof OperatorError) || error.kind !== "damaged") throw error;
      return { problem: `${error.message} (in ${source.store.url})` };
    }
  }

  async #readToFile({ kind, id }: NeededObject): Promise<{ file: string; bytes: number }> {
    const { source, signal } = this.#request;
    mkdirSync(this.#temporary, { recursive: true, mode: 0o700 });
    const path = join(this.#temporary, randomBytes(6).toString("hex"));
    const file = await open(path, "wx", 0o600);
    try {
      let bytes = 0;
      for await (const chunk of source.openObject(kind, id, signal)) {
        await file.writeFile(chunk);
        bytes += chunk.length;
      }
      return { file: path, bytes };
    } catch (error) {
      rmSync(path, { force: true });
      throw error;
    } finally {
      await file.close();
    }
  }

  /** Waits one after another, also when several are sent at once, so that all of it together keeps the rate. */
  async #pace(bytes: number): Promise<void> {
    const { uploadBytesPerSecond, clock, signal } = this.#request;
    if (uploadBytesPerSecond === undefined) return;
    const now = clock.monotonic();
    this.#free = Math.max(this.#free, now) + (bytes / uploadBytesPerSecond) * 1000;
    await clock.sleep(this.#free - now, signal);
  }
}

/** Objects under way at a time. */
const width = 4;

/** What is larger goes through a file. */
const inMemory = 16 * 1024 * 1024;
