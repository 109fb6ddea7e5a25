import { chmodSync, chownSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { spoolsafe } from "../support/cli.ts";
import { HandMade, queueFiles } from "../support/hand-made.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";

/*
 * The whole way through the built command, with a snapshot made by hand: what the interface page promises of `restore` and
 * `verify` in JSON, and what an ordinary user gets.
 */
describe.skipIf(!needs("root", "postfix"))("the built command", () => {
  let made: HandMade;
  let target: PrivatePostfix;
  let config = "";
  beforeAll(async () => {
    made = await HandMade.make();
    const stranger = { user: "nobody-here", group: "postdrop", uid: 4711, gid: 1 };
    const message = (name: string, over = {}) => ({ bytes: queueFiles.get(name) ?? Buffer.of(), over });
    await made.take({
      messages: [
        message("plain"),
        message("partly-done", { inFlight: true, queue: "active" }),
        message("dsn", { queue: "hold", role: { kind: "admin" } }),
        message("maildrop-t", { queue: "maildrop", mode: 0o744, owner: stranger }),
      ],
      files: [{ bytes: Buffer.from("secret"), over: { area: "named", path: "/etc/postfix-sasl", mode: 0o600 } }],
    });
    target = await PrivatePostfix.create({
      main: { maximal_queue_lifetime: "10000d", bounce_queue_lifetime: "10000d" },
    });
    config = join(made.directory, "spoolsafe.toml");
    writeFileSync(
      config,
      [
        'host = "mx1.test"',
        `state_directory = "${join(made.directory, "state")}"`,
        "[repository]",
        `url = "file://${join(made.directory, "repository")}"`,
        "[encryption]",
        `identity_file = "${join(made.directory, "identity.txt")}"`,
        "[signing]",
        `key_file = "${join(made.directory, "signing.key")}"`,
        `trusted_keys_file = "${join(made.directory, "trusted.pub")}"`,
      ].join("\n"),
    );
  });
  afterAll(async () => {
    target?.destroy();
    await made?.[Symbol.asyncDispose]();
  });

  const run = (...args: string[]) => spoolsafe([...args, "--json", "--config", config]);

  test("prints a plan and touches nothing", async () => {
    const { code, json } = await run("restore", "latest", "--into", target.configDirectory, "--dry-run");
    expect(code).toBe(0);
    expect(json.slice(0, -1).filter(({ type }) => type !== "forecast")).toMatchObject([
      { type: "planned", queueId: "7E48C16210F", from: "deferred", to: "deferred", role: null, inDoubt: null },
      { type: "planned", queueId: "7E48C162110", from: "active", to: "hold", role: "restore", retryTime: null },
      { type: "planned", queueId: "7E48C162111", from: "hold", to: "hold", role: "admin" },
      { type: "skipped", queueId: "7E48C162112" },
    ]);
    expect(json.at(-1)).toMatchObject({ type: "summary", dryRun: true, planned: 3, skipped: 1 });
    expect(Object.values(target.counts()).every((count) => count === 0)).toBe(true);
  });

  test("restores into an instance, says what is in doubt and what got which name, and exits with 3 for what it could not place", async () => {
    const { code, json } = await run("restore", "latest", "--into", target.configDirectory);
    expect(code).toBe(3);
    const summary = json.at(-1);
    expect(summary).toMatchObject({
      type: "summary",
      run: expect.stringMatching(/^\d{8}T\d{6}-/),
      restored: 3,
      skipped: 1,
      stillQueued: 0,
      alreadyDelivered: 0,
      deleted: 0,
      inDoubtOnHold: 1,
      inDoubt: expect.arrayContaining([
        {
          ...{ queueId: "7E48C162110", recipient: "second@dest.test", held: true },
          reason: "it was being delivered while it was read",
        },
      ]),
      notPlaced: [{ queueId: "7E48C162112", problem: expect.stringContaining("nobody-here") }],
      unproven: [],
    });
    const renamed = summary?.renamed as { from: string; to: string }[];
    expect(renamed.map(({ to }) => target.find(to)?.replace(target.queueDirectory, ""))).toEqual([
      expect.stringMatching(/^\/deferred\//),
      expect.stringMatching(/^\/hold\//),
      expect.stringMatching(/^\/hold\//),
    ]);
  });

  test("refuses to do it again, now that there is mail, and says which", async () => {
    const { code, json } = await run("restore", "latest", "--into", target.configDirectory);
    expect(code).toBe(1);
    expect(json.at(-1)).toMatchObject({
      type: "error",
      kind: "refused",
      message: expect.stringContaining("1 in deferred, 2 in hold"),
    });
  });

  test("restores as files for root, with owners and modes", async () => {
    const to = join(made.directory, "as-root");
    const { code, json } = await run("restore", "latest", "--to", to);
    expect(code).toBe(0);
    expect(json.at(-1)).toMatchObject({
      ...{ type: "summary", run: null, directory: to, restored: 4, skipped: 0, inDoubt: [], renamed: [], files: 1 },
      warnings: [expect.stringContaining("nobody-here")],
    });
    expect(statSync(join(to, "mx/queue/maildrop/7E48C162112"))).toMatchObject({ uid: 4711, mode: 0o100744 });
    expect(statSync(join(to, "mx/files/etc/postfix-sasl")).mode & 0o777).toBe(0o600);
  });

  test("restores as files for an ordinary user: all theirs, closed to others, and said so", async () => {
    const uid = Number((await target.run("id", ["-u", "games"])).stdout);
    const home = join(target.directory, "home");
    await target.run("cp", ["-r", made.directory, home]);
    await target.run("chown", ["-R", "games", home]);
    chmodSync(home, 0o700);
    const own = readFileSync(config, "utf8").replaceAll(made.directory, home);
    writeFileSync(join(home, "spoolsafe.toml"), own);
    chownSync(join(home, "spoolsafe.toml"), uid, -1);
    const to = join(home, "mail");
    const { code, json } = await spoolsafe(
      ["restore", "latest", "--to", to, "--json", "--config", join(home, "spoolsafe.toml")],
      { under: ["setpriv", "--reuid=games", "--clear-groups", "--"], cwd: "/" },
    );
    expect({ code, last: json.at(-1) }).toMatchObject({
      code: 0,
      last: { restored: 4, warnings: [expect.stringContaining("not run as root")] },
    });
    for (const name of readdirSync(to, { recursive: true, encoding: "utf8" })) {
      const stat = statSync(join(to, name));
      expect({ name, uid: stat.uid, others: stat.mode & 0o077 }).toEqual({ name, uid, others: 0 });
    }
  });

  test("needs to be root to restore into an instance", async () => {
    const { code, json } = await spoolsafe(["restore", "latest", "--into", target.configDirectory, "--json"], {
      under: ["setpriv", "--reuid=games", "--clear-groups", "--"],
      cwd: "/",
    });
    expect(code).toBe(1);
    expect(json.at(-1)).toMatchObject({ kind: "refused", hints: expect.arrayContaining(["run it as root"]) });
  });

  test("asks where to", async () => {
    const { code, json } = await run("restore", "latest");
    expect(code).toBe(2);
    expect(json.at(-1)).toMatchObject({ kind: "usage" });
  });

  test.each(["sealed", "deep"])("verifies %s", async (level) => {
    const { code, json } = await run("verify", "--level", level);
    expect(code).toBe(0);
    expect(json.at(-1)).toMatchObject({ type: "summary", level, snapshots: 1, packs: 1, messages: 4, damaged: [] });
  });

  test("verifies deeply without being told where there is an identity, and finds what is damaged with exit 13", async () => {
    const packs = join(made.directory, "repository", "packs");
    const [path = ""] = readdirSync(packs, { recursive: true, encoding: "utf8" }).filter((name) => name.length > 60);
    const bytes = readFileSync(join(packs, path));
    try {
      writeFileSync(join(packs, path), bytes.subarray(1));
      const { code, json } = await run("verify", "--all");
      expect(code).toBe(13);
      const { level, damaged } = json.at(-1) as { level: string; damaged: { message: string | null }[] };
      expect(level).toBe("deep");
      expect(new Set(damaged.map(({ message }) => message))).toEqual(
        new Set([null, "7E48C16210F", "7E48C162110", "7E48C162111", "7E48C162112"]),
      );
    } finally {
      writeFileSync(join(packs, path), bytes);
    }
    expect(existsSync(join(packs, path))).toBe(true);
  });
});
