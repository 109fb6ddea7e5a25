import { type ChildProcess, execFile, spawn } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { basename, join } from "node:path";
import { promisify } from "node:util";
import { destroyScratch, killQuietly, makeScratch, processesOf, sleepSync, sweepScratch, worksIn } from "./scratch.ts";
import type { Sink } from "./sink.ts";
import { type Letter, type Submitted, submit } from "./smtp.ts";
import { until } from "./wait.ts";

export { type Letter, plainLetter, type Submitted } from "./smtp.ts";
export { until } from "./wait.ts";

/*
 * Private Postfix instances for tests: own configuration, queue, data and log, one loopback port, run by `postfix -c`.
 * They need root (Postfix does) and Debian's package, and leave the machine's own Postfix alone.
 */

const execFileAsync = promisify(execFile);
/** Postfix's commands are in /usr/sbin, which an ordinary user's PATH may lack. */
const path = `${process.env.PATH ?? "/usr/bin:/bin"}:/usr/sbin:/sbin`;

export interface PostfixOptions {
  /** multi_instance_name; default none, as for a stand-alone instance. */
  readonly name?: string;
  /** Where its directory is made; default the system's temporary directory. */
  readonly parent?: string;
  /** Put everything on a file system of its own: size of a tmpfs, such as `"64m"`. */
  readonly tmpfs?: string;
  readonly longIds?: boolean;
  /** Default Postfix's own: `deferred, defer`. */
  readonly hashQueueNames?: string;
  /** Default Postfix's own: 1. */
  readonly hashQueueDepth?: number;
  /**
   * Mail for the domains of this sink goes there, mail for discard.test counts as delivered and is thrown away; all other
   * mail is refused at once and therefore deferred.
   */
  readonly sink?: Sink;
  /** More transport map entries, such as `{ "x.test": "error:5.1.1 no" }`. */
  readonly transports?: Readonly<Record<string, string>>;
  /** Deferred mail is looked at every second and tried again after so many seconds; without it Postfix's own 300 s. */
  readonly retrySeconds?: number;
  /** More main.cf parameters; they win over ours. */
  readonly main?: Readonly<Record<string, string>>;
  /** More master.cf lines; a service named as one of ours comes later and wins. */
  readonly master?: readonly string[];
}

/** One line of `postqueue -j`. */
export interface ListedMessage {
  readonly queue_name: string;
  readonly queue_id: string;
  readonly arrival_time: number;
  readonly message_size: number;
  readonly forced_expire: boolean;
  readonly sender: string;
  readonly recipients: readonly { readonly address: string; readonly delay_reason?: string }[];
}

export interface ProgramResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class PrivatePostfix {
  /** Everything of this instance is below it. */
  readonly directory: string;
  readonly configDirectory: string;
  readonly queueDirectory: string;
  readonly dataDirectory: string;
  readonly logFile: string;
  readonly sink: Sink | undefined;
  /** Its SMTP port on 127.0.0.1. */
  port = 0;
  private readonly options: PostfixOptions;

  private constructor(directory: string, options: PostfixOptions) {
    this.directory = directory;
    this.configDirectory = join(directory, "etc");
    this.queueDirectory = join(directory, "spool");
    this.dataDirectory = join(directory, "data");
    this.logFile = join(directory, "log", "mail.log");
    this.options = options;
    this.sink = options.sink;
  }

  /** Make one that is configured and whose queue directories exist, but that is not running. */
  static async create(options: PostfixOptions = {}): Promise<PrivatePostfix> {
    sweepOnce();
    const directory = makeScratch({
      ...(options.parent === undefined ? {} : { parent: options.parent }),
      ...(options.tmpfs === undefined ? {} : { tmpfs: options.tmpfs }),
    });
    const instance = new PrivatePostfix(directory, options);
    try {
      await instance.prepare();
    } catch (error) {
      destroyScratch(directory);
      throw error;
    }
    return instance;
  }

