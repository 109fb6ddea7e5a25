import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as z from "zod";
import { errnoOf, OperatorError } from "../errors.ts";
import type { RemovedSnapshot } from "../snapshot/record.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";
import { parseJson } from "../system/json.ts";

/** What the chain of a writer needs to know of a snapshot whose record's signature is trusted. */
export interface ChainLink {
  readonly id: string;
  readonly writer: string;
  readonly number: number;
  /** Undefined for a record that is listed and can't be read: a finding of its own, and no gap. */
  readonly previous: string | null | undefined;
}

/** The newest number this host has seen of a writer, and the snapshot that had it. */
export interface NewestSeen {
  readonly number: number;
  readonly id: string;
}

export type Seen = ReadonlyMap<string, NewestSeen>;

/** Records that are numbered per writer, each kind by itself. */
export type ChainOf = "snapshots" | "drills";

/**
 * What is wrong with a chain. `gap`: a number between two others, or before the first, is not there. `fork`: a number is
 * there twice. `wrong-previous`: a record names another one before it than the one that is there. `missing-tail`: this host
 * has seen newer ones. `replaced`: the newest this host has seen is another one now.
 */
export interface ChainFinding {
  readonly kind: "gap" | "fork" | "wrong-previous" | "missing-tail" | "replaced";
  readonly writer: string;
  /** The number it is about; of a gap or missing tail the first. */
  readonly number: number;
  /** A snapshot it shows in, null for those that are not there. */
  readonly snapshot: string | null;
  readonly problem: string;
}

/**
 * Check that every writer's snapshots are all there and follow one another (docs/FORMAT.md, "The chain"). What a removal
 * signed by a trusted key lists may be missing, and still has to be the one its successor names.
 *
 * @param links of trusted records only: what a stranger signed proves nothing and breaks nothing
 * @param removed what trusted removals list
 * @param seen what this host remembers; writers of which nothing is left are found by it
 * @param of what the links are: a name for the problems
 */
export function checkChains(
  links: readonly ChainLink[],
  removed: readonly RemovedSnapshot[],
  seen: Seen,
  of: ChainOf = "snapshots",
): ChainFinding[] {
  const writers = new Set([...links.map((link) => link.writer), ...seen.keys()]);
  return [...writers].sort().flatMap((writer) =>
    checkChain(
      writer,
      links.filter((link) => link.writer === writer),
      removed.filter((each) => each.writer === writer),
      seen.get(writer),
      words[of],
    ),
  );
}

interface Words {
  readonly one: string;
  readonly number: string;
  /** Ends the problem of a gap. */
  readonly gap: (them: string) => string;
}

const words: Readonly<Record<ChainOf, Words>> = {
  snapshots: { one: "snapshot", number: "number", gap: (them) => `, and no trusted removal lists ${them}` },
  drills: { one: "drill report", number: "drill report number", gap: () => "" },
};

function checkChain(
  writer: string,
  links: readonly ChainLink[],
  removed: readonly RemovedSnapshot[],
  seen: NewestSeen | undefined,
  said: Words,
): ChainFinding[] {
  const present = Map.groupBy(links, (link) => link.number);
  const gone = Map.groupBy(removed, (each) => each.number);
  const newest = Math.max(0, ...present.keys());
  const idsOf = (number: number) => [...(present.get(number) ?? []), ...(gone.get(number) ?? [])].map(({ id }) => id);
  return [
    ...forks(writer, present, said),
    ...gaps(writer, [...present.keys(), ...gone.keys()], newest, said),
    ...wrongPrevious(links, idsOf, said),
    ...sinceSeen(writer, newest, seen, idsOf, said),
  ];
}

function forks(writer: string, present: ReadonlyMap<number, readonly ChainLink[]>, said: Words): ChainFinding[] {
  return [...present].flatMap(([number, twins]) => {
    const [first, ...others] = twins;
    if (first === undefined || others.length === 0) return [];
    const ids = twins.map(({ id }) => short(id)).join(" and ");
    const problem = `${said.number} ${number} is there ${twins.length} times, as ${ids}: the signing key is in use twice, or was stolen`;
    return [{ kind: "fork" as const, writer, number, snapshot: first.id, problem }];
  });
}

/** One finding for each run of missing numbers. */
function gaps(writer: string, known: Iterable<number>, newest: number, said: Words): ChainFinding[] {
  const findings: ChainFinding[] = [];
  let last = 0;
  for (const number of [...new Set(known)].sort((a, b) => a - b)) {
    if (number > newest) break; // removed, and nothing newer is there: what is missing then is missing at the end
    if (number > last + 1) findings.push(gap(writer, last + 1, number - 1, said));
    last = number;
  }
  return findings;
}

