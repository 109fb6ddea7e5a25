import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readJob } from "../../src/jobs/record.ts";
import { packKey } from "../../src/repository/layout.ts";
import { age } from "../prune/aged.ts";
import { spoolsafe } from "../support/cli.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";

/** A standby: none of the hosts that share the repository, with an identity to open what they store. */
let made: HandMade;
let config: string;
/** Of mx1.test, mx2.test and mx3.test, the older one first. */
const ids: string[][] = [[], [], []];
let newestPack: string;

beforeAll(async () => {
  made = await HandMade.make();
  const path = (name: string) => join(made.directory, name);
  const files = [...queueFiles.values()];
  for (const day of [1, 2])
    for (const [index, own] of ids.entries()) {
      const bytes = files[day * 3 + index] ?? Buffer.alloc(0);
      const time = `2026-01-0${day}T02:00:00.000Z`;
      const over = { host: `mx${index + 1}.test`, time, finished: time };
      const { signed } = await made.take({ messages: [{ bytes }], over });
      own.push(signed.id);
      newestPack = signed.snapshot.packs[0]?.id ?? "";
    }
  config = path("spoolsafe.toml");
  writeFileSync(
    config,
    [
      'host = "standby.test"',
      `state_directory = "${path("state")}"`,
      `repository.url = "file://${path("repository")}"`,
      `encryption.identity_file = "${path("identity.txt")}"`,
      `signing = { key_file = "${path("signing.key")}", trusted_keys_file = "${path("trusted.pub")}" }`,
      `postfix.config_directories = ["${path("no-postfix")}"]`,
      "retention = { keep_last = 1, keep_hourly = 0, keep_daily = 0, keep_weekly = 0, keep_monthly = 0 }",
      "",
    ].join("\n"),
  );
});
afterAll(async () => await made?.[Symbol.asyncDispose]());

const run = (...args: string[]) => spoolsafe([...args, "--config", config]);
const summary = async (...args: string[]) => {
  const { code, json } = await run(...args, "--json");
  return { code, ...json.at(-1) };
};
const verified = () => readJob(join(made.directory, "state"), "verify");

describe("of several hosts in one repository, of which this is none", () => {
  test("verify without a snapshot opens the newest of each", async () => {
    expect(await summary("verify")).toMatchObject({ code: 0, level: "deep", snapshots: 3, messages: 3, damaged: [] });
    expect(verified()).toMatchObject({ lastExit: 0, detail: { level: "deep", snapshot: null, snapshots: 3 } });
    expect(await summary("verify", "--level", "sealed")).toMatchObject({ code: 0, level: "sealed", snapshots: 3 });
    expect(await summary("verify", "--host", "mx2.test")).toMatchObject({ code: 0, snapshots: 1 });
    expect(verified().detail).toMatchObject({ snapshot: ids[1]?.[1] });
    expect(await summary("verify", "latest")).toMatchObject({
      code: 2,
      hints: ["say which with --host: mx1.test, mx2.test, mx3.test"],
    });
  });

  test("verify --all is of every host, or of the one that is named", async () => {
    expect(await summary("verify", "--all")).toMatchObject({ code: 0, snapshots: 6 });
    expect(await summary("verify", "--all", "--host", "mx2.test")).toMatchObject({ code: 0, snapshots: 2 });
    expect((await run("verify", "--all", "--host", "mx9.test")).code).toBe(1);
  });

  test("verify finds what is wrong with any of them", async () => {
    const path = made.path(packKey(newestPack));
    const bytes = readFileSync(path);
    writeFileSync(path, Buffer.concat([bytes.subarray(1), Buffer.from("x")]));
    const found = await summary("verify");
    expect(found).toMatchObject({ code: 13, snapshots: 3 });
    expect(JSON.stringify(found)).toContain(ids[2]?.[1]);
    writeFileSync(path, bytes);
  });

  test("snapshots and status tell of each, and prune keeps each one's own", async () => {
    expect(await summary("snapshots")).toMatchObject({ code: 0, count: 6 });
    expect(await summary("snapshots", "--host", "mx3.test")).toMatchObject({ code: 0, count: 2 });
    const status = JSON.stringify(await summary("status", "--remote", "--all-hosts"));
    for (const host of ["mx1.test", "mx2.test", "mx3.test"]) expect(status).toContain(`"host":"${host}"`);
    age(join(made.directory, "repository"));
    expect(await summary("prune", "--host", "mx1.test")).toMatchObject({ code: 0, removed: { snapshots: 1 }, kept: 5 });
    expect(await summary("prune")).toMatchObject({ code: 0, removed: { snapshots: 2 }, kept: 3 });
    expect(await summary("verify", "--all")).toMatchObject({ code: 0, snapshots: 3, damaged: [] });
  });
});
