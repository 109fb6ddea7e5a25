import { expect, test } from "vitest";
import { parsePostsuper } from "../../src/postfix/control.ts";

test("postsuper's report: what it held, how many, and what it warned of", () => {
  const said = `postsuper: warning: invalid mail queue id: bad/id
postsuper: 2B96B162113: placed on hold
postsuper: 4jY5j73J8pzBvYj: placed on hold
postsuper: Placed on hold: 2 messages
`;
  expect(parsePostsuper(said)).toEqual({
    ids: ["2B96B162113", "4jY5j73J8pzBvYj"],
    count: 2,
    warnings: ["warning: invalid mail queue id: bad/id"],
  });
});

test("a release, and a run of one message", () => {
  expect(
    parsePostsuper("postsuper: 2B96B162113: released from hold\npostsuper: Released from hold: 1 message\n"),
  ).toEqual({
    ids: ["2B96B162113"],
    count: 1,
    warnings: [],
  });
});

test("a run that found nothing says so, one that didn't run says nothing", () => {
  expect(parsePostsuper("postsuper: Placed on hold: 0 messages\n")).toEqual({ ids: [], count: 0, warnings: [] });
  expect(parsePostsuper("")).toEqual({ ids: [], count: undefined, warnings: [] });
});

test("a killed run has no closing line, and a line that was cut off counts for nothing", () => {
  const killed = parsePostsuper("postsuper: 2B96B162113: placed on hold\npostsuper: 3B96B162113: placed on hold");
  expect(killed).toEqual({ ids: ["2B96B162113"], count: undefined, warnings: [] });
});

test("several runs in one file add up", () => {
  const one = "postsuper: 2B96B162113: placed on hold\npostsuper: Placed on hold: 1 message\n";
  expect(parsePostsuper(one + one.replace("2B", "3B"))).toMatchObject({
    ids: ["2B96B162113", "3B96B162113"],
    count: 2,
  });
});

test("other actions are none of ours", () => {
  expect(parsePostsuper("postsuper: 2B96B162113: removed\npostsuper: Deleted: 1 message\n")).toEqual({
    ids: [],
    count: undefined,
    warnings: ["2B96B162113: removed", "Deleted: 1 message"],
  });
});
