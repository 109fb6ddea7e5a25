import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { messageRecords, queueFile } from "../postfix/records.ts";
import { age, filesBelow } from "../prune/aged.ts";
import { spoolsafe } from "../support/cli.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { makeStoredSite, type StoredSite } from "../support/stored.ts";

let directory: string;
let site: StoredSite;
let config: string;
const ids: string[] = [];
const times = ["2026-01-05T02:00Z", "2026-01-06T02:00Z", "2026-01-06T22:30Z", "2026-01-07T02:00Z", "2026-01-08T02:00Z"];

beforeAll(async () => {
  directory = makeScratch();
  site = await makeStoredSite(directory);
  for (const [index, time] of times.entries()) {
    const bytes = queueFile(messageRecords({ text: `message ${index}` }));
    const iso = new Date(time).toISOString();
    ids.push(await site.snapshot([{ bytes, entry: { queueId: "7E48C16210F" } }], { time: iso, finished: iso }));
  }
  config = readFileSync(site.config, "utf8");
});
afterAll(() => destroyScratch(directory));

const run = (...args: string[]) => spoolsafe(["prune", ...args, "--config", site.config]);
const records = () => filesBelow(join(directory, "repository/snapshots")).length;
const keepOnly = (over: Readonly<Record<string, number>>, more = "") => {
  const keep = { keep_last: 0, keep_hourly: 0, keep_daily: 0, keep_weekly: 0, keep_monthly: 0, ...over };
  const lines = Object.entries(keep).map(([key, value]) => `${key} = ${value}\n`);
  writeFileSync(site.config, `${config}[retention]\n${lines.join("")}${more}`);
};

describe("prune", () => {
  test("--dry-run shows why each snapshot stays or goes, and changes nothing", async () => {
    keepOnly({ keep_daily: 3 });
    const { code, json } = await run("--dry-run", "--json");
    expect(code).toBe(0);
    // All were written just now, so none may go yet, whatever the rules say.
    expect(json.filter(({ type }) => type === "snapshot").map(({ id, keep }) => [id, keep])).toEqual(
      ids.toReversed().map((id) => [id, true]),
    );
    expect(json[0]?.reasons).toContainEqual({ kind: "daily", slot: "2026-01-08" });
    expect(json[0]?.reasons).toContainEqual({ kind: "newest" });
    expect(json.at(-1)).toMatchObject({ type: "summary", kept: 5, goes: 0, dryRun: true });
    const text = await run("--dry-run");
    expect(text.stdout).toContain("younger than the longest run");
    expect(text.stderr).toContain("nothing was changed");
    expect(records()).toBe(5);
    expect(readdirSync(join(directory, "repository"))).not.toContain("removals");
  });

  test("with every value 0 is a configuration error that names the section", async () => {
    keepOnly({});
    const { code, stderr } = await run();
    expect(code).toBe(2);
    expect(stderr).toContain("every value is 0: nothing would be kept");
  });

  test("removes what no rule keeps, spares what a drill proved, and leaves a record of the job", async () => {
    age(join(directory, "repository"));
    mkdirSync(join(directory, "state/jobs"), { recursive: true });
    const never = { lastStart: null, lastEnd: null, lastExit: null, lastLocked: null, running: null, scheduled: null };
    const drill = { job: "drill", ...never, lastSuccess: "2026-01-07T05:00:00.000Z", detail: { snapshot: ids[1] } };
    writeFileSync(join(directory, "state/jobs/drill.json"), JSON.stringify(drill));
    keepOnly({ keep_last: 1, keep_weekly: 1 }, '[schedule]\ntimezone = "Asia/Tokyo"\n');
    const { code, json } = await run("--json");
    expect(code).toBe(0);
    expect(json.filter(({ keep }) => keep === false).map(({ id }) => id)).toEqual([ids[3], ids[2], ids[0]]);
    expect(json.at(-1)).toMatchObject({ kept: 2, removed: { snapshots: 3, packs: 0 }, retained: 0, dryRun: false });
    expect(records()).toBe(2);
    const { code: whole, stdout } = await spoolsafe(["verify", "--all", "--level", "sealed", "--config", site.config]);
    expect([whole, stdout]).toEqual([0, expect.stringContaining("nothing wrong")]);
    const job = JSON.parse(readFileSync(join(directory, "state/jobs/prune.json"), "utf8"));
    expect(job).toMatchObject({ lastExit: 0, detail: { removed: 3, retained: 0 } });

    const again = await run();
    expect(again.code).toBe(0);
    expect(again.stdout).toMatch(
      /^removed 0 snapshots, 0 packs and 0 parts \(0 B\); 2 snapshots stay\nnothing needs \d+ \(.*\) more/,
    );
  });
});
