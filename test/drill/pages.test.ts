import { createPrivateKey } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fromMarkdown } from "mdast-util-from-markdown";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadSigningKey, type SigningKey } from "../../src/crypto/sign.ts";
import { embeddedIn } from "../../src/drill/evidence.ts";
import { renderHtml } from "../../src/drill/html.ts";
import { renderMarkdown } from "../../src/drill/markdown.ts";
import { markup } from "../../src/drill/markup.ts";
import { ageLabels } from "../../src/drill/pictures.ts";
import { drawing, signReport } from "../../src/drill/report.ts";
import { renderText } from "../../src/drill/text.ts";
import { briefly, duration, missedTarget } from "../../src/drill/words.ts";
import type { DrillFacts } from "../../src/snapshot/drill.ts";
import type { SignedDrill } from "../../src/snapshot/record.ts";
import { digestOf } from "../../src/system/digest.ts";
import { newSigningKey } from "../support/claims.ts";
import { factsOf, onDay } from "../support/drills.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

let directory: string;
let key: SigningKey;
beforeAll(() => {
  directory = makeScratch();
  key = newSigningKey(directory, "standby");
});
afterAll(() => destroyScratch(directory));

const repository = "00112233445566778899aabbccddeeff";

function signed(over: Partial<DrillFacts> = {}): SignedDrill {
  const before = [1, 2, 3].map((day) => {
    const facts = factsOf({ started: onDay(day), rtoSeconds: 30 * day, ok: day !== 2 });
    return signReport(facts, { repository, number: day, previous: null }, [], key).signed.drill;
  });
  return signReport(factsOf(over), { repository, number: 4, previous: null }, before, key).signed;
}

/** Every text a record may hold, replaced. */
function hostile(text: string): SignedDrill {
  const check = { name: text, ok: false, detail: text };
  return signed({
    host: text,
    user: text,
    sudoUser: text,
    where: { hostname: text, system: text, postfix: text, spoolsafe: text, node: text },
    store: { url: text, objectLockDays: null },
    snapshot: { ...snapshot(), host: text, instances: [text, text] },
    scenario: { name: "missing-pack", expected: text, happened: text, ok: false },
    isolation: { proofs: [check], outsideConnections: null },
    queues: { ageLimits: [300], rows: [{ queue: text, counts: [1, 2] }] },
    delivered: {
      ...{ messages: 1, recipients: 1, identical: 1, promised: { messages: 1, recipients: 1 }, kept: 0 },
      ...{ expired: [text], deviating: [{ queueId: text, detail: text }] },
    },
    checks: [check],
    deviations: [text],
    failure: { kind: text, message: text, hints: [text] },
    ok: false,
  });
}

function snapshot() {
  const { snapshot } = factsOf();
  if (snapshot === null) throw new Error("the facts have a snapshot");
  return snapshot;
}

const nasty = `"'><script>alert(1)</script><img src=x onerror=y> & </title></style> \u202e\u0007 \n# head\n| a | b |\n* x <!--`;

describe("the page", () => {
  test("says what the record says", () => {
    const page = renderHtml(signed());
    for (const said of [
      "PASSED",
      "mx1.example.org",
      "The mail would have been saved",
      "target 30 min: met",
      "1000 of 1000",
    ]) {
      expect(page).toContain(said);
    }
    expect(page).toContain("1000 restored = 993 listed by postqueue + 7 in maildrop");
    expect(page).toContain("1002 in the manifest = 1000 restored + 2 with nobody left to serve");
    expect(page).toContain("1000 promised to somebody = 1000 delivered into the sink");
    expect(page).toContain("Operator");
  });

  test("is the same for the same record, and another for another", () => {
    const one = signed();
    expect(renderHtml(one)).toBe(renderHtml(one));
    expect(renderHtml(signed({ started: onDay(9) }))).not.toBe(renderHtml(one));
  });

  test("has the record in it", () => {
    const one = signed();
    expect(embeddedIn(renderHtml(one))?.subarray(0, one.line.length)).toEqual(one.line);
  });

  test("needs nothing from anywhere, and forbids itself to", () => {
    const page = renderHtml(signed());
    expect(page).toContain(`content="default-src 'none'; style-src 'unsafe-inline'"`);
    expect(page).not.toMatch(/<script|<link|<img|<iframe|\bsrc=|\bhref=|url\(|@import|https?:/);
  });

  test("shows hostile texts as text: tags and attributes are those of an honest page", () => {
    const tags = (page: string) => new Set(page.match(/<[a-z!/][^\s>]*/gi));
    const names = (page: string) => new Set([...page.matchAll(/[\s"]([a-z-]+)="/g)].map(([, name]) => name));
    const page = renderHtml(hostile(nasty)).replace(/^BEGIN RECORD[\s\S]*^END RECORD/m, "");
    const honest = renderHtml(hostile("x"));
    expect([...tags(page)].filter((tag) => !tags(honest).has(tag))).toEqual([]);
    expect([...names(page)].filter((name) => !names(honest).has(name))).toEqual([]);
    expect(page.length).toBeGreaterThan(honest.length / 2);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(page).not.toMatch(/[\u202e\x07]/);
    expect(page).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
  });

  test("is drawn for a drill that got nowhere", () => {
    const nothing = {
      finished: 0,
      manifest: 0,
      restored: 0,
      readable: 0,
      identical: 0,
      inQueue: 0,
      heldByAdmin: 0,
      maildrop: 0,
      inDoubt: 0,
    };
    const one = signed({
      ...{ snapshot: null, ready: null, phases: [], rpoSeconds: null, rtoSeconds: null, messages: nothing },
      ...{ queues: { ageLimits: [], rows: [] }, delivered: null, checks: [], ok: false },
      isolation: { proofs: [], outsideConnections: null },
      targets: { rpo: null, rto: { seconds: 1800, met: false } },
      failure: { kind: "damaged", message: "packs/ab/… is missing", hints: ["run spoolsafe verify --all"] },
    });
    for (const page of [renderHtml(one), renderMarkdown(one), renderText(one)]) {
      expect(page).toContain("The mail was not recovered");
      expect(page).not.toMatch(/NaN|undefined|Infinity/);
    }
  });
});

describe("the Markdown", () => {
  test("shows hostile texts as text: its structure is that of an honest one", () => {
    expect(shape(renderMarkdown(hostile(nasty)))).toEqual(shape(renderMarkdown(hostile("x"))));
    expect(shape(renderMarkdown(hostile("1. x")))).toEqual(shape(renderMarkdown(hostile("x"))));
  });

  test("says what the record says", () => {
    const text = renderMarkdown(signed());
    expect(text).toContain("# Recovery drill: mx1.example.org: PASSED");
    expect(text).toContain("| RTO | 41 s | target 30 min: met |");
    expect(text.match(/^\| 2026-11-0[123] /gm)).toHaveLength(3);
  });
});

/** Kinds of nodes, without texts. Runs of text and of escapes count as one. */
function shape(markdown: string): unknown {
  const of = (node: { readonly type: string; readonly children?: readonly never[] }): unknown => [
    node.type,
    ...(node.children ?? []).map(of),
  ];
  return of(fromMarkdown(markdown) as never);
}

describe("the text for a terminal", () => {
  test("holds nothing that steers it", () => {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(renderText(hostile("\u001b[31m\r\u009b\u202e"))).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]/);
    expect(renderText(signed())).toContain("RTO");
  });
});

