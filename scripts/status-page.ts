/**
 * Make docs/status-page.png anew: `node scripts/status-page.ts [FILE]`. It is the page of the example that its tests use
 * (test/status/page-example.ts), as a phone shows it. Needs Debian's chromium.
 */
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { statusPage } from "../src/status/page.ts";
import { exampleFacts } from "../test/status/page-example.ts";
import { Chromium } from "../test/support/chromium.ts";

const file = process.argv[2] ?? join(import.meta.dirname, "../docs/status-page.png");
const server = createServer((_, response) => {
  response.writeHead(200, { "Content-Type": "text/html; charset=utf-8" }).end(statusPage(exampleFacts()));
});
await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
try {
  await using chromium = await Chromium.launch();
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const { png } = await chromium.see(url, { width: 390, height: 1640 });
  writeFileSync(file, png);
  process.stdout.write(`${file}: ${png.length} bytes\n`);
} finally {
  server.close();
  server.closeAllConnections();
}
