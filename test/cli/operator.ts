import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SigningKey } from "../../src/crypto/sign.ts";
import type { MessageEntry } from "../../src/snapshot/manifest.ts";
import { messageRecords, queueFile } from "../postfix/records.ts";
import { newSigningKey, trustFile } from "../support/claims.ts";
import { type CliOptions, type CliResult, spoolsafe } from "../support/cli.ts";
import type { HandMade, HandMadeMessage } from "../support/hand-made.ts";

/** Who restores from a repository made by hand, on a host of its own: with its own state directory and signing key. */
export class Operator {
  readonly stateDirectory: string;
  readonly key: SigningKey;
  readonly #config: string;

  constructor(made: HandMade, host: string) {
    this.stateDirectory = join(made.directory, `state of ${host}`);
    this.key = newSigningKey(made.directory, host);
    this.#config = join(made.directory, `${host}.toml`);
    const path = (name: string) => JSON.stringify(join(made.directory, name));
    const lines = [
      `host = "${host}"`,
      `state_directory = ${JSON.stringify(this.stateDirectory)}`,
      "[repository]",
      `url = ${JSON.stringify(made.repository.store.url)}`,
      "[encryption]",
      `identity_file = ${path("identity.txt")}`,
      "[signing]",
      `key_file = ${path(`${host}.key`)}`,
      `trusted_keys_file = ${path(`${host}.pub`)}`,
    ];
    writeFileSync(this.#config, lines.join("\n"));
    trustFile(made.directory, host, [made.key, this.key]);
  }

  /** Operators who believe each other's claims. */
  static all(made: HandMade, hosts: readonly string[]): Operator[] {
    const operators = hosts.map((host) => new Operator(made, host));
    const keys = [made.key, ...operators.map(({ key }) => key)];
    for (const host of hosts) trustFile(made.directory, host, keys);
    return operators;
  }

  run(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
    return spoolsafe([...args, "--config", this.#config], options);
  }
}

/** A message as letters differ: by number in sender, recipients and text. */
export function letter(
  number: number,
  over: Partial<MessageEntry> = {},
  recipients: readonly string[] = [`r${number}@b.test`],
): HandMadeMessage {
  const records = messageRecords({
    sender: `s${number}@a.test`,
    recipients: recipients.map((address) => [address, false] as const),
    text: `Message-Id: <${number}@a.test>\nSubject: letter ${number}\n\nbody\n`,
  });
  return { bytes: queueFile(records), over };
}

/** When the snapshots of such letters are taken; the letters came at 18:56 that day. */
export const takenAt = { time: "2026-11-24T20:00:00.000Z", finished: "2026-11-24T20:00:01.000Z" };

/** The last line of a command's JSON. */
export function last(result: CliResult): Readonly<Record<string, unknown>> {
  return result.json.at(-1) ?? {};
}
