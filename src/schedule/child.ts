import { spawn } from "node:child_process";
import { OperatorError } from "../errors.ts";
import { isAlive, type JobProcess } from "../jobs/record.ts";
import { processStart } from "../system/processes.ts";

/** A job's process, ours or one that an earlier daemon started. */
export interface JobChild {
  readonly process: JobProcess;
  /** Let it do its work; it waits for this, and ends without doing anything if we end first. */
  go(): void;
  /** Quietly nothing when it is gone. */
  kill(signal: "SIGTERM" | "SIGKILL"): void;
  /** Exit code, or null when a signal ended it or nobody can know. */
  readonly ended: Promise<number | null>;
}

export interface ChildCommand {
  /** Program and arguments. */
  readonly command: readonly string[];
  /** Added to (or, with undefined, taken out of) our environment. */
  readonly env: Readonly<Record<string, string | undefined>>;
}

/**
 * Start a program behind a gate: a shell that waits for a line from us and then becomes the program, with the same pid. So
 * the pid can be on disk before anything is done, and a daemon that dies in between leaves nothing at work that nobody
 * knows of.
 *
 * It is in a session of its own, so that Ctrl-C and the end of the daemon are not its end. What it says goes where our
 * standard error goes, and by the same descriptor: no pipe of ours breaks under it.
 *
 * @throws OperatorError `program-failed` when it can't be started
 */
export function startChild({ command, env }: ChildCommand): JobChild {
  const gate = ["-c", 'read -r go && exec "$@" < /dev/null', "sh", ...command];
  const child = spawn("/bin/sh", gate, {
    stdio: ["pipe", 2, 2],
    detached: true,
    env: { ...process.env, ...env },
  });
  const ended = new Promise<number | null>((resolve) => {
    child.on("error", () => resolve(null));
    child.on("exit", (code) => resolve(code));
  });
  const { pid, stdin } = child;
  stdin?.on("error", () => {});
  const startTicks = pid === undefined ? undefined : processStart(pid);
  if (pid === undefined || startTicks === undefined || stdin === null) {
    throw new OperatorError("program-failed", `${command.join(" ")} could not be started`, {
      hints: ["perhaps there are too many processes, or too little memory"],
    });
  }
  return {
    process: { pid, startTicks },
    go: () => void stdin.end("go\n"),
    kill: (signal) => void child.kill(signal),
    ended,
  };
}

/** A process an earlier daemon started: watched, because only a parent is told of an end. */
export function adoptChild(adopted: JobProcess, everyMs = 500): JobChild {
  const ended = new Promise<null>((resolve) => {
    const watch = () => {
      if (isAlive(adopted)) setTimeout(watch, everyMs);
      else resolve(null);
    };
    watch();
  });
  return {
    process: adopted,
    go: () => {},
    kill: (signal) => {
      if (isAlive(adopted)) process.kill(adopted.pid, signal);
    },
    ended,
  };
}
