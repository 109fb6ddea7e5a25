import { existsSync, mkdirSync, realpathSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { OperatorError } from "../errors.ts";
import type { Clock } from "../system/clock.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";
import { type HeldLock, tryLock } from "../system/lock.ts";
import { sweepDead, takeAway, workFile, workPrefix, workRecord } from "./sweep.ts";

/** Where one drill works. Everything it makes is below `directory`, and gone when it ends. */
export class Workplace {
  readonly id: string;
  /** Below the parent that was asked for; others may pass through and see nothing. */
  readonly directory: string;
  /** Ids of killed drills that were cleared up after. */
  readonly swept: readonly string[];
  readonly #place: string;
  readonly #lock: HeldLock;
  readonly #clock: Clock;

  private constructor(id: string, directory: string, swept: readonly string[], lock: HeldLock, clock: Clock) {
    this.id = id;
    this.directory = directory;
    this.swept = swept;
    this.#place = lock.path;
    this.#lock = lock;
    this.#clock = clock;
  }

  /**
   * Clear up after drills that were killed, then make a place for this one. What is made is written down before: the next
   * drill finds it, whenever this one is killed.
   *
   * @param id 12 hexadecimal digits
   * @param parent where the throw-away Postfix is made; every user must be able to pass through it
   * @throws OperatorError `refused` for a parent that won't do
   */
  static async make(id: string, stateDirectory: string, parent: string, clock: Clock): Promise<Workplace> {
    const above = passable(parent);
    const drills = join(stateDirectory, "drills");
    makePrivateDirectory(drills);
    // Drills that begin at one time take turns, so that none sweeps the beginnings of another.
    const turn = await tryLock(drills, turnMs);
    if (turn === undefined) throw new OperatorError("locked", `another drill is beginning in ${drills} for too long`);
    try {
      const swept = await sweepDead(drills, clock);
      const place = join(drills, id);
      mkdirSync(place, { mode: 0o700 });
      const lock = await tryLock(place);
      if (lock === undefined) throw new OperatorError("locked", `another drill has the id ${id}`);
      const directory = join(above, `${workPrefix}${id}`);
      const workplace = new Workplace(id, directory, swept, lock, clock);
      try {
        writeFileAtomic(join(place, workFile), workRecord(directory));
        mkdirSync(directory, { mode: 0o711 });
      } catch (error) {
        await workplace.remove();
        throw unfit(parent, error instanceof Error ? error.message : String(error));
      }
      return workplace;
    } finally {
      await turn.release();
    }
  }

  /** Aborts if the lock that tells others we are at work is lost. */
  get lost(): AbortSignal {
    return this.#lock.lost;
  }

  /** End what still runs, and leave nothing but a report. May be called twice. */
  async remove(): Promise<void> {
    if (existsSync(this.#place)) await takeAway(this.#place, this.#clock);
    await this.#lock.release();
  }
}

/** Sweeping may have a queue of 100,000 messages to remove. */
const turnMs = 10 * 60_000;

/** The longest path below a drill's directory that Postfix connects to by its full name (`maillog_client.c`). */
const longestSocket = `/${workPrefix}0123456789ab/99/spool/public/postlog`;
/** Of the address of a socket (unix(7)), without the byte that ends it. */
const socketBytes = 107;

/** What main.cf expands, and what `cd $queue_directory` in postfix-script, without quotes, takes for two words or a pattern. */
const unquotable = /[\s$*?[\]"'\\`{}]/;

/** Postfix's daemons drop to its user and then open files of theirs by path. */
function passable(parent: string): string {
  if (!existsSync(parent)) throw unfit(parent, `${parent} is not there`);
  const real = realpathSync(parent);
  if (!statSync(real).isDirectory()) throw unfit(parent, `${parent} is no directory`);
  if (unquotable.test(real)) throw unfit(parent, `Postfix can't work in ${real}, with such characters in its path`);
  if (Buffer.byteLength(real + longestSocket) > socketBytes) {
    throw unfit(
      parent,
      `its path is too long for the sockets of Postfix (${socketBytes - longestSocket.length} bytes)`,
    );
  }
  for (let at = real; ; at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) throw unfit(parent, `not every user may pass through ${at}`);
    if (at === dirname(at)) return real;
  }
}

function unfit(parent: string, why: string): OperatorError {
  return new OperatorError("refused", `no drill can be done in ${parent}: ${why}`, {
    hints: ["name another directory: --work-directory DIR", "it needs room for the queue and is emptied at the end"],
  });
}
