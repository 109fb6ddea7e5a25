import { OperatorError } from "../../errors.ts";
import { bufferSource, messageText } from "../../postfix/queue-file.ts";
import { loadManifest } from "../../repository/manifest-reader.ts";
import type { Repository, SignedSnapshot } from "../../repository/repository.ts";
import type { HoldRole, LogEntry, MessageEntry } from "../../snapshot/manifest.ts";
import { chooseSnapshot, ofInstance, requireInstance } from "../choose.ts";
import type { Context } from "../context.ts";
import { messageJson, senderText } from "../message-view.ts";
import { readStoredFiles } from "../stored-bytes.ts";
import { localTime, printable, size } from "../table.ts";

export interface ShowOptions {
  readonly eml?: true | undefined;
}

/** `spoolsafe show SNAP QUEUE_ID`: one message, for people or, with --eml, its text and nothing else. */
export async function run(context: Context, spec: string, queueId: string, options: ShowOptions): Promise<number> {
  if (options.eml && context.globals.json) {
    throw new OperatorError("usage", "--eml prints the message itself, and --json JSON lines: choose one");
  }
  const identities = await context.identities();
  const repository = await context.openRepository();
  const chosen = await chooseSnapshot(context, repository, spec);
  requireInstance(context, chosen);
  const { messages } = await loadManifest(repository, chosen.snapshot, identities, context.signal);
  const entry = theOne(context, chosen, messages, queueId);
  if (options.eml) {
    const files = await readStoredFiles(repository, [entry.file], identities, context.signal);
    for (const piece of messageText(bufferSource(bytesOf(files, entry.file.digest)))) context.render.bytes(piece);
  } else {
    await describe(context, repository, entry);
  }
  return 0;
}

function theOne(
  context: Context,
  { id, snapshot }: SignedSnapshot,
  messages: readonly MessageEntry[],
  queueId: string,
): MessageEntry {
  const found = messages.filter((each) => each.queueId === queueId && ofInstance(context, each.instance));
  const [first] = found;
  if (first === undefined) {
    throw new OperatorError("failed", `snapshot ${id.slice(0, 8)} of ${snapshot.host} has no message ${queueId}`, {
      hints: [`\`spoolsafe ls ${id.slice(0, 8)}\` lists what it has`],
    });
  }
  const instances = new Set(found.map(({ instance }) => instance));
  if (instances.size > 1) {
    throw new OperatorError("usage", `several instances have a message ${queueId}`, {
      hints: [`name one with --instance: ${[...instances].join(", ")}`],
    });
  }
  return first;
}

async function describe(context: Context, repository: Repository, entry: MessageEntry): Promise<void> {
  const { render, signal } = context;
  const files = await readStoredFiles(repository, entry.logs, await context.identities(), signal);
  const logs = entry.logs.map((log) => ({ ...log, text: bytesOf(files, log.digest).toString("utf8") }));
  const { mode, owner, messageId, contentFilter, role, finished } = entry;
  render.line({
    ...messageJson(entry),
    ...{
      mode: mode.toString(8).padStart(4, "0"),
      owner: `${owner.user}:${owner.group}`,
      messageId,
      contentFilter,
      role,
      finished,
    },
    logs: logs.map(({ log, bytes, text }) => ({ log, bytes, text })),
  });
  render.summary({ count: 1 });
  render.text([...facts(entry), "", ...recipients(entry), ...logs.flatMap(logText)].join("\n"));
}

function facts(entry: MessageEntry): string[] {
  const time = (seconds: number) => localTime(new Date(seconds * 1000));
  const rows: [string, string][] = [
    ["queue id", entry.queueId],
    ["instance", entry.instance],
    ["queue", entry.queue],
    ["sender", senderText(entry.sender)],
    ["message-id", entry.messageId ?? "none"],
    ["arrived", time(entry.arrival)],
    ...(entry.queue === "deferred" ? [["next retry", time(entry.mtime)] as [string, string]] : []),
    ["size", size(entry.size)],
    ["mode", `${entry.mode.toString(8).padStart(4, "0")} ${entry.owner.user}:${entry.owner.group}`],
    ["in flight", entry.inFlight === null ? "unknown" : entry.inFlight ? "yes" : "no"],
    ...(entry.contentFilter === null ? [] : [["content filter", entry.contentFilter] as [string, string]]),
    ...(entry.queue === "hold" ? [["on hold by", holderText(entry.role)] as [string, string]] : []),
    ...(entry.finished ? [["finished", "it left the queues while the backup ran"] as [string, string]] : []),
    ["sha256", entry.file.digest],
  ];
  return rows.map(([name, value]) => `${name.padEnd(15)} ${printable(value)}`);
}

function holderText(role: HoldRole): string {
  if (role === null) return "unknown";
  return role.kind === "admin" ? "an administrator or a filter" : `${role.kind} ${role.run}`;
}

function recipients(entry: MessageEntry): string[] {
  return [
    "recipients",
    ...entry.recipients.map(({ address, done }) => `  ${done ? "done" : "open"}  ${printable(address)}`),
  ];
}

function logText(log: LogEntry & { readonly text: string }): string[] {
  const lines = log.text.split("\n").filter((line) => line !== "");
  return ["", `${log.log} log`, ...lines.map((line) => `  ${printable(line)}`)];
}

function bytesOf(files: ReadonlyMap<string, Buffer>, digest: string): Buffer {
  const bytes = files.get(digest);
  if (bytes === undefined) throw new Error(`no bytes of ${digest}`);
  return bytes;
}
