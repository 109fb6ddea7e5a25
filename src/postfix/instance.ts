import { realpathSync } from "node:fs";
import { resolve } from "node:path";
import { errnoOf, OperatorError } from "../errors.ts";
import { run } from "../system/exec.ts";

/** One Postfix as main.cf describes it, whether it is running or not. */
export interface PostfixInstance {
  readonly name: string;
  readonly configDirectory: string;
  /** Absolute, without `.`, `..`, doubled slashes or one at the end, so that paths below it are told by their beginning. */
  readonly queueDirectory: string;
  readonly dataDirectory: string;
  /** The user whose files the queue is made of, by name and by this host's numbers. */
  readonly mailOwner: string;
  readonly ownerUid: number;
  readonly ownerGid: number;
  /** The group of maildrop/ and public/. */
  readonly setgidGroup: string;
  /** `mail_version`, such as `3.7.11`. */
  readonly version: string;
  /** New messages get long ids. */
  readonly longIds: boolean;
  /** Directories whose files are hashed into sub-directories, to this depth. */
  readonly hashQueues: readonly string[];
  readonly hashDepth: number;
  /** `myhostname`. */
  readonly host: string;
  /** Seconds. */
  readonly maximalQueueLifetimeS: number;
  readonly bounceQueueLifetimeS: number;
}

/**
 * All instances, in the order given or listed.
 *
 * @param configDirectories undefined: every instance that `postmulti -l` knows, enabled or not
 * @throws OperatorError `config` for a directory postconf can't read, or two instances of one name
 */
export async function discoverInstances(configDirectories: readonly string[] | undefined): Promise<PostfixInstance[]> {
  const directories = configDirectories ?? (await listedInstances());
  const instances = await Promise.all(directories.map(loadInstance));
  for (const instance of instances) {
    const twin = instances.find((other) => other !== instance && other.name === instance.name);
    if (twin !== undefined) throw twoOfOneName(instance, twin);
  }
  return instances;
}

/**
 * Ask postconf(1) what one instance is.
 *
 * @throws OperatorError `config` when it can't say, or its mail_owner is no user here
 */
export async function loadInstance(configDirectory: string): Promise<PostfixInstance> {
  const values = await parametersOf(configDirectory);
  const value = (name: Parameter) => values.get(name) ?? "";
  const mailOwner = value("mail_owner");
  const { uid, gid } = await ownerOf(mailOwner, configDirectory);
  return {
    name: instanceName(configDirectory, value("multi_instance_name")),
    configDirectory: resolve(configDirectory),
    queueDirectory: plainPath(value("queue_directory")),
    dataDirectory: value("data_directory"),
    mailOwner,
    ownerUid: uid,
    ownerGid: gid,
    setgidGroup: value("setgid_group"),
    version: value("mail_version"),
    longIds: value("enable_long_queue_ids") === "yes",
    hashQueues: value("hash_queue_names")
      .split(/[\s,]+/)
      .filter((name) => name !== ""),
    hashDepth: Number(value("hash_queue_depth")),
    host: value("myhostname"),
    maximalQueueLifetimeS: days(value("maximal_queue_lifetime")),
    bounceQueueLifetimeS: days(value("bounce_queue_lifetime")),
  };
}

/** What comes before `..` may be a link, which only the file system can follow. */
function plainPath(directory: string): string {
  if (!directory.split("/").includes("..")) return resolve(directory);
  try {
    return realpathSync.native(directory); // realpathSync itself takes `..` by name
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return resolve(directory);
    throw error;
  }
}

/** What an instance is called: its own name, else its configuration directory with `/` as `_`. */
export function instanceName(configDirectory: string, multiInstanceName: string): string {
  if (multiInstanceName !== "" && multiInstanceName !== "-") return multiInstanceName;
  return configDirectory
    .replace(/\/+/g, "/")
    .replace(/^\/|\/$/g, "")
    .replaceAll("/", "_");
}

/** Configuration directories in the output of `postmulti -l`: name, group, enabled, directory; the main instance first. */
export function parsePostmulti(text: string): string[] {
  return text.split("\n").flatMap((line) => /^\S+\s+\S+\s+[yn]\s+(\/.*\S)\s*$/.exec(line)?.[1] ?? []);
}

