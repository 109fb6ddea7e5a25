import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { sections } from "../../src/config/schema.ts";
import { type FoundRunbook, listRunbooks } from "../../src/runbook/catalogue.ts";
import { argumentsOf, programsOf } from "../../src/runbook/lint-commands.ts";
import { readShell } from "../../src/runbook/shell.ts";
import { needs } from "../support/needs.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

/* What runbooks name, asked of those who know: parameters of the real postconf, shell text of shellcheck. */

const directory = join(import.meta.dirname, "../../runbooks");
const all = listRunbooks({ packaged: directory, site: join(directory, "none") });

describe.skipIf(!needs("postfix"))("every Postfix parameter", () => {
  const { stdout } = spawnSync("postconf", ["-d"], { encoding: "utf8" });
  const known = new Set(stdout.split("\n").flatMap((line) => /^(\w+) =/.exec(line)?.[1] ?? []));

  test.each(all.map((found) => [found.name, found] as const))("%s names exists", (_, found) => {
    expect(known.size).toBeGreaterThan(500);
    const named = [...inCommands(found), ...inProse(found)];
    const strange = named.filter(({ parameter }) => !isKnown(parameter, known));
    expect(strange.map(({ line, parameter }) => `${found.name}:${line}: ${parameter}`)).toEqual([]);
  });
});

interface Named {
  readonly line: number;
  readonly parameter: string;
}

/** What postconf is asked for or told, also of services in master.cf (`-P smtp/inet/name=value`). */
function inCommands({ reading }: FoundRunbook): Named[] {
  return reading.blocks.flatMap((block) =>
    readShell(block.script)
      .commands.flatMap(programsOf)
      .filter(({ words }) => words[0]?.text === "postconf")
      .flatMap((command) => {
        const { options, operands } = argumentsOf(command, "cC");
        if (options.has("M") || options.has("F") || options.has("m") || options.has("a") || options.has("A")) return [];
        const names = operands.map((word) => (word.split("=")[0] ?? "").split("/").at(-1) ?? "");
        return names
          .filter((name) => /^\w+$/.test(name))
          .map((parameter) => ({ line: block.line + 1 + command.line, parameter }));
      }),
  );
}

/** Words with underscores in backquotes, and `name = value`. */
function inProse({ text }: FoundRunbook): Named[] {
  return text
    .replace(/^```[\s\S]*?^```/gm, (fence) => "\n".repeat(fence.split("\n").length - 1))
    .split("\n")
    .flatMap((line, index) =>
      [...line.matchAll(/`([a-z0-9]+(?:_[a-z0-9]+)+)(?: ?=[^`]*)?`/g)].map(([, parameter = ""]) => ({
        line: index + 1,
        parameter,
      })),
    );
}

/** Words of the same form that are not Postfix's parameters: fields of `postqueue -j` and of queue files and logs. */
const others =
  /^(queue_id|queue_name|arrival_time|message_size|delay_reason|forced_expire|orig_id|orig_to|log_ident|create_time|sasl_username|sasl_method|client_address|named_attribute|done_recipient|original_recipient)$/;

/** Restrictions of smtpd(8) that runbooks recommend (postconf(5), `smtpd_recipient_restrictions`); postconf lists no such names. */
const restrictions =
  /^(reject_(unverified_recipient|unauth_destination|rbl_client)|permit_(mynetworks|sasl_authenticated))$/;

function isKnown(parameter: string, known: ReadonlySet<string>): boolean {
  // A transport's own value: slow_destination_rate_delay is default_destination_rate_delay of the transport slow.
  const [, ofTransports] =
    /^[a-z0-9]+?_((?:initial_)?destination_\w+|\w*delivery_slots?\w*|recipient_limit)$/.exec(parameter) ?? [];
  if (ofTransports !== undefined && known.has(`default_${ofTransports}`)) return true;
  if (restrictions.test(parameter)) return true;
  return known.has(parameter) || others.test(parameter) || configKeys.includes(parameter);
}

/** Of our own configuration, tables and keys. */
const configKeys = Object.values(sections).flatMap((keys) => Object.keys(keys));

describe.skipIf(!needs("shellcheck"))("shellcheck", () => {
  test("has nothing to say of any block", () => {
    const scratch = makeScratch();
    try {
      const blocks = all.flatMap((found) => found.reading.blocks.map((block) => ({ found, block })));
      const files = blocks.map(({ block }, index) => {
        const path = join(scratch, `${index}.sh`);
        writeFileSync(path, `${block.script}\n`);
        return path;
      });
      // SC2154: what is exported elsewhere. SC1090, SC1091: files that are sourced. SC2016: jq's own variables.
      const args = ["--shell=bash", "--exclude=SC2154,SC1090,SC1091,SC2016", "--format=json1", ...files];
      const { stdout } = spawnSync("shellcheck", args, { encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });
      const { comments } = JSON.parse(stdout || '{"comments":[]}') as {
        comments: { file: string; line: number; code: number; message: string }[];
      };
      const told = comments.map(({ file, line, code, message }) => {
        const at = blocks[files.indexOf(file)];
        return `${at?.found.name}:${(at?.block.line ?? 0) + line}: SC${code} ${message}`;
      });
      expect(told).toEqual([]);
    } finally {
      destroyScratch(scratch);
    }
  });
});
