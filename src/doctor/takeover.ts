import type { PostfixInstance } from "../postfix/instance.ts";
import { examineCertificates } from "./certificates.ts";
import { examineChroot } from "./chroot.ts";
import { examineClaims, examinePrimaryTrust } from "./claims.ts";
import { examineClock } from "./clock.ts";
import { examineDrills } from "./drills.ts";
import { bad, type Finding, good, look, type Report } from "./finding.ts";
import {
  describeNewest,
  examineChain,
  examineSignature,
  findNewest,
  type Newest,
  type TakeoverToExamine,
} from "./newest-snapshot.ts";
import { type Opened, openNewest, type Pair, readSettings } from "./opened-snapshot.ts";
import { examinePairs, pairInstances } from "./pairs.ts";
import { examineQueue, examineRunLock } from "./queue.ts";
import type { StoreTime } from "./repository.ts";
import { examineRoom } from "./room.ts";
import { examineMapTypes, examineVersions } from "./software.ts";
import { examineUsers } from "./users.ts";

/**
 * Judge whether this host could take over with the newest snapshot at this moment. Every check is a finding at least,
 * whatever came of those before it, so that the score is of the same checks each time. Nothing is changed anywhere.
 */
export async function examineTakeover(
  setup: TakeoverToExamine,
  here: readonly PostfixInstance[],
  storeTime: StoreTime | undefined,
  report: Report,
): Promise<void> {
  const newest = await found(
    () => findNewest(setup, here),
    "newest snapshot",
    report,
    (one) => [describeNewest(one, setup)],
  );
  await judge(recordChecks(setup, storeTime), newest, "the newest snapshot is not known", report);
  const opened = newest && (await open(newest, setup, report));
  if (newest === undefined) report(notKnown("opens here", "the newest snapshot is not known"));
  if (opened === undefined) report(notKnown("packs", unopened));
  await judge(contentChecks(setup), opened, unopened, report);
  const matched = opened && (await match(opened, setup, report));
  if (opened === undefined) for (const name of ["instances", "saved settings"]) report(notKnown(name, unopened));
  await judge(pairChecks(setup), matched, opened === undefined ? unopened : unmatched, report);
  await look("last drill", report, () => examineDrills(setup.stateDirectory));
}

const unopened = "the newest snapshot can't be opened";
const unmatched = "no instance here is known to take it over";

interface Check<Known> {
  readonly name: string;
  readonly examine: (known: Known) => Promise<readonly Finding[]> | readonly Finding[];
}

function recordChecks(setup: TakeoverToExamine, storeTime: StoreTime | undefined): readonly Check<Newest>[] {
  return [
    { name: "signature", examine: examineSignature },
    { name: "chain", examine: (newest) => examineChain(newest, setup) },
    { name: "clock", examine: (newest) => examineClock(newest, setup, storeTime) },
  ];
}

function contentChecks(setup: TakeoverToExamine): readonly Check<Opened>[] {
  return [
    { name: "claims", examine: (opened) => examineClaims(opened, setup) },
    { name: "primary's trust", examine: (opened) => examinePrimaryTrust(opened, setup) },
  ];
}

/** The snapshot with its instances, each beside the one here that would take it over. */
interface Matched {
  readonly opened: Opened;
  readonly pairs: readonly Pair[];
}

function pairChecks({ clock, signal }: TakeoverToExamine): readonly Check<Matched>[] {
  return [
    { name: "postfix version", examine: ({ pairs }) => examineVersions(pairs) },
    { name: "map types", examine: ({ pairs }) => examineMapTypes(pairs) },
    { name: "users", examine: ({ opened, pairs }) => examineUsers(opened.manifest, pairs) },
    { name: "room", examine: ({ opened, pairs }) => examineRoom(opened.manifest, pairs) },
    { name: "certificates", examine: ({ opened, pairs }) => examineCertificates(opened, pairs, clock.now()) },
    { name: "chroot files", examine: ({ pairs }) => examineChroot(pairs) },
    { name: "queue", examine: ({ opened, pairs }) => examineQueue(opened.manifest, pairs, signal) },
    { name: "run lock", examine: ({ pairs }) => examineRunLock(pairs) },
  ];
}

async function judge<Known>(
  checks: readonly Check<Known>[],
  known: Known | undefined,
  unknown: string,
  report: Report,
): Promise<void> {
  for (const { name, examine } of checks) {
    if (known === undefined) report(notKnown(name, unknown));
    else await look(name, report, () => examine(known));
  }
}

function notKnown(name: string, why: string): Finding {
  return bad(name, `can't be judged: ${why}`, "see to what failed above first");
}

/** What was looked for, if it was found and nothing is wrong with it; why not is reported. */
async function found<T>(
  find: () => Promise<T>,
  name: string,
  report: Report,
  describe: (one: T) => readonly Finding[],
): Promise<T | undefined> {
  let result: T | undefined;
  await look(name, report, async () => {
    const one = await find();
    const findings = describe(one);
    result = one;
    return findings;
  });
  return result;
}

async function open(newest: Newest, setup: TakeoverToExamine, report: Report): Promise<Opened | undefined> {
  const result = await found(
    () => openNewest(newest, setup),
    "opens here",
    report,
    ({ findings }) => findings,
  );
  return result?.opened;
}

async function match(opened: Opened, setup: TakeoverToExamine, report: Report): Promise<Matched | undefined> {
  const pairs = pairInstances(opened.signed.snapshot.instances, opened.here, setup.instance);
  const complete = await look("instances", report, () => examinePairs(pairs));
  const both = pairs.flatMap(({ source, target }) => (target === undefined ? [] : [{ source, target }]));
  if (!complete || both.length === 0) {
    report(notKnown("saved settings", unmatched));
    return undefined;
  }
  const settings = await found(
    () => readSettings(opened, both, setup.signal),
    "saved settings",
    report,
    (all) => all.map(settingsFinding),
  );
  return settings && { opened, pairs: settings };
}

function settingsFinding({ source, saved }: Pair): Finding {
  if (saved !== undefined) return good("saved settings", `${source.name}: ${saved.explicit.size} parameters`);
  return good(
    "saved settings",
    `the snapshot has no answer of postconf about ${source.name}: what its configuration needs can't be judged`,
    "see on the primary what its backup says of it, and why: `spoolsafe backup --dry-run`",
  );
}
