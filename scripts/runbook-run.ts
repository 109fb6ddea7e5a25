/**
 * Make docs/runbook-run.txt anew: `node scripts/runbook-run.ts [FILE]`. It is what the terminal shows when runbook 09 is run
 * on a private Postfix with mail that a dead backup left on hold. Needs root and Debian's postfix.
 */
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { builtProgram } from "../test/support/cli.ts";
import { StuckQueue } from "../test/support/stuck-queue.ts";
import { until } from "../test/support/wait.ts";

const file = process.argv[2] ?? join(import.meta.dirname, "../docs/runbook-run.txt");
await using queue = await StuckQueue.make();
const { postfix, config } = queue.scene;
const words = [process.execPath, join(builtProgram(), "spoolsafe.js"), "runbook", "run", "09", "--config", config];
const command = `stty cols 100; exec ${words.map((word) => `'${word}'`).join(" ")}`;
const terminal = spawn("script", ["--quiet", "--return", "--command", command, "/dev/null"], {
  env: { ...process.env, MAIL_CONFIG: postfix.configDirectory, TERM: "dumb", NO_COLOR: "1" },
  stdio: ["pipe", "pipe", "inherit"],
});
let said = "";
terminal.stdout.on("data", (chunk: Buffer) => {
  said += chunk;
});
const ended = new Promise<number | null>((resolve) => terminal.on("close", resolve));
let seen = 0;
for (const [question, answer] of [
  ["run 09-stuck-hold on mx1.source.test? [y/N] ", "y"],
  ["release: [r]un", "n"],
  ["note: ", "mail was late for an hour; why did the backup die?"],
  ["release: [r]un", "r"],
  ["backup: [r]un", "r"],
] as const) {
  await until(() => said.includes(question, seen), { timeoutMs: 60_000, what: () => said });
  seen = said.indexOf(question, seen) + question.length;
  terminal.stdin.write(`${answer}\r`);
}
const code = await ended;
if (code !== 0) throw new Error(`the run ended with ${code}:\n${said}`);
const shown = said
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what moves the cursor
  .replaceAll(/\x1b\[[0-9;?]*[A-Za-z]/g, "")
  .replaceAll("\r", "")
  .replaceAll(postfix.configDirectory, "/etc/postfix")
  .replaceAll(postfix.directory, "/var/spool")
  .replaceAll(queue.site.stateDirectory, "/var/lib/spoolsafe");
writeFileSync(file, `# spoolsafe runbook run 09\n${shown}`);
process.stdout.write(`${file}: ${shown.split("\n").length} lines\n`);
