import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sharedCeph } from "./support/ceph.ts";
import { type CliOptions, spoolsafe } from "./support/cli.ts";
import { differences, type Fingerprint, fingerprints } from "./support/compare.ts";
import { fillDeferred, fillMixed, mixedSink } from "./support/mail.ts";
import { type Need, needs } from "./support/needs.ts";
import { PrivatePostfix, until } from "./support/postfix.ts";
import { newBucket, writeCredentials } from "./support/s3.ts";
import { destroyScratch, makeScratch } from "./support/scratch.ts";
import type { Sink } from "./support/sink.ts";

/*
 * The main line, as an administrator types it: init, backup, backup again, verify, restore into another Postfix, and both
 * queues equal by content. The same against a directory and against Ceph, with X25519 and with post-quantum recipients.
 */

const variants: {
  readonly name: string;
  readonly store: "directory" | "ceph";
  readonly postQuantum: boolean;
  readonly queue: "large" | "small";
  readonly needed: readonly Need[];
}[] = [
  { name: "a directory", store: "directory", postQuantum: false, queue: "large", needed: [] },
  { name: "Ceph", store: "ceph", postQuantum: false, queue: "large", needed: ["ceph"] },
  { name: "a directory, post-quantum", store: "directory", postQuantum: true, queue: "small", needed: [] },
];

interface Queue {
  readonly postfix: PrivatePostfix;
  readonly fingerprints: readonly Fingerprint[];
}

/** A running Postfix with mail in mixed states that rests: nothing is due for the next ten minutes. */
async function makeQueue(sink: Sink, messages: { readonly mixed: number; readonly deferred: number }): Promise<Queue> {
  const resting = { minimal_backoff_time: "1h", maximal_backoff_time: "2h", queue_run_delay: "1h" };
  const postfix = await PrivatePostfix.start({ sink, main: resting });
  try {
    await fillMixed(postfix, { messages: messages.mixed });
    if (messages.deferred > 0) await fillDeferred(postfix, messages.deferred);
    await until(() => postfix.files("active").length + postfix.files("incoming").length === 0, {
      what: () => `a queue at rest, now ${JSON.stringify(postfix.counts())}`,
    });
    return { postfix, fingerprints: fingerprints(postfix.queueDirectory) };
  } catch (error) {
    postfix.destroy();
    throw error;
  }
}

describe.skipIf(!needs("root", "postfix", "flock"))("init, backup, backup, verify, restore", () => {
  const scratch = makeScratch();
  let sink: Sink | undefined;
  const queues: Record<"large" | "small", Queue | undefined> = { large: undefined, small: undefined };
  beforeAll(async () => {
    sink = await mixedSink({ slowMs: 3000 });
    queues.small = await makeQueue(sink, { mixed: 40, deferred: 0 });
    queues.large = await makeQueue(sink, { mixed: 40, deferred: 1460 });
  });
  afterAll(async () => {
    for (const queue of Object.values(queues)) queue?.postfix.destroy();
    await sink?.close();
    destroyScratch(scratch);
  });

  test.each(variants.filter(({ needed }) => needs(...needed)))(
    "against $name",
    async ({ name, store, postQuantum, queue }) => {
      const source = queues[queue];
      if (source === undefined) throw new Error("the queue was not filled");
      const directory = join(scratch, name.replace(/\W+/g, "-"));
      const identity = `${directory}.identity`;
      const { url, env } = await place(store, directory);
      const config = ["--config", join(directory, "spoolsafe.toml")];
      const primary: CliOptions = { env: { ...env, MAIL_CONFIG: source.postfix.configDirectory } };
      const summary = async (args: readonly string[], options = primary) => {
        const { code, json, stderr } = await spoolsafe([...args, "--json", ...config], {
          ...options,
          timeoutMs: 170_000,
        });
        expect({ code, stderr, last: json.at(-1) }).toMatchObject({ code: 0, last: { type: "summary" } });
        return json.at(-1) ?? {};
      };

      const made = await summary([
        "init",
        "--repository",
        url,
        "--identity-out",
        identity,
        ...(postQuantum ? ["--post-quantum"] : []),
      ]);
      expect(made.recipients).toEqual([expect.stringMatching(postQuantum ? /^age1pq1/ : /^age1(?!pq)/)]);
      const total = source.fingerprints.length;
      const first = await summary(["backup"]);
      expect(first).toMatchObject({
        mode: "hold",
        messages: { total, inFlight: 0 },
        newMessages: total,
        reusedMessages: 0,
      });
      const second = await summary(["backup"]);
      expect(second).toMatchObject({ messages: { total }, newMessages: 0, reusedMessages: total });
      // A handful of messages is no more than the record and the configuration's lines.
      if (queue === "large") expect(second.storedBytes as number).toBeLessThan(0.02 * (first.storedBytes as number));
      expect(differences(source.fingerprints, fingerprints(source.postfix.queueDirectory))).toEqual([]);

      const identified = ["--identity-file", identity];
      const standby = { env };
      const verified = await summary(["verify", "latest", "--level", "deep", ...identified], standby);
      expect(verified).toMatchObject({ level: "deep", snapshots: 1, messages: total, damaged: [] });
      await using target = await PrivatePostfix.create();
      const restored = await summary(["restore", "latest", "--into", target.configDirectory, ...identified], standby);
      expect(restored).toMatchObject({ restored: total, skipped: 0, inDoubtOnHold: 0 });
      expect(restored.warnings).toEqual([
        expect.stringMatching(/^\d+ messages will be returned to the sender if the first attempt fails/),
      ]);
      expect(differences(source.fingerprints, fingerprints(target.queueDirectory))).toEqual([]);
      expect(await target.postsuper(["-s"])).toBe("");
    },
  );
});

/** Where the repository goes: its URL, and what the environment must say to reach it. */
async function place(store: "directory" | "ceph", directory: string) {
  mkdirSync(directory);
  if (store === "directory") return { url: `file://${join(directory, "repository")}`, env: {} };
  const server = await sharedCeph();
  const credentials = join(directory, "s3.credentials");
  writeCredentials(credentials, server);
  const env = { AWS_ENDPOINT_URL: server.endpoint, AWS_SHARED_CREDENTIALS_FILE: credentials };
  return { url: `s3://${await newBucket(server)}/mx1`, env };
}
