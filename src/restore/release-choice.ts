import { closeSync, constants, fstatSync, lstatSync, openSync } from "node:fs";
import { setImmediate as turn } from "node:timers/promises";
import { errnoOf } from "../errors.ts";
import type { FencingClaim } from "../holds/fence-claims.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { QueueRecipient } from "../postfix/message.ts";
import { bufferSource, descriptorSource, QueueFileDamaged, readQueueFile } from "../postfix/queue-file.ts";
import { claimDigester } from "../snapshot/claim.ts";
import { type MessageIdentity, parseMessageKey } from "../snapshot/manifest.ts";
import { readDescriptor } from "../system/files.ts";
import type { RunMessage, RunRecord } from "./journal.ts";
import { type SpoolPlace, temporaryPath } from "./place.ts";
import type { Queued } from "./release-order.ts";
import type { Watched } from "./release-watch.ts";
import type { RunFile } from "./whereabouts.ts";

/** A message that may be let go: where its file is, and what is to be known of it. */
export interface HeldMail extends Queued, Watched {
  readonly number: number;
  readonly path: string;
  /** Nanoseconds of the last change of its inode: while it stays, nobody has moved it. */
  readonly changed: bigint;
  readonly inDoubt: boolean;
  readonly created: string;
  readonly sender: string;
  readonly recipients: readonly QueueRecipient[];
}

/** A message that stays on hold, or isn't there, and why. The id is the one it has here. */
export interface NotReleased {
  readonly number: number;
  readonly queueId: string;
  readonly reason: string;
}

/** What of a run is let go, and what is not. */
export interface ReleaseChoice {
  readonly release: readonly HeldMail[];
  /** May have been delivered, and waits for --in-doubt. */
  readonly inDoubt: readonly RunFile[];
  readonly admin: readonly RunFile[];
  readonly fence: readonly RunFile[];
  /** Another host has taken these over. */
  readonly claimed: readonly (NotReleased & { readonly claim: string; readonly by: string })[];
  /** Not where it was put, or there again: somebody else has released or removed it. */
  readonly notFound: readonly NotReleased[];
  /** There, and not as it was placed. */
  readonly unfit: readonly NotReleased[];
}

/** What becomes of one message of a run. */
export type ReleaseFate = "release" | "in-doubt" | "admin" | "fence" | "not-found" | "over";

/** @returns `over` for what never waited for a release, or had it */
export function fateOf(
  { message, at }: Pick<RunFile, "message" | "at">,
  released: ReadonlySet<number>,
  inDoubt: boolean,
) {
  if (released.has(message.number)) return "over";
  const held = at === "hold" || at === "waiting";
  if (message.role === "admin" || message.role === "fence") return held ? message.role : "over";
  if (!awaitsRelease(message)) return "over";
  if (!held) return "not-found";
  return message.inDoubt !== null && !inDoubt ? "in-doubt" : "release";
}

/** Whether a message was placed to be signed off. */
export function awaitsRelease(message: Pick<RunMessage, "queue" | "role" | "waits">): boolean {
  return message.waits || (message.queue === "hold" && message.role === "restore");
}

export interface ChoiceRequest {
  readonly instance: PostfixInstance;
  readonly record: RunRecord;
  /** Numbers that are not ours any more. */
  readonly released: ReadonlySet<number>;
  readonly inDoubt: boolean;
  /** Standing claims of others on mail of the host the run's mail is of. */
  readonly claims: readonly FencingClaim[];
  readonly signal?: AbortSignal | undefined;
}

/** Look at every message of a run and at the files that may go. Touches nothing. */
export async function chooseMail(request: ChoiceRequest, files: readonly RunFile[]): Promise<ReleaseChoice> {
  const { record, released, inDoubt, claims } = request;
  const byFate = Map.groupBy(files, (file): ReleaseFate => fateOf(file, released, inDoubt));
  const of = (fate: ReleaseFate) => byFate.get(fate) ?? [];
  const claimant = claimantOf(claims, record);
  const claimed = of("release").flatMap((file) => {
    const claim = claimant(file.message);
    if (claim === undefined) return [];
    const { by } = claim.claim;
    return [{ ...notReleased(file, `${by} has taken it over (claim ${claim.id.slice(0, 8)})`), claim: claim.id, by }];
  });
  const taken = new Set(claimed.map(({ number }) => number));
  const free = of("release").filter(({ message }) => !taken.has(message.number));
  const lost = of("not-found").map((file) => missing(request, file));
  const looks = await lookAtAll(free, request.signal);
  return {
    release: looks.flatMap((look) => (look.mail === undefined ? [] : [look.mail])),
    ...{ inDoubt: of("in-doubt"), admin: of("admin"), fence: of("fence"), claimed },
    notFound: [
      ...lost.filter(({ isThere }) => !isThere).map(({ isThere: _, ...one }) => one),
      ...looks.flatMap((look) => look.foreign ?? []),
    ],
    unfit: [
      ...lost.filter(({ isThere }) => isThere).map(({ isThere: _, ...one }) => one),
      ...looks.flatMap((look) => look.problem ?? []),
    ],
  };
}

