import * as z from "zod";
import { OperatorError } from "../errors.ts";
import { type LogKind, logKinds, messageQueues, type QueueName } from "../postfix/queue.ts";

/** Where the bytes of a file are: in which pack, under the digest that is its name there. */
export interface StoredFile {
  /** SHA-256 of the bytes, hexadecimal. */
  readonly digest: string;
  readonly bytes: number;
  /** Id of the pack: SHA-256 of the sealed object. */
  readonly pack: string;
}

export interface Owner {
  /** Names decide at restore; the numbers of the source host are kept for owners without a name. */
  readonly user: string;
  readonly group: string;
  readonly uid: number;
  readonly gid: number;
}

export interface LogEntry extends StoredFile {
  readonly log: LogKind;
  readonly mode: number;
  readonly mtime: number;
}

/** Why a message was on hold at capture; null for mail that was not. From our journals, never from a listing. */
export type HoldRole = { readonly kind: "admin" } | { readonly kind: "restore" | "fence"; readonly run: string } | null;

export interface ManifestRecipient {
  readonly address: string;
  readonly done: boolean;
}

/** One message of a snapshot, with its logs. Its identity is instance, queueId, created and content. */
export interface MessageEntry {
  readonly kind: "message";
  readonly instance: string;
  readonly queueId: string;
  readonly created: string;
  readonly content: string;
  readonly queue: QueueName;
  /** Permission bits as captured (0700 and the group bits that mean something to qmgr; more for maildrop). */
  readonly mode: number;
  readonly owner: Owner;
  /** Seconds since 1970 with microseconds; for deferred mail the next retry. */
  readonly mtime: number;
  readonly file: StoredFile;
  readonly logs: readonly LogEntry[];
  readonly sender: string;
  readonly recipients: readonly ManifestRecipient[];
  readonly size: number;
  readonly arrival: number;
  readonly messageId: string | null;
  readonly contentFilter: string | null;
  readonly sendopts: number;
  /** As `MessageFacts` has it: when a warning to the sender falls due that has not been sent; null for none. */
  readonly delayWarning: number | null;
  /** A delivery agent had it open while it was read; null where locks can't be seen. */
  readonly inFlight: boolean | null;
  readonly role: HoldRole;
  /** Captured, and in no queue at the closing listing: in doubt at restore. */
  readonly finished: boolean;
}

/**
 * What a file that is not mail was kept for. `config`: below the instance's configuration directory. `named`: named by
 * main.cf or master.cf (maps, aliases, TLS, SASL). `service`: a mail service's. `include`: asked for in our
 * configuration. `report`: what postconf said. `evidence`: corrupt/ and saved/. `runbook`: a printed runbook.
 */
export type FileArea = "config" | "named" | "service" | "include" | "report" | "evidence" | "runbook";

/** Its paths are absolute, those of files on the source host. */
export function isOfHostTree(area: FileArea): boolean {
  return area !== "report" && area !== "evidence" && area !== "runbook";
}

/** A file, directory or link kept with the snapshot that is not a message. */
export interface FileEntry {
  readonly kind: "file";
  /** Null for what belongs to the host and not to one instance. */
  readonly instance: string | null;
  readonly area: FileArea;
  /** Absolute on the source host; for `report` and `runbook` a name, for `evidence` relative to the queue directory. */
  readonly path: string;
  readonly type: "file" | "directory" | "link";
  readonly mode: number;
  readonly owner: Owner;
  readonly mtime: number;
  /** Null for directories and links. */
  readonly file: StoredFile | null;
  /** Target of a link, else null. */
  readonly target: string | null;
}

/** A message or file of an earlier part that is not in this snapshot any more. */
export interface GoneEntry {
  readonly kind: "gone";
  /** `entryKey` of what is gone. */
  readonly key: string;
}

export type ManifestEntry = MessageEntry | FileEntry;
export type ManifestLine = ManifestEntry | GoneEntry;

/** A whole manifest: what the parts of one snapshot say together. */
export interface Manifest {
  readonly messages: readonly MessageEntry[];
  readonly files: readonly FileEntry[];
}

