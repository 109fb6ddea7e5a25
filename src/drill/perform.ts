import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import type { PackReader } from "../pack/pack-pool.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { killRouting } from "../postfix/marks.ts";
import { type Scope, scopes } from "../postfix/parameters.ts";
import { messageQueues } from "../postfix/queue.ts";
import type { RestorePlan } from "../restore/plan.ts";
import type { RestoreEvent, RestoreReport } from "../restore/report.ts";
import { restoreInto } from "../restore/restore.ts";
import { everything } from "../restore/selection.ts";
import { type RestoreSource, readTrusted } from "../restore/source.ts";
import { secondsOf } from "../restore/target.ts";
import type { DrillCheck, DrillFacts, DrillPhase, DrillTarget } from "../snapshot/drill.ts";
import type { Manifest, MessageEntry } from "../snapshot/manifest.ts";
import type { Clock } from "../system/clock.ts";
import { run } from "../system/exec.ts";
import { checkMaps, configurationChecks, type RestoredConfiguration, restoreConfiguration } from "./configuration.ts";
import { deliverAll } from "./deliver.ts";
import { DrillPostfix } from "./instance.ts";
import { checkPostfix, proveAfter, proveBefore, proveProcesses } from "./isolation.ts";
import { type DrillNetwork, openNetwork, shared } from "./network.ts";
import { type FoundQueue, queueChecks, readQueue } from "./placed.ts";
import { type Promised, promiseOf, type Reckoning, reckon } from "./promise.ts";
import { DrillSink } from "./sink.ts";
import { Stopwatch } from "./stopwatch.ts";
import { Workplace } from "./workplace.ts";

/** The snapshot a drill is of, and what was wrong with the chain it is in. */
export interface Chosen {
  readonly source: RestoreSource;
  /** Empty where the snapshots of its writer follow one another without a gap. */
  readonly chainProblems: readonly string[];
}

export interface DrillJob {
  /** Choose the snapshot, from the repository: part of what is timed. */
  readonly choose: () => Promise<Chosen>;
  /** Opens packs; the drill closes it. */
  readonly openReader: (source: RestoreSource) => PackReader;
  /** The instance that is meant; undefined: all of the snapshot. */
  readonly instance: string | undefined;
  /** Let the mail go into the sink, and compare what comes out. */
  readonly deliver: boolean;
  /** Milliseconds; undefined where nothing is asked for. */
  readonly targets: { readonly rpo: number | undefined; readonly rto: number | undefined };
  readonly stateDirectory: string;
  /** Where the throw-away Postfix is made. */
  readonly workDirectory: string;
  /** What the report says of who did it where, and where the snapshot came from. */
  readonly about: Pick<DrillFacts, "attended" | "user" | "sudoUser" | "store"> & {
    readonly where: Omit<DrillFacts["where"], "postfix">;
  };
  /** Whose snapshot is meant, for a drill that ends before one was read. */
  readonly host: string;
  readonly processors: number;
  /** `shared` leaves the mail to the drill's configuration alone, as on a host that lets no network be made; for tests. */
  readonly network?: DrillNetwork["kind"] | undefined;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: DrillEvent) => void) | undefined;
}

/** What a drill tells on its way, beside what a restore tells. */
export type DrillEvent =
  | RestoreEvent
  | { readonly type: "swept"; readonly drills: readonly string[] }
  | { readonly type: "phase"; readonly phase: DrillPhase }
  | { readonly type: "delivering"; readonly done: number; readonly left: number };

/**
 * Rehearse a recovery: restore a snapshot into a Postfix of the drill's own, prove that all of it is there, let it be delivered into
 * a sink if asked, and take everything down. What killed drills left is taken away first. Takes no run lock, and touches nothing
 * of a Postfix of this host, its queue or its configuration.
 *
 * @returns what it found out, also when it was ended early by what it found: then `failure` says so
 * @throws OperatorError `refused` where no drill can be done here, and whatever `signal` aborts with
 */
