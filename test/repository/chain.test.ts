import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { type ChainLink, checkChains, loadSeen, lookedAt, type Seen, saveSeen } from "../../src/repository/chain.ts";
import type { RemovedSnapshot } from "../../src/snapshot/record.ts";
import { digestFrom } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const writer = "aaaaaaaaaaaaaaaa";
const other = "bbbbbbbbbbbbbbbb";
const nothingSeen: Seen = new Map();

function chain(length: number, of = writer): ChainLink[] {
  return Array.from({ length }, (_, index) => link(index + 1, of));
}

function link(number: number, of = writer): ChainLink {
  return { id: idOf(number, of), writer: of, number, previous: number === 1 ? null : idOf(number - 1, of) };
}

function idOf(number: number, of = writer): string {
  return digestFrom(`${of} ${number}`);
}

function removal(...numbers: number[]): RemovedSnapshot[] {
  return numbers.map((number) => ({ id: idOf(number), writer, number }));
}

function without(numbers: number[], length = 5): ChainLink[] {
  return chain(length).filter((each) => !numbers.includes(each.number));
}

function kinds(
  links: readonly ChainLink[],
  removed: readonly RemovedSnapshot[] = [],
  seen: Seen = nothingSeen,
): string[] {
  return checkChains(links, removed, seen).map((finding) => `${finding.kind} ${finding.number}`);
}

describe("a chain", () => {
  test("that is whole has no findings, in whatever order it is listed", () => {
    expect(kinds([])).toEqual([]);
    expect(kinds([...chain(5), ...chain(3, other)].reverse())).toEqual([]);
  });

  test("with numbers missing has one finding for each run of them", () => {
    expect(kinds(without([2]))).toEqual(["gap 2"]);
    expect(kinds(without([1]))).toEqual(["gap 1"]);
    expect(kinds(without([1, 2, 4]))).toEqual(["gap 1", "gap 4"]);
    const [finding] = checkChains(without([2, 3]), [], nothingSeen);
    expect(finding).toMatchObject({ kind: "gap", writer, number: 2, snapshot: null });
    expect(finding?.problem).toBe(`numbers 2 to 3 are missing of writer ${writer}, and no trusted removal lists them`);
  });

  test("may have gaps that a removal lists", () => {
    expect(kinds(without([1, 2, 4]), removal(1, 2, 4))).toEqual([]);
    expect(kinds(without([1, 2, 4]), removal(1, 4))).toEqual(["gap 2"]);
    expect(
      kinds(
        without([2]),
        removal(2).map((each) => ({ ...each, writer: other })),
      ),
    ).toEqual(["gap 2"]);
  });

  test("is whole while a prune is at work: listed and still there", () => {
    expect(kinds(chain(5), removal(1, 2))).toEqual([]);
  });

  test("must name the removed one as well", () => {
    const links = without([2]).map((each) => (each.number === 3 ? { ...each, previous: digestFrom("x") } : each));
    expect(kinds(links, removal(2))).toEqual(["wrong-previous 3"]);
  });

  test("must not fork", () => {
    const twin = { ...link(3), id: digestFrom("clone") };
    const findings = checkChains([...chain(4), twin], [], nothingSeen);
    expect(findings.map((finding) => finding.kind)).toEqual(["fork"]);
    expect(findings[0]).toMatchObject({ number: 3, snapshot: idOf(3) });
    expect(findings[0]?.problem).toContain("number 3 is there 2 times");
  });

  test("must name the one before", () => {
    const replaced = chain(4).map((each) => (each.number === 2 ? { ...each, id: digestFrom("forged") } : each));
    expect(kinds(replaced)).toEqual(["wrong-previous 3"]);
    const begun = chain(4).map((each) => (each.number === 3 ? { ...each, previous: null } : each));
    expect(checkChains(begun, [], nothingSeen)[0]?.problem).toContain("names no snapshot as the one before it");
    const first = [{ ...link(1), previous: digestFrom("x") }];
    expect(checkChains(first, [], nothingSeen)[0]?.problem).toContain("but it is the first");
  });

  test("must not end before what this host has seen", () => {
    const seen: Seen = new Map([[writer, { number: 5, id: idOf(5) }]]);
    expect(kinds(chain(5), [], seen)).toEqual([]);
    expect(kinds(chain(7), [], seen)).toEqual([]);
    expect(kinds(chain(3), [], seen)).toEqual(["missing-tail 4"]);
    expect(kinds(chain(3), removal(4, 5), seen)).toEqual([]);
    expect(kinds([], [], seen)).toEqual(["missing-tail 1"]);
    expect(kinds([...chain(4), link(6)], [], seen)).toEqual(["gap 5"]);
  });

  test("must still have what this host has seen under its number", () => {
    const seen: Seen = new Map([[writer, { number: 3, id: digestFrom("seen") }]]);
    expect(kinds(chain(5), [], seen)).toEqual(["replaced 3"]);
    expect(kinds(without([3]), removal(3), seen)).toEqual(["replaced 3"]);
  });

  test("with a number near the end of numbers is checked at once", () => {
    expect(kinds([link(1), link(9_999_999_999)])).toEqual(["gap 2"]);
  });

  test("loses nothing without a finding, whatever is taken away", () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 12 }), fc.array(fc.nat(11)), (length, picks) => {
        const numbers = [...new Set(picks.map((pick) => (pick % length) + 1))];
        const seen = lookedAt(nothingSeen, chain(length), []);
        expect(kinds(without(numbers, length), [], seen).length > 0).toBe(numbers.length > 0);
        expect(kinds(without(numbers, length), removal(...numbers), seen)).toEqual([]);
      }),
    );
  });
});

