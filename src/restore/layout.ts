import { OperatorError } from "../errors.ts";
import type { FileEntry, LogEntry, Manifest, MessageEntry, Owner, StoredFile } from "../snapshot/manifest.ts";
import type { Snapshot } from "../snapshot/snapshot.ts";

/** A file, directory or link as it will lie below a directory. */
export interface LaidOut {
  /** Relative to the directory; checked to stay inside. */
  readonly path: string;
  readonly type: FileEntry["type"];
  readonly stored: StoredFile | null;
  readonly target: string | null;
  readonly mode: number;
  readonly owner: Owner;
  readonly mtime: number;
}

export interface Layout {
  readonly entries: readonly LaidOut[];
  /** Entries that could not have the name that was theirs. */
  readonly renamed: readonly { readonly from: string; readonly to: string }[];
}

/**
 * Where everything of a snapshot goes below a directory, as plain files:
 *
 *     <instance>/queue/<queue>/<id>     messages; their logs in queue/bounce, queue/defer and queue/trace
 *     <instance>/queue/corrupt|saved/   evidence
 *     <instance>/config/                the configuration directory's content
 *     <instance>/files/<absolute path>  what main.cf and master.cf name
 *     <instance>/reports/               what postconf said
 *     host/files/<absolute path>        what belongs to the host: mail services, included paths
 *     runbooks/                         printed runbooks
 *
 * Pure. Nothing an entry says can lead out: names are taken apart, and a link never is a step of another entry's path.
 *
 * @param instance only this one's, and nothing of the host's; undefined: everything
 * @throws OperatorError `damaged` for a name with `..` or a NUL
 */
export function layOut(snapshot: Snapshot, manifest: Manifest, instance: string | undefined): Layout {
  const wanted = (name: string | null) => instance === undefined || name === instance;
  const messages = manifest.messages.filter((message) => wanted(message.instance)).flatMap(messageFiles);
  const files = manifest.files.filter((file) => wanted(file.instance)).map((file) => configurationFile(snapshot, file));
  return withoutCollisions([...messages, ...files]);
}

function messageFiles(message: MessageEntry): LaidOut[] {
  const queue = [message.instance, "queue"];
  const own: LaidOut = {
    path: relative([...queue, message.queue, message.queueId]),
    type: "file",
    stored: message.file,
    target: null,
    mode: message.mode & 0o777,
    owner: message.owner,
    mtime: message.mtime,
  };
  return [
    own,
    ...message.logs.map((log) => logFile(relative([...queue, log.log, message.queueId]), log, message.owner)),
  ];
}

/** Postfix owns the logs; of a maildrop message, whose owner is its sender, there are none. */
function logFile(path: string, log: LogEntry, owner: Owner): LaidOut {
  return { path, type: "file", stored: log, target: null, mode: log.mode & 0o777, owner, mtime: log.mtime };
}

function configurationFile(snapshot: Snapshot, file: FileEntry): LaidOut {
  const { type, target, owner, mtime } = file;
  const mode = file.mode & (type === "directory" ? 0o1777 : 0o777);
  return { path: placeOf(snapshot, file), type, stored: file.file, target, mode, owner, mtime };
}

function placeOf(snapshot: Snapshot, { instance, area, path }: FileEntry): string {
  const top = instance ?? "host";
  switch (area) {
    case "report":
      return relative([top, "reports", path]);
    case "evidence":
      return relative([top, "queue", path]);
    case "runbook":
      return relative(["runbooks", path]);
    case "config": {
      const directory = snapshot.instances.find(({ name }) => name === instance)?.configDirectory;
      const below = directory !== undefined && (path === directory || path.startsWith(`${directory}/`));
      return below ? relative([top, "config", path.slice(directory.length)]) : relative([top, "files", path]);
    }
    case "named":
    case "service":
    case "include":
      return relative([top, "files", path]);
  }
}

/** One clean relative path: no empty step, no `.`; `..` and NUL never come from us. */
function relative(parts: readonly string[]): string {
  const steps = parts.join("/").split("/");
  if (steps.includes("..") || parts.some((part) => part.includes("\0"))) {
    throw new OperatorError(
      "damaged",
      `the manifest has the name ${JSON.stringify(parts.join("/"))}, which would lead elsewhere`,
    );
  }
  return steps.filter((step) => step !== "" && step !== ".").join("/");
}

/**
 * Give each entry a path of its own. One that would share another's, or that others would have to pass through although it
 * is no directory, gets a suffix; `.` is no character of a queue id, so a renamed message is none to Postfix.
 */
function withoutCollisions(entries: readonly LaidOut[]): Layout {
  const steps = new Set(entries.flatMap(({ path }) => ancestors(path)));
  const taken = new Map<string, FileEntry["type"]>();
  const renamed: { from: string; to: string }[] = [];
  const laidOut = entries.flatMap((entry) => {
    if (entry.type === "directory" && taken.get(entry.path) === "directory") return [];
    let { path } = entry;
    const clashes = () => taken.has(path) || (entry.type !== "directory" && steps.has(path)) || path === "";
    for (let n = 2; clashes(); n++) path = `${entry.path}.${n}`;
    if (path !== entry.path) renamed.push({ from: entry.path, to: path });
    taken.set(path, entry.type);
    return [{ ...entry, path }];
  });
  return { entries: laidOut, renamed };
}

function ancestors(path: string): string[] {
  const steps = path.split("/");
  return steps.slice(1).map((_, n) => steps.slice(0, n + 1).join("/"));
}
