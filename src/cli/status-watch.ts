import { Worker } from "node:worker_threads";
import { listenAddress } from "../config/schema.ts";
import { errnoOf } from "../errors.ts";
import { writeDaemonFaults } from "../status/daemon-faults.ts";
import { healthOf } from "../status/health.ts";
import { statusPage, waitingPage } from "../status/page.ts";
import type { PageFacts, RepositoryLook } from "../status/page-facts.ts";
import { prometheusText } from "../status/prometheus.ts";
import type { DaemonFault } from "../status/report.ts";
import { processStart } from "../system/processes.ts";
import type { Context } from "./context.ts";
import type { HostLook, LookAnswer, LookAsked } from "./status-look.ts";
import { type StatusPages, StatusServer } from "./status-server.ts";
import { writeTextfile } from "./status-textfile.ts";
import { version } from "./version.ts";

/** Milliseconds. */
export interface StatusPace {
  /** Between two looks at this host, and between two tries to listen. */
  readonly hostMs: number;
  /** Between two looks at the repository. */
  readonly repositoryMs: number;
  /** After one that failed. */
  readonly retryMs: number;
}

const minute = 60_000;
const usualPace: StatusPace = { hostMs: minute, repositoryMs: 15 * minute, retryMs: 5 * minute };

/**
 * What `schedule run` does beside its jobs where [status] asks for it: looks around each minute, serves the page, and renews the
 * file for Prometheus. Nothing that goes wrong here ends the daemon: it is told of once, shown by `status` as long as it
 * lasts, and tried again.
 */
export class StatusWatch {
  readonly #context: Context;
  readonly #pace: StatusPace;
  readonly #looker: Looker;
  readonly #faults = new Map<DaemonFault["name"], DaemonFault>();
  readonly #asking = new Set<LookAsked["what"]>();
  #server: StatusServer | undefined;
  #timer: NodeJS.Timeout | undefined;
  #host: HostLook | undefined;
  #hostError: string | undefined;
  #repository: RepositoryLook | null = { answer: null, failure: null };
  #repositoryDue = 0;

  constructor(context: Context, pace: StatusPace = usualPace) {
    this.#context = context;
    this.#pace = pace;
    this.#looker = new Looker(context);
  }

  /** Does nothing where [status] names neither an address nor a file. */
  start(): void {
    const { listen, textfile } = this.#context.config.status;
    if (listen === undefined && textfile === undefined) return;
    const address = listen === undefined ? undefined : listenAddress(listen);
    if (address !== undefined) this.#server = new StatusServer(address, this.#pages());
    this.#timer = setInterval(() => this.#tick(), this.#pace.hostMs);
    this.#tick();
  }

  /** A job has ended: what it made shows soon. */
  jobEnded(): void {
    if (this.#timer === undefined) return;
    this.#repositoryDue = 0;
    this.#tick();
  }

  async stop(): Promise<void> {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    await this.#looker.end();
    await this.#server?.close();
    this.#faults.clear();
    this.#saveFaults();
  }

  #tick(): void {
    void this.#listen();
    void this.#lookAtHost();
    if (this.#server !== undefined && this.#context.clock.monotonic() >= this.#repositoryDue) {
      void this.#lookAtRepository();
    }
    this.#publish();
  }

