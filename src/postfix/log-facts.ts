import type { LogRecord } from "./mail-log.ts";

/*
 * What a line of the mail log says, by the texts in Postfix's source: `global/log_adhoc.c` (deliveries),
 * `global/opened.c` and `qmgr/qmgr_active.c` (queue manager), `smtpd/smtpd.c`, `pickup/pickup.c`,
 * `cleanup/cleanup_message.c` and `cleanup_api.c`, `bounce/bounce_*_service.c`, `postsuper/postsuper.c`.
 */

/** What became of a delivery; `other` for address probes and words we don't know, `cut` where the line ends too early. */
export type DeliveryStatus = "sent" | "bounced" | "expired" | "deferred" | "other" | "cut";

export interface DeliveryFact {
  readonly kind: "delivery";
  /** As logged: in external form (quoted) unless `info_log_address_format` says otherwise. */
  readonly to: string;
  /** The recipient before aliases and virtual maps, where it was another. */
  readonly origTo: string | null;
  /** `host[address]:port`, `host[path of a socket]`, or the name of what delivered: `local`, `none`, a pipe's service. */
  readonly relay: string;
  /** Seconds since the message's arrival. */
  readonly delay: number | null;
  /** Seconds since the message was made active for this attempt. */
  readonly activeFor: number | null;
  readonly status: DeliveryStatus;
  /** What is in the parentheses at the end. */
  readonly reply: string;
}

/** What postsuper(1) did to all mail at once, which it logs without ids. */
export type MassAction = "deleted" | "requeued" | "expired" | "held" | "released" | "renamed";

export type LogFact =
  | { readonly kind: "client"; readonly address: string; readonly origId: string | null }
  | { readonly kind: "pickup"; readonly uid: number; readonly sender: string; readonly origId: string | null }
  | { readonly kind: "message-id"; readonly messageId: string }
  | { readonly kind: "active"; readonly sender: string; readonly size: number; readonly recipients: number }
  | DeliveryFact
  | {
      readonly kind: "notice";
      readonly about: "failure" | "delay" | "success";
      readonly id: string;
      readonly toSender: boolean;
    }
  | { readonly kind: "expired"; readonly forced: boolean }
  | { readonly kind: "removed"; readonly how: "finished" | "deleted" | "canceled" | "discarded" }
  | { readonly kind: PlainFact }
  | { readonly kind: "mass"; readonly action: MassAction; readonly count: number }
  | { readonly kind: "lost"; readonly begins: boolean; readonly pid: number | null; readonly ofPostfix: boolean }
  | { readonly kind: "stopping" | "starting" };

/** Null for lines that say nothing of a message's fate. */
export function factOf(record: LogRecord): LogFact | null {
  if (record.queueId !== null) return ofMessage(record);
  if (record.name === "") return ofLogService(record);
  if (record.daemon === "postsuper") return ofPostsuper(record.text);
  return ofMaster(record);
}

function ofMessage({ text, daemon }: LogRecord): LogFact | null {
  if (text.startsWith("to=<")) return delivery(text);
  if (text.startsWith("from=<")) return ofQueueManager(text);
  if (text.startsWith("client=")) return client(text);
  if (text.startsWith("message-id=")) return { kind: "message-id", messageId: text.slice("message-id=".length) };
  if (text.startsWith("uid=")) return pickup(text);
  if (text.startsWith("removed")) return removed(text, daemon);
  if (text.includes(" notification: ")) return notice(text);
  const plain = plainTexts.get(text);
  return plain === undefined ? null : { kind: plain };
}

type PlainFact = "held" | "released" | "requeued" | "force-expired" | "locked" | "notice-failed";

const plainTexts = new Map<string, PlainFact>([
  ["placed on hold", "held"],
  ["released from hold", "released"],
  ["requeued", "requeued"],
  ["expired", "force-expired"],
  ["skipped, still being delivered", "locked"],
  ["status=deferred (bounce failed)", "notice-failed"],
]);

/** An address in angle brackets; a quoted local part may hold a closing bracket, a comma and an equals sign. */
const address = String.raw`<((?:"(?:[^"\\]|\\.)*"|[^">])*)>`;
/** For `info_log_address_format = internal`, where quotes aren't paired. */
const anyAddress = "<(.*?)>";
const deliveryStart = (form: string) => new RegExp(`^to=${form}(?:, orig_to=${form})?, relay=`);
const deliveryStarts = [deliveryStart(address), deliveryStart(anyAddress)];
const deliveryRest =
  /^(.*?)(?:, conn_use=\d+)?, delay=([\d.]+)(?:, delays=([\d.]+)\/[\d./]+)?(?:, .*?)?, dsn=[\d.]+, status=(\S+) \((.*)\)$/s;

function delivery(text: string): DeliveryFact {
  for (const start of deliveryStarts) {
    const head = start.exec(text);
    const rest = head === null ? null : deliveryRest.exec(text.slice(head[0].length));
    if (head === null || rest === null) continue;
    const [, to = "", origTo = null] = head;
    const [, relay = "", delay = "", beforeActive, status = "", reply = ""] = rest;
    const activeFor = beforeActive === undefined ? null : Math.max(0, Number(delay) - Number(beforeActive));
    return { kind: "delivery", to, origTo, relay, delay: Number(delay), activeFor, status: statusOf(status), reply };
  }
  const [, to = text.slice("to=<".length)] = /^to=<(.*?)(?:>|$)/.exec(text) ?? [];
  return { kind: "delivery", to, origTo: null, relay: "", delay: null, activeFor: null, status: "cut", reply: "" };
}

