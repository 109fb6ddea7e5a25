import { join } from "node:path";
import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import { loadSeen, saveSeen } from "../repository/chain.ts";
import { drillKey, type RecordPlace } from "../repository/layout.ts";
import type { Repository } from "../repository/repository.ts";
import type { DrillFacts } from "../snapshot/drill.ts";
import type { SignedDrill } from "../snapshot/record.ts";
import { digestOf } from "../system/digest.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";
import { tryLock } from "../system/lock.ts";
import { renderHtml } from "./html.ts";
import { renderMarkdown } from "./markdown.ts";
import { signReport } from "./report.ts";
import { drillsDirectory, type KeptReport, keptReports, type ReadReport, storedReports } from "./reports.ts";

export interface KeepRequest {
  readonly stateDirectory: string;
  /** What is known of one that can't be reached: the report is kept here, and the next drill hands it in. */
  readonly repository: Repository | { readonly id: string; readonly problem: OperatorError };
  readonly key: SigningKey;
  readonly trusted: Pick<TrustedKeys, "check">;
  readonly signal: AbortSignal;
}

export interface Kept {
  readonly signed: SignedDrill;
  /** `<state>/drills/<id>`, with report.json, report.md and report.html. */
  readonly directory: string;
  readonly html: string;
  /** How many reports are in the repository now that were not: this one, and those of earlier drills that could not be written. */
  readonly handedIn: number;
  /** Why this one is not in the repository: it can't be read or written. Null when it is there. */
  readonly problem: OperatorError | null;
}

/**
 * Sign the report of a drill with the next number, keep it here, and then hand it in to the repository with what earlier drills
 * could not hand in. A repository that can't be written to is told of in the result: the report stands here, and the next drill hands
 * it in.
 *
 * @throws whatever the state directory throws when it can't be written to
 */
export async function keepReport(facts: DrillFacts, request: KeepRequest): Promise<Kept> {
  const { stateDirectory, repository, key, trusted } = request;
  makePrivateDirectory(drillsDirectory(stateDirectory));
  await using _lock = await lockReports(stateDirectory);
  const seen = loadSeen(stateDirectory, repository.id, "drills");
  const stored =
    "problem" in repository
      ? repository
      : await orProblem(request, () => storedReports(repository, trusted, request.signal));
  const kept = keptReports(stateDirectory, repository.id, trusted).reports.filter(
    ({ verdict }) => verdict !== "forged",
  );

  const places = "value" in stored ? stored.value.places : [];
  const own = ({ writer }: RecordPlace) => writer === key.writer;
  const newestSeen = seen.get(key.writer);
  const last = newestOf([
    ...places.filter(own),
    ...kept.map(placeOf).filter(own),
    ...(newestSeen === undefined ? [] : [{ writer: key.writer, ...newestSeen }]),
  ]);
  const place = { repository: repository.id, number: (last?.number ?? 0) + 1, previous: last?.id ?? null };
  const { signed, bytes } = signReport(
    facts,
    place,
    believed(kept, "value" in stored ? stored.value.reports : []),
    key,
  );
  const directory = join(drillsDirectory(stateDirectory), facts.id);
  const html = renderHtml(signed);
  makePrivateDirectory(directory);
  writeFileAtomic(join(directory, "report.json"), bytes);
  writeFileAtomic(join(directory, "report.md"), renderMarkdown(signed));
  writeFileAtomic(join(directory, "report.html"), html);

  const result = { signed, directory, html };
  if ("problem" in repository) return { ...result, handedIn: 0, problem: repository.problem };
  if ("problem" in stored) return { ...result, handedIn: 0, problem: stored.problem };
  const pending = [...kept, { signed, bytes }].filter((one) => own(placeOf(one)));
  return { ...result, ...(await handIn({ ...request, repository }, pending, places)) };
}

/** Two drills of one host that end at one time get one number each. */
async function lockReports(stateDirectory: string): Promise<AsyncDisposable> {
  const directory = drillsDirectory(stateDirectory);
  const lock = await tryLock(directory, turnMs);
  if (lock !== undefined) return { [Symbol.asyncDispose]: () => lock.release() };
  throw new OperatorError("locked", `another drill has held ${directory} for ten minutes`, {
    hints: ["see which process holds it with fuser or lsof"],
  });
}

/** The beginning of another drill may clear up after one that was killed, with a queue of 100,000 messages. */
const turnMs = 10 * 60_000;

function placeOf({ signed: { id, drill } }: Pick<ReadReport, "signed">): RecordPlace {
  return { writer: drill.writer, number: drill.number, id };
}

function newestOf(places: readonly RecordPlace[]): RecordPlace | undefined {
  return places.reduce<RecordPlace | undefined>(
    (newest, place) => (newest === undefined || place.number > newest.number ? place : newest),
    undefined,
  );
}

function believed(...lists: readonly (readonly ReadReport[])[]) {
  const all = lists.flat().filter(({ verdict }) => verdict === "trusted");
  return [...new Map(all.map(({ signed }) => [signed.id, signed.drill])).values()];
}

/** In the order of their numbers, and none behind one that could not be written: the chain there never has a gap of our making. */
async function handIn(
  { repository, stateDirectory, key, signal, ...request }: KeepRequest & { readonly repository: Repository },
  own: readonly Pick<KeptReport, "signed" | "bytes">[],
  places: readonly RecordPlace[],
): Promise<Pick<Kept, "handedIn" | "problem">> {
  const there = new Map(places.filter(({ writer }) => writer === key.writer).map(({ number, id }) => [number, id]));
  const missing = own
    .filter(({ signed }) => there.get(signed.drill.number) !== signed.id)
    .sort((a, b) => a.signed.drill.number - b.signed.drill.number);
  let handedIn = 0;
  for (const { signed, bytes } of missing) {
    const place = placeOf({ signed });
    const taken = there.get(place.number);
    if (taken !== undefined) return { handedIn, problem: numberTaken(place, taken) };
    const done = await orProblem({ signal, ...request }, () =>
      repository.store.put(drillKey(place), bytes, digestOf(bytes).digest, signal),
    );
    if ("problem" in done) return { handedIn, problem: done.problem };
    saveSeen(stateDirectory, repository.id, new Map([[key.writer, place]]), "drills");
    handedIn++;
  }
  return { handedIn, problem: null };
}

async function orProblem<T>(
  { signal }: Pick<KeepRequest, "signal">,
  work: () => Promise<T>,
): Promise<{ readonly value: T } | { readonly problem: OperatorError }> {
  try {
    return { value: await work() };
  } catch (error) {
    if (signal.aborted || !(error instanceof OperatorError)) throw error;
    return { problem: error };
  }
}

function numberTaken({ number }: RecordPlace, id: string): OperatorError {
  return new OperatorError(
    "refused",
    `drill report number ${number} of this signing key is in the repository already, as ${id.slice(0, 8)}`,
    {
      hints: [
        "another host signs with the same key (a cloned machine?), or this one's state directory was lost: spoolsafe drill verify --all says more",
      ],
    },
  );
}
