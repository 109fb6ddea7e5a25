import { spawn } from "node:child_process";
import { basename } from "node:path";
import { describe, expect, test } from "vitest";
import { fillDeferred } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { Site } from "../support/site.ts";

/** Renames random messages between incoming, active and deferred, in both directions, as fast as it can until it is killed. */
const mover = `
const fs = require("node:fs");
const [queueDirectory, ...ids] = process.argv.slice(1);
const places = new Map(ids.map((id) => [id, "deferred/" + id[0]]));
const queues = (id) => ["incoming", "active", "deferred/" + id[0]];
process.stdout.write("moving\\n");
for (;;) {
  const id = ids[Math.floor(Math.random() * ids.length)];
  const to = queues(id)[Math.floor(Math.random() * 3)];
  if (to === places.get(id)) continue;
  fs.renameSync(queueDirectory + "/" + places.get(id) + "/" + id, queueDirectory + "/" + to + "/" + id);
  places.set(id, to);
}`;

describe.skipIf(!needs("root", "postfix"))("the walk over the queues", () => {
  test("captures each message once while messages move between queues in both directions", async () => {
    await using site = await Site.make();
    await using postfix = await PrivatePostfix.create();
    await fillDeferred(postfix, 1000);
    const ids = postfix.files("deferred").map((path) => basename(path));
    const moving = spawn(process.execPath, ["-e", mover, postfix.queueDirectory, ...ids], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    try {
      await new Promise((resolve) => moving.stdout.once("data", resolve));
      for (let round = 0; round < 3; round++) {
        const report = await site.backup(postfix);
        expect(report.problems).toEqual([]);
        expect(report.snapshot.messages).toMatchObject({
          total: 1000,
          vanished: 0,
          finishedDuringRun: 0,
          incomplete: 0,
        });
        const captured = (await site.manifest(report)).messages.map((message) => message.queueId);
        expect([...captured].sort()).toEqual([...ids].sort());
      }
    } finally {
      moving.kill("SIGKILL");
    }
  });
});
