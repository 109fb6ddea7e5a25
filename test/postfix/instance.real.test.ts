import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { discoverInstances, loadInstance } from "../../src/postfix/instance.ts";
import { needs } from "../support/needs.ts";
import { groupId, PrivatePostfix, userId } from "../support/postfix.ts";

describe.skipIf(!needs("root", "postfix"))("instances as postconf tells them", () => {
  let plain: PrivatePostfix;
  let special: PrivatePostfix;

  beforeAll(async () => {
    plain = await PrivatePostfix.create();
    special = await PrivatePostfix.create({
      name: "postfix-out",
      longIds: true,
      hashQueueNames: "deferred defer, hold",
      hashQueueDepth: 2,
      main: { maximal_queue_lifetime: "$bounce_queue_lifetime", bounce_queue_lifetime: "36h" },
    });
  });
  afterAll(() => {
    plain?.destroy();
    special?.destroy();
  });

  test("a stock one", async () => {
    expect(await loadInstance(plain.configDirectory)).toEqual({
      name: plain.configDirectory.slice(1).replaceAll("/", "_"),
      configDirectory: plain.configDirectory,
      queueDirectory: plain.queueDirectory,
      dataDirectory: plain.dataDirectory,
      mailOwner: "postfix",
      ownerUid: userId("postfix"),
      ownerGid: groupId("postfix"),
      setgidGroup: "postdrop",
      version: expect.stringMatching(/^3\.\d+/),
      longIds: false,
      hashQueues: ["deferred", "defer"],
      hashDepth: 1,
      host: "mx.queue.test",
      maximalQueueLifetimeS: 432_000,
      bounceQueueLifetimeS: 432_000,
    });
  });

  test("one with a name, other hashing and parameters that refer to others", async () => {
    expect(await loadInstance(`${special.configDirectory}/`)).toMatchObject({
      name: "postfix-out",
      configDirectory: special.configDirectory,
      longIds: true,
      hashQueues: ["deferred", "defer", "hold"],
      hashDepth: 2,
      maximalQueueLifetimeS: 129_600,
      bounceQueueLifetimeS: 129_600,
    });
  });

  test.each([
    ["5", 432_000],
    ["90m", 5400],
    ["2w", 1_209_600],
    ["30s", 30],
    ["0", 0],
  ])("a lifetime of %s is %i s", async (value, seconds) => {
    await plain.setParameter("maximal_queue_lifetime", value);
    expect((await loadInstance(plain.configDirectory)).maximalQueueLifetimeS).toBe(seconds);
  });

  test("one whose queue directory is not written as plainly as it could be", async () => {
    const elsewhere = join(plain.directory, "elsewhere");
    mkdirSync(join(plain.directory, "deeper/spool"), { recursive: true });
    mkdirSync(join(plain.directory, "deeper/etc"));
    symlinkSync(join(plain.directory, "deeper/etc"), elsewhere);
    for (const [written, meant] of [
      [`${plain.directory}//spool/`, plain.queueDirectory],
      ["$config_directory/../spool", plain.queueDirectory],
      [`${elsewhere}/../spool`, join(plain.directory, "deeper/spool")],
    ] as const) {
      await plain.setParameter("queue_directory", written);
      expect((await loadInstance(plain.configDirectory)).queueDirectory).toBe(meant);
    }
    await plain.setParameter("queue_directory", plain.queueDirectory);
  });

  test("several, in the order given; two of one name are an error that names both", async () => {
    const found = await discoverInstances([special.configDirectory, plain.configDirectory]);
    expect(found.map(({ configDirectory }) => configDirectory)).toEqual([
      special.configDirectory,
      plain.configDirectory,
    ]);
    await expect(discoverInstances([special.configDirectory, special.configDirectory])).rejects.toMatchObject({
      kind: "config",
      message: expect.stringContaining("two Postfix instances are called postfix-out"),
    });
  });

  test("no configuration there", async () => {
    const empty = join(plain.directory, "empty");
    mkdirSync(empty);
    await expect(loadInstance(empty)).rejects.toMatchObject({
      kind: "config",
      message: `postconf can't read the Postfix configuration in ${empty}`,
    });
  });

  test("a mail_owner who is nobody here", async () => {
    await special.setParameter("mail_owner", "nobody-at-all");
    await expect(loadInstance(special.configDirectory)).rejects.toMatchObject({
      kind: "config",
      message: `mail_owner "nobody-at-all" of ${special.configDirectory} is no user of this host`,
    });
  });
});
