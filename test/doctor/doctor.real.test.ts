import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { tryLock } from "../../src/system/lock.ts";
import { type CliResult, spoolsafe } from "../support/cli.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Site } from "../support/site.ts";

describe.skipIf(!needs("root", "postfix", "age", "zstd", "tar", "flock", "mount"))(
  "doctor beside a real Postfix",
  () => {
    let postfix: PrivatePostfix;
    let site: Site;
    let config: string;
    beforeAll(async () => {
      postfix = await PrivatePostfix.start({ name: "postfix-doctor" });
      site = await Site.make();
      config = site.configure([postfix]);
    });
    afterAll(async () => {
      await site?.[Symbol.asyncDispose]();
      await postfix?.[Symbol.asyncDispose]();
    });

    const doctor = (...args: string[]) => spoolsafe(["doctor", "--json", "--config", config, ...args]);
    const finding = ({ json }: CliResult, name: string) => json.find((line) => line.name === name);

    test("a primary that is ready: exit 0, everything ok", async () => {
      const result = await doctor("--probe");
      expect(result.json.filter(({ ok }) => ok === false)).toEqual([]);
      expect(result.code).toBe(0);
      expect(finding(result, "postfix postfix-doctor")?.message).toContain(`running, pid ${postfix.masterPid()}`);
      expect(finding(result, "locks postfix-doctor")?.message).toContain("are seen in /proc/locks");
      expect(finding(result, "hold postfix-doctor")).toMatchObject({ ok: true, remedy: null });
      expect(finding(result, "repository probe")).toMatchObject({ ok: true });
    });

    test("a hold queue that is an inbox is said, with what backup will do", async () => {
      const rules = join(postfix.configDirectory, "header_checks");
      writeFileSync(rules, "/^Received:/ HOLD\n");
      await postfix.setParameter("header_checks", `regexp:${rules}`);
      try {
        const result = await doctor();
        expect(result.code).toBe(0);
        expect(finding(result, "hold postfix-doctor")).toMatchObject({
          ok: true,
          message: expect.stringContaining(`(${rules}): captured in mode live`),
          remedy: expect.stringContaining("postfix.mode"),
        });
      } finally {
        await postfix.setParameter("header_checks", "");
      }
    });

    test("a status page for other hosts is said", async () => {
      const text = readFileSync(config, "utf8");
      const ask = async (listen: string) => {
        writeFileSync(config, `${text}\n[status]\nlisten = "${listen}"\n`);
        return finding(await doctor(), "status page");
      };
      try {
        expect(await ask("127.0.0.1:9625")).toMatchObject({ ok: true, remedy: null });
        expect(await ask("0.0.0.0:9625")).toMatchObject({ ok: true, remedy: expect.stringContaining("a firewall") });
      } finally {
        writeFileSync(config, text);
      }
    });

    test("a journal is left over only when nobody is at work", async () => {
      mkdirSync(join(site.stateDirectory, "holds"), { recursive: true });
      writeFileSync(join(site.stateDirectory, "holds/run1.postfix-doctor.jsonl"), "");
      const left = await doctor();
      expect(left.code).toBe(1);
      expect(finding(left, "holds")).toMatchObject({
        ok: false,
        remedy: expect.stringContaining("spoolsafe holds release"),
      });
      const lock = await tryLock(postfix.queueDirectory);
      try {
        const busy = await doctor();
        expect(finding(busy, "holds")).toMatchObject({ ok: true });
        expect(finding(busy, "locks postfix-doctor")?.message).toContain("are seen in /proc/locks");
      } finally {
        await lock?.release();
      }
    });

    test("a state directory in memory is wrong, whatever room it has", async () => {
      const memory = makeScratch({ tmpfs: "8m" });
      try {
        const elsewhere = join(site.directory, "memory.toml");
        writeFileSync(
          elsewhere,
          `state_directory = "${memory}"\n[signing]\nkey_file = "/nonexistent"\n[postfix]\nconfig_directories = ["${postfix.configDirectory}"]\n`,
        );
        const result = await spoolsafe(["doctor", "--json", "--config", elsewhere]);
        expect(finding(result, "state directory")).toMatchObject({
          ok: false,
          message: expect.stringContaining("is in memory"),
        });
      } finally {
        destroyScratch(memory);
      }
    });

    test("post-quantum recipients ask for an age that reads them", async () => {
      const quantum = await Site.make({ postQuantum: true });
      try {
        const result = await spoolsafe(["doctor", "--json", "--config", quantum.configure([postfix])]);
        expect(result.code).toBe(0);
        expect(finding(result, "age")?.message).toMatch(/^age v?\d[\d.]* (reads|does not read) post-quantum files$/);
      } finally {
        await quantum[Symbol.asyncDispose]();
      }
    });
  },
);
