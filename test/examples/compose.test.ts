import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { z } from "zod";
import { buildProgram } from "../../src/cli/program.ts";
import { loadConfig } from "../../src/config/load.ts";
import { readDockerfile } from "../support/dockerfile.ts";

const directory = join(import.meta.dirname, "../../examples/compose");
const read = (name: string) => readFileSync(join(directory, name), "utf8");

/** Strict: of the Compose specification what the file uses. */
const service = z.strictObject({
  image: z.string(),
  build: z.string().optional(),
  entrypoint: z.array(z.string()).optional(),
  command: z.array(z.string()).optional(),
  hostname: z.string().optional(),
  environment: z.record(z.string(), z.string()).optional(),
  volumes: z.array(z.string().regex(/^[\w./-]+:\/[\w./-]+(:ro)?$/)),
  ports: z.array(z.string().regex(/^127\.0\.0\.1:\d+:\d+$/)).optional(),
  pid: z.string().optional(),
  cap_add: z.array(z.string()).optional(),
  depends_on: z.union([z.array(z.string()), z.record(z.string(), z.unknown())]).optional(),
  healthcheck: z.unknown().optional(),
  stop_grace_period: z.string().optional(),
  restart: z.literal("unless-stopped").optional(),
});
const file = z
  .looseObject({ services: z.record(z.string(), service), volumes: z.record(z.string(), z.null()) })
  .parse(parse(read("compose.yaml"), { merge: true }));
const { services } = file;
const config = loadConfig({ flags: { config: join(directory, "spoolsafe.toml") }, env: {}, cwd: "/" });

function serviceOf(name: string): z.infer<typeof service> {
  return services[name] ?? expect.fail(`there is no service ${name}`);
}

/** Where a service has what, without how. */
const targets = (name: string) => serviceOf(name).volumes.map((volume) => volume.replace(/:ro$/, ""));

/** Whether the command line takes these words. */
async function isTaken(words: readonly string[]): Promise<boolean> {
  let taken = false;
  const program = buildProgram(async () => {
    taken = true;
  });
  await program.parseAsync([...words], { from: "user" });
  return taken;
}

describe("the compose file", () => {
  test("names services, volumes and files there are", () => {
    for (const { volumes, pid, depends_on } of Object.values(services)) {
      for (const [source = ""] of volumes.map((volume) => volume.split(":"))) {
        const there = source.startsWith("./") ? existsSync(join(directory, source)) : source in file.volumes;
        expect(there, source).toBe(true);
      }
      const needed = Array.isArray(depends_on) ? depends_on : Object.keys(depends_on ?? {});
      for (const name of [...needed, ...(pid === undefined ? [] : [pid.replace("service:", "")])]) serviceOf(name);
    }
    const used = Object.values(services).flatMap(({ volumes }) => volumes.map((volume) => volume.split(":")[0]));
    expect(used).toEqual(expect.arrayContaining(Object.keys(file.volumes)));
  });

  test("takes every image from here, or pinned", () => {
    const images = Object.values(services).map(({ image }) => image);
    expect(new Set(images)).toEqual(new Set(["spoolsafe", expect.stringMatching(/^[\w-]+\/[\w-]+:v\d+\.\d+\.\d+$/)]));
    const { build = "" } = serviceOf("postfix");
    expect(existsSync(join(directory, build, "Dockerfile"))).toBe(true);
  });

  test("gives Spoolsafe the spool and the configuration of the Postfix beside it, its PID namespace, and what must last", () => {
    expect(serviceOf("spoolsafe").pid).toBe("service:postfix");
    expect(targets("spoolsafe")).toEqual(expect.arrayContaining(targets("postfix")));
    const kept = new Map(targets("spoolsafe").map((volume) => volume.split(":").reverse() as [string, string]));
    expect(kept.get(config.state_directory)).toBe("spoolsafe-state");
    for (const path of [config.encryption.recipients_file, config.signing.key_file, config.signing.trusted_keys_file]) {
      expect(kept.get(path.replace(/\/[^/]*$/, ""))).toBe("spoolsafe-keys");
    }
    expect(targets("init")).toEqual(targets("spoolsafe"));
    // The daemon is what the image runs by itself.
    expect(serviceOf("spoolsafe")).not.toHaveProperty("command");
    const last = readDockerfile(readFileSync(join(directory, "../../Dockerfile"), "utf8")).at(-1);
    expect(last?.instructions.at(-1)).toMatchObject({ keyword: "CMD", text: '["schedule", "run"]' });
  });

  test("reaches the store where it listens, in the bucket that is there, with the keys it has", () => {
    const { command = [], environment = {} } = serviceOf("s3");
    const { url, endpoint = "" } = config.repository;
    expect(new URL(endpoint)).toMatchObject({ hostname: "s3", port: command[command.indexOf("--port") + 1]?.slice(1) });
    const [, bucket] = /^s3:\/\/([^/]+)/.exec(url ?? "") ?? [];
    expect(targets("s3")).toEqual([`bucket:${command.at(-1)}/${bucket}`]);
    for (const name of ["init", "spoolsafe"]) {
      expect(serviceOf(name).environment).toEqual({
        AWS_ACCESS_KEY_ID: environment.ROOT_ACCESS_KEY,
        AWS_SECRET_ACCESS_KEY: environment.ROOT_SECRET_KEY,
      });
    }
  });

  test("has a schedule, and calls commands there are; so does the README", async () => {
    expect(config.schedule).toMatchObject({ timezone: "UTC", backup: expect.any(String), verify: expect.any(String) });
    const script = serviceOf("init").command?.join("\n") ?? "";
    expect(script).not.toContain("$");
    const calls = [
      ...script.matchAll(/^ *spoolsafe (.*?) &&/gm),
      ...read("README.md").matchAll(/^ {4}docker compose exec spoolsafe spoolsafe ([^#\n]*)/gm),
      ...read("README.md").matchAll(/^ {4}docker compose run .* spoolsafe (--.*)/gm),
    ].map(([, words = ""]) => words.trim().split(/\s+/));
    expect(calls).toHaveLength(6);
    for (const words of calls) expect(await isTaken(words), words.join(" ")).toBe(true);
    const named = [...read("README.md").matchAll(/docker compose (?:exec|cp|run --rm -v \S+ ?)(?: -\S+)* ?(\w+)/g)];
    for (const [, name = ""] of named) serviceOf(name);
    expect(named.length).toBeGreaterThan(5);
  });
});