export async function performDrill(job: DrillJob): Promise<DrillFacts> {
  const { clock, stateDirectory, workDirectory } = job;
  const start = { time: clock.now(), monotonic: clock.monotonic() };
  await requirePostfix(job.signal);
  const id = randomBytes(6).toString("hex");
  const watch = new Stopwatch(clock, (phase) => job.report?.({ type: "phase", phase }));
  const workplace = await Workplace.make(id, stateDirectory, workDirectory, clock);
  if (workplace.swept.length > 0) job.report?.({ type: "swept", drills: workplace.swept });
  const signal = AbortSignal.any([workplace.lost, ...(job.signal === undefined ? [] : [job.signal])]);
  const drill = new Drill({ ...job, signal }, workplace, watch, start);
  try {
    return await drill.perform();
  } finally {
    try {
      await drill.close();
    } finally {
      await workplace.remove();
    }
  }
}

async function requirePostfix(signal: AbortSignal | undefined): Promise<void> {
  try {
    await run("postconf", ["-dh", "mail_version"], signal === undefined ? {} : { signal });
  } catch (cause) {
    signal?.throwIfAborted();
    throw new OperatorError("config", "Postfix is not installed here, and a drill needs one of its own", {
      hints: ["install Postfix; it need not be configured (Debian: apt-get install postfix)"],
      cause,
    });
  }
}

/** One instance of the snapshot on its way. */
interface Rehearsal {
  readonly name: string;
  readonly entries: readonly MessageEntry[];
  readonly configuration: RestoredConfiguration;
  readonly postfix: DrillPostfix;
  readonly instance: PostfixInstance;
}

interface Restored extends Rehearsal {
  readonly plan: RestorePlan;
  readonly report: RestoreReport;
  readonly queue: FoundQueue;
}

/** When a drill began: by the clock, and on a scale that nobody sets. */
interface Start {
  readonly time: number;
  readonly monotonic: number;
}

interface Failure {
  readonly kind: OperatorError["kind"];
  readonly message: string;
  readonly hints: readonly string[];
}

class Drill {
  readonly #job: DrillJob & { readonly signal: AbortSignal };
  readonly #workplace: Workplace;
  readonly #watch: Stopwatch;
  readonly #begun: Start;
  readonly #checks: DrillCheck[] = [];
  readonly #proofs: DrillCheck[] = [];
  readonly #rehearsals: Rehearsal[] = [];
  readonly #restored: Restored[] = [];
  readonly #sinks = new Map<string, DrillSink>();
  readonly #promises = new Map<string, readonly Promised[]>();
  #chosen: Chosen | undefined;
  #manifest: Manifest | undefined;
  #network: DrillNetwork | undefined;
  #reader: PackReader | undefined;
  /** Milliseconds after its start. */
  #ready: number | undefined;
  #reckonings: Reckoning[] = [];
  #expired: string[] = [];
  #stuck = 0;
  #attempts: number | null = null;

  constructor(job: DrillJob & { readonly signal: AbortSignal }, workplace: Workplace, watch: Stopwatch, start: Start) {
    this.#job = job;
    this.#workplace = workplace;
    this.#watch = watch;
    this.#begun = start;
  }

  async perform(): Promise<DrillFacts> {
    const failure = await this.#untilItFails();
    this.#watch.stop();
    return this.#facts(failure);
  }