const parameters = [
  "multi_instance_name",
  "queue_directory",
  "data_directory",
  "mail_owner",
  "setgid_group",
  "mail_version",
  "enable_long_queue_ids",
  "hash_queue_names",
  "hash_queue_depth",
  "myhostname",
  "maximal_queue_lifetime",
  "bounce_queue_lifetime",
] as const;
type Parameter = (typeof parameters)[number];

/** Configuration directories of every instance. @throws OperatorError `config` when postmulti can't say */
export async function listedInstances(): Promise<string[]> {
  // postmulti(1) speaks for all instances and refuses a MAIL_CONFIG that names one of them.
  const { stdout } = await run("postmulti", ["-l"], { env: { MAIL_CONFIG: undefined } }).catch((cause) => {
    if (isMissing(cause)) throw noPostfix(cause);
    throw new OperatorError("config", "postmulti can't list the Postfix instances of this host", {
      hints: ["look at what it says: postmulti -l", "or name their directories: [postfix] config_directories"],
      cause,
    });
  });
  return parsePostmulti(stdout.toString("utf8"));
}

async function parametersOf(configDirectory: string): Promise<Map<string, string>> {
  const { stdout } = await run("postconf", ["-c", configDirectory, "-x", ...parameters]).catch((cause) => {
    throw isMissing(cause) ? noPostfix(cause) : unreadable(configDirectory, cause);
  });
  const values = new Map<string, string>();
  for (const line of stdout.toString("utf8").split("\n")) {
    const [, name, value] = /^(\S+) =(?: (.*))?$/.exec(line) ?? [];
    if (name !== undefined) values.set(name, value?.trim() ?? "");
  }
  const missing = parameters.filter((name) => !values.has(name));
  if (missing.length === 0) return values;
  throw new OperatorError("config", `postconf says nothing of ${missing.join(", ")} in ${configDirectory}`, {
    hints: ["check that this is Postfix 3.7 or newer: postconf mail_version"],
  });
}

/** Whether a program that could not be started is not installed. */
function isMissing(failure: unknown): boolean {
  return failure instanceof OperatorError && errnoOf(failure.cause) === "ENOENT";
}

function noPostfix(cause: unknown): OperatorError {
  return new OperatorError("config", "Postfix is not installed here: its programs are missing", {
    hints: [
      "install Postfix (Debian: apt-get install postfix)",
      "without it: snapshots, ls, show, verify and restore --to",
    ],
    cause,
  });
}

function unreadable(configDirectory: string, cause: unknown): OperatorError {
  return new OperatorError("config", `postconf can't read the Postfix configuration in ${configDirectory}`, {
    hints: [`look at what it says: postconf -c ${configDirectory} -n`],
    cause,
  });
}

async function ownerOf(name: string, configDirectory: string): Promise<{ uid: number; gid: number }> {
  const { stdout } = await run("getent", ["passwd", name], { okCodes: [0, 2] });
  const [found, , uid, gid] = stdout.toString("utf8").split(":");
  if (found === name && name !== "") return { uid: Number(uid), gid: Number(gid) };
  throw new OperatorError(
    "config",
    `mail_owner ${JSON.stringify(name)} of ${configDirectory} is no user of this host`,
    {
      hints: ["install Postfix, which makes the user, or correct mail_owner in main.cf"],
    },
  );
}

const secondsPerUnit: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** A time parameter whose unit is days unless it says otherwise (postconf(5), `maximal_queue_lifetime`), in seconds. */
function days(value: string): number {
  const [, amount = "0", unit = "d"] = /^(\d+)([smhdw]?)$/i.exec(value) ?? [];
  return Number(amount) * (secondsPerUnit[unit.toLowerCase()] ?? 86_400);
}

function twoOfOneName(instance: PostfixInstance, twin: PostfixInstance): OperatorError {
  const where = `${instance.configDirectory} and ${twin.configDirectory}`;
  return new OperatorError("config", `two Postfix instances are called ${instance.name}: ${where}`, {
    hints: ["give each its own multi_instance_name in main.cf, or name each directory once"],
  });
}
