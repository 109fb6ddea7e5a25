import { randomBytes } from "node:crypto";
import { createWriteStream, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { fingerprintOfPem } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { messageQueues, type QueueName } from "../postfix/queue.ts";
import { listQueue } from "../postfix/spool.ts";
import { packKey, partKey, recoveryPageKey, snapshotKey } from "../repository/layout.ts";
import { recoveryPage } from "../repository/recovery-page.ts";
import { readTrusted } from "../restore/source.ts";
import type { DrillCheck, DrillFacts } from "../snapshot/drill.ts";
import type { Manifest, MessageEntry } from "../snapshot/manifest.ts";
import { digestOf } from "../system/digest.ts";
import { run } from "../system/exec.ts";
import { type Chosen, queuesByAge, seconds } from "./perform.ts";
import type { Rehearsing } from "./rehearsing.ts";
import { Stopwatch } from "./stopwatch.ts";
import { Workplace } from "./workplace.ts";

/**
 * Recover as somebody would who has the repository, the identity and no Spoolsafe: with the script of RECOVER.txt, as the page in the
 * repository has it, and the programs it names in PATH and nothing else. What comes out is then compared with the manifest. Queue
 * files go into directories without a Postfix; what Postfix itself would add is the repair of their names.
 *
 * @returns what it found out; `failure` where the script ended with an error
 * @throws OperatorError `refused` where a program is missing
 */
export async function withoutSpoolsafe(rehearsing: Rehearsing): Promise<DrillFacts> {
  const { job } = rehearsing;
  const programs = findPrograms();
  const id = randomBytes(6).toString("hex");
  const started = job.clock.now();
  const watch = new Stopwatch(job.clock, (phase) => job.report?.({ type: "phase", phase }));
  const workplace = await Workplace.make(id, job.stateDirectory, job.workDirectory, job.clock);
  try {
    const recovery = new Recovery(rehearsing, workplace.directory, watch, programs);
    await recovery.perform();
    watch.stop();
    return { ...recovery.facts(started), id };
  } finally {
    await workplace.remove();
  }
}

const programNames = [
  ..."sh awk sed sort find xargs tar age zstd openssl env".split(" "),
  ..."base64 cat chmod chown cp cut dirname head id ln ls mkdir mv rm sha256sum sync tail touch tr wc grep".split(" "),
];

/** Paths of the programs the page names. */
function findPrograms(): ReadonlyMap<string, string> {
  const directories = [...(process.env.PATH ?? "").split(delimiter), "/usr/local/bin", "/usr/bin", "/bin"];
  const found = new Map<string, string>();
  for (const name of programNames) {
    const path = directories.map((directory) => join(directory, name)).find((file) => existsSync(file));
    if (path !== undefined) found.set(name, path);
  }
  const missing = programNames.filter((name) => !found.has(name));
  if (missing.length === 0) return found;
  throw new OperatorError(
    "refused",
    `to recover without spoolsafe takes ${missing.join(" and ")}, not to be found here`,
    {
      hints: ["apt-get install age zstd openssl", "an operator without spoolsafe will need the same"],
    },
  );
}

class Recovery {
  readonly #rehearsing: Rehearsing;
  readonly #directory: string;
  readonly #watch: Stopwatch;
  readonly #programs: ReadonlyMap<string, string>;
  readonly #checks: DrillCheck[] = [];
  #chosen: Chosen | undefined;
  #manifest: Manifest | undefined;
  #ready: number | null = null;
  #failure: DrillFacts["failure"] = null;
  #found: { readonly queue: QueueName; readonly digest: string }[] = [];

  constructor(rehearsing: Rehearsing, directory: string, watch: Stopwatch, programs: ReadonlyMap<string, string>) {
    this.#rehearsing = rehearsing;
    this.#directory = directory;
    this.#watch = watch;
    this.#programs = programs;
  }

  async perform(): Promise<void> {
    try {
      await this.#steps();
    } catch (error) {
      this.#rehearsing.job.signal?.throwIfAborted();
      if (!(error instanceof OperatorError)) throw error;
      const { kind, message, hints } = error;
      this.#failure = { kind, message, hints };
    }
  }

  async #steps(): Promise<void> {
    const { job, repository, choose, identities } = this.#rehearsing;
    this.#watch.enter("fetch");
    const chosen = await choose(repository, identities);
    this.#chosen = chosen;
    await this.#download(chosen);
    this.#watch.enter("open");
    await this.#takeOutScript();
    await this.#script("unpack");
    this.#watch.enter("place");
    await this.#script("config");
    for (const { name } of chosen.source.signed.snapshot.instances) await this.#placeQueue(name);
    this.#watch.enter("check");
    this.#manifest = await readTrusted(chosen.source, job.signal);
    this.#compare(this.#manifest);
    this.#ready = job.clock.now();
  }

  #path(...names: readonly string[]): string {
    return join(this.#directory, ...names);
  }

  /** As the page says: everything the backup needs, names and all, with any client. */
  async #download({ source: { signed, repository } }: Chosen): Promise<void> {
    const { snapshot, id } = signed;
    const { signal } = this.#rehearsing.job;
    const keys = [
      recoveryPageKey,
      snapshotKey({ ...snapshot, id }),
      ...snapshot.parts.map((part) => partKey(part.id)),
      ...snapshot.packs.map((pack) => packKey(pack.id)),
    ];
    for (const key of keys) {
      const path = this.#path("repository", key);
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      await pipeline(repository.store.open(key, signal), createWriteStream(path, { mode: 0o600 }));
    }
  }

  async #takeOutScript(): Promise<void> {
    mkdirSync(this.#path("programs"), { mode: 0o700 });
    for (const [name, path] of this.#programs) symlinkSync(path, this.#path("programs", name));
    writeFileSync(this.#path("recover.sh"), await this.#knownScript(), { mode: 0o600 });
    const { key } = this.#signed;
    const pem = this.#rehearsing.trustedPems
      .match(/-----BEGIN PUBLIC KEY-----[^-]*-----END PUBLIC KEY-----/g)
      ?.find((one) => fingerprintOfPem(one) === key);
    writeFileSync(this.#path("trusted.pub"), `${pem ?? ""}\n`, { mode: 0o600 });
  }

  /** The script of the page. It is run as root, and nobody has signed it: it has to be the one this program writes itself. */
  async #knownScript(): Promise<string> {
    const takeOut = String.raw`/^#!\/bin\/sh/,/^# THE END/p`;
    const { stdout } = await run("sed", ["-n", takeOut, this.#path("repository", recoveryPageKey)]);
    const script = stdout.toString("utf8");
    if (script.endsWith("# THE END\n") && recoveryPage().includes(script)) return script;
    throw new OperatorError(
      "damaged",
      `the script in ${recoveryPageKey} is not the one this version of spoolsafe writes`,
      {
        hints: [
          "nothing of it was run: whoever can write to the repository could have changed it",
          "of another version: rehearse with that one; else find out who can write to the repository",
        ],
      },
    );
  }

  get #signed() {
    if (this.#chosen === undefined) throw new OperatorError("failed", "no snapshot was chosen");
    return this.#chosen.source.signed;
  }

  /** A step of the script, with nothing in PATH but what the page names: neither spoolsafe nor Node. */
  async #script(step: string, more: Readonly<Record<string, string>> = {}): Promise<void> {
    const { snapshot, id } = this.#signed;
    const variables = {
      PATH: this.#path("programs"),
      REPOSITORY: this.#path("repository"),
      RECORD: snapshotKey({ ...snapshot, id }),
      IDENTITY: this.#rehearsing.identityFile,
      TRUSTED: this.#path("trusted.pub"),
      WORK: this.#path("recovered"),
      ...more,
    };
    const named = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
    const { signal } = this.#rehearsing.job;
    const options = { cwd: this.#directory, timeoutMs: 6 * 3_600_000, ...(signal === undefined ? {} : { signal }) };
    const { stdout } = await run("env", ["-i", ...named, "sh", this.#path("recover.sh"), step], options);
    const said = stdout.toString().trim().split("\n").at(-1) ?? "";
    this.#checks.push({ name: `recover.sh ${step}`, ok: true, detail: said.replaceAll(`${this.#directory}/`, "") });
  }

  async #placeQueue(instance: string): Promise<void> {
    const spool = this.#path("spool", String(this.#checks.length));
    mkdirSync(spool, { recursive: true, mode: 0o700 });
    await this.#script("spool", { SPOOL: spool, INSTANCE: instance });
    for (const queue of messageQueues) {
      for (const { path } of listQueue(spool, queue))
        this.#found.push({ queue, digest: digestOf(readFileSync(path)).digest });
    }
    this.#listNotPlaced(instance);
  }

  #listNotPlaced(instance: string): void {
    const list = this.#path("recovered", "not-placed");
    const lines = existsSync(list)
      ? readFileSync(list, "utf8")
          .split("\n")
          .filter((line) => line !== "")
      : [];
    const reasons = [...Map.groupBy(lines, (line) => line.split(":", 1)[0] ?? "")];
    const detail = reasons.map(([reason, of]) => `${of.length} ${reason}`).join(", ");
    this.#checks.push({ name: `not placed of ${instance}`, ok: lines.length === 0, detail: detail || "none" });
  }

  /** Every file found is one of the manifest's, byte for byte and in the queue it belongs in, and every one of the manifest's is found. */
  #compare({ messages }: Manifest): void {
    const wanted = Map.groupBy(messages, (message) => `${message.file.digest} ${queueByHand(message)}`);
    const strange = this.#found.filter(({ digest, queue }) => !wanted.get(`${digest} ${queue}`)?.pop()).length;
    const missing = [...wanted.values()].reduce((sum, rest) => sum + rest.length, 0);
    this.#checks.push({
      name: "queue files",
      ok: strange === 0 && missing === 0,
      detail: `${this.#found.length - strange} have the digest the manifest has, in the right queue, ${missing} are missing, ${strange} are others`,
    });
    this.#identical = this.#found.length - strange;
  }

  #identical = 0;

  facts(started: number): Omit<DrillFacts, "id"> {
    const { about, clock, host } = this.#rehearsing.job;
    const chosen = this.#chosen?.source;
    const snapshot = chosen?.signed.snapshot;
    const messages = this.#manifest?.messages ?? [];
    const rpoMs = snapshot === undefined ? null : started - Date.parse(snapshot.time);
    const rtoMs = this.#ready === null ? null : this.#ready - started;
    const inMaildrop = this.#found.filter(({ queue }) => queue === "maildrop").length;
    return {
      ...{ host: snapshot?.host ?? host, scenario: null, ...about, where: { ...about.where, postfix: null } },
      snapshot: chosen === undefined || snapshot === undefined ? null : named(chosen),
      started: new Date(started).toISOString(),
      ready: this.#ready === null ? null : new Date(this.#ready).toISOString(),
      ended: new Date(clock.now()).toISOString(),
      phases: this.#watch.phases(),
      ...{ rpoSeconds: seconds(rpoMs), rtoSeconds: seconds(rtoMs), targets: { rpo: null, rto: null } },
      isolation: {
        proofs: [{ name: "no Postfix", ok: true, detail: "none was started: queue files were put into directories" }],
        outsideConnections: null,
      },
      messages: {
        ...{ manifest: messages.length, finished: 0, restored: this.#found.length, readable: this.#identical },
        ...{ identical: this.#identical, inQueue: this.#found.length - inMaildrop, maildrop: inMaildrop },
        heldByAdmin: messages.filter(({ role }) => role?.kind === "admin").length,
        inDoubt: messages.filter(({ inFlight, finished }) => inFlight !== false || finished).length,
      },
      queues: queuesByAge(messages, snapshot?.time),
      ...{ delivered: null, checks: this.#checks, failure: this.#failure },
      deviations: this.#checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${name}: ${detail}`),
      ok: this.#failure === null && this.#checks.every(({ ok }) => ok),
    };
  }
}

/** Where the page says a message goes: what somebody held, or what may have been delivered already, must not go out. */
function queueByHand({ queue, role, finished, inFlight }: MessageEntry): QueueName {
  if (queue === "maildrop") return queue;
  if (role !== null || finished || inFlight !== false) return "hold";
  return queue === "active" ? "incoming" : queue;
}

function named({ signed, trusted }: Chosen["source"]): NonNullable<DrillFacts["snapshot"]> {
  const { number, time, mode, host, instances } = signed.snapshot;
  const believed = trusted.check(signed.key, signed.line, signed.signature) === "trusted";
  return {
    ...{ id: signed.id, number, time, mode, host, signedBy: believed ? signed.key : null },
    instances: instances.map(({ name }) => name),
  };
}
