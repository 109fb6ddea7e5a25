import { createIdentity } from "../crypto/keys.ts";
import { OperatorError } from "../errors.ts";
import { PackReader } from "../pack/pack-pool.ts";
import { packKey, snapshotKey } from "../repository/layout.ts";
import { loadManifest } from "../repository/manifest-reader.ts";
import { Repository } from "../repository/repository.ts";
import type { DrillFacts, DrillScenario } from "../snapshot/drill.ts";
import { type Chosen, type DrillJob, performDrill } from "./perform.ts";
import type { Rehearsing } from "./rehearsing.ts";
import { FaultyReading } from "./scenario-store.ts";
import { withoutSpoolsafe } from "./without-spoolsafe.ts";

/**
 * Rehearse a failure: a drill as it would go if the store, the identity or this program failed it. All faults are between this
 * process and the repository, which is only read.
 *
 * @returns what happened; `ok` says that it ended as documented
 * @throws OperatorError `refused` where it can't be rehearsed here
 */
export async function rehearse(name: DrillScenario, rehearsing: Rehearsing): Promise<DrillFacts> {
  const { expected, perform, judge } = scenarios[name];
  const facts = await perform(rehearsing);
  const { happened, ok } = judge(facts);
  return {
    ...facts,
    scenario: { name, expected, happened, ok },
    // It proves nothing about how fast a recovery is.
    targets: { rpo: null, rto: null },
    deviations: ok ? [] : ["it did not end as documented", ...facts.deviations],
    ok,
  };
}

interface Scenario {
  /** What the documentation says. */
  readonly expected: string;
  readonly perform: (rehearsing: Rehearsing) => Promise<DrillFacts>;
  readonly judge: (facts: DrillFacts) => { readonly happened: string; readonly ok: boolean };
}

const scenarios: Readonly<Record<DrillScenario, Scenario>> = {
  "damaged-pack": {
    expected: "exit 13: the pack does not match its digest; nothing of it is placed",
    perform: async (rehearsing) => await withBrokenPack(rehearsing, "damaged"),
    judge: endsWith("damaged", /packs\/[0-9a-f]{2}\/[0-9a-f]{64} does not match its digest/),
  },
  "missing-pack": {
    expected: "exit 13: the pack is missing; nothing of it is placed",
    perform: async (rehearsing) => await withBrokenPack(rehearsing, "missing"),
    judge: endsWith("damaged", /packs\/[0-9a-f]{2}\/[0-9a-f]{64} is missing/),
  },
  "wrong-identity": {
    expected: "exit 12: none of the identities opens the snapshot",
    perform: withMadeUpIdentity,
    judge: endsWith("no-identity", /./),
  },
  "older-snapshot": {
    expected: "the chain shows that this host has seen a newer snapshot, which is not there any more",
    perform: withoutNewest,
    judge: noticesOlder,
  },
  "store-unreachable": {
    expected: "exit 1: the store does not answer; or exit 10: there is no repository at its place",
    perform: withoutStore,
    judge: endsWith(/^(store-failed|no-repository)$/, /./),
  },
  "no-spoolsafe": {
    expected: "with age, zstd, tar and the page in the repository alone, every message comes back byte for byte",
    perform: withoutSpoolsafe,
    judge: ({ failure, messages, checks }) => {
      const { manifest, restored, identical, finished } = messages;
      const whole = identical === manifest && restored + finished === manifest && checks.every(({ ok }) => ok);
      return {
        happened: failure === null ? `${identical} of ${manifest} messages came back byte for byte` : ending(failure),
        ok: failure === null && whole,
      };
    },
  },
};

function endsWith(kind: string | RegExp, message: RegExp): Scenario["judge"] {
  return ({ failure, messages }) => ({
    happened: failure === null ? "it ended without an error" : ending(failure),
    ok:
      failure !== null &&
      (typeof kind === "string" ? failure.kind === kind : kind.test(failure.kind)) &&
      message.test(failure.message) &&
      messages.restored === 0,
  });
}

