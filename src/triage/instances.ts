import { readFileSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { instanceName, loadInstance, type PostfixInstance } from "../postfix/instance.ts";
import { reserveBytes } from "../postfix/room.ts";
import { run } from "../system/exec.ts";

/** An instance, and what else of its configuration a triage goes by. */
export interface KnownInstance {
  readonly instance: PostfixInstance;
  /** `maillog_file`; empty where Postfix logs to syslog. */
  readonly logFile: string;
  /** Null where only postconf could tell. */
  readonly reserveBytes: number | null;
  /** False for a further instance that postmulti(1) does not start (`multi_instance_enable`). */
  readonly enabled: boolean;
}

export interface FoundInstances {
  readonly known: readonly KnownInstance[];
  readonly unseen: readonly string[];
}

/** Each of these directories; where postconf can't say what is in one, as far as the text of its main.cf goes. */
export async function knownInstances(directories: readonly string[]): Promise<FoundInstances> {
  const found = await Promise.all(directories.map(known));
  return { known: found.flatMap(({ known: one }) => one ?? []), unseen: found.flatMap(({ unseen }) => unseen ?? []) };
}

async function known(
  directory: string,
): Promise<{ readonly known?: KnownInstance; readonly unseen?: readonly string[] }> {
  try {
    const instance = await loadInstance(directory);
    const names = [
      "maillog_file",
      "queue_minfree",
      "message_size_limit",
      "multi_instance_name",
      "multi_instance_enable",
    ];
    const { stdout } = await run("postconf", ["-c", directory, "-x", ...names]);
    const values = settings(stdout.toString());
    const value = (name: string) => values.get(name) ?? "";
    return {
      known: { instance, logFile: value("maillog_file"), reserveBytes: reserveBytes(value), enabled: isEnabled(value) },
    };
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error;
    return byText(directory, firstLine(error.message));
  }
}

function byText(directory: string, why: string) {
  const path = join(directory, "main.cf");
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    return { unseen: [why, `${path} can't be read: ${error instanceof Error ? error.message : String(error)}`] };
  }
  const values = settings(text.replace(/^#.*\n/gm, "").replace(/\n[ \t]+/g, " "));
  const plain = (name: string, otherwise: string) => {
    const value = values.get(name) ?? otherwise;
    return value.includes("$") ? otherwise : value;
  };
  const queueDirectory = plain("queue_directory", "/var/spool/postfix");
  const owner = statSync(join(queueDirectory, "deferred"), { throwIfNoEntry: false });
  const instance: PostfixInstance = {
    name: instanceName(directory, plain("multi_instance_name", "")),
    configDirectory: directory,
    queueDirectory,
    dataDirectory: plain("data_directory", "/var/lib/postfix"),
    mailOwner: plain("mail_owner", "postfix"),
    ownerUid: owner?.uid ?? 0,
    ownerGid: owner?.gid ?? 0,
    setgidGroup: plain("setgid_group", "postdrop"),
    version: "",
    longIds: plain("enable_long_queue_ids", "no") === "yes",
    hashQueues: ["deferred", "defer"],
    hashDepth: 1,
    host: plain("myhostname", hostname()),
    maximalQueueLifetimeS: 432_000,
    bounceQueueLifetimeS: 432_000,
  };
  const unseen = [`${why}; ${path} was read as text, and what it doesn't say was guessed`];
  return {
    known: {
      instance,
      logFile: plain("maillog_file", ""),
      reserveBytes: null,
      enabled: isEnabled((name) => plain(name, "")),
    },
    unseen,
  };
}

function isEnabled(value: (name: string) => string): boolean {
  const name = value("multi_instance_name");
  return name === "" || name === "-" || value("multi_instance_enable") === "yes";
}

/** `name = value` lines; the last of a name counts, as in main.cf. */
function settings(text: string): Map<string, string> {
  const values = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [, name, value = ""] = /^(\w+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (name !== undefined) values.set(name, value);
  }
  return values;
}

function firstLine(text: string): string {
  return text.split("\n")[0] ?? "";
}
