import { Worker, type WorkerOptions } from "node:worker_threads";
import { OperatorError } from "../errors.ts";
import { SourceChanged } from "./pack.ts";
import type { Answer, Job, Results } from "./pack-worker.ts";

/**
 * The worker's code: beside this file as TypeScript when we run from source, and beside the bundle, where the build
 * puts all its files into one directory under these names.
 */
const workerEntry = new URL(import.meta.url.endsWith(".ts") ? "./pack-worker.ts" : "./pack-worker.js", import.meta.url);

interface Task {
  readonly job: Job;
  readonly transfer: ArrayBuffer[];
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Threads that build and open packs, started when there is work for them. A thread that dies is an error for its job
 * and for everything after it. Idle threads don't keep the process alive.
 */
export class Workers {
  readonly #most: number;
  readonly #entry: URL;
  readonly #options: WorkerOptions;
  readonly #running = new Map<Worker, Task | undefined>();
  readonly #waiting: Task[] = [];
  #broken: { error: unknown } | undefined;
  #closing: Promise<void> | undefined;

  /**
   * @param most threads at once
   * @param entry code to run instead of ours, for tests that need a thread that dies
   */
  constructor(most: number, entry: URL = workerEntry, options: WorkerOptions = {}) {
    this.#most = Math.max(1, most);
    this.#entry = entry;
    this.#options = options;
  }

  /**
   * Have a job done by the next free thread.
   *
   * @param transfer buffers of the job that are handed over and can't be used here any more
   * @throws what the job threw: OperatorError, SourceChanged, or Error for a defect; or the reason the threads were ended
   */
  run<K extends Job["kind"]>(job: Job & { kind: K }, transfer: ArrayBuffer[]): Promise<Results[K]> {
    return new Promise<Results[K]>((resolve, reject) => {
      if (this.#broken !== undefined) return reject(this.#broken.error);
      this.#waiting.push({ job, transfer, resolve, reject });
      this.#dispatch();
    });
  }

  /**
   * End all threads at once. Jobs not done are rejected with the reason, but only when no thread runs any more, so that
   * files and descriptors they used are free then.
   */
  close(reason: unknown = new OperatorError("failed", "the pack workers were ended")): Promise<void> {
    this.#broken ??= { error: reason };
    this.#closing ??= this.#end(this.#broken.error);
    return this.#closing;
  }

  async #end(reason: unknown): Promise<void> {
    const tasks = [...this.#waiting.splice(0), ...[...this.#running.values()].filter((task) => task !== undefined)];
    const workers = [...this.#running.keys()];
    this.#running.clear();
    await Promise.all(workers.map((worker) => worker.terminate()));
    for (const task of tasks) task.reject(reason);
  }

  #dispatch(): void {
    for (const [worker, task] of this.#running) {
      if (task === undefined) this.#give(worker);
    }
    while (this.#waiting.length > 0 && this.#running.size < this.#most) this.#give(this.#start());
  }

  #give(worker: Worker): void {
    const task = this.#waiting.shift();
    this.#running.set(worker, task);
    if (task === undefined) {
      worker.unref();
    } else {
      worker.ref();
      worker.postMessage(task.job, task.transfer);
    }
  }

  #start(): Worker {
    const worker = new Worker(this.#entry, this.#options);
    worker.on("message", (answer: Answer) => this.#settle(worker, answer));
    worker.on("messageerror", (error) => this.#died(worker, error));
    worker.on("error", (error) => this.#died(worker, error));
    worker.on("exit", (code) => this.#died(worker, new Error(`exit code ${code}`)));
    return worker;
  }

  #settle(worker: Worker, answer: Answer): void {
    const task = this.#running.get(worker);
    if (task === undefined) return;
    this.#running.set(worker, undefined);
    if (answer.ok) task.resolve(answer.result as never);
    else task.reject(errorOf(answer));
    this.#dispatch();
  }

  #died(worker: Worker, cause: unknown): void {
    if (!this.#running.has(worker)) return;
    const why = cause instanceof Error ? cause.message : String(cause);
    void this.close(
      new OperatorError("failed", `a worker thread that handles packs ended unexpectedly: ${why}`, { cause }),
    );
  }
}

function errorOf(answer: Answer & { ok: false }): Error {
  switch (answer.failure) {
    case "operator": {
      const cause = answer.cause === "" ? undefined : new Error(answer.cause);
      return new OperatorError(answer.kind, answer.message, { hints: answer.hints, cause });
    }
    case "changed":
      return new SourceChanged(answer.digest);
    case "defect":
      return new Error(answer.message);
  }
}