  /** Make one and start it. */
  static async start(options: PostfixOptions = {}): Promise<PrivatePostfix> {
    const instance = await PrivatePostfix.create(options);
    try {
      await instance.start();
    } catch (error) {
      instance.destroy();
      throw error;
    }
    return instance;
  }

  /** Start it and wait until its own SMTP server answers; a port somebody took meanwhile is replaced by another. */
  async start(): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.postfix("start");
        await until(() => this.answers(), {
          timeoutMs: 15_000,
          what: () => `an SMTP answer; log: ${this.log().slice(-2000)}`,
        });
        return;
      } catch (error) {
        if (attempt === 3 || !this.log().includes("Address already in use")) throw error;
        this.kill();
        this.port = await freePort();
        this.writeConfiguration();
      }
    }
  }

  /** `postfix stop`: deliveries in flight are ended; waits until the master is gone. */
  async stop(): Promise<void> {
    await this.postfix("stop");
    await until(() => !this.running(), { what: "the master's end" });
  }

  /** `postfix abort`: everything ends at once, deliveries too. */
  async abort(): Promise<void> {
    await this.postfix("abort");
    await until(() => !this.running() && processesOf(this.directory).length === 0, {
      what: "the end of all processes",
    });
  }

  /** SIGKILL for the master and all its children, as a crash does. */
  kill(): void {
    for (let pids = processesOf(this.directory); pids.length > 0; pids = processesOf(this.directory)) {
      for (const pid of pids) killQuietly(pid);
      sleepSync(10);
    }
  }

  async reload(): Promise<void> {
    await this.postfix("reload");
  }

  /** End whatever runs of it, also after a failed start, and remove it. May be called twice. */
  destroy(): void {
    destroyScratch(this.directory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.destroy();
  }

  /** The pid of its master, or undefined when it isn't running. */
  masterPid(): number | undefined {
    const pid = Number(readOr(join(this.queueDirectory, "pid", "master.pid"), "").trim());
    return pid > 0 && worksIn(pid, this.directory) ? pid : undefined;
  }

  running(): boolean {
    return this.masterPid() !== undefined;
  }

  /** The pids of its daemons of a command name (`qmgr`, `smtp`, ...). */
  daemonPids(command: string): number[] {
    return processesOf(this.directory).filter((pid) => readOr(`/proc/${pid}/comm`, "").trim() === command);
  }

  /** `postfix -c DIR COMMAND`; throws with what it printed when it fails. */
  async postfix(command: string): Promise<void> {
    const result = await this.run("postfix", ["-c", this.configDirectory, command]);
    if (result.code !== 0) {
      throw new Error(`postfix ${command} exited with ${result.code}: ${result.stderr}${this.log().slice(-2000)}`);
    }
  }

  /** Run any program with MAIL_CONFIG set to this instance, as runbooks do. Does not throw for an exit code. */
  async run(program: string, args: readonly string[], input?: string | Buffer): Promise<ProgramResult> {
    return collect(spawn(program, args, { env: this.env(), cwd: "/" }), input);
  }

  /** Environment that makes Postfix's commands speak of this instance. */
  env(): NodeJS.ProcessEnv {
    return { ...process.env, PATH: path, LC_ALL: "C", MAIL_CONFIG: this.configDirectory };
  }

  /** A parameter's value, expanded. */
  async postconf(parameter: string): Promise<string> {
    const { stdout } = await execFileAsync("postconf", ["-c", this.configDirectory, "-xh", parameter], {
      env: this.env(),
    });
    return stdout.trim();
  }

  /** Change main.cf; a running instance takes it up at the next `reload`. */
  async setParameter(parameter: string, value: string): Promise<void> {
    await execFileAsync("postconf", ["-c", this.configDirectory, "-e", `${parameter}=${value}`], { env: this.env() });
    lookOld(join(this.configDirectory, "main.cf"));
  }

  /** What `postqueue -j` lists, running or not. */
  async list(): Promise<ListedMessage[]> {
    const { stdout } = await execFileAsync("postqueue", ["-c", this.configDirectory, "-j"], {
      env: this.env(),
      maxBuffer: 1 << 28,
    });
    return stdout
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as ListedMessage);
  }

  /** Messages per queue as the directories have them, whatever their mode. */
  counts(): Record<"maildrop" | "incoming" | "active" | "deferred" | "hold" | "corrupt", number> {
    const count = (queue: string) => this.files(queue).length;
    return {
      maildrop: count("maildrop"),
      incoming: count("incoming"),
      active: count("active"),
      deferred: count("deferred"),
      hold: count("hold"),
      corrupt: count("corrupt"),
    };
  }

  /** Absolute paths of the regular files of a queue or log directory, at any depth. */
  files(directory: string): string[] {
    return filesBelow(join(this.queueDirectory, directory));
  }

  /** Path of a message's file in whichever queue it is now. */
  find(queueId: string): string | undefined {
    return ["maildrop", "incoming", "active", "deferred", "hold", "corrupt"]
      .flatMap((queue) => this.files(queue))
      .find((file) => basename(file) === queueId);
  }

  /** Hand letters in over SMTP. */
  async submit(letters: readonly Letter[], connections?: number): Promise<Submitted[]> {
    return submit(this.port, letters, connections);
  }

  /**
   * Submit a letter locally, as sendmail(1) for root and as postdrop(1) for another user. Works while Postfix is down:
   * the file then waits in maildrop. (sendmail takes a configuration directory from nobody but root.)
   */
  async sendmail(letter: Letter, uid = 0): Promise<void> {
    const child =
      uid === 0
        ? spawn("sendmail", ["-i", "-f", letter.sender, "--", ...letter.recipients], { env: this.env(), cwd: "/" })
        : // With the real group postdrop, postdrop isn't set-gid for us and accepts our configuration directory.
          spawn("postdrop", ["-r"], { env: this.env(), cwd: "/", uid, gid: groupId("postdrop") });
    const result = await collect(child, uid === 0 ? letter.text : postdropRecords(letter));
    if (result.code !== 0) throw new Error(`the local submission exited with ${result.code}: ${result.stderr}`);
  }

  /** Put messages on hold as an administrator does. Returns what postsuper said. */
  async hold(queueIds: readonly string[]): Promise<string> {
    return this.postsuper(["-h", "-"], queueIds);
  }

  async release(queueIds: readonly string[]): Promise<string> {
    return this.postsuper(["-H", "-"], queueIds);
  }

  /** postsuper(1) with ids on its standard input; its standard error, where it reports. */
  async postsuper(args: readonly string[], queueIds: readonly string[] = []): Promise<string> {
    const input = queueIds.map((id) => `${id}\n`).join("");
    const result = await this.run("postsuper", ["-c", this.configDirectory, ...args], input);
    if (result.code !== 0) throw new Error(`postsuper ${args.join(" ")} exited with ${result.code}: ${result.stderr}`);
    return result.stderr;
  }

  /** `postqueue -f`: try all deferred mail now. */
  async flush(): Promise<void> {
    await this.run("postqueue", ["-c", this.configDirectory, "-f"]);
  }

  /** `postqueue -i ID`: try this message now. */
  async wake(queueId: string): Promise<void> {
    await this.run("postqueue", ["-c", this.configDirectory, "-i", queueId]);
  }

  /** The mail log so far. */
  log(): string {
    return readOr(this.logFile, "");
  }

  /** Wait until no message is in maildrop, incoming or active. */
  async settled(timeoutMs = 60_000): Promise<void> {
    await until(
      () => this.files("maildrop").length + this.files("incoming").length + this.files("active").length === 0,
      {
        timeoutMs,
        what: () => `a settled queue, now ${JSON.stringify(this.counts())}`,
      },
    );
  }

  /** Wait until no message is queued at all. */
  async emptied(timeoutMs = 60_000): Promise<void> {
    const total = () => Object.values(this.counts()).reduce((sum, count) => sum + count, 0);
    await until(() => total() === 0, { timeoutMs, what: () => `an empty queue, now ${JSON.stringify(this.counts())}` });
  }

  private async prepare(): Promise<void> {
    const owner = userId("postfix");
    for (const directory of ["etc", "spool", "data", "log"]) mkdirSync(join(this.directory, directory));
    for (const directory of ["data", "log"]) chownSync(join(this.directory, directory), owner, -1);
    chmodSync(this.dataDirectory, 0o700);
    // postsuper drops to this user before it logs, and fails after its work if it then can't (with Postfix stopped).
    writeFileSync(this.logFile, "");
    chownSync(this.logFile, owner, -1);
    this.port = await freePort();
    this.writeConfiguration();
    await this.postfix("check");
  }

  private writeConfiguration(): void {
    const main = join(this.configDirectory, "main.cf");
    writeFileSync(main, mainCf(this, this.options));
    lookOld(main);
    writeFileSync(join(this.configDirectory, "master.cf"), masterCf(this.port, this.options.master ?? []));
  }

  /** Whether our smtpd, and nobody else's, greets on the port. */
  private async answers(): Promise<boolean> {
    return (await greeting(this.port)).includes(basename(this.directory));
  }
}

