import { statfsSync, statSync } from "node:fs";
import { scopes } from "../postfix/parameters.ts";
import { lackOfRoom, reserveBytes, roomFor } from "../postfix/room.ts";
import type { Manifest } from "../snapshot/manifest.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Pair } from "./opened-snapshot.ts";

/** Whether the mail of the snapshot fits on the file systems of the queues: those of one file system share its room. */
export function examineRoom(manifest: Manifest, pairs: readonly Pair[]): readonly Finding[] {
  const bySystem = Map.groupBy(pairs, ({ target }) => statSync(target.queueDirectory).dev);
  return [...bySystem.values()].map((sharing) => roomFinding(manifest, sharing));
}

function roomFinding({ messages }: Manifest, sharing: readonly Pair[]): Finding {
  const names = new Set(sharing.map(({ source }) => source.name));
  const queues = sharing.map(({ target }) => target.queueDirectory).join(" and ");
  const { bavail, bsize, files, ffree } = statfsSync(sharing[0]?.target.queueDirectory ?? "/");
  const stored = messages.filter(({ instance }) => names.has(instance)).flatMap(({ file, logs }) => [file, ...logs]);
  const needs = roomFor(stored, bsize);
  const there = {
    freeBytes: bavail * bsize,
    freeInodes: files === 0 ? null : ffree,
    reserveBytes: Math.max(...sharing.map(({ here }) => reserveBytes((name) => scopes(here)[0]?.value(name) ?? ""))),
  };
  const lack = lackOfRoom(needs, there);
  const remedy = "make room there, or put the queue directory on a larger file system";
  if (lack !== undefined) return bad("room", `the file system of ${queues} needs ${lack}`, remedy);
  const inodes = there.freeInodes === null ? "" : `, ${needs.inodes} of ${there.freeInodes} free inodes`;
  return good("room", `${queues}: the mail takes ${needs.bytes} of ${there.freeBytes} free bytes${inodes}`);
}
