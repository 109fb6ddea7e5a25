import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createServer } from "node:net";
import { join } from "node:path";
import { inject } from "vitest";
import { run } from "../../src/system/exec.ts";

/** A running S3 server on loopback with two accounts. */
export interface ObjectServer {
  readonly endpoint: string;
  readonly accessKey: string;
  readonly secretKey: string;
}

/** Real servers from Debian's packages: Ceph's gateway, and OpenStack Swift with its S3 face. */
export type ServerKind = "ceph" | "swift";

const accounts: Record<ServerKind, Omit<ObjectServer, "endpoint">> = {
  ceph: { accessKey: "test", secretKey: "testtest" },
  swift: { accessKey: "test:test", secretKey: "testtest" },
};

/**
 * The server all test files of this run share. The first to ask starts it; it is ended with the run (or by its watcher,
 * if the run is killed). Make a bucket of your own.
 */
export async function sharedServer(kind: ServerKind): Promise<ObjectServer> {
  const { directory, ports } = inject("objectServers");
  return startServer(kind, join(directory, kind), ports[kind]);
}

/** Start a server in a directory of its own, or find it running there. Not 6800 to 7300: Ceph's OSD takes those. */
export async function startServer(kind: ServerKind, directory: string, port: number): Promise<ObjectServer> {
  // One start at a time: test files run in several processes. --close, or the daemons would inherit the lock.
  await run("flock", ["--close", `${directory}.lock`, script(kind, "start")], {
    env: { DIR: directory, PORT: String(port) },
    timeoutMs: 110_000,
  });
  return { endpoint: `http://127.0.0.1:${port}`, ...accounts[kind] };
}

/** Stop what `startServer` started there and remove its data. Nothing running is no failure. */
export async function stopServer(kind: ServerKind, directory: string): Promise<void> {
  await run(script(kind, "stop"), [], { env: { DIR: directory, WIPE: "1" } });
}

/**
 * Watch over servers below a directory: they are stopped, and the directory is removed, when the promise-returning
 * function is called or when this process is gone, whichever way it went.
 */
export function watchServers(directory: string): () => Promise<void> {
  const commands = 'cat >/dev/null; DIR="$1/ceph" WIPE=1 "$2"; DIR="$1/swift" WIPE=1 "$3"; rm -rf "$1"';
  const watcher = spawn("sh", ["-c", commands, "sh", directory, script("ceph", "stop"), script("swift", "stop")], {
    stdio: ["pipe", "ignore", "inherit"],
    detached: true, // so that Ctrl-C at the terminal ends the run and not the one who tidies up
  });
  const ended = new Promise<void>((resolve) => watcher.on("close", () => resolve()));
  watcher.unref();
  return async () => {
    watcher.stdin.end();
    await ended;
  };
}

/** The first of so many free TCP ports in a row on loopback. */
export async function freePorts(count: number): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const first = 20_000 + 10 * (randomBytes(2).readUInt16BE() % 1000);
    const free = await Promise.all(Array.from({ length: count }, (_, index) => isFree(first + index)));
    if (free.every(Boolean)) return first;
  }
  throw new Error("found no free ports");
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

function script(kind: ServerKind, name: "start" | "stop"): string {
  return join(import.meta.dirname, kind, `${name}.sh`);
}
