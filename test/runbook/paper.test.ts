import { spawnSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { paperText } from "../../src/runbook/paper.ts";
import { parseRunbook } from "../../src/runbook/parse.ts";
import { effectiveValues, parseSettings } from "../../src/runbook/values.ts";
import { changed, samplePath, sampleText, withAction } from "./sample.ts";

function paper(text = sampleText, ...set: readonly string[]): string {
  const runbook = parseRunbook(text, samplePath);
  return paperText(runbook, effectiveValues(runbook, parseSettings(set), {}));
}

/** The lines of the sheet that stand for a command, as somebody pastes them. */
const commandLines = (text: string) => text.split("\n").flatMap((line) => /^ {8}(.*)$/.exec(line)?.[1] ?? []);

describe("a sheet", () => {
  test("says in words what a step risks and how long it may take, and has room for time and initials", () => {
    const text = paper();
    expect(text).toContain("NEVER   postsuper -H ALL: it also releases");
    expect(text).toContain("[ ] Do: changes something; can be undone or repeated; at most 30 seconds\n");
    expect(text).toContain("    [ ] Check: must succeed; at most 30 seconds; up to 3 tries, 2 seconds apart\n");
    expect(text.match(/Done at ______________ {3}Initials ______/g)).toHaveLength(3);
    expect(text).toContain(
      "To take this step back; at most 30 seconds:\n        ( set -euo pipefail\n        postconf -X master_service_disable\n",
    );
    expect(text).toContain("and print\n          | inet\n");
    expect(text).toMatch(/IF THIS FAILS\n\n {2}Open the console/);
  });

  test("keeps an exit, and what comes after a failure, from the shell it is pasted into", () => {
    const text = paper(withAction("if false; then", "  exit 1", "fi", "false", "echo never"));
    const own = commandLines(text.slice(text.indexOf("[ ] Do: "), text.indexOf("[ ] Check"))).join("\n");
    const { stdout } = spawnSync("bash", ["-c", `${own}\necho still here $?`], { encoding: "utf8" });
    expect(stdout).toBe("still here 1\n");
    expect(paper(withAction("export N=1", "echo a"))).toContain("\n        export N=1\n        echo a\n");
  });

  test("wants the host's name where something can't be taken back", () => {
    const text = paper(changed("risk=change confirm=yes", "risk=destructive confirm=type"));
    expect(text).toContain("[ ] This is the right host. Its name: ____");
    expect(text).toContain("[ ] Do: CAN'T BE TAKEN BACK; at most 30 seconds\n");
  });

  test("has 80 columns of plain text", () => {
    const long = changed("Nothing is changed.", `Nothing ${"is changed, and that is all ".repeat(10)}.`);
    for (const line of paper(long).split("\n")) expect(line.length, line).toBeLessThanOrEqual(80);
    expect(paper(long)).toMatch(/^[\n\x20-\x7e]*$/);
  });

  test("has every value filled in; what the shell computes stays as it is, and a secret is asked for", () => {
    const text = paper(sampleText, "MAIL_CONFIG=/etc/it's");
    expect(text).toContain(`    export MAIL_CONFIG='/etc/it'\\''s'\n`);
    expect(text).toContain(`    export QUEUE_DIRECTORY="$(postconf -h queue_directory)"\n`);
    expect(text).toContain(
      "    read -rsp 'SAMPLE_PASSPHRASE: ' SAMPLE_PASSPHRASE\n    export SAMPLE_PASSPHRASE; echo\n",
    );
    expect(paper(changed(":-/etc/postfix}", ":-}"))).toContain(`export MAIL_CONFIG=""   # <- fill in: ____`);
  });

  test("never has the value of a secret", () => {
    const text = changed("[SAMPLE_PASSPHRASE]", "[MAIL_CONFIG]");
    expect(paper(text, "MAIL_CONFIG=canary")).not.toContain("canary");
  });

  test("gives the directory of the run where a block wants it", () => {
    expect(paper()).toContain('    mkdir -m 0700 "$SPOOLSAFE_RUN_DIR"\n');
    const without = sampleText.replaceAll("$SPOOLSAFE_RUN_DIR", "/root/run");
    expect(paper(without)).not.toContain("SPOOLSAFE_RUN_DIR");
  });

  test("is the same for the same runbook and values", () => {
    expect(paper()).toBe(paper());
  });

  test("has lists and tables line by line, and links as words", () => {
    const text = changed(
      "Nothing is changed.",
      "- one\n- **two**\n\n| a | b |\n|---|---|\n\nSee [the page](https://a.test/x) and [this](50-sample.md).",
    );
    expect(paper(text)).toContain(
      "    - one\n    - two\n\n    | a | b |\n    |---|---|\n\n    See the page <https://a.test/x> and this.",
    );
  });
});

describe("a command that is too long is broken so that it means the same", () => {
  const words = Array.from({ length: 30 }, (_, n) => `w${n}`);
  test.each([
    ["plain words", `printf '%s\\n' ${words.join(" ")}`],
    ["quotes", `printf '%s\\n' "${words.slice(0, 9).join(" ")}" '${words.slice(0, 9).join("  ")}' ${words.join(" ")}`],
    ["an escaped blank", `printf '%s\\n' a\\ b ${words.join(" ")}`],
    ["a pipe", `printf '%s\\n' ${words.slice(0, 14).join(" ")} | sort | tail -n 3 # ${words.join(" ")}`],
    [
      "quotes over two lines",
      `printf '%s\\n' "${words.slice(0, 20).join(" ")}\n${words.slice(0, 20).join(" ")}" ${words.join(" ")}`,
    ],
    ["a here-string", `cat <<< "x" && printf '%s\\n' ${words.join(" ")}`],
  ])("%s", (_, command) => {
    const text = paper(withAction(...command.split("\n")));
    const start = text.indexOf("[ ] Do: ");
    const own = commandLines(text.slice(start, text.indexOf("[ ] Check", start))).join("\n");
    const run = (script: string) => spawnSync("bash", ["-c", script], { encoding: "utf8" }).stdout;
    expect(own.split("\n").length).toBeGreaterThan(command.split("\n").length);
    expect(run(own)).toBe(run(command));
    expect(run(command)).not.toBe("");
  });
});