  async #listen(): Promise<void> {
    const server = this.#server;
    const { listen } = this.#context.config.status;
    if (server?.closed !== true) return;
    try {
      await server.listen();
      this.#clearFault("status-page");
    } catch (error) {
      this.#setFault("status-page", `the status page can't be served at ${listen}: ${whyNot(error)}`);
      return;
    }
    this.#context.render.note(`the status page is served at ${listen}`);
    if (!server.isLoopback) {
      this.#context.render.warn(
        `whoever can reach ${listen} can read the status page: it tells host names and queue sizes`,
      );
    }
  }

  async #lookAtHost(): Promise<void> {
    const answer = await this.#ask("host");
    if (answer === undefined) return;
    if ("error" in answer) this.#hostError = answer.error;
    else if (answer.what === "host") {
      this.#host = answer.look;
      this.#hostError = undefined;
      this.#writeTextfile(answer.look);
    }
    this.#publish();
  }

  #writeTextfile({ report }: HostLook): void {
    const { textfile } = this.#context.config.status;
    if (textfile === undefined) return;
    try {
      writeTextfile(textfile, report);
      this.#clearFault("textfile");
    } catch (error) {
      this.#setFault("textfile", error instanceof Error ? error.message : String(error));
    }
  }

  async #lookAtRepository(): Promise<void> {
    const { clock } = this.#context;
    const answer = await this.#ask("repository");
    if (answer === undefined) return;
    const before = this.#repository;
    if ("error" in answer) {
      const since = before?.failure?.since ?? new Date(clock.now()).toISOString();
      this.#repository = { answer: before?.answer ?? null, failure: { message: answer.error, since } };
    } else if (answer.what === "repository") {
      this.#repository = answer.answer === null ? null : { answer: answer.answer, failure: null };
    }
    const { repositoryMs, retryMs } = this.#pace;
    this.#repositoryDue = clock.monotonic() + ("error" in answer ? retryMs : repositoryMs);
    this.#publish();
  }

  /** One question of a kind at a time; undefined while another is on its way, and after the end. */
  async #ask(what: LookAsked["what"]): Promise<LookAnswer | undefined> {
    if (this.#asking.has(what)) return undefined;
    this.#asking.add(what);
    const answer = await this.#looker.ask({ what });
    this.#asking.delete(what);
    return this.#timer === undefined ? undefined : answer;
  }

  #publish(): void {
    if (this.#server !== undefined) this.#server.pages = this.#pages();
  }

  #pages(): StatusPages {
    if (this.#host === undefined) {
      const why = this.#hostError === undefined ? "" : `: ${this.#hostError}`;
      const text = `critical status-stale: no look at this host has come to its end yet${why}\n`;
      return { page: waitingPage(this.#hostError ?? null), metrics: "", health: { status: 503, text } };
    }
    const facts = this.#facts(this.#host);
    return { page: statusPage(facts), metrics: prometheusText(this.#host.report), health: healthOf(facts) };
  }

  #facts(host: HostLook): PageFacts {
    const now = this.#context.clock.now();
    const old = now - Date.parse(host.report.time) > 3 * this.#pace.hostMs;
    const stale = old ? (this.#hostError ?? "the look at this host does not come to its end") : null;
    return { ...host, stale, repository: this.#repository, now, version };
  }

  #setFault(name: DaemonFault["name"], problem: string): void {
    if (this.#faults.get(name)?.problem === problem) return;
    this.#context.render.warn(problem);
    this.#faults.set(name, { name, problem, since: new Date(this.#context.clock.now()).toISOString() });
    this.#saveFaults();
  }

  #clearFault(name: DaemonFault["name"]): void {
    if (this.#faults.delete(name)) this.#saveFaults();
  }

  /** A full disk must not end the daemon either. */
  #saveFaults(): void {
    const startTicks = processStart(process.pid);
    if (startTicks === undefined) return;
    try {
      writeDaemonFaults(this.#context.stateDirectory, { pid: process.pid, startTicks }, [...this.#faults.values()]);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#context.render.warn(`what status is to say of this daemon can't be written: ${reason}`);
    }
  }
}

function whyNot(error: unknown): string {
  switch (errnoOf(error)) {
    case "EADDRINUSE":
      return "another program has this port";
    case "EADDRNOTAVAIL":
      return "this host has no such address";
    case "EACCES":
      return "this user may not use this port";
    default:
      return error instanceof Error ? error.message : String(error);
  }
}

/** Beside this file as TypeScript when we run from source, and beside the bundle. */
const lookEntry = new URL(import.meta.url.endsWith(".ts") ? "./status-look.ts" : "./status-look.js", import.meta.url);

/** The thread that looks; one that dies is made anew for the next question. */
class Looker {
  readonly #data: Pick<Context, "globals" | "cwd">;
  readonly #waiting = new Map<LookAsked["what"], (answer: LookAnswer) => void>();
  #worker: Worker | undefined;

  constructor({ globals, cwd }: Context) {
    this.#data = { globals, cwd };
  }

  /** Never rejects: that the thread died is an answer as well. */
  ask(asked: LookAsked): Promise<LookAnswer> {
    return new Promise((resolve) => {
      this.#waiting.set(asked.what, resolve);
      this.#worker ??= this.#start();
      this.#worker.postMessage(asked);
    });
  }

  async end(): Promise<void> {
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const worker = new Worker(lookEntry, { workerData: this.#data });
    worker.on("message", (answer: LookAnswer) => {
      this.#waiting.get(answer.what)?.(answer);
      this.#waiting.delete(answer.what);
    });
    worker.on("error", (error) => this.#died(worker, error));
    worker.on("exit", (code) => this.#died(worker, new Error(`exit code ${code}`)));
    worker.unref();
    return worker;
  }

  #died(worker: Worker, cause: unknown): void {
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    const error = `the thread that looks ended: ${cause instanceof Error ? cause.message : String(cause)}`;
    for (const [what, resolve] of this.#waiting) resolve({ what, error });
    this.#waiting.clear();
  }
}