function mainCf(instance: PrivatePostfix, options: PostfixOptions): string {
  const transports = { "discard.test": "discard:thrown away", ...options.sink?.transports, ...options.transports };
  const parameters: Record<string, string> = {
    compatibility_level: "3.6",
    queue_directory: instance.queueDirectory,
    data_directory: instance.dataDirectory,
    maillog_file: instance.logFile,
    maillog_file_prefixes: instance.directory,
    myhostname: "mx.queue.test",
    mydestination: "",
    local_recipient_maps: "",
    alias_maps: "",
    alias_database: "",
    inet_interfaces: "127.0.0.1",
    inet_protocols: "ipv4",
    mynetworks: "127.0.0.0/8",
    smtpd_banner: `mx.queue.test ESMTP ${basename(instance.directory)}`,
    smtpd_peername_lookup: "no",
    smtpd_relay_restrictions: "permit_mynetworks, reject",
    smtpd_client_connection_count_limit: "0",
    smtp_tls_security_level: "none",
    smtp_connect_timeout: "2s",
    smtp_host_lookup: "native",
    // Nothing listens on port 9: what is not for the sink is refused at once, deferred, and can't leave the machine.
    default_transport: "smtp:[127.0.0.1]:9",
    relay_transport: "smtp:[127.0.0.1]:9",
    in_flow_delay: "0",
    notify_classes: "",
    transport_maps: `inline:{${Object.entries(transports)
      .map(([domain, hop]) => `{${domain}=${hop}}`)
      .join(" ")}}`,
    ...(options.name === undefined ? {} : { multi_instance_name: options.name, multi_instance_enable: "yes" }),
    ...(options.longIds ? { enable_long_queue_ids: "yes" } : {}),
    ...(options.hashQueueNames === undefined ? {} : { hash_queue_names: options.hashQueueNames }),
    ...(options.hashQueueDepth === undefined ? {} : { hash_queue_depth: String(options.hashQueueDepth) }),
    ...(options.retrySeconds === undefined ? {} : retrying(options.retrySeconds)),
    ...options.main,
  };
  return Object.entries(parameters)
    .map(([name, value]) => `${name} = ${value}\n`)
    .join("");
}

