import { execFile } from "node:child_process";

/** What a service manager is told; nothing where there is none. */
export interface Notify {
  ready(): void;
  stopping(): void;
  /** How often it wants to hear that we are well, milliseconds; undefined if it doesn't. */
  readonly watchdogMs: number | undefined;
  alive(): void;
}

/**
 * sd_notify(3) through systemd-notify(1), because Node has no datagram sockets of AF_UNIX. Nothing is sent without
 * NOTIFY_SOCKET, and a message that can't be sent is the service manager's to miss.
 */
export function systemdNotify(env: Readonly<Record<string, string | undefined>>): Notify {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: watchdog, WATCHDOG_PID: watched } = env;
  const send = (message: string) => {
    if (socket) execFile("systemd-notify", [message], { timeout: 10_000 }, () => {});
  };
  // The launcher may stand between the service manager and us.
  const meant = watched === undefined || [process.pid, process.ppid].includes(Number(watched));
  const watchdogMs = Number(watchdog) / 1000;
  return {
    ready: () => send("READY=1"),
    stopping: () => send("STOPPING=1"),
    watchdogMs: socket && meant && watchdogMs > 0 ? watchdogMs : undefined,
    alive: () => send("WATCHDOG=1"),
  };
}
