import { describe, expect, test } from "vitest";
import { differences, fingerprints } from "../support/compare.ts";
import { fillMixed, mixedSink } from "../support/mail.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { Site } from "../support/site.ts";
import { restore } from "./into.ts";

describe.skipIf(!needs("root", "postfix", "mount"))("a restore into a stopped, empty instance", () => {
  test("on another file system", async () => {
    await using site = await Site.make();
    await using sink = await mixedSink({ slowMs: 3000 });
    await using source = await PrivatePostfix.start({ sink });
    await fillMixed(source, { messages: 60 });
    await source.abort();
    const taken = await site.backup(source);
    await using target = await PrivatePostfix.create({ sink, tmpfs: "256m" });
    const report = await restore(site, taken, target);
    console.log({ ...report, renamed: report.renamed.length }, source.counts(), target.counts());
    console.log(differences(fingerprints(source.queueDirectory), fingerprints(target.queueDirectory)));
    expect(report.unproven).toEqual([]);
  });
});