function retrying(seconds: number): Record<string, string> {
  return {
    queue_run_delay: "1s",
    minimal_backoff_time: `${seconds}s`,
    maximal_backoff_time: `${seconds}s`,
    transport_retry_time: "1s",
  };
}

/** Postfix waits until a main.cf is two seconds old before it believes it (util/dict.c, dict_load_file_xt); spare us that. */
function lookOld(file: string): void {
  const tenSecondsAgo = Date.now() / 1000 - 10;
  utimesSync(file, tenSecondsAgo, tenSecondsAgo);
}

/** Postfix's stock services, nothing chrooted, nothing that hands mail to a program. */
function masterCf(port: number, more: readonly string[]): string {
  const services = [
    `127.0.0.1:${port} inet n - n - - smtpd`,
    "pickup unix n - n 60 1 pickup",
    "cleanup unix n - n - 0 cleanup",
    "qmgr unix n - n 300 1 qmgr",
    "tlsmgr unix - - n 1000? 1 tlsmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "verify unix - - n - 1 verify",
    "flush unix n - n 1000? 0 flush",
    "proxymap unix - - n - - proxymap",
    "proxywrite unix - - n - 1 proxymap",
    "smtp unix - - n - - smtp",
    "relay unix - - n - - smtp",
    "showq unix n - n - - showq",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    "discard unix - - n - - discard",
    "local unix - n n - - local",
    "virtual unix - n n - - virtual",
    "lmtp unix - - n - - lmtp",
    "anvil unix - - n - 1 anvil",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
  ];
  return [...services, ...more, ""].join("\n");
}