/** `SOFTBOUNCE` (soft_bounce = yes) keeps the mail queued; `deliverable` and `undeliverable` are answers to probes. */
function statusOf(word: string): DeliveryStatus {
  if (word === "sent" || word === "bounced" || word === "expired" || word === "deferred") return word;
  return word === "SOFTBOUNCE" ? "deferred" : "other";
}

const active = new RegExp(`^from=${address}, size=(\\d+), nrcpt=(\\d+)`);
const activeInternal = new RegExp(`^from=${anyAddress}, size=(\\d+), nrcpt=(\\d+)`);

function ofQueueManager(text: string): LogFact | null {
  const match = active.exec(text) ?? activeInternal.exec(text);
  if (match !== null) {
    const [, sender = "", size, recipients] = match;
    return { kind: "active", sender, size: Number(size), recipients: Number(recipients) };
  }
  if (text.endsWith(", status=expired, returned to sender")) return { kind: "expired", forced: false };
  if (text.endsWith(", status=force-expired, returned to sender")) return { kind: "expired", forced: true };
  return null;
}

function client(text: string): LogFact {
  const [, bracketed = ""] = /^client=\S*?\[([^\]]*)\]/.exec(text) ?? [];
  const [, origId = null] = /, orig_queue_id=(\w+)/.exec(text) ?? [];
  return { kind: "client", address: bracketed, origId };
}

function pickup(text: string): LogFact | null {
  const match = /^uid=(\d+) from=<(.*)>(?: orig_id=(\w+))?$/.exec(text);
  return match === null
    ? null
    : { kind: "pickup", uid: Number(match[1]), sender: match[2] ?? "", origId: match[3] ?? null };
}

function removed(text: string, daemon: string): LogFact | null {
  if (text === "removed") return { kind: "removed", how: daemon === "postsuper" ? "deleted" : "finished" };
  if (text === "removed (canceled)") return { kind: "removed", how: "canceled" };
  return text === "removed (discarded)" ? { kind: "removed", how: "discarded" } : null;
}

const subjects = { "non-delivery": "failure", delay: "delay", "delivery status": "success" } as const;

function notice(text: string): LogFact | null {
  const match = /^(sender|postmaster) (non-delivery|delay|delivery status) notification: (\w+)$/.exec(text);
  if (match === null) return null;
  const subject = match[2] as keyof typeof subjects;
  return { kind: "notice", about: subjects[subject], id: match[3] ?? "", toSender: match[1] === "sender" };
}

const massActions = new Map<string, MassAction>([
  ["Deleted", "deleted"],
  ["Requeued", "requeued"],
  ["Force-expired", "expired"],
  ["Placed on hold", "held"],
  ["Released from hold", "released"],
  ["Renamed to match inode number", "renamed"],
]);

function ofPostsuper(text: string): LogFact | null {
  const [, words = "", count] = /^([A-Za-z -]+): (\d+) messages?$/.exec(text) ?? [];
  const action = massActions.get(words);
  return action === undefined ? null : { kind: "mass", action, count: Number(count) };
}

/**
 * Rate limits: journald (`Suppressed 12 messages from postfix.service`, told when the unit may log again), rsyslog's
 * imuxsock and imjournal (`begin to drop messages due to rate-limiting`, later the number lost).
 */
function ofLogService({ text }: LogRecord): LogFact | null {
  const suppressed = /^Suppressed \d+ messages from (.*)$/.exec(text);
  if (suppressed !== null) {
    return { kind: "lost", begins: false, pid: null, ofPostfix: !otherService.test(suppressed[1] ?? "") };
  }
  const begins = text.includes("begin to drop messages");
  if (!begins && !/\b(?:lost \d+ messages|\d+ messages lost)\b/.test(text)) return null;
  const [, pid = null] = /\bpid:? (\d+)/.exec(text) ?? [];
  return { kind: "lost", begins, pid: pid === null ? null : Number(pid), ofPostfix: pid === null };
}

/** Units Postfix does not run in: its own, containers, and scopes of a session (postsuper) are left. */
const otherService = /^(?!.*(?:postfix|mail|postlog|docker|podman|container)).*\.service$/;

function ofMaster({ daemon, text }: LogRecord): LogFact | null {
  if (daemon === "postfix-script" && text.startsWith("stopping the Postfix")) return { kind: "stopping" };
  if (daemon === "master" && text.startsWith("terminating on signal")) return { kind: "stopping" };
  if (daemon === "master" && text.startsWith("daemon started")) return { kind: "starting" };
  return null;
}

/**
 * How the log may write an address of a queue file: in external form (`global/quote_822_local.c`) or as it is, with
 * `?` for what can't be printed (`util/printable.c`).
 */
export function loggedForms(address: string): readonly string[] {
  const at = address.lastIndexOf("@");
  const local = at < 0 ? address : address.slice(0, at);
  const domain = at < 0 ? "" : address.slice(at);
  const quoted = isDotString(local) || address === "" ? address : `"${local.replace(/["\\\r]/g, "\\$&")}"${domain}`;
  return [...new Set([quoted, address].map((form) => form.replace(/\p{Cc}/gu, "?")))];
}

function isDotString(local: string): boolean {
  return /^[^\p{Cc} ()<>@,;:\\"[\].]+(?:\.[^\p{Cc} ()<>@,;:\\"[\].]+)*$/u.test(local);
}
