import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { backup } from "../../src/backup/backup.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";
import { drill } from "./drilling.ts";
import { Trap } from "./trap.ts";

describe.skipIf(!needs("root", "postfix", "flock", "mount-namespace"))("a snapshot of two instances", () => {
  // A short path: Postfix connects to sockets below it.
  const scratch = makeScratch({ parent: "/var/tmp" });
  afterAll(() => destroyScratch(scratch));

  test("is drilled whole: both queues, and the maps of both, of which one was not saved", async () => {
    await using trap = await Trap.open();
    await using site = await Site.make();
    await using well = await PrivatePostfix.create({ name: "well" });
    await using unwell = await PrivatePostfix.create({ name: "unwell" });
    // Links lead to files of this host, which are to be those of the snapshot.
    const linked = join(scratch, "linked");
    mkdirSync(linked);
    for (const name of ["relocated", "canonical"]) symlinkSync(join(linked, name), join(well.configDirectory, name));
    for (const [name, text] of [
      ["relocated", "gone@here.test elsewhere.test\n"],
      ["canonical", "/^never$/ never\n"],
      ["memcache.cf", `memcache = inet:127.0.0.1:${trap.port}\n`],
    ]) {
      writeFileSync(join(well.configDirectory, name ?? ""), text ?? "");
    }
    execFileSync("postmap", ["-c", well.configDirectory, `hash:${well.configDirectory}/relocated`]);
    const table = (type: string, name: string) => `${type}:${well.configDirectory}/${name}`;
    await well.setParameter("relocated_maps", table("hash", "relocated"));
    await well.setParameter(
      "canonical_maps",
      `${table("regexp", "canonical")}, ${table("memcache", "memcache.cf")}, tcp:127.0.0.1:${trap.port}`,
    );
    // As Debian's /etc/mailname: on the primary, and not where it is drilled.
    const mailname = join(scratch, "mailname");
    writeFileSync(mailname, "well.test\n");
    await well.setParameter("myorigin", mailname);
    await unwell.setParameter("transport_maps", `hash:${unwell.configDirectory}/nowhere`);
    for (const [at, postfix] of [well, unwell, unwell].entries()) {
      await postfix.sendmail(plainLetter({ recipients: [`someone${at}@far.test`, "other@far.test"] }));
    }
    await backup(await site.request([well, unwell]));
    rmSync(mailname);
    rmSync(linked, { recursive: true });

    const facts = await drill(site, { workDirectory: scratch });
    expect(facts.failure).toBeNull();
    expect(facts.snapshot?.instances).toEqual(["well", "unwell"]);
    expect(facts.messages).toMatchObject({ manifest: 3, restored: 3, identical: 3, maildrop: 3 });
    expect(facts.delivered).toMatchObject({ messages: 3, recipients: 6, identical: 3, deviating: [] });
    expect(facts.checks.find(({ name }) => name === "well: every map answers")).toEqual({
      name: "well: every map answers",
      ok: true,
      detail: "2 of 2 answered, 1 not asked, as they are kept by a server or database elsewhere",
    });
    expect(facts.ok).toBe(false);
    expect(facts.deviations).toEqual([
      `unwell: every map answers: 0 of 1 answered; hash:${unwell.configDirectory}/nowhere is not in the snapshot`,
    ]);
    expect(facts.isolation.outsideConnections).toBe(0);
    expect(trap.visitors).toBe(0);

    const one = await drill(site, { workDirectory: scratch, instance: "well", deliver: false });
    expect(one).toMatchObject({ ok: true, messages: { manifest: 1, identical: 1 }, delivered: null });
  });
});
