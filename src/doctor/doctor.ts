import { accessSync, constants, existsSync, readdirSync, statfsSync, statSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { type AgeRecipients, loadIdentities, loadRecipients } from "../crypto/keys.ts";
import { loadSigningKey, loadTrustedKeys, type TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { journalDirectory } from "../holds/journal.ts";
import { masterState } from "../postfix/control.ts";
import { holdInboxReasons } from "../postfix/hold-inbox.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { readLocks } from "../postfix/locks.ts";
import type { Repository } from "../repository/repository.ts";
import { digestOf } from "../system/digest.ts";
import { run } from "../system/exec.ts";
import { tryLock } from "../system/lock.ts";

/** What was looked at and what was found. A remedy with `ok` is advice: the host is ready without it. */
export interface Finding {
  readonly type: "finding";
  readonly name: string;
  readonly ok: boolean;
  readonly message: string;
  readonly remedy: string | null;
}

/** Primary: Postfix runs here and is backed up. Standby: backups are read here. */
export type Role = "primary" | "standby";

export interface HostToExamine {
  readonly role: Role;
  /** As `process.versions.node`. */
  readonly nodeVersion: string;
  readonly uid: number;
}

export interface SetupToExamine {
  readonly role: Role;
  readonly stateDirectory: string;
  readonly recipientsFile: string;
  readonly identityFile: string | undefined;
  readonly signingKeyFile: string;
  readonly trustedKeysFile: string;
  findInstances(): Promise<readonly PostfixInstance[]>;
  openRepository(): Promise<Repository>;
  /** Also write a small object to the repository, read it and remove it. */
  readonly probe: boolean;
  readonly signal: AbortSignal;
}

export type Report = (finding: Finding) => void;

/** What the host must have whatever the configuration says. */
export async function examineHost(host: HostToExamine, report: Report): Promise<void> {
  report(nodeFinding(host.nodeVersion));
  report(rootFinding(host));
  for (const finding of programFindings(host.role)) report(finding);
}

/** What the configuration names: keys, repository, state directory, Postfix. */
export async function examineSetup(setup: SetupToExamine, report: Report): Promise<void> {
  const instances = await postfixInstances(setup, report);
  for (const instance of instances) {
    await look(`postfix ${instance.name}`, report, () => examineInstance(instance));
    await look(`locks ${instance.name}`, report, () => examineLocks(instance));
    await look(`hold ${instance.name}`, report, () => examineHold(instance));
  }
  await look("state directory", report, async () => examineStateDirectory(setup.stateDirectory, instances));
  await look("holds", report, () => examineJournals(setup.stateDirectory, instances));
  await look("age recipients", report, async () =>
    examineRecipients(loadRecipients(setup.recipientsFile), setup.recipientsFile),
  );
  await look("identity", report, () => examineIdentity(setup));
  await look("signing key", report, async () => examineSigningKey(setup));
  await look("repository", report, () => examineRepository(setup));
}

/** What a look throws on purpose is its finding: the fact, and the first hint as the remedy. */
async function look(name: string, report: Report, work: () => Promise<readonly Finding[]>): Promise<void> {
  try {
    for (const finding of await work()) report(finding);
  } catch (error) {
    if (!(error instanceof OperatorError) || error.kind === "interrupted") throw error;
    report(bad(name, error.message, error.hints.join("; ") || "see what the message says"));
  }
}

function good(name: string, message: string, advice: string | null = null): Finding {
  return { type: "finding", name, ok: true, message, remedy: advice };
}

function bad(name: string, message: string, remedy: string): Finding {
  return { type: "finding", name, ok: false, message, remedy };
}

function nodeFinding(version: string): Finding {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major > 24 || (major === 24 && minor >= 11)) return good("node", `Node ${version}`);
  return bad("node", `Node ${version} is too old`, "install Node 24.11 or newer, or run `npm ci` where spoolsafe is");
}

function rootFinding({ uid, role }: HostToExamine): Finding {
  if (uid === 0) return good("root", "running as root");
  const remedy = "run spoolsafe as root: sudo spoolsafe doctor";
  return role === "primary"
    ? bad("root", `running as user ${uid}, who can't read a mail queue`, remedy)
    : good("root", `running as user ${uid}: verify and restore --to work, restore --into needs root`, remedy);
}

const postfixPrograms = ["postconf", "postmulti", "postsuper", "postqueue", "postkick", "postcat"];

function programFindings(role: Role): readonly Finding[] {
  const missing = (names: readonly string[]) => names.filter((name) => findProgram(name) === undefined);
  const postfix = missing(postfixPrograms);
  const flock = missing(["flock"]);
  const stock = missing(["age", "zstd", "tar"]);
  return [
    postfix.length === 0
      ? good("postfix programs", "all there")
      : {
          ...bad("postfix programs", `not found: ${postfix.join(", ")}`, "install Postfix: apt-get install postfix"),
          ok: role === "standby",
        },
    flock.length === 0
      ? good("flock", "there")
      : bad("flock", "not found: runs could not exclude each other", "apt-get install util-linux"),
    stock.length === 0
      ? good("stock recovery", "age, zstd and tar are here")
      : good(
          "stock recovery",
          `not here: ${stock.join(", ")}`,
          `to recover without spoolsafe: apt-get install ${stock.join(" ")}`,
        ),
  ];
}

/** Path of a program in PATH or in the directories of an administrator. */
function findProgram(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return directories.map((directory) => join(directory, name)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  return permits(path, constants.X_OK) && statSync(path).isFile();
}

function permits(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}

async function postfixInstances(setup: SetupToExamine, report: Report): Promise<readonly PostfixInstance[]> {
  if (setup.role === "standby" && findProgram("postconf") === undefined) return [];
  let instances: readonly PostfixInstance[] = [];
  await look("postfix instances", report, async () => {
    instances = await setup.findInstances();
    const names = instances.map(({ name, configDirectory }) => `${name} (${configDirectory})`).join(", ");
    if (instances.length > 0) return [good("postfix instances", names)];
    return [bad("postfix instances", "none", "name them in postfix.config_directories, or see `postmulti -l`")];
  });
  return instances;
}

async function examineInstance(instance: PostfixInstance): Promise<readonly Finding[]> {
  const name = `postfix ${instance.name}`;
  const state = await masterState(instance);
  const about = `Postfix ${instance.version}, ${instance.queueDirectory}`;
  if (state === "stopped") return [good(name, `${about}: not running, captured in mode stopped`)];
  if (state.visible) return [good(name, `${about}: running, pid ${state.pid}`)];
  return [
    good(
      name,
      `${about}: running in another PID namespace, so deliveries can't be seen: captured in mode live`,
      "run spoolsafe in the PID namespace of Postfix (docker run --pid=..., or beside it)",
    ),
  ];
}

/** Whether a lock of ours on the queue directory is seen in /proc/locks: only then are those of delivery agents. */
async function examineLocks(instance: PostfixInstance): Promise<readonly Finding[]> {
  const name = `locks ${instance.name}`;
  const { dev, ino } = statSync(instance.queueDirectory, { bigint: true });
  // Somebody else's lock on it (a backup at work) shows as much as ours.
  const lock = await tryLock(instance.queueDirectory, 1);
  try {
    if (readLocks().has(dev, ino)) return [good(name, "locks on the queue are seen in /proc/locks")];
  } finally {
    await lock?.release();
  }
  return [
    good(
      name,
      "locks on the queue are not seen in /proc/locks (NFS, overlay or btrfs, another PID namespace): what is in flight can't be known",
      "put the queue on a local ext4 or xfs file system, and run spoolsafe beside Postfix",
    ),
  ];
}

async function examineHold(instance: PostfixInstance): Promise<readonly Finding[]> {
  const name = `hold ${instance.name}`;
  const reasons = await holdInboxReasons(instance);
  if (reasons.length === 0) return [good(name, "hold is nobody's inbox")];
  return reasons.map((reason) =>
    good(
      name,
      `${reason}: captured in mode live, nothing is put on hold`,
      'set postfix.mode = "live" to say so yourself',
    ),
  );
}

/** `f_type` of statfs(2) for file systems that are gone after a boot. */
const memoryFileSystems = new Set([0x01021994, 0x858458f6]);
const tinyBytes = 256 * 1024 * 1024;

function examineStateDirectory(directory: string, instances: readonly PostfixInstance[]): readonly Finding[] {
  const name = "state directory";
  const there = nearestExisting(directory);
  const remedy = "set state_directory to a directory on a local disk";
  if (!statSync(there).isDirectory()) return [bad(name, `${there} is not a directory`, remedy)];
  if (!permits(there, constants.W_OK | constants.X_OK)) return [bad(name, `${there} can't be written to`, remedy)];
  const { type, bavail, bsize } = statfsSync(there);
  const free = bavail * bsize;
  if (memoryFileSystems.has(type)) {
    return [bad(name, `${directory} is in memory: what we hold would be forgotten at a reboot`, remedy)];
  }
  const shared = instances.find(({ queueDirectory }) => statSync(queueDirectory).dev === statSync(there).dev);
  if (free < tinyBytes) {
    const beside = shared === undefined ? "" : `, beside the queue ${shared.queueDirectory}`;
    return [
      bad(name, `${directory} has ${Math.floor(free / 1024 / 1024)} MiB left${beside}`, `make room, or ${remedy}`),
    ];
  }
  return [good(name, directory)];
}

function nearestExisting(path: string): string {
  return existsSync(path) ? path : nearestExisting(dirname(path));
}

/** Names only: a journal that is being written is nobody's to read or clear up. */
async function examineJournals(
  stateDirectory: string,
  instances: readonly PostfixInstance[],
): Promise<readonly Finding[]> {
  const directory = journalDirectory(stateDirectory);
  const names = existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith(".jsonl")) : [];
  if (names.length === 0) return [good("holds", "no backup has left anything on hold")];
  if (await somebodyWorks(instances)) return [good("holds", "a run is at work now; it clears up after itself")];
  return [
    bad(
      "holds",
      `an interrupted backup may have left mail on hold: ${names.join(", ")}`,
      "`spoolsafe holds release` gives it back",
    ),
  ];
}

async function somebodyWorks(instances: readonly PostfixInstance[]): Promise<boolean> {
  for (const { queueDirectory } of instances) {
    const lock = await tryLock(queueDirectory, 1);
    if (lock === undefined) return true;
    await lock.release();
  }
  return false;
}

async function examineRecipients(recipients: AgeRecipients, file: string): Promise<readonly Finding[]> {
  const count = recipients.list.length;
  const found = good("age recipients", `${count} (${recipients.kind}) in ${file}`);
  const alone = count === 1 ? "a second one, with its identity kept elsewhere, guards against losing the first" : null;
  const recipientsFinding = { ...found, remedy: alone };
  if (recipients.kind === "x25519" || findProgram("age") === undefined) return [recipientsFinding];
  const version = (await run("age", ["--version"])).stdout.toString().trim();
  const [major = 0, minor = 0] = version.replace(/^v/, "").split(".").map(Number);
  if (major > 1 || (major === 1 && minor >= 3))
    return [recipientsFinding, good("age", `age ${version} reads post-quantum files`)];
  return [
    recipientsFinding,
    good(
      "age",
      `age ${version} does not read post-quantum files`,
      "to recover without spoolsafe: install age 1.3 or newer",
    ),
  ];
}

async function examineIdentity({ role, identityFile }: SetupToExamine): Promise<readonly Finding[]> {
  if (identityFile === undefined) {
    return role === "primary"
      ? [good("identity", "none here, as it should be on a primary")]
      : [bad("identity", "none is configured: snapshots can't be opened here", "set encryption.identity_file")];
  }
  const { recipients } = await loadIdentities(identityFile);
  const message = `${recipients.length} in ${identityFile}`;
  if (role === "standby") return [good("identity", message)];
  return [
    good(
      "identity",
      `${message}: whoever breaks in here can read every snapshot`,
      "keep it elsewhere; a primary needs the age recipient only",
    ),
  ];
}

function examineSigningKey({ role, signingKeyFile, trustedKeysFile }: SetupToExamine): readonly Finding[] {
  const trusted = loadTrustedKeys(trustedKeysFile);
  const own = role === "primary" || existsSync(signingKeyFile) ? loadSigningKey(signingKeyFile) : undefined;
  return [
    ...(own === undefined ? [] : [good("signing key", `${own.writer} in ${signingKeyFile}`)]),
    trustFinding(trusted, own?.fingerprint, role, trustedKeysFile),
  ];
}

function trustFinding(trusted: TrustedKeys, own: string | undefined, role: Role, file: string): Finding {
  const others = trusted.fingerprints.filter((fingerprint) => fingerprint !== own).length;
  if (own !== undefined && !trusted.fingerprints.includes(own)) {
    return bad("trusted keys", `${file} does not have this host's own key`, "`spoolsafe init` adds it");
  }
  if (role === "standby" && others === 0) {
    return bad(
      "trusted keys",
      `${file} has no key of a primary`,
      "`spoolsafe key add FILE` with the primary's trusted.pub",
    );
  }
  return good("trusted keys", `${trusted.fingerprints.length} in ${file}`);
}

async function examineRepository({ openRepository, probe, signal }: SetupToExamine): Promise<readonly Finding[]> {
  const repository = await openRepository();
  const snapshots = await repository.snapshotRefs(signal);
  const found = good("repository", `${repository.store.url} answers and has ${snapshots.length} snapshots`);
  if (!probe) return [{ ...found, remedy: null }];
  await writeProbe(repository, signal);
  return [found, good("repository probe", "an object was written, read and removed")];
}

async function writeProbe({ store, id }: Repository, signal: AbortSignal): Promise<void> {
  const bytes = Buffer.from(`probe of ${id} at ${new Date().toISOString()}\n`);
  const { digest } = digestOf(bytes);
  const key = `probes/${digest}`;
  try {
    await store.put(key, bytes, digest, signal);
    if (!(await store.get(key, signal)).equals(bytes)) {
      throw new OperatorError("store-failed", `${store.url} gave back other bytes than were written`);
    }
  } finally {
    await store.remove(key, signal);
  }
}