/** Identity within a host (rule of the format, field 2): the same message keeps its key through every retry. */
export function entryKey(entry: MessageIdentity | FileEntry): string {
  if (entry.kind === "file") return `${escapeField(entry.instance ?? "-")}/${entry.area}/${escapeField(entry.path)}`;
  return `${escapeField(entry.instance)}/${entry.queueId}/${entry.created}/${entry.content}`;
}

/** What the key of a message says. @throws OperatorError `damaged` for a text that is the key of none */
export function parseMessageKey(key: string): MessageIdentity {
  const [instance, queueId, created, content, ...more] = key.split("/");
  if (!instance || !queueId || !created || !content || more.length > 0) {
    throw new OperatorError("damaged", `${JSON.stringify(key)} is no key of a message`);
  }
  return { kind: "message", instance: unescapeField(instance), queueId, created, content };
}

export type MessageIdentity = Pick<MessageEntry, "kind" | "instance" | "queueId" | "created" | "content">;

export function manifestHeader(kind: "base" | "increment", host: string): string {
  return `#spoolsafe-manifest 1 ${kind} ${escapeField(host)}\n`;
}

/** One line of a part, newline included. `parseLine` is its inverse. */
export function formatLine(line: ManifestLine): string {
  if (line.kind === "gone") return `gone\t${line.key}\n`;
  return `${(line.kind === "message" ? messageFields(line) : fileFields(line)).join("\t")}\n`;
}

function messageFields(entry: MessageEntry): string[] {
  const facts = {
    sender: entry.sender,
    recipients: entry.recipients.map((recipient) => [recipient.address, recipient.done]),
    size: entry.size,
    arrival: entry.arrival,
    messageId: entry.messageId,
    uid: entry.owner.uid,
    gid: entry.owner.gid,
    inFlight: entry.inFlight,
    role: entry.role,
    finished: entry.finished,
    ...(entry.contentFilter === null ? {} : { contentFilter: entry.contentFilter }),
    ...(entry.sendopts === 0 ? {} : { sendopts: entry.sendopts }),
    ...(entry.delayWarning === null ? {} : { delayWarning: entry.delayWarning }),
  };
  return [
    "message",
    entryKey(entry),
    `${entry.queue}/${entry.queueId}`,
    ...placementFields(entry),
    ...storedFields(entry.file),
    entry.logs.length === 0 ? "-" : entry.logs.map(formatLog).join(","),
    JSON.stringify(facts),
  ];
}

function fileFields(entry: FileEntry): string[] {
  return [
    "file",
    entryKey(entry),
    escapeField(entry.path),
    ...placementFields(entry),
    ...(entry.file === null ? ["-", "-", "-"] : storedFields(entry.file)),
    entry.type,
    JSON.stringify({ uid: entry.owner.uid, gid: entry.owner.gid, target: entry.target }),
  ];
}

function placementFields(entry: ManifestEntry): string[] {
  const { user, group } = entry.owner;
  return [
    entry.mode.toString(8).padStart(4, "0"),
    `${escapeField(user)}:${escapeField(group)}`,
    formatTime(entry.mtime),
  ];
}

function storedFields(file: StoredFile): string[] {
  return [file.digest, String(file.bytes), file.pack];
}

function formatLog(log: LogEntry): string {
  return [log.log, log.digest, log.bytes, log.pack, log.mode.toString(8).padStart(4, "0"), formatTime(log.mtime)].join(
    "=",
  );
}

/** Seconds with at most six decimals and no trailing zeros: what `touch -d @TIME` reads. */
function formatTime(seconds: number): string {
  return seconds.toFixed(6).replace(/\.?0+$/, "");
}

// Control characters, space, `%`, `\`, and `:`, which separates user from group.
const mustEscape = /[\p{Cc} %\\:]/gu;

function escapeField(text: string): string {
  return text.replace(mustEscape, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);
}

