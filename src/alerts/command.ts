import { spawn } from "node:child_process";
import { SendFault } from "./attempt.ts";
import type { AlertEvent } from "./decide.ts";

/**
 * Run a program with its arguments, never through a shell. It gets the event as JSON on standard input and, for short
 * scripts, its fields in the environment: SPOOLSAFE_ALERT_EVENT, _KEY, _KIND, _JOB, _SEVERITY, _HOST, _TIME, _SINCE, _EXIT, _TEXT.
 *
 * It and all it has started are ended when the signal aborts; what it leaves in the background is not waited for.
 *
 * @throws SendFault when it can't be started or does not end with 0; with its last line on standard error
 */
export async function runCommand(command: readonly string[], event: AlertEvent, signal: AbortSignal): Promise<void> {
  const [program = "", ...args] = command;
  // In a process group of its own, so that what it has started can be ended with it.
  const child = spawn(program, args, {
    stdio: ["pipe", "ignore", "pipe"],
    detached: true,
    env: { ...process.env, ...environmentOf(event) },
  });
  const kill = () => {
    if (child.pid !== undefined) killGroup(child.pid);
  };
  signal.addEventListener("abort", kill, { once: true });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-2000);
  });
  // It may end without reading what it is given.
  child.stdin.on("error", () => {});
  child.stdin.end(`${JSON.stringify(event)}\n`);
  try {
    const how = await new Promise<string | null>((resolve, reject) => {
      child.on("error", reject);
      child.on("exit", (code, name) =>
        resolve(code === 0 ? null : name === null ? `exit ${code}` : `ended by ${name}`),
      );
    });
    if (how === null) return;
    const lastLine = said.trim().split("\n").at(-1) ?? "";
    // Whether trying again is any use is the program's own business; it gets the event again when somebody looks next.
    throw new SendFault(lastLine === "" ? how : `${how}: ${lastLine}`, { permanent: true });
  } finally {
    signal.removeEventListener("abort", kill);
    child.stderr.destroy();
  }
}

function environmentOf({ type: _, ...fields }: AlertEvent): Record<string, string> {
  const named = ["event", "key", "kind", "job", "severity", "host", "time", "since", "exit", "text"] as const;
  return Object.fromEntries(named.map((name) => [`SPOOLSAFE_ALERT_${name.toUpperCase()}`, `${fields[name] ?? ""}`]));
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has ended by itself.
  }
}