/** What sendmail(1) tells postdrop(1): sender, recipients, the text line by line, in Postfix's record format. */
function postdropRecords(letter: Letter): Buffer {
  const record = (type: string, payload: string) => {
    const length = [];
    for (let rest = payload.length; ; rest >>= 7) {
      length.push(rest > 127 ? (rest & 127) | 128 : rest);
      if (rest <= 127) break;
    }
    return Buffer.concat([Buffer.from(type), Buffer.from(length), Buffer.from(payload, "latin1")]);
  };
  const lines = letter.text.toString("latin1").replace(/\n$/, "").split("\n");
  return Buffer.concat([
    record("S", letter.sender),
    ...letter.recipients.map((address) => record("R", address)),
    record("M", ""),
    ...lines.flatMap((line) => cut(line).map((piece, index, all) => record(index + 1 < all.length ? "L" : "N", piece))),
    record("X", ""),
    record("E", ""),
  ]);
}

/** A line in pieces of line_length_limit (2048) bytes. */
function cut(line: string): string[] {
  return line === "" ? [""] : (line.match(/.{1,2048}/gs) ?? []);
}

/** A port nobody listens on now, below the range the kernel gives to outgoing connections. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const free = await new Promise<boolean>((resolve) => {
      const server = createServer();
      server.once("error", () => resolve(false));
      server.listen({ port, host: "127.0.0.1" }, () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

/** What a server on loopback says first; empty when nobody listens. */
function greeting(port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1", timeout: 5000 });
    const finish = (said: string) => {
      socket.destroy();
      resolve(said);
    };
    socket.once("data", (chunk: Buffer) => finish(chunk.toString("latin1")));
    socket.once("timeout", () => finish(""));
    socket.once("error", () => finish(""));
  });
}

let swept = false;
function sweepOnce(): void {
  if (!swept) sweepScratch();
  swept = true;
}

async function collect(child: ChildProcess, input?: string | Buffer): Promise<ProgramResult> {
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  child.stdin?.on("error", () => {});
  child.stdin?.end(input ?? "");
  const code = await new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status) => resolve(status ?? -1)); // at its exit, some of what it said may still be unread
  });
  return { code, stdout, stderr };
}

function filesBelow(directory: string): string[] {
  try {
    return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
      const child = join(directory, entry.name);
      return entry.isDirectory() ? filesBelow(child) : entry.isFile() ? [child] : [];
    });
  } catch {
    return []; // a directory that is not there yet
  }
}

function readOr(file: string, otherwise: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return otherwise;
  }
}

/** Numeric id of a user of this machine. */
export function userId(name: string): number {
  return idIn("/etc/passwd", name);
}

/** Numeric id of a group of this machine. */
export function groupId(name: string): number {
  return idIn("/etc/group", name);
}

function idIn(file: string, name: string): number {
  const line = readFileSync(file, "utf8")
    .split("\n")
    .find((entry) => entry.startsWith(`${name}:`));
  if (line === undefined) throw new Error(`${file} has no ${name}`);
  return Number(line.split(":")[2]);
}
