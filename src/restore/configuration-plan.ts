import { posix } from "node:path";
import { OperatorError } from "../errors.ts";
import type { LackingType } from "../postfix/map-types.ts";
import type { FileEntry, Owner } from "../snapshot/manifest.ts";
import { type Difference, differenceOf, isSecret } from "./configuration-difference.ts";
import type { Place, Present } from "./configuration-place.ts";
import { pathOf } from "./configuration-place.ts";
import type { ReviewItem } from "./configuration-review.ts";
import type { Table } from "./configuration-tables.ts";

/**
 * What becomes of a file. `new`, `changed`: written. `same`: as the snapshot has it. `kept`: only here; stays. `rebuilt`: a
 * compiled table, made again from its source. `left`: in the snapshot and not placed, with the reason.
 */
export type FileAction = "new" | "same" | "changed" | "kept" | "rebuilt" | "left";

export interface PlannedFile {
  /** On the target. */
  readonly path: string;
  /** In the snapshot, where it is another path; else null. */
  readonly savedPath: string | null;
  readonly action: FileAction;
  readonly type: FileEntry["type"];
  /** Nothing of its content may be shown. */
  readonly secret: boolean;
  /** Of `left` and some `kept`. */
  readonly reason: string | null;
  /** `left` although it is wanted: the restore is incomplete without it. */
  readonly problem: boolean;
  /** Permission bits and `user:group` it is to have and has here; null for what is not placed or not here. */
  readonly mode: { readonly saved: string | null; readonly here: string | null };
  readonly owner: string | null;
  readonly difference: Difference | null;
}

export interface PlannedCommand {
  readonly command: "set-permissions" | "upgrade-configuration" | "check";
  readonly runs: boolean;
  /** Why it is or isn't run. */
  readonly why: string;
}

/** A parameter of `postconf -n` that is not what it was. Null: not set, or not shown because main.cf is secret. */
export interface ParameterChange {
  readonly name: string;
  readonly here: string | null;
  readonly saved: string | null;
}

export interface PlannedTable extends Omit<Table, "source" | "compiled"> {
  /** On the target. */
  readonly source: string;
  readonly compiled: readonly string[];
  readonly secret: boolean;
}

/**
 * What a restore of configuration will do, as a value without a secret in it: made without touching the target, shown by a
 * dry run.
 */
export interface ConfigurationPlan {
  readonly snapshot: string;
  readonly host: string;
  readonly time: string;
  readonly instance: string;
  readonly savedDirectory: string;
  readonly savedVersion: string;
  readonly configDirectory: string;
  /** Where absolute paths begin; `/` except for images and tests. */
  readonly root: string;
  readonly postfixVersion: string;
  readonly defaultDatabaseType: string;
  /** Null where main.cf has none, which means 0. Never changed. */
  readonly compatibilityLevel: string | null;
  readonly running: boolean;
  readonly files: readonly PlannedFile[];
  readonly tables: readonly PlannedTable[];
  readonly lackingTypes: readonly LackingType[];
  /** Settings that name files by the path of the source's configuration directory. */
  readonly moved: LackingType["settings"];
  readonly review: readonly ReviewItem[];
  readonly parameters: readonly ParameterChange[];
  /** Values of main.cf are not shown. */
  readonly mainSecret: boolean;
  readonly commands: readonly PlannedCommand[];
  readonly warnings: readonly string[];
  /** Stands for the snapshot, the choice and everything found here: another state of the target has another one. */
  readonly key: string;
}

/** Where entries of a snapshot go on the target. */
export interface Mapping {
  /** The source's configuration directory. */
  readonly from: string;
  /** The target's, without links. */
  readonly to: string;
  readonly root: string;
  /** Queue directories of source and target. */
  readonly queues: readonly string[];
}

/**
 * The place of an entry: below the target's configuration directory if it was below the source's, else under its own path.
 *
 * @throws OperatorError `damaged` for a name no honest manifest has: relative, with `..`, an empty step or a NUL
 */
