import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { SigningKey } from "../../src/crypto/sign.ts";
import { recordBytes } from "../../src/drill/evidence.ts";
import { renderHtml } from "../../src/drill/html.ts";
import { renderMarkdown } from "../../src/drill/markdown.ts";
import type { SignedDrill } from "../../src/snapshot/record.ts";
import { Chromium } from "../support/chromium.ts";
import { newSigningKey } from "../support/claims.ts";
import { needs } from "../support/needs.ts";
import { chooseSeed } from "../support/random.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { exampleReport } from "./page-example.ts";

let directory: string;
let key: SigningKey;
let signed: SignedDrill;
beforeAll(() => {
  directory = makeScratch();
  key = newSigningKey(directory, "standby");
  signed = exampleReport(key);
  writeFileSync(join(directory, "report.html"), renderHtml(signed));
});
afterAll(() => destroyScratch(directory));

describe.skipIf(!needs("openssl"))("stock openssl, by the commands the report prints", () => {
  /** What stands in the page's blocks of commands, as a reader copies it. */
  function printed(): { readonly unpack: string; readonly verify: string } {
    const blocks = [...readFileSync(join(directory, "report.html"), "utf8").matchAll(/<pre>([^<]*)<\/pre>/g)];
    const [unpack = "", verify = ""] = blocks.map(([, text = ""]) =>
      text
        .replace(/&#39;/g, "'")
        .replace(/&quot;/g, '"')
        .replace(/&gt;/g, ">")
        .replace(/&lt;/g, "<")
        .replace(/&amp;/g, "&"),
    );
    return { unpack, verify };
  }

  const shell = (commands: string) => spawnSync("sh", ["-e", "-c", commands], { cwd: directory, encoding: "utf8" });

  test("takes the record out of the page and finds it signed", () => {
    rmSync(join(directory, "report.json"), { force: true });
    const { unpack, verify } = printed();
    expect(shell(unpack)).toMatchObject({ status: 0, stderr: "" });
    expect(readFileSync(join(directory, "report.json"))).toEqual(recordBytes(signed));
    const { status, stdout } = shell(verify);
    expect(status).toBe(0);
    expect(stdout).toContain("Signature Verified Successfully");
    expect(stdout.split("\n")[0]).toMatch(new RegExp(`^${key.fingerprint}  -$`));
    const sum = shell("sha256sum report.json").stdout.slice(0, 64);
    expect(readFileSync(join(directory, "report.html"), "utf8")).toContain(`<code>${sum}</code>`);
  });

  test("are the same in the Markdown", () => {
    const [, block = ""] = /```sh\n([\s\S]*?)```/.exec(renderMarkdown(signed)) ?? [];
    expect(block).toBe(printed().verify);
  });

  test("finds a changed byte", () => {
    const bytes = recordBytes(signed);
    const at = chooseSeed("byte of a drill report") % signed.line.length;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    writeFileSync(join(directory, "report.json"), bytes);
    const { status, stdout } = shell(printed().verify);
    expect(stdout).not.toContain("Verified Successfully");
    expect(status, `byte ${at}`).not.toBe(0);
  });
});

describe.skipIf(!needs("chromium"))("the page in a browser without a network", () => {
  let browser: Chromium;
  beforeAll(async () => {
    browser = await Chromium.launch();
  });
  afterAll(async () => await browser?.[Symbol.asyncDispose]());
  const url = () => pathToFileURL(join(directory, "report.html")).href;

  test.each([
    ["a screen", { width: 1200, height: 900 }],
    ["a phone", { width: 390, height: 844 }],
    ["a phone in the dark", { width: 390, height: 844, dark: true }],
  ])("asks for nothing, complains of nothing and is not wider than %s", async (_, view) => {
    const seen = await browser.see(url(), view);
    expect(seen).toMatchObject({ title: `Drill ${signed.drill.id} of mx1.example.org`, complaints: [] });
    expect(seen.requests).toEqual([url()]);
    expect(seen.scrollWidth).toBeLessThanOrEqual(seen.clientWidth);
    expect(seen.background).toBe("dark" in view ? "rgb(20, 24, 29)" : "rgb(255, 255, 255)");
    for (const text of ["PASSED", "The last drills", "Operator", key.fingerprint]) expect(seen.text).toContain(text);
  });

  test("has its pictures: a bar for each phase, each drill and each age, and lines at the targets", async () => {
    const page = readFileSync(join(directory, "report.html"), "utf8");
    const [phases = "", rpo = "", rto = "", queues = ""] = [
      ...page.matchAll(/<svg viewBox="0 0 360[\s\S]*?<\/svg>/g),
    ].map(([svg]) => svg);
    expect(phases.match(/<rect/g)).toHaveLength(7);
    for (const history of [rpo, rto]) {
      expect(history.match(/<rect/g)).toHaveLength(6);
      expect(history.match(/class="target"/g)).toHaveLength(1);
    }
    expect(queues.match(/text-anchor="end"/g)).toHaveLength(10);
  });

  test("the picture in docs/ is there and small", () => {
    const { size } = statSync(join(import.meta.dirname, "../../docs/drill-report.png"));
    expect(size).toBeGreaterThan(20_000);
    expect(size).toBeLessThan(150_000);
  });
});