function ending({ kind, message }: NonNullable<DrillFacts["failure"]>): string {
  const { exitCode } = new OperatorError(kind as OperatorError["kind"], message);
  return `exit ${exitCode}: ${message}`;
}

async function withBrokenPack(rehearsing: Rehearsing, how: "damaged" | "missing"): Promise<DrillFacts> {
  const store = new FaultyReading(rehearsing.repository.store);
  const { job, identities } = rehearsing;
  return await performDrill({
    ...asItIs(rehearsing),
    choose: async () => {
      const chosen = await rehearsing.choose(await Repository.open(store, job.signal), identities);
      const pack = await neededPack(chosen, job);
      store.faults = { ...store.faults, [how]: new Set([packKey(pack)]) };
      return chosen;
    },
  });
}

/** One that messages are in: that of the message in the middle of those that are restored. */
async function neededPack(
  { source }: Chosen,
  { instance, signal }: Pick<DrillJob, "instance" | "signal">,
): Promise<string> {
  const { snapshot } = source.signed;
  const manifest = await loadManifest(source.repository, snapshot, source.identities, signal);
  const messages = manifest.messages.filter(
    (message) =>
      (instance === undefined || message.instance === instance) && message.recipients.some(({ done }) => !done),
  );
  const pack = messages[messages.length >> 1]?.file.pack ?? snapshot.packs[0]?.id;
  if (pack !== undefined) return pack;
  throw new OperatorError("refused", "the snapshot needs no pack, so none of it can be broken", {
    hints: ["name a snapshot with mail in it"],
  });
}

async function withMadeUpIdentity(rehearsing: Rehearsing): Promise<DrillFacts> {
  const { identity, recipient } = await createIdentity(false);
  const identities = { identities: [identity], recipients: [recipient] };
  return await performDrill({
    ...asItIs(rehearsing),
    choose: () => rehearsing.choose(rehearsing.repository, identities),
  });
}

/** The newest snapshot of the writer, which this host has just seen, is gone; a drill takes the one before it. */
async function withoutNewest(rehearsing: Rehearsing): Promise<DrillFacts> {
  const { repository, job, identities } = rehearsing;
  const { source } = await rehearsing.choose(repository, identities);
  const { writer, number } = source.signed.snapshot;
  const own = (await repository.snapshotRefs(job.signal)).filter((ref) => ref.writer === writer);
  const store = new FaultyReading(repository.store);
  const gone = own.filter((ref) => ref.number >= number);
  if (gone.length === own.length) {
    throw new OperatorError("refused", `${source.signed.snapshot.host} has no older snapshot to go back to`, {
      hints: ["rehearse it when a second backup has been made"],
    });
  }
  store.faults = { ...store.faults, missing: new Set(gone.map(snapshotKey)) };
  return await performDrill({
    ...asItIs(rehearsing),
    choose: async () => await rehearsing.choose(await Repository.open(store, job.signal), identities),
  });
}

function noticesOlder({ failure, checks, messages }: DrillFacts): { happened: string; ok: boolean } {
  const chain = checks.find(({ name }) => name === "chain");
  if (failure !== null) return { happened: ending(failure), ok: false };
  const noticed = chain?.ok === false && /this host has seen/.test(chain.detail);
  const others = checks.filter((check) => check !== chain && !check.ok);
  return {
    happened: chain === undefined ? "the chain was not looked at" : chain.detail,
    ok: noticed && others.length === 0 && messages.identical === messages.restored,
  };
}

async function withoutStore(rehearsing: Rehearsing): Promise<DrillFacts> {
  const { job, identities } = rehearsing;
  const store = await rehearsing.unreachable();
  try {
    return await performDrill({
      ...asItIs(rehearsing),
      choose: async () => await rehearsing.choose(await Repository.open(store, job.signal), identities),
    });
  } finally {
    await store.close();
  }
}

/** Packs are opened with the identities that were chosen with. */
function asItIs({ job }: Rehearsing): Omit<DrillJob, "choose"> {
  const { processors } = job;
  return {
    ...job,
    deliver: false,
    openReader: ({ identities }) => new PackReader({ identities, processors }),
  };
}