describe("what a host has seen", () => {
  const scratch = makeScratch();
  afterAll(() => destroyScratch(scratch));
  const repository = "0".repeat(32);
  const file = (state: string) => join(state, "repositories", repository, "seen.json");

  test("grows with each look, but not with a chain that is broken", () => {
    const links = [...chain(3), ...chain(2, other)];
    const seen = lookedAt(nothingSeen, links, []);
    expect(seen).toEqual(
      new Map([
        [writer, { number: 3, id: idOf(3) }],
        [other, { number: 2, id: idOf(2, other) }],
      ]),
    );
    const later = [...without([4], 6), ...chain(5, other)];
    const findings = checkChains(later, [], seen);
    expect(lookedAt(seen, later, findings).get(writer)).toEqual({ number: 3, id: idOf(3) });
    expect(lookedAt(seen, later, findings).get(other)).toEqual({ number: 5, id: idOf(5, other) });
    expect(lookedAt(seen, chain(1), [])).toEqual(seen);
  });

  test("is kept in a file that only we can read", () => {
    const state = join(scratch, "state");
    expect(loadSeen(state, repository)).toEqual(new Map());
    const seen = lookedAt(nothingSeen, chain(3), []);
    saveSeen(state, repository, seen);
    expect(loadSeen(state, repository)).toEqual(seen);
    expect(loadSeen(state, "1".repeat(32))).toEqual(new Map());
  });

  test("is not forgotten when two look at one time", () => {
    const state = join(scratch, "two");
    saveSeen(state, repository, lookedAt(nothingSeen, chain(7), []));
    saveSeen(state, repository, lookedAt(nothingSeen, [...chain(5), ...chain(1, other)], []));
    expect(loadSeen(state, repository).get(writer)?.number).toBe(7);
    expect(loadSeen(state, repository).get(other)?.number).toBe(1);
  });

  test.each(["", "{", '{"format":2,"writers":{}}', '{"format":1,"writers":{"x":{}}}'])(
    "in a file that says %j is an error, not nothing",
    (text) => {
      const state = join(scratch, "broken");
      mkdirSync(join(state, "repositories", repository), { recursive: true });
      writeFileSync(file(state), text);
      try {
        loadSeen(state, repository);
        expect.unreachable();
      } catch (error) {
        expect(error).toBeInstanceOf(OperatorError);
        expect(error).toMatchObject({ kind: "failed" });
        expect((error as OperatorError).hints[0]).toContain(file(state));
      }
      expect(readFileSync(file(state), "utf8")).toBe(text);
    },
  );
});