test("a record gives the same pages as ever; if this fails, `drawing` has to be raised with the digests", () => {
  const { where } = factsOf();
  const facts = (started: string) => factsOf({ started, where: { ...where, spoolsafe: "0.1.0" } });
  const path = join(directory, "fixed.key");
  const pkcs8 = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), Buffer.alloc(32, 7)]);
  const key = createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
  writeFileSync(path, key.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  const fixed = loadSigningKey(path);
  const place = { repository, number: 2, previous: null };
  const before = [signReport(facts(onDay(1)), { ...place, number: 1 }, [], fixed).signed.drill];
  const { signed: one } = signReport(facts(onDay(2)), place, before, fixed);
  expect(drawing).toBe(1);
  expect(digestOf(Buffer.from(renderHtml(one))).digest.slice(0, 16)).toBe("6d1abc3ad88fb242");
  expect(digestOf(Buffer.from(renderMarkdown(one))).digest.slice(0, 16)).toBe("69ed96b956fd89c7");
});

test("what is inserted into markup is escaped, but for markup", () => {
  const inner = markup`<b>${"<&>"}</b>`;
  expect(markup`<p>${inner}${[inner, inner]}${"\"'"}${null}${3}</p>`.text).toBe(
    "<p><b>&lt;&amp;&gt;</b><b>&lt;&amp;&gt;</b><b>&lt;&amp;&gt;</b>&quot;&#39;3</p>",
  );
});

test.each([
  [null, "not known"],
  [0, "0.0 s"],
  [9.94, "9.9 s"],
  [9.96, "10 s"],
  [59.6, "1 min"],
  [61, "1 min 01 s"],
  [372, "6 min 12 s"],
  [3599.7, "1 h"],
  [3900, "1 h 05 min"],
  [10_800, "3 h"],
  [93_600, "26 h"],
  [200_000, "2 d 7 h"],
  [-5, "-5.0 s"],
])("%s seconds are %s", (seconds, text) => {
  expect(duration(seconds)).toBe(text);
});

test.each([
  [null, "?"],
  [0, "0 s"],
  [41.3, "41 s"],
  [71.9, "1.2 min"],
  [97_300, "27 h"],
  [200_000, "2.3 d"],
])("%s seconds are %s where there is little room", (seconds, text) => {
  expect(briefly(seconds)).toBe(text);
});

test("columns of age have names", () => {
  expect(ageLabels([300, 600, 7200, 172_800])).toEqual([
    "under 5 min",
    "5 min – 10 min",
    "10 min – 2 h",
    "2 h – 2 d",
    "over 2 d",
  ]);
  expect(ageLabels([])).toEqual(["all"]);
});

test("what a drill missed is said in a line, unless something worse is wrong", () => {
  const targets = { rpo: { seconds: 93_600, met: true }, rto: { seconds: 60, met: false } };
  const facts = factsOf({ ok: false, failure: null, deviations: [], targets, rtoSeconds: 75 });
  expect(missedTarget(facts)).toBe("rto 1 min 15 s, the target is 1 min");
  expect(missedTarget({ ...facts, deviations: ["a message is not the same"] })).toBeNull();
  expect(missedTarget({ ...facts, targets: { rpo: null, rto: null } })).toBeNull();
});
