import { createHash } from "node:crypto";
import type { SigningKey } from "../../src/crypto/sign.ts";
import type { MessageCounts, Snapshot } from "../../src/snapshot/snapshot.ts";

export const noMessages: MessageCounts = {
  total: 0,
  incoming: 0,
  active: 0,
  deferred: 0,
  hold: 0,
  maildrop: 0,
  inFlight: 0,
  incomplete: 0,
  vanished: 0,
  finishedDuringRun: 0,
};

/** A snapshot record that keeps the format, with what a test cares about put over it. */
export function snapshotOf(key: Pick<SigningKey, "writer">, over: Partial<Snapshot> = {}): Snapshot {
  return {
    format: 1,
    type: "snapshot",
    repository: "00112233445566778899aabbccddeeff",
    writer: key.writer,
    number: 1,
    previous: null,
    host: "mx1.example.org",
    time: "2026-11-24T02:00:00.000Z",
    finished: "2026-11-24T02:00:07.500Z",
    mode: "hold",
    tags: [],
    spoolsafe: "0.1.0",
    instances: [],
    messages: noMessages,
    bytes: 0,
    storedBytes: 0,
    newMessages: 0,
    reusedMessages: 0,
    hold: { held: 0, longestMs: 0, released: 0 },
    recipients: ["age1example"],
    parts: [],
    packs: [],
    ...over,
  };
}

/** 64 hexadecimal digits that follow from a seed. */
export function digestFrom(seed: string | number): string {
  return createHash("sha256").update(String(seed)).digest("hex");
}