export function placeOf({ path }: Pick<FileEntry, "path">, { from, to, root }: Mapping): Place {
  if (!path.startsWith("/") || path.includes("\0")) throw leadsElsewhere(path);
  if (path === from) return { base: to, steps: [] };
  const below = path.startsWith(`${from}/`);
  const steps = path.slice(below ? from.length + 1 : 1).split("/");
  if (steps.some((step) => step === "" || step === "." || step === "..")) throw leadsElsewhere(path);
  return { base: below ? to : root, steps };
}

function leadsElsewhere(path: string): OperatorError {
  return new OperatorError("damaged", `the manifest has the name ${JSON.stringify(path)}, which would lead elsewhere`, {
    hints: ["restore another snapshot: spoolsafe snapshots", "find out who can write to the repository"],
  });
}

/** Why an entry must not be placed, whatever lies there; undefined if it may. */
export function forbidden(entry: FileEntry, place: Place, mapping: Mapping): string | undefined {
  if (place.base === mapping.to) {
    const [first = ""] = place.steps;
    return packageFiles.has(first) ? "it belongs to the installed Postfix and not to its configuration" : undefined;
  }
  if (/^\/(proc|sys|dev)(\/|$)/.test(entry.path)) return "it is the kernel's";
  const inQueue = mapping.queues.some((queue) =>
    queueDirectories.some((name) => isInside(entry.path, posix.join(queue, name)) || entry.path === queue),
  );
  return inQueue ? "it lies in a mail queue, where only messages are placed" : undefined;
}

/**
 * What the package puts into the configuration directory (Postfix `conf/postfix-files`, meta_directory): of the version
 * installed here, and wrong for another.
 */
const packageFiles: ReadonlySet<string> = new Set([
  ...["dynamicmaps.cf", "dynamicmaps.cf.d", "postfix-files", "postfix-files.d", "makedefs.out", "main.cf.proto"],
  ...["master.cf.proto", "main.cf.default", "bounce.cf.default", "post-install", "postfix-script", "postfix-wrapper"],
  ...["postfix-tls-script", "postmulti-script", "LICENSE", "TLS_LICENSE"],
]);

const queueDirectories = [
  ...["incoming", "active", "deferred", "hold", "maildrop", "defer", "bounce", "trace", "flush", "corrupt", "saved"],
  ...["private", "public", "pid"],
];

function isInside(path: string, directory: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}

/** An owner by this host's numbers; `missing` names the user or group it does not have. */
export interface OwnerHere {
  readonly uid: number;
  readonly gid: number;
  readonly missing: string | null;
}

/**
 * The owner a file is to have here, by name. One whose user or group does not exist goes to root alone: a number would be
 * somebody else.
 */
export function ownerHere(
  owner: Owner,
  userId: (name: string) => number | undefined,
  groupId: (name: string) => number | undefined,
): OwnerHere {
  const uid = userId(owner.user);
  const gid = groupId(owner.group);
  if (uid !== undefined && gid !== undefined) return { uid, gid, missing: null };
  const user = uid === undefined ? `user ${owner.user}` : "";
  const group = gid === undefined ? `group ${owner.group}` : "";
  return { uid: 0, gid: 0, missing: [user, group].filter(Boolean).join(" and ") };
}

/**
 * All twelve bits as saved, but: a file never gets its set-id bits back (no configuration needs them), and what loses its
 * owner is root's alone.
 */
export function modeHere({ type, mode }: Pick<FileEntry, "type" | "mode">, { missing }: OwnerHere): number {
  if (type === "link") return 0o777;
  const kept = type === "file" ? mode & 0o1777 : mode;
  return missing === null ? kept : kept & 0o700;
}

/** Everything that decides what becomes of one entry of the snapshot. */
export interface Considered {
  readonly entry: FileEntry;
  readonly place: Place;
  readonly here: Present;
  readonly owner: OwnerHere;
  /** Bytes in the snapshot; null for what is not a file or too large to be shown. */
  readonly content: Buffer | null;
  readonly namedSecret: boolean;
  /** Why it is not placed, whatever lies there. */
  readonly forbidden: string | undefined;
  /** Its compiled file is made from a source the snapshot has; by a table, or by nobody. */
  readonly compiled: "rebuilt" | "unnamed" | null;
}

