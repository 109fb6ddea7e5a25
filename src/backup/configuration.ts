import { posix } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { serviceFiles } from "../postfix/mail-services.ts";
import { compiledFiles, type FileReader, hostFiles, type NamedFile, namedFiles } from "../postfix/maps.ts";
import { type PostfixParameters, readParameters } from "../postfix/parameters.ts";
import { digestOf } from "../system/digest.ts";
import {
  type ConfigurationEvent,
  type ConfigurationFile,
  FileCollection,
  isInside,
  type Origin,
} from "./file-collection.ts";

export { type ConfigurationEvent, type ConfigurationFile, isIncomplete } from "./file-collection.ts";

export interface ConfigurationRequest {
  readonly instance: Pick<PostfixInstance, "name" | "configDirectory" | "queueDirectory" | "dataDirectory">;
  /** Further files and directories (with all below) of the host. */
  readonly include: readonly string[];
  readonly mailServices: boolean;
  /**
   * Where the host's own files are looked for: mail services, `include`, `/etc/mailname` and the like. Paths that
   * Postfix's configuration names are Postfix's and always real. Default `/`.
   */
  readonly root?: string;
  readonly report: (event: ConfigurationEvent) => void;
  readonly signal?: AbortSignal;
}

/**
 * Read everything that decides how an instance handles its mail: its configuration directory, what postconf(1) says of
 * it, every file those name, and, for the host, mail services and `include`. Each path comes once, whoever names it:
 * area `config` below the configuration directory, then `named`, `service`, `include`.
 *
 * All files were as returned at one moment: if one changed meanwhile everything is read again, five times at most
 * (then `config-changing`). What is missing or can't be read is reported and never thrown.
 *
 * Not kept: sockets and devices; the queue directory with the copies of system files for chroot, which Postfix or its
 * package makes; the data directory, whose caches are rebuilt and can't be copied whole while Postfix runs (a table whose
 * *source* lies there is kept); binary programs; files larger than 64 MiB.
 *
 * With several instances the host's part is the same for each: ask for it (`include`, `mailServices`) with the first.
 */
export async function collectConfiguration(request: ConfigurationRequest): Promise<ConfigurationFile[]> {
  for (let attempt = 1; ; attempt++) {
    const events: ConfigurationEvent[] = [];
    const collection = await collectOnce(request, (event) => events.push(event));
    const changed = collection.changed();
    if (changed.length > 0 && attempt < attempts) {
      await delay(pauseMs, undefined, request.signal === undefined ? {} : { signal: request.signal });
      continue;
    }
    for (const event of unique(events)) request.report(event);
    for (const path of changed) request.report({ type: "config-changing", path });
    return collection.entries();
  }
}

const attempts = 5;
// An editor's or postmap's work is over in about this time.
const pauseMs = 200;

function unique(events: readonly ConfigurationEvent[]): ConfigurationEvent[] {
  return [...new Map(events.map((event) => [`${event.type} ${event.path}`, event])).values()];
}

async function collectOnce(
  request: ConfigurationRequest,
  report: (event: ConfigurationEvent) => void,
): Promise<FileCollection> {
  const { instance } = request;
  const { configDirectory, queueDirectory, dataDirectory } = instance;
  const excluded = [queueDirectory, dataDirectory];
  const collection = new FileCollection({ instance: instance.name, configDirectory, excluded, report });
  const own = origin({ instance: instance.name, area: "config", namedBy: "config_directory", required: true });
  collection.take(configDirectory, "tree", own);

  // Asked after the directory was read: a change between the two shows in `changed`.
  const parameters = await askPostfix(request, report);
  const takeAll = taker(collection, dataDirectory, report);
  const root = request.root === undefined || request.root === "/" ? "" : posix.resolve(request.root);
  if (parameters !== undefined) {
    addReports(collection, instance.name, parameters);
    takeAll(namedFiles(parameters), origin({ instance: instance.name, area: "named" }));
    takeAll(hostFiles(parameters), origin({ area: "named", root }));
  }
  if (request.mailServices) {
    for (const file of serviceFiles()) takeAll([file], origin({ area: "service", root, data: file.data }));
  }
  for (const path of request.include) {
    if (root === "" && isInside(queueDirectory, posix.resolve("/", path))) {
      const reason = "the mail queue is kept message by message, never as files";
      report({ type: "config-skipped", path: queueDirectory, namedBy: "include", reason });
      if (posix.resolve("/", path) === queueDirectory) continue;
    }
    collection.take(path, "tree", origin({ area: "include", namedBy: "include", required: true, root }));
  }
  return collection;
}