function notReleased({ staged }: RunFile, reason: string): NotReleased {
  return { number: staged.number, queueId: staged.id, reason };
}

/** @returns the claim that has taken a message of this run, if one has */
function claimantOf(
  claims: readonly FencingClaim[],
  { host }: RunRecord,
): (message: RunMessage) => FencingClaim | undefined {
  const takers = claims
    .filter(({ claim }) => claim.host === host)
    .map((claim) => ({ claim, digester: claimDigester(claim.claim) }));
  return ({ key }) => {
    const identity = parseMessageKey(key);
    return takers.find(({ claim, digester }) => claim.digests.has(digester.of(identity)))?.claim;
  };
}

/** A maildrop file that still has its temporary name and is not found was linked or changed: it may be delivered already. */
function missing({ instance, record }: ChoiceRequest, file: RunFile): NotReleased & { readonly isThere: boolean } {
  const { staged, at } = file;
  if (isWaiting(instance, record.run, file)) {
    const path = temporaryPath(instance, "message", record.run, staged.number);
    return { ...notReleased(file, `${path} has been changed since it was written`), isThere: true };
  }
  const where = at === "gone" ? "it is in no queue any more" : `it is in ${at}`;
  return { ...notReleased(file, `${where}, and was not let go by this`), isThere: false };
}

/** Whether mail of maildrop still has the name under which it waits, whoever touched it. */
function isWaiting(instance: SpoolPlace, run: string, { message, staged }: RunFile): boolean {
  if (!message.waits) return false;
  const path = temporaryPath(instance, "message", run, staged.number);
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

interface Look {
  readonly mail?: HeldMail;
  readonly problem?: NotReleased;
  /** On hold, and not by our hand. */
  readonly foreign?: NotReleased;
}

async function lookAtAll(files: readonly RunFile[], signal: AbortSignal | undefined): Promise<Look[]> {
  const looks: Look[] = [];
  for (const [at, file] of files.entries()) {
    if (at % 500 === 0) {
      await turn();
      signal?.throwIfAborted();
    }
    looks.push(lookAt(file));
  }
  return looks;
}

const inMemory = 1024 * 1024;

function lookAt(file: RunFile): Look {
  const { message, staged } = file;
  const path = file.path ?? "";
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return { problem: notReleased(file, "it was moved while it was looked at") };
    throw error;
  }
  try {
    const { size, ino, ctimeNs, mtimeNs } = fstatSync(fd, { bigint: true });
    if (String(ino) !== staged.inode) return { problem: notReleased(file, "another file has its name") };
    const source = size <= inMemory ? bufferSource(readDescriptor(fd).bytes) : descriptorSource(fd, Number(size));
    const { arrival, created, content, sender, recipients } = readQueueFile(source);
    const foreign = whyForeign(message, { created, content, seconds: mtimeNs / 1_000_000_000n });
    if (foreign !== null) return { foreign: notReleased(file, foreign) };
    const domain = domainOf(recipients.find(({ done }) => !done)?.address ?? "");
    const place = { number: staged.number, id: staged.id, inode: staged.inode, path, waits: message.waits };
    const facts = { arrival, domain, created, sender, recipients, inDoubt: message.inDoubt !== null };
    return { mail: { ...place, ...facts, changed: ctimeNs, mtimeMs: Number(mtimeNs) / 1e6 } };
  } catch (error) {
    if (error instanceof QueueFileDamaged) return { problem: notReleased(file, error.problem) };
    throw error;
  } finally {
    closeSync(fd);
  }
}

/**
 * Whether an administrator has put it on hold and not the run: a number of an inode, and so a name, comes again; and whatever
 * Postfix does to a message that was released by hand, it sets its time.
 */
function whyForeign(
  { key, mtime, waits }: RunMessage,
  { created, content, seconds }: Pick<MessageIdentity, "created" | "content"> & { readonly seconds: bigint },
): string | null {
  const identity = parseMessageKey(key);
  if (created !== identity.created || content !== identity.content) return "another message has its name";
  const isTouched = !waits && seconds !== BigInt(Math.trunc(mtime));
  return isTouched ? "it was released and tried, and somebody has put it on hold again" : null;
}

function domainOf(address: string): string {
  return address.slice(address.lastIndexOf("@") + 1).toLowerCase();
}
