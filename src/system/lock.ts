import { spawn } from "node:child_process";
import { OperatorError } from "../errors.ts";

/** A lock held until `release`, or until this process is gone: the kernel frees it with its holder. */
export interface HeldLock {
  readonly path: string;
  /** Aborts if the lock is lost while we believe we hold it (its holder was killed). */
  readonly lost: AbortSignal;
  release(): Promise<void>;
}

/**
 * Take the exclusive flock(2) of a file or directory through util-linux `flock`, because Node has no flock of its own.
 * A directory is locked by its inode, so two names of one queue directory are one lock. The child that holds it ends
 * when our end of its standard input closes, which the kernel does even after SIGKILL.
 *
 * @param waitMs how long to wait for a holder that is just going away (a killed run frees its lock within milliseconds)
 * @returns undefined when somebody else holds it
 * @throws OperatorError `program-failed` when the path can't be opened or `flock` is missing
 */
export async function tryLock(path: string, waitMs = 1000): Promise<HeldLock | undefined> {
  const seconds = Math.max(waitMs, 1) / 1000;
  const child = spawn(
    "flock",
    [
      "--exclusive",
      "--timeout",
      String(seconds),
      "--conflict-exit-code",
      "75",
      path,
      "sh",
      "-c",
      "echo held; exec cat",
    ],
    // Detached: a Ctrl-C at the terminal is for us, and must not take the lock from under what we finish after it.
    { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, LC_ALL: "C" }, detached: true },
  );
  const lost = new AbortController();
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    said += chunk.toString();
  });
  child.stdin.on("error", () => {});
  const ended = new Promise<number | null>((resolve) => {
    child.on("error", () => resolve(null));
    child.on("close", (code) => resolve(code));
  });
  const held = await Promise.race([
    new Promise<true>((resolve) => child.stdout.once("data", () => resolve(true))),
    ended.then((code) => code),
  ]);
  if (held === 75) return undefined;
  if (held !== true) {
    throw new OperatorError("program-failed", `flock could not lock ${path}${said === "" ? "" : `: ${said.trim()}`}`, {
      hints: ["flock is part of util-linux, which every Debian has; check that the path exists and can be read"],
    });
  }
  let releasing = false;
  void ended.then(() => {
    if (!releasing) lost.abort(new OperatorError("failed", `the lock of ${path} was lost: its holder was ended`));
  });
  child.unref();
  return {
    path,
    lost: lost.signal,
    release: async () => {
      releasing = true;
      // Waited for now: without this, once its pipes are closed, our process would have nothing to live for and end here.
      child.ref();
      child.stdin.end();
      await ended;
    },
  };
}
