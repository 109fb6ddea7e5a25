import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import type { PostfixInstance } from "../../src/postfix/instance.ts";

/*
 * An undo in a process of its own that is killed by SIGKILL at a chosen call, or lives. Its parent names the job in the
 * environment. The calls are the real ones; only the moment of death is added. `put` is one of the repository's.
 */

export interface KilledUndoJob {
  readonly run: string;
  readonly instance: PostfixInstance;
  readonly stateDirectory: string;
  readonly repository: string;
  readonly keyFile: string;
  readonly trustedKeysFile: string;
  /** Die at the nth call of this name, before or after it has done its work; null: live. */
  readonly death: { readonly call: DeadlyCall; readonly nth: number; readonly after: boolean } | null;
}

/** What an undo does between its first and its last step. */
export const deadlyCalls = ["fdatasyncSync", "renameSync", "unlinkSync", "fsyncSync", "put"] as const;
export type DeadlyCall = (typeof deadlyCalls)[number];

async function runJob(job: KilledUndoJob): Promise<void> {
  const { loadSigningKey, loadTrustedKeys } = await import("../../src/crypto/sign.ts");
  const { DirectoryStore } = await import("../../src/repository/directory.ts");
  const { Repository } = await import("../../src/repository/repository.ts");
  const { standingClaims } = await import("../../src/restore/claiming.ts");
  const { undoRun } = await import("../../src/restore/undo.ts");
  const { systemClock } = await import("../../src/system/clock.ts");
  const { FaultyStore } = await import("../support/faulty-store.ts");

  const deadly = new Deadly(job.death);
  const store = new FaultyStore(new DirectoryStore(job.repository), {
    before: ({ name }) => {
      if (name === "put") deadly.before("put");
    },
    after: ({ name }) => {
      if (name === "put") deadly.after("put");
    },
  });
  const repository = await Repository.open(store);
  const [key, trusted] = [loadSigningKey(job.keyFile), loadTrustedKeys(job.trustedKeysFile)];
  const claims = standingClaims({ repository, key, trusted, clock: systemClock, settleMs: 20, waitMs: 5000 });
  arm(deadly);
  const { run, instance, stateDirectory } = job;
  const report = await undoRun({ run, instance, stateDirectory, claims, clock: systemClock });
  process.stdout.write(JSON.stringify({ report, calls: Object.fromEntries(deadly.calls) }));
}

class Deadly {
  readonly calls = new Map<DeadlyCall, number>();
  readonly #death: KilledUndoJob["death"];

  constructor(death: KilledUndoJob["death"]) {
    this.#death = death;
  }

  before(call: DeadlyCall): void {
    this.calls.set(call, (this.calls.get(call) ?? 0) + 1);
    this.#dieIf(call, false);
  }

  after(call: DeadlyCall): void {
    this.#dieIf(call, true);
  }

  #dieIf(call: DeadlyCall, after: boolean): void {
    const death = this.#death;
    if (death?.call === call && death.nth === this.calls.get(call) && death.after === after) {
      process.kill(process.pid, "SIGKILL");
    }
  }
}

function arm(deadly: Deadly): void {
  for (const name of deadlyCalls) {
    if (name === "put") continue;
    const real = fs[name] as (...args: unknown[]) => unknown;
    const armed = (...args: unknown[]) => {
      deadly.before(name);
      const result = real(...args);
      deadly.after(name);
      return result;
    };
    Object.assign(fs, { [name]: armed });
  }
  syncBuiltinESMExports();
}

const text = process.env.SPOOLSAFE_TEST_KILLED_JOB;
if (text !== undefined) await runJob(JSON.parse(text) as KilledUndoJob);