  /** What stands in the way of a recovery is what a drill is to find out; an interruption is not. */
  async #untilItFails(): Promise<Failure | null> {
    try {
      await this.#steps();
      return null;
    } catch (error) {
      this.#job.signal.throwIfAborted();
      const { kind, message, hints } = operatorErrorOf(error);
      return { kind, message, hints };
    }
  }

  async #steps(): Promise<void> {
    await this.#fetch();
    await this.#build();
    await this.#proveIsolation();
    for (const rehearsal of this.#rehearsals) await this.#restore(rehearsal);
    for (const restored of this.#restored) await this.#check(restored);
    for (const restored of this.#restored) await this.#start(restored);
    this.#ready = this.#elapsed();
    if (this.#job.deliver) for (const restored of this.#restored) await this.#deliver(restored);
    await this.#takeDown();
  }

  async #fetch(): Promise<void> {
    this.#watch.enter("fetch");
    const { choose, openReader, signal } = this.#job;
    this.#chosen = await choose();
    const { source, chainProblems } = this.#chosen;
    this.#manifest = await readTrusted(source, signal);
    this.#reader = openReader(source);
    const { writer, number } = source.signed.snapshot;
    this.#checks.push({ name: "signature", ok: true, detail: `number ${number} of the trusted writer ${writer}` });
    const whole = "the snapshots of its writer follow one another";
    this.#checks.push({
      name: "chain",
      ok: chainProblems.length === 0,
      detail: chainProblems.length === 0 ? whole : chainProblems.join("; "),
    });
  }

  /** Configuration first, because the layout of the queue is in it; then the Postfix that gets the queue. */
  async #build(): Promise<void> {
    this.#watch.enter("open");
    const { directory } = this.#workplace;
    const { network, signal } = this.#job;
    this.#network = network === "shared" ? shared("it was asked for") : await openNetwork(directory, signal);
    for (const [index, name] of this.#instances().entries()) {
      const own = join(directory, String(index + 1));
      mkdirSync(own, { mode: 0o711 });
      const configuration = await restoreConfiguration(this.#request(name), own);
      const transport = `drill${this.#workplace.id}${index + 1}`;
      const postfix = DrillPostfix.make(own, transport, configuration.settings, this.#network);
      const instance = await postfix.load();
      this.#add(name, configurationChecks(configuration));
      const entries = (this.#manifest?.messages ?? []).filter((message) => message.instance === name);
      this.#rehearsals.push({ name, entries, configuration, postfix, instance });
    }
  }

  #instances(): readonly string[] {
    const { instance } = this.#job;
    const names = this.#source.signed.snapshot.instances.map(({ name }) => name);
    if (instance === undefined) return names;
    if (names.includes(instance)) return [instance];
    throw new OperatorError("usage", `the snapshot has no instance ${instance}`, {
      hints: [`its instances are: ${names.join(", ")}`],
    });
  }

  get #source(): RestoreSource {
    if (this.#chosen === undefined) throw new OperatorError("failed", "no snapshot was chosen");
    return this.#chosen.source;
  }

  #request(instance: string) {
    const { clock, signal } = this.#job;
    if (this.#reader === undefined) throw new OperatorError("failed", "no snapshot was opened");
    const choice = {
      ...({ instance, route: "fresh", land: "original", selection: everything } as const),
      ...{ restoreDeleted: false, again: false },
    };
    return { source: this.#source, choice, reader: this.#reader, clock, signal };
  }

  /** What of several instances is said of each. */
  #add(instance: string, checks: readonly DrillCheck[]): void {
    const several = this.#instances().length > 1;
    this.#checks.push(...checks.map((check) => (several ? { ...check, name: `${instance}: ${check.name}` } : check)));
  }

  /** @throws OperatorError `refused`, before any mail is there, when anything could leave */
  async #proveIsolation(): Promise<void> {
    if (this.#network === undefined) return;
    const made = this.#rehearsals.map(({ postfix }) => postfix);
    this.#proofs.push(...(await proveBefore(made, this.#network, this.#job.signal)));
    const failed = this.#proofs.filter(({ ok }) => !ok);
    if (failed.length === 0) return;
    throw new OperatorError("refused", `it is not proven that no mail can leave: ${failed[0]?.detail}`, {
      hints: ["no mail was restored", "this is a defect of spoolsafe or of Postfix's settings: please report it"],
    });
  }

  async #restore(rehearsal: Rehearsal): Promise<void> {
    this.#watch.enter("open");
    const { processors, report } = this.#job;
    const { instance, postfix, name } = rehearsal;
    let plan: RestorePlan | undefined;
    const restored = await restoreInto({
      ...this.#request(name),
      ...{ instance, processors, stateDirectory: join(postfix.directory, "state") },
      approve: (prepared) => {
        plan = prepared.plan;
        return prepared.plan;
      },
      report: (event) => {
        if (event.type === "step") this.#enterStep(event.step);
        report?.(event);
      },
    });
    if (plan === undefined) throw new OperatorError("failed", "the restore made no plan");
    const queue = await this.#readBack(instance, plan, restored.run);
    this.#restored.push({ ...rehearsal, plan, report: restored, queue });
  }

  /** A restore opens packs while it writes files, gives them their names, and then repairs and proves what it placed. */
  #enterStep(step: Extract<RestoreEvent, { type: "step" }>["step"]): void {
    if (step === "sync" || step === "place") this.#watch.enter("place");
    if (step === "check") this.#watch.enter("repair");
  }

  async #readBack(instance: PostfixInstance, plan: RestorePlan, run: string): Promise<FoundQueue> {
    this.#watch.enter("check");
    return await readQueue(instance, plan, run, this.#job.signal);
  }

  async #check({ name, entries, configuration, postfix, instance, plan, report, queue }: Restored): Promise<void> {
    if (this.#network === undefined) return;
    const { signal } = this.#job;
    const problems = [...report.notPlaced, ...report.unproven];
    const said = problems.slice(0, 5).map(({ queueId, problem }) => `${queueId}: ${problem}`);
    this.#add(name, [
      {
        name: "restore",
        ok: problems.length === 0,
        detail: `${report.restored} messages placed${said.length === 0 ? "" : `; ${said.join("; ")}`}`,
      },
      ...queueChecks(queue, plan, entries.length),
      await checkPostfix(instance, this.#network, signal),
      await checkMaps(configuration, postfix.configDirectory, this.#network, signal),
    ]);
  }

  /** Every agent that comes to the sink has to wait until it opens, so that nothing is delivered before it is asked for. */
  async #start({ name, postfix, instance, queue }: Restored): Promise<void> {
    if (this.#network === undefined) return;
    this.#watch.enter("ready");
    // Before pickup(8) takes what was submitted.
    if (this.#job.deliver) this.#promises.set(name, queue.placed.map(promiseOf));
    for (const { path } of queue.placed) killRouting(path);
    const expected = new Set(queue.placed.flatMap((one) => (one.queue === "maildrop" ? [] : one.facts.content)));
    const sink = await DrillSink.listen(postfix.socket, instance.ownerUid, (content) => expected.has(content));
    this.#sinks.set(name, sink);
    await postfix.start(instance, this.#job.clock, this.#job.signal);
    this.#proofs.push(...proveProcesses(postfix, this.#network));
  }

  async #deliver({ name, instance, queue, configuration }: Restored): Promise<void> {
    const sink = this.#sinks.get(name);
    if (sink === undefined) return;
    this.#watch.enter("deliver");
    const { clock, signal, report } = this.#job;
    const { placed } = queue;
    const tell = (done: number, left: number) => report?.({ type: "delivering", done, left });
    this.#stuck += await deliverAll({ instance, sink, placed, clock, signal, report: tell });
    const reckoning = reckon(this.#promises.get(name) ?? [], sink.deliveries);
    this.#reckonings.push(reckoning);
    this.#add(name, [deliveryCheck(reckoning)]);
    this.#expired.push(...expiredOf(queue, configuration, this.#begun.time));
  }

  /** With all processes ended, what the kernel counted is all there was. */
  async #takeDown(): Promise<void> {
    for (const { postfix } of this.#rehearsals) await postfix.stop(this.#job.clock);
    if (this.#network === undefined) return;
    this.#attempts = this.#network.look()?.attempts ?? null;
    this.#proofs.push(...proveAfter(this.#network));
  }

  /** Ends whatever a failure has left running. */
  async close(): Promise<void> {
    for (const sink of this.#sinks.values()) await sink.close();
    for (const { postfix } of this.#rehearsals) await postfix.stop(this.#job.clock);
    await this.#network?.close();
    await this.#reader?.[Symbol.asyncDispose]();
  }

  #facts(failure: Failure | null): DrillFacts {
    const { about, targets, host } = this.#job;
    const snapshot = this.#chosen?.source.signed.snapshot;
    const age = snapshot === undefined ? null : this.#begun.time - Date.parse(snapshot.time);
    const rpoMs = age === null || age < 0 ? null : age;
    const rtoMs = this.#ready ?? null;
    const met = { rpo: target(targets.rpo, rpoMs), rto: target(targets.rto, rtoMs) };
    const delivered = this.#job.deliver && this.#reckonings.length > 0 ? this.#delivered() : null;
    const deviations = [
      ...[...this.#proofs, ...this.#checks].filter(({ ok }) => !ok).map(({ name, detail }) => `${name}: ${detail}`),
      ...(delivered?.deviating ?? []).map(({ queueId, detail }) => (queueId === "" ? detail : `${queueId}: ${detail}`)),
      ...(age === null || age >= 0 ? [] : ["the snapshot is of later than now: a clock is wrong, there or here"]),
      ...(this.#stuck === 0 ? [] : [`${this.#stuck} messages did not come out of the queue`]),
    ];
    const missed = Object.values(met).some((one) => one?.met === false);
    return {
      ...{ id: this.#workplace.id, host: snapshot?.host ?? host, scenario: null },
      ...about,
      where: { ...about.where, postfix: this.#rehearsals[0]?.instance.version ?? null },
      snapshot: this.#snapshot(),
      started: this.#timeAfter(0),
      ready: this.#ready === undefined ? null : this.#timeAfter(this.#ready),
      ended: this.#timeAfter(this.#elapsed()),
      phases: this.#watch.phases(),
      ...{ rpoSeconds: seconds(rpoMs), rtoSeconds: seconds(rtoMs), targets: met },
      isolation: { proofs: this.#proofs, outsideConnections: this.#attempts },
      messages: this.#messages(),
      queues: queuesByAge(this.#manifest?.messages ?? [], snapshot?.time),
      delivered,
      checks: this.#checks,
      ...{ deviations, failure, ok: failure === null && deviations.length === 0 && !missed },
    };
  }

  /** Milliseconds since its start, however the clock is set meanwhile. */
  #elapsed(): number {
    return this.#job.clock.monotonic() - this.#begun.monotonic;
  }

  #timeAfter(elapsedMs: number): string {
    return new Date(this.#begun.time + elapsedMs).toISOString();
  }

  #snapshot(): DrillFacts["snapshot"] {
    if (this.#chosen === undefined) return null;
    const { signed, trusted } = this.#chosen.source;
    const { number, time, mode, host } = signed.snapshot;
    const believed = trusted.check(signed.key, signed.line, signed.signature) === "trusted";
    const instances = this.#rehearsals.map(({ name }) => name);
    return { id: signed.id, number, time, mode, host, signedBy: believed ? signed.key : null, instances };
  }

  #messages(): DrillFacts["messages"] {
    const sum = (count: (one: Restored) => number) => this.#restored.reduce((total, one) => total + count(one), 0);
    return {
      manifest: this.#rehearsals.reduce((total, { entries }) => total + entries.length, 0),
      finished: sum(({ plan }) => plan.skip.filter(isFinished).length),
      restored: sum(({ report }) => report.restored),
      readable: sum(({ queue: { placed, unreadable } }) => placed.length - unreadable.length),
      identical: sum(({ queue }) => queue.placed.length),
      inQueue: sum(({ queue }) => queue.listed),
      heldByAdmin: sum(({ plan }) => plan.place.filter(({ role }) => role === "admin").length),
      maildrop: sum(({ queue }) => queue.placed.filter((one) => one.queue === "maildrop").length),
      inDoubt: sum(({ plan }) => plan.place.filter(({ inDoubt }) => inDoubt !== null).length),
    };
  }

  #delivered(): NonNullable<DrillFacts["delivered"]> {
    const sum = (count: (one: Reckoning) => number) => this.#reckonings.reduce((total, one) => total + count(one), 0);
    return {
      messages: sum(({ messages }) => messages),
      recipients: sum(({ recipients }) => recipients),
      identical: sum(({ identical }) => identical),
      promised: {
        messages: sum(({ promised }) => promised.messages),
        recipients: sum(({ promised }) => promised.recipients),
      },
      kept: 0,
      expired: this.#expired,
      deviating: this.#reckonings.flatMap(({ deviating }) => deviating),
    };
  }
}

/** A disk that is full or fails is in the way of a recovery like anything else. @throws what is none of that: a defect of ours */
function operatorErrorOf(error: unknown): OperatorError {
  if (error instanceof OperatorError) return error;
  if (!(error instanceof Error) || !["ENOSPC", "EDQUOT", "EROFS", "EIO"].includes(errnoOf(error) ?? "")) throw error;
  return new OperatorError("failed", `the drill can't write what it has to: ${error.message}`, {
    hints: ["name a directory with more room: --work-directory DIR"],
    cause: error,
  });
}

/** Nobody is left to deliver it to, by the snapshot's own marks. */
function isFinished({ message }: RestorePlan["skip"][number]): boolean {
  return message.recipients.every(({ done }) => done);
}

function target(wantedMs: number | undefined, tookMs: number | null): DrillTarget | null {
  if (wantedMs === undefined) return null;
  return { seconds: Math.round(wantedMs / 1000), met: tookMs !== null && tookMs <= wantedMs };
}

function deliveryCheck({ identical, promised, recipients, notices, deviating }: Reckoning): DrillCheck {
  const came = `${identical} of ${promised.messages} messages came out byte for byte, for ${recipients} of ${promised.recipients} recipients`;
  const made = `${notices} notices of what had failed before, or was asked for, came out as well`;
  const how = "held and doubtful mail went into the sink like all other";
  return { name: "delivered", ok: deviating.length === 0, detail: `${came}; ${made}; ${how}` };
}

/** In tenths: a drill of a small queue takes seconds. */
export function seconds(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms / 100) / 10;
}

/**
 * Messages that are past their lifetime by the backed-up settings: delivered like all others into the sink, while a real
 * release gives them one attempt and returns them to their senders when it fails.
 */
function expiredOf({ placed }: FoundQueue, { parameters }: RestoredConfiguration, nowMs: number): string[] {
  const [main] = scopes(parameters);
  const lifetime = (sender: string) =>
    lifetimeOf(main, sender === "" ? "bounce_queue_lifetime" : "maximal_queue_lifetime");
  return placed
    .filter(({ planned, queue }) => queue !== "maildrop" && planned.recipients.length > 0)
    .filter(({ planned: { message } }) => nowMs / 1000 - Number(message.created) > lifetime(message.sender))
    .map(({ planned: { message } }) => message.queueId);
}

function lifetimeOf(main: Scope | undefined, name: string): number {
  return secondsOf(main?.value(name) ?? "5d", "d");
}

/** An hour, four hours, a day, two days, five days: what people tell queues apart by. */
const ageLimits = [3600, 4 * 3600, 24 * 3600, 2 * 24 * 3600, 5 * 24 * 3600];

/** Messages by queue and by age at the time of their snapshot. */
export function queuesByAge(messages: readonly MessageEntry[], time: string | undefined): DrillFacts["queues"] {
  const now = time === undefined ? 0 : Date.parse(time) / 1000;
  const rows = messageQueues.map((queue) => {
    const counts = [...ageLimits, 0].map(() => 0);
    for (const message of messages) {
      if (message.queue !== queue) continue;
      const age = now - Number(message.created);
      const column = ageLimits.findIndex((limit) => age < limit);
      const at = column < 0 ? ageLimits.length : column;
      counts[at] = (counts[at] ?? 0) + 1;
    }
    return { queue, counts };
  });
  return { ageLimits, rows };
}
