import { describe, expect, test } from "vitest";
import { checkOptions, choiceOf, type RestoreOptions } from "../../src/cli/commands/restore-options.ts";
import { OperatorError } from "../../src/errors.ts";

/** What is said against options, with its hints; undefined for nothing. */
function refusal(options: RestoreOptions, spec = "latest"): string | undefined {
  try {
    checkOptions(spec, options);
    return undefined;
  } catch (error) {
    if (!(error instanceof OperatorError) || error.kind !== "usage") throw error;
    return [error.message, ...error.hints].join("\n");
  }
}

const into = { into: "/etc/postfix" };
const id = "44e8753a5caf";

/** A value for every option that decides which mail goes where. */
const choosing = {
  merge: true,
  requeue: true,
  land: "hold",
  only: ["queue=hold"],
  shard: "1/3",
  deliveredLog: ["mail.log"],
  logZone: "UTC",
  restoreDeleted: true,
  again: true,
} as const satisfies RestoreOptions;
const each = (options: RestoreOptions) => Object.entries(options).map(([name, value]) => [name, { [name]: value }]);

function flag(name: string): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

describe("options that contradict each other are refused, both named, with what to do:", () => {
  test.each(each({ ...choosing, ...into, withConfig: true, withoutClaim: true, plan: "f", apply: "f" }))(
    "--to and %s",
    (name, option) => {
      expect(refusal({ to: "/srv", ...(option as RestoreOptions) })).toMatch(
        `--to and ${flag(String(name))} exclude each other\n--to DIR writes all mail as plain files`,
      );
    },
  );

  test.each(each({ merge: true, land: "original" }))("--requeue and %s", (name, option) => {
    expect(refusal({ ...into, requeue: true, ...(option as RestoreOptions) })).toMatch(
      `--requeue and ${flag(String(name))} exclude each other\n--requeue makes new mail`,
    );
  });

  test.each(each({ ...choosing, withConfig: true, withoutClaim: true }))("--config-only and %s", (name, option) => {
    expect(refusal({ ...into, configOnly: true, ...(option as RestoreOptions) })).toMatch(
      `--config-only and ${flag(String(name))} exclude each other\n--config-only leaves mail alone`,
    );
  });

  test.each(each({ ...choosing, withConfig: true, plan: "f", dryRun: true }))("--apply and %s", (name, option) => {
    expect(refusal({ ...into, apply: "f", ...(option as RestoreOptions) })).toMatch(
      `--apply and ${flag(String(name))} exclude each other\nall that is in the plan`,
    );
  });

  test("all at once", () => {
    expect(refusal({ ...into, apply: "f", merge: true, again: true })).toMatch("--apply and --merge, --again exclude");
  });
});

describe("an option that needs another says so:", () => {
  test("a restore goes somewhere", () => {
    expect(refusal({ merge: true })).toMatch(/^restore where to\?\n--to DIR: .*\n--into CONFIG_DIR: /);
  });

  test("--restore-deleted and --log-zone are about logs", () => {
    expect(refusal({ ...into, restoreDeleted: true })).toMatch(/^--restore-deleted needs --delivered-log\n/);
    expect(refusal({ ...into, logZone: "UTC" })).toMatch(/--delivered-log/);
    expect(refusal({ ...into, logZone: "UTC", deliveredLog: ["l"], restoreDeleted: true })).toBeUndefined();
    expect(refusal({ ...into, logZone: "Mars", deliveredLog: ["l"] })).toMatch("--log-zone Mars is not the name");
  });

  test.each(["latest", "latest~2", "@2026-11-24", "44e875", "44e8753x"])(
    "--shard needs the id of a snapshot, which %s is not for every operator",
    (spec) => {
      expect(refusal({ ...into, merge: true, shard: "1/3" }, spec)).toMatch(
        `--shard needs the id of a snapshot, and ${spec} may mean another one elsewhere\ngive every operator the same id`,
      );
    },
  );

  test("an id will do, in either case", () => {
    for (const spec of [id, id.toUpperCase(), "5a".repeat(32)]) {
      expect(refusal({ ...into, shard: "1/3" }, spec)).toBeUndefined();
    }
  });
});

test("values that can't be understood are refused before anything is looked at", () => {
  expect(refusal({ ...into, only: ["colour=red"] })).toMatch(/^--only colour=red can't be understood\nwrite KEY=VALUE/);
  expect(refusal({ ...into, only: ["older-than=5"] })).toMatch("must be a duration such as 2d");
  expect(refusal({ ...into, shard: "4/3" }, id)).toMatch(/^--shard 4\/3 can't be understood\nwrite K\/N/);
});

test("everything that goes together goes together", () => {
  const { requeue: _requeue, ...merging } = choosing;
  for (const options of [
    { to: "/srv", dryRun: true },
    { to: "/srv", configOnly: true },
    { ...into, ...merging, withConfig: true, withoutClaim: true, plan: "f" },
    { ...into, requeue: true, only: ["queue=deferred"], dryRun: true },
    { ...into, configOnly: true, plan: "f" },
    { ...into, apply: "f", withoutClaim: true },
  ] as const satisfies RestoreOptions[]) {
    expect(refusal(options, id)).toBeUndefined();
  }
});

describe("the choice that options make", () => {
  test.each<[RestoreOptions, string, string]>([
    [{}, "fresh", "original"],
    [{ merge: true }, "merge", "hold"],
    [{ merge: true, land: "original" }, "merge", "original"],
    [{ land: "hold" }, "fresh", "hold"],
    [{ requeue: true }, "requeue", "original"],
  ])("%j: route %s, lands %s", (options, route, land) => {
    expect(choiceOf("mx", { ...into, ...options })).toMatchObject({ instance: "mx", route, land, again: false });
  });

  test("has conditions and share as they were given", () => {
    const { selection, restoreDeleted, again } = choiceOf("mx", { ...choosing, only: ["queue=hold", "id=A"] });
    expect({ selection, restoreDeleted, again }).toEqual({
      selection: {
        conditions: [
          { key: "queue", value: "hold" },
          { key: "id", value: "A" },
        ],
        shard: { k: 1, n: 3 },
      },
      restoreDeleted: true,
      again: true,
    });
  });
});
