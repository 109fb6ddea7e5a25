import { lstatSync } from "node:fs";
import { basename } from "node:path";
import { HoldJournal, postsuperOutput } from "../../src/holds/journal.ts";
import { hold } from "../../src/postfix/control.ts";
import { loadInstance } from "../../src/postfix/instance.ts";
import { PrivatePostfix, plainLetter } from "./postfix.ts";
import { Sink } from "./sink.ts";
import { Site } from "./site.ts";
import type { Submitted } from "./smtp.ts";
import { allTried } from "./undelivered.ts";

/** A queue of deferred mail, some of it held by an administrator and more of it by a backup that died. */
export class StuckQueue implements AsyncDisposable {
  readonly site: Site;
  readonly sink: Sink;
  readonly postfix: PrivatePostfix;
  readonly letters: readonly Submitted[];
  readonly ours: readonly string[];

  private constructor(
    site: Site,
    sink: Sink,
    postfix: PrivatePostfix,
    letters: readonly Submitted[],
    ours: readonly string[],
  ) {
    this.site = site;
    this.sink = sink;
    this.postfix = postfix;
    this.letters = letters;
    this.ours = ours;
  }

  static async make(): Promise<StuckQueue> {
    const site = await Site.make();
    const sink = await Sink.start({ domains: { "good.test": { rcpt: "450 4.2.0 try later" } } });
    const postfix = await PrivatePostfix.start({ sink });
    const letters = await postfix.submit(
      Array.from({ length: 8 }, (_, n) => plainLetter({ recipients: [`a${n}@good.test`] })),
    );
    await postfix.settled();
    const ids = letters.map(({ queueId }) => queueId);
    await postfix.hold(ids.slice(0, 2));
    const ours = ids.slice(2, 6);
    await holdAsDeadBackup(site, postfix, ours);
    return new StuckQueue(site, sink, postfix, letters, ours);
  }

  get scene(): { readonly postfix: PrivatePostfix; readonly config: string } {
    return { postfix: this.postfix, config: this.site.configure([this.postfix]) };
  }

  get held(): string[] {
    return this.postfix.files("hold").map((path) => basename(path));
  }

  /** The sink takes everything from now on; all that may go is delivered. */
  async deliver(): Promise<void> {
    this.sink.set("good.test", {});
    await allTried(this.postfix);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
    await this.sink.close();
    await this.site[Symbol.asyncDispose]();
  }
}

/** What is left of a backup that was killed between the hold and the release of a batch. */
async function holdAsDeadBackup(site: Site, postfix: PrivatePostfix, ids: readonly string[]): Promise<void> {
  const instance = await loadInstance(postfix.configDirectory);
  const since = new Date().toISOString();
  const { name, configDirectory, queueDirectory } = instance;
  const preheld = postfix.files("hold").map((path) => basename(path));
  const start = { run: "dead", mode: "hold" as const, instance: name, configDirectory, queueDirectory, since, preheld };
  const journal = HoldJournal.begin(site.stateDirectory, start);
  const times = ids.map((id) => [id, lstatSync(postfix.find(id) ?? "").mtimeMs / 1000] as const);
  journal.batch(0, since, times);
  await hold(instance, ids, ["deferred"], postsuperOutput(journal.path, 0, "hold"));
  journal.close();
}
