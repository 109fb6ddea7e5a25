import { loadRecipients } from "../crypto/keys.ts";
import { look, type Report, type Role } from "./finding.ts";
import { examineInstances, type InstancesToExamine } from "./instances.ts";
import { examineIdentity, examineRecipients, examineSigningKey } from "./keys.ts";
import type { TakeoverToExamine } from "./newest-snapshot.ts";
import { examinePort25 } from "./port25.ts";
import { examinePrunes, examineRepository, type StoreTime } from "./repository.ts";
import { examineJournals, examineStateDirectory } from "./state.ts";
import { examineTakeover } from "./takeover.ts";

export interface SetupToExamine extends TakeoverToExamine, InstancesToExamine {
  readonly role: Role;
  readonly recipientsFile: string;
  /** Also write a small object to the repository, read it and remove it. */
  readonly probe: boolean;
  /** A mail server to be greeted by: `host`, `host:port` or `[address]:port`; undefined: none is called. */
  readonly port25: string | undefined;
}

/** What the configuration names: keys, repository, state directory, Postfix; and on a standby, what a takeover needs. */
export async function examineSetup(setup: SetupToExamine, report: Report): Promise<void> {
  const instances = await examineInstances(setup, report);
  await look("state directory", report, () => examineStateDirectory(setup.stateDirectory, instances));
  await look("holds", report, () => examineJournals(setup.stateDirectory, instances));
  await look("age recipients", report, async () =>
    examineRecipients(loadRecipients(setup.recipientsFile), setup.recipientsFile),
  );
  await look("identity", report, () => examineIdentity(setup));
  await look("signing key", report, () => examineSigningKey(setup));
  let storeTime: StoreTime | undefined;
  const answers = await look("repository", report, async () => {
    const found = await examineRepository(setup);
    storeTime = found.storeTime;
    return found.findings;
  });
  if (answers) await look("prunes", report, () => examinePrunes(setup));
  if (setup.role === "standby") await examineTakeover(setup, instances, storeTime, report);
  const { port25, signal } = setup;
  if (port25 !== undefined) await look("port 25", report, () => examinePort25(port25, signal));
}