function gap(writer: string, first: number, last: number, said: Words): ChainFinding {
  const [which, them] =
    first === last ? [`${said.number} ${first} is`, "it"] : [`${said.number}s ${first} to ${last} are`, "them"];
  const problem = `${which} missing of writer ${writer}${said.gap(them)}`;
  return { kind: "gap", writer, number: first, snapshot: null, problem };
}

/** Where the one before is neither there nor listed as removed, the gap is the finding, not this. */
function wrongPrevious(links: readonly ChainLink[], idsOf: (number: number) => string[], said: Words): ChainFinding[] {
  return links.flatMap(({ id, writer, number, previous }) => {
    if (previous === undefined) return [];
    const before = idsOf(number - 1);
    const right = number === 1 ? previous === null : before.length === 0 || before.includes(previous ?? "");
    if (right) return [];
    const named = previous === null ? `no ${said.one}` : short(previous);
    const found = number === 1 ? "is the first" : `number ${number - 1} is ${before.map(short).join(" and ")}`;
    const problem = `${said.one} ${short(id)} (number ${number}) names ${named} as the one before it, but ${number === 1 ? `it ${found}` : found}`;
    return [{ kind: "wrong-previous" as const, writer, number, snapshot: id, problem }];
  });
}

function sinceSeen(
  writer: string,
  newest: number,
  seen: NewestSeen | undefined,
  idsOf: (number: number) => string[],
  said: Words,
): ChainFinding[] {
  if (seen === undefined) return [];
  const now = idsOf(seen.number);
  if (now.length > 0) {
    if (now.includes(seen.id)) return [];
    const problem = `${said.number} ${seen.number} of writer ${writer} was ${short(seen.id)} when this host last looked, and is ${now.map(short).join(" and ")} now`;
    return [{ kind: "replaced", writer, number: seen.number, snapshot: now[0] ?? null, problem }];
  }
  // With something newer there it is a gap, which is found already.
  if (newest > seen.number) return [];
  const problem = `this host has seen ${said.number} ${seen.number} of writer ${writer} (${short(seen.id)}), the newest there now is ${newest || "none"}`;
  return [{ kind: "missing-tail", writer, number: newest + 1, snapshot: null, problem }];
}

/**
 * What to remember after a look: the newest of every writer whose chain was found whole. Of the others what was
 * remembered stays, so that the finding comes again until somebody has dealt with it.
 */
export function lookedAt(seen: Seen, links: readonly ChainLink[], findings: readonly ChainFinding[]): Seen {
  const broken = new Set(findings.map((finding) => finding.writer));
  const next = new Map(seen);
  for (const { writer, number, id } of links) {
    if (!broken.has(writer) && number > (next.get(writer)?.number ?? 0)) next.set(writer, { number, id });
  }
  return next;
}

/**
 * Read what this host remembers of a repository.
 *
 * @throws OperatorError `failed` when the file is there and can't be read: to go on without it would let a missing tail
 * pass
 */
export function loadSeen(stateDirectory: string, repository: string, of: ChainOf = "snapshots"): Seen {
  const path = seenFile(stateDirectory, repository, of);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return new Map();
    throw unreadable(path, of, cause);
  }
  const memory = memorySchema.safeParse(parseJson(text));
  if (!memory.success) throw unreadable(path, of, memory.error);
  return new Map(Object.entries(memory.data.writers));
}

/** Remember. What another process has learned meanwhile is kept: a number only ever grows. */
export function saveSeen(stateDirectory: string, repository: string, seen: Seen, of: ChainOf = "snapshots"): void {
  const path = seenFile(stateDirectory, repository, of);
  const writers = new Map(seen);
  for (const [writer, newest] of loadSeen(stateDirectory, repository, of)) {
    if (newest.number > (writers.get(writer)?.number ?? 0)) writers.set(writer, newest);
  }
  makePrivateDirectory(dirname(path));
  writeFileAtomic(path, `${JSON.stringify({ format: 1, repository, writers: Object.fromEntries(writers) })}\n`);
}

function seenFile(stateDirectory: string, repository: string, of: ChainOf): string {
  const name = of === "snapshots" ? "seen.json" : "seen-drills.json";
  return join(stateDirectory, "repositories", repository, name);
}

const memorySchema = z.object({
  format: z.literal(1),
  writers: z.record(
    z.string().regex(/^[0-9a-f]{16}$/),
    z.object({ number: z.int().min(1), id: z.string().regex(/^[0-9a-f]{64}$/) }),
  ),
});

function unreadable(path: string, of: ChainOf, cause: unknown): OperatorError {
  const look = of === "snapshots" ? "snapshots" : "drill list";
  return new OperatorError("failed", `${path} can't be read: it holds the newest ${of} this host has seen`, {
    hints: [`run spoolsafe ${look}, make sure that none you know of is missing, then remove ${path}: it is made anew`],
    cause,
  });
}

function short(id: string): string {
  return id.slice(0, 8);
}