function unescapeField(text: string): string {
  return text.replace(/%([0-9A-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/**
 * Read one line (without its newline) of a part.
 *
 * @throws OperatorError `damaged` naming the line: parts are signed for by digest, so a line that can't be read means a
 * writer newer than this reader or a damaged writer, never noise to skip
 */
export function parseLine(text: string, lineNumber: number): ManifestLine {
  const fields = text.split("\t");
  try {
    if (fields[0] === "gone" && fields.length === 2 && fields[1]) return { kind: "gone", key: fields[1] };
    if (fields[0] === "message" && fields.length === 11) return canonical(parseMessage(fields), text);
    if (fields[0] === "file" && fields.length === 11) return canonical(parseFile(fields), text);
  } catch (cause) {
    throw unreadable(lineNumber, cause);
  }
  throw unreadable(lineNumber);
}

/** A line says the same in several fields (id in key and place): only one way to write an entry is right. */
function canonical<Entry extends ManifestEntry>(entry: Entry, text: string): Entry {
  if (formatLine(entry).slice(0, -1) !== text) throw new OperatorError("damaged", "its fields contradict each other");
  return entry;
}

function unreadable(lineNumber: number, cause?: unknown): OperatorError {
  return new OperatorError("damaged", `line ${lineNumber} of a manifest part can't be read`, {
    hints: ["a newer spoolsafe may have written it: try with that version"],
    cause,
  });
}

function parseMessage(fields: readonly string[]): MessageEntry {
  const [
    ,
    key = "",
    place = "",
    mode = "",
    owner = "",
    mtime = "",
    digest = "",
    bytes = "",
    pack = "",
    logs = "",
    more = "",
  ] = fields;
  const facts = messageFacts.parse(JSON.parse(more));
  const [instance = "", queueId = "", created = "", content = ""] = key.split("/");
  return {
    kind: "message",
    instance: unescapeField(instance),
    queueId: idPattern.parse(queueId),
    created,
    content: digestPattern.parse(content),
    queue: queuePattern.parse(place.slice(0, place.indexOf("/"))),
    mode: parseMode(mode),
    owner: parseOwner(owner, facts.uid, facts.gid),
    mtime: numberPattern.parse(mtime),
    file: parseStored(digest, bytes, pack),
    logs: logs === "-" ? [] : logs.split(",").map(parseLog),
    sender: facts.sender,
    recipients: facts.recipients.map(([address, done]) => ({ address, done })),
    size: facts.size,
    arrival: facts.arrival,
    messageId: facts.messageId,
    contentFilter: facts.contentFilter ?? null,
    sendopts: facts.sendopts ?? 0,
    delayWarning: facts.delayWarning ?? null,
    inFlight: facts.inFlight,
    role: facts.role,
    finished: facts.finished,
  };
}

function parseFile(fields: readonly string[]): FileEntry {
  const [
    ,
    key = "",
    path = "",
    mode = "",
    owner = "",
    mtime = "",
    digest = "",
    bytes = "",
    pack = "",
    type = "",
    more = "",
  ] = fields;
  const facts = fileFacts.parse(JSON.parse(more));
  // The key is instance/area/path: an instance name has no slash of its own (multi_instance_name, or `_` for `/`).
  const [instance = "-", area = ""] = key.split("/", 2);
  return {
    kind: "file",
    instance: instance === "-" ? null : unescapeField(instance),
    area: areaPattern.parse(area),
    path: unescapeField(path),
    type: typePattern.parse(type),
    mode: parseMode(mode),
    owner: parseOwner(owner, facts.uid, facts.gid),
    mtime: numberPattern.parse(mtime),
    file: digest === "-" ? null : parseStored(digest, bytes, pack),
    target: facts.target,
  };
}

function parseLog(text: string): LogEntry {
  const [log = "", digest = "", bytes = "", pack = "", mode = "", mtime = ""] = text.split("=");
  return {
    log: logPattern.parse(log),
    ...parseStored(digest, bytes, pack),
    mode: parseMode(mode),
    mtime: numberPattern.parse(mtime),
  };
}

function parseStored(digest: string, bytes: string, pack: string): StoredFile {
  return { digest: digestPattern.parse(digest), bytes: numberPattern.parse(bytes), pack: digestPattern.parse(pack) };
}

function parseMode(text: string): number {
  return Number.parseInt(modePattern.parse(text), 8);
}

function parseOwner(text: string, uid: number, gid: number): Owner {
  const [user = "", group = ""] = text.split(":");
  return { user: unescapeField(user), group: unescapeField(group), uid, gid };
}

const digestPattern = z.string().regex(/^[0-9a-f]{64}$/);
const modePattern = z.string().regex(/^[0-7]{4,5}$/);
const numberPattern = z
  .string()
  .regex(/^-?\d+(\.\d+)?$/)
  .transform(Number);
const idPattern = z.string().regex(/^[0-9A-Za-z_]+$/);
const queuePattern = z.enum(messageQueues);
const logPattern = z.enum(logKinds);
const areaPattern = z.enum(["config", "named", "service", "include", "report", "evidence", "runbook"]);
const typePattern = z.enum(["file", "directory", "link"]);
const rolePattern = z.union([
  z.null(),
  z.object({ kind: z.literal("admin") }),
  z.object({ kind: z.enum(["restore", "fence"]), run: z.string() }),
]);
const messageFacts = z.object({
  sender: z.string(),
  recipients: z.array(z.tuple([z.string(), z.boolean()])),
  size: z.number(),
  arrival: z.number(),
  messageId: z.string().nullable(),
  uid: z.number(),
  gid: z.number(),
  inFlight: z.boolean().nullable(),
  role: rolePattern,
  finished: z.boolean(),
  contentFilter: z.string().optional(),
  sendopts: z.number().optional(),
  delayWarning: z.number().optional(),
});
const fileFacts = z.object({ uid: z.number(), gid: z.number(), target: z.string().nullable() });

/**
 * Read a part (its opened, decompressed bytes) over what the parts before it said: the last line of a key wins.
 *
 * @throws OperatorError `damaged` for a header that is not ours or does not fit the record, or a line that can't be read
 */
export function applyPart(entries: Map<string, ManifestEntry>, part: Uint8Array, kind: "base" | "increment"): void {
  const text = Buffer.from(part.buffer, part.byteOffset, part.byteLength);
  let lineNumber = 0;
  for (let start = 0; start < text.length; ) {
    const newline = text.indexOf(0x0a, start);
    if (newline < 0) throw new OperatorError("damaged", "a manifest part ends in the middle of a line");
    const line = text.toString("utf8", start, newline);
    start = newline + 1;
    lineNumber++;
    if (lineNumber === 1) checkHeader(line, kind);
    else applyLine(entries, parseLine(line, lineNumber));
  }
  if (lineNumber === 0) throw new OperatorError("damaged", "a manifest part is empty");
}

function checkHeader(line: string, kind: "base" | "increment"): void {
  const [magic, format, saidKind] = line.split(" ");
  if (magic !== "#spoolsafe-manifest") throw new OperatorError("damaged", "a manifest part has no header line");
  if (format !== "1") {
    throw new OperatorError("damaged", `a manifest part has format ${format}, this spoolsafe reads format 1`, {
      hints: ["use the spoolsafe version that wrote it, or a newer one"],
    });
  }
  if (saidKind !== kind) throw new OperatorError("damaged", `a manifest part is ${saidKind}, the record says ${kind}`);
}

function applyLine(entries: Map<string, ManifestEntry>, line: ManifestLine): void {
  if (line.kind === "gone") entries.delete(line.key);
  else entries.set(entryKey(line), line);
}

/** The manifest of entries by key, in the order they were written. */
export function toManifest(entries: ReadonlyMap<string, ManifestEntry>): Manifest {
  const messages: MessageEntry[] = [];
  const files: FileEntry[] = [];
  for (const entry of entries.values()) {
    if (entry.kind === "message") messages.push(entry);
    else files.push(entry);
  }
  return { messages, files };
}