/** Decide on one entry. Pure. */
export function decide(considered: Considered): PlannedFile {
  const { entry, place, here, owner, compiled } = considered;
  const path = pathOf(place);
  const secret =
    entry.type === "file" &&
    isSecret({ path, namedSecret: considered.namedSecret, savedMode: entry.mode, saved: considered.content, here });
  const mode = modeHere(entry, owner);
  const placed = {
    path,
    savedPath: entry.path === path ? null : entry.path,
    type: entry.type,
    secret,
    mode: { saved: octal(mode), here: "mode" in here ? octal(here.mode) : null },
    owner: owner.missing === null ? `${entry.owner.user}:${entry.owner.group}` : "root:root",
  };
  const plain = { ...placed, reason: null, problem: false, difference: null };
  if (considered.forbidden !== undefined) {
    return { ...plain, action: here.kind === "nothing" ? "left" : "kept", reason: considered.forbidden };
  }
  if (compiled === "unnamed") {
    return { ...plain, action: "left", reason: "it is compiled from a file beside it, and no setting names it" };
  }
  const obstacle = obstacleTo(entry, here);
  if (obstacle !== undefined) return { ...plain, action: "left", reason: obstacle, problem: true };
  if (compiled === "rebuilt") return { ...plain, action: "rebuilt" };
  if (here.kind === "nothing") return { ...plain, action: "new" };
  const difference = differenceFrom(considered, here, mode, path, secret);
  return difference === null ? { ...plain, action: "same" } : { ...plain, action: "changed", difference };
}

function octal(mode: number): string {
  return mode.toString(8).padStart(4, "0");
}

/** What can't be replaced: a directory by a file, anything by a directory, and what only a program makes. */
function obstacleTo(entry: FileEntry, here: Present): string | undefined {
  if (here.kind === "unreachable") return here.what;
  if (here.kind === "other") return `there is ${here.what} in its place here`;
  if (here.kind === "directory" && entry.type !== "directory") return "there is a directory in its place here";
  if (entry.type === "directory" && here.kind !== "directory" && here.kind !== "nothing") {
    return `there is a ${here.kind} in its place here`;
  }
  return undefined;
}

function differenceFrom(
  { entry, here: _here, owner, content }: Considered,
  here: Present,
  mode: number,
  path: string,
  secret: boolean,
): Difference | null {
  const dressed = "mode" in here && here.uid === owner.uid && here.gid === owner.gid && here.mode === mode;
  if (entry.type === "directory") {
    // A directory whose owner is unknown here keeps the one it has: closing it would lock its users out.
    return dressed || owner.missing !== null ? null : { kind: "mode" };
  }
  if (entry.type === "link") {
    const target = entry.target ?? "";
    if (here.kind === "link") return here.target === target ? null : { kind: "link", here: here.target, saved: target };
    return { kind: "type", here: "a file", saved: `a link to ${target}` };
  }
  if (here.kind === "link") return { kind: "type", here: `a link to ${here.target}`, saved: "a file" };
  if (here.kind !== "file" || entry.file === null) return { kind: "mode" };
  const difference = differenceOf(path, here, { digest: entry.file.digest, content }, secret);
  return difference.kind === "mode" && dressed ? null : difference;
}

/** What is here and in no snapshot. */
export function keptFile(path: string, reason: string | null = null): PlannedFile {
  return {
    ...{ path, savedPath: null, action: "kept", type: "file", secret: false, reason, problem: false },
    ...{ mode: { saved: null, here: null }, owner: null, difference: null },
  };
}

/** Parameters of `postconf -n` before and after, where they differ; their values only if main.cf may be shown. */
export function parameterChanges(
  here: ReadonlyMap<string, string>,
  saved: ReadonlyMap<string, string>,
  shown: boolean,
): ParameterChange[] {
  const names = [...new Set([...here.keys(), ...saved.keys()])].sort();
  return names
    .filter((name) => name !== "config_directory" && here.get(name) !== saved.get(name))
    .map((name) => ({
      name,
      here: shown ? (here.get(name) ?? null) : null,
      saved: shown ? (saved.get(name) ?? null) : null,
    }));
}