function origin(given: Partial<Origin> & Pick<Origin, "area">): Origin {
  return { instance: null, namedBy: "", required: false, root: "", data: false, ...given };
}

/** The raw files are the truth and are kept already; without postconf's answer we can only not know what they name. */
async function askPostfix(
  request: ConfigurationRequest,
  report: (event: ConfigurationEvent) => void,
): Promise<PostfixParameters | undefined> {
  const { configDirectory } = request.instance;
  try {
    return await readParameters(configDirectory, request.signal);
  } catch (error) {
    if (!(error instanceof OperatorError) || request.signal?.aborted) throw error;
    report({ type: "config-unreadable", path: configDirectory, namedBy: "postconf", reason: error.message });
    return undefined;
  }
}

/**
 * What postconf printed, and the time zone in which the mail log's stamps are, as files of root's with the time of the
 * newer of main.cf and master.cf: the same until those change.
 */
function addReports(collection: FileCollection, instance: string, parameters: PostfixParameters): void {
  const sources = ["main.cf", "master.cf"].map((name) =>
    collection.file(posix.join(parameters.configDirectory, name), ""),
  );
  const mtime = Math.max(0, ...sources.map((file) => file?.mtime ?? 0));
  const { timeZone } = new Intl.DateTimeFormat().resolvedOptions();
  const reports = new Map(parameters.reports).set("timezone", Buffer.from(`${timeZone}\n`));
  for (const [path, bytes] of reports) {
    const owner = { user: "root", group: "root", uid: 0, gid: 0 };
    const { digest } = digestOf(bytes);
    collection.add({
      instance,
      area: "report",
      path,
      type: "file",
      mode: 0o600,
      owner,
      mtime,
      bytes,
      digest,
      target: null,
    });
  }
}

/** A function that keeps named files, then what those name in turn, each file once per format. */
function taker(
  collection: FileCollection,
  dataDirectory: string,
  report: (event: ConfigurationEvent) => void,
): (files: readonly NamedFile[], origin: Origin) => void {
  const seen = new Map<FileReader | null, Set<string>>();
  return (files, given) => {
    const waiting = [...files];
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      const paths = seen.get(file.reader) ?? new Set();
      seen.set(file.reader, paths);
      const key = `${file.shape} ${file.mapType} ${file.path}`;
      if (paths.has(key)) continue;
      paths.add(key);
      const named = { ...given, namedBy: file.namedBy, required: file.required };
      if (file.shape === "map") takeMap(collection, file, named, dataDirectory, report);
      else collection.take(file.path, file.shape, named);
      waiting.push(...namesInside(collection, file, given.root));
    }
  };
}

/** The source of a table and what postmap(1) made of it. */
function takeMap(
  collection: FileCollection,
  file: NamedFile,
  named: Origin,
  dataDirectory: string,
  report: (event: ConfigurationEvent) => void,
): void {
  const { path, namedBy, required } = file;
  const quietly = { ...named, required: false };
  const source = collection.take(path, "file", quietly);
  if (source === "missing" && isInside(path, dataDirectory)) return;
  const compiled = compiledFiles(file.mapType ?? "", path);
  const found = compiled.map((one) => collection.take(one, "file", quietly));
  if (source === "missing") {
    if (found.includes("taken")) report({ type: "config-compiled-only", path, namedBy });
    else if (required) report({ type: "config-missing", path, namedBy });
    return;
  }
  const lacking = compiled.filter((_, place) => found[place] === "missing");
  if (required) for (const one of lacking) report({ type: "config-missing", path: one, namedBy });
}

// A table with more text than this names no further files: alias files and lists of keys are far smaller.
const largestText = 16 * 1024 * 1024;

function namesInside(collection: FileCollection, file: NamedFile, root: string): NamedFile[] {
  const { reader } = file;
  if (reader === null) return [];
  const one = collection.file(file.path, root);
  const files = one?.type === "directory" ? collection.filesBelow(one.path) : one === undefined ? [] : [one];
  return files.flatMap(({ path, bytes }) =>
    bytes === undefined || bytes.length > largestText || bytes.includes(0) ? [] : reader(path, bytes.toString()),
  );
}
