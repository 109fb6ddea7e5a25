/**
 * Make docs/drill-report.png anew: `node scripts/drill-report.ts [FILE]`. It is the page of the example that its tests use
 * (test/drill/page-example.ts). Needs Debian's chromium.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { renderHtml } from "../src/drill/html.ts";
import { exampleReport } from "../test/drill/page-example.ts";
import { Chromium } from "../test/support/chromium.ts";
import { newSigningKey } from "../test/support/claims.ts";

const file = process.argv[2] ?? join(import.meta.dirname, "../docs/drill-report.png");
const scratch = mkdtempSync(join(tmpdir(), "drill-report-"));
try {
  const page = join(scratch, "report.html");
  writeFileSync(page, renderHtml(exampleReport(newSigningKey(scratch, "standby"))));
  await using browser = await Chromium.launch();
  const { png } = await browser.see(pathToFileURL(page).href, { width: 760, height: 1590, scale: 0.8 });
  writeFileSync(file, png);
  process.stdout.write(`${file}: ${png.length} bytes\n`);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
