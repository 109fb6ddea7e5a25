import { setTimeout as delay } from "node:timers/promises";
import { expect, test } from "vitest";
import type { Patience } from "../../src/alerts/attempt.ts";
import { type Heartbeat, startHeartbeat, tellFailure } from "../../src/alerts/heartbeat.ts";
import { errorOf } from "../support/keys.ts";
import { Listener, nobodyThere } from "../support/listener.ts";
import { until } from "../support/wait.ts";

const patience: Patience = { timeoutMs: 200, tries: 3, pauseMs: 5 };
const begin = (url: string, startAfterMs = 0): Heartbeat => startHeartbeat({ url, patience, startAfterMs });

test.each([
  [0, "GET /ping/x", ""],
  [3, "POST /ping/x/3", "exit 3: what it says"],
  [1, "POST /ping/x/fail", "exit 1: what it says"],
  [13, "POST /ping/x/fail", "exit 13: what it says"],
  [130, "POST /ping/x/fail", "exit 130: what it says"],
  [null, "POST /ping/x/fail", "exit unknown: what it says"],
])("exit %s: start, then %s, with one rid", async (exit, call, body) => {
  await using monitor = await Listener.start();
  const heartbeat = begin(monitor.url("/ping/x/?a=b"));
  await until(() => monitor.heard.length === 1);
  expect(await heartbeat.end(exit, "what it says")).toBe(true);
  expect(monitor.calls).toEqual(["GET /ping/x/start", exit === 0 ? "GET /ping/x/" : call]);
  expect(monitor.heard[1]?.body).toBe(body);
  const queries = monitor.heard.map(({ target }) => new URLSearchParams(target.split("?")[1]));
  expect(queries.map((query) => query.get("a"))).toEqual(["b", "b"]);
  expect(queries[0]?.get("rid")).toMatch(/^[0-9a-f-]{36}$/);
  expect(queries[0]?.get("rid")).toBe(queries[1]?.get("rid"));
});

test("a run that is over before its start was told: both, in this order", async () => {
  await using monitor = await Listener.start();
  await begin(monitor.url("/x"), 60_000).end(0, null);
  expect(monitor.calls).toEqual(["GET /x/start", "GET /x"]);
});

test("the end is not told while the start is on its way", async () => {
  await using monitor = await Listener.start();
  const order: string[] = [];
  monitor.answer = async ({ target }) => {
    const start = target.includes("/start");
    if (start) await delay(100);
    order.push(start ? "start answered" : "end heard");
    return 200;
  };
  const heartbeat = begin(monitor.url("/x"));
  await until(() => monitor.heard.length === 1);
  await heartbeat.end(0, null);
  expect(order).toEqual(["start answered", "end heard"]);
});

test("a run that found the lock held has not begun", async () => {
  await using monitor = await Listener.start();
  expect(await begin(monitor.url("/x"), 60_000).end(11, null)).toBe(false);
  expect(monitor.calls).toEqual([]);
  const late = begin(monitor.url("/x"));
  await until(() => monitor.heard.length === 1);
  expect(await late.end(11, "locked")).toBe(true);
  expect(monitor.calls).toEqual(["GET /x/start", "POST /x/fail"]);
});

test("a monitor that answers nothing is given up", async () => {
  await using monitor = await Listener.start();
  monitor.answer = "hang";
  const heartbeat = begin(monitor.url("/x"));
  await until(() => monitor.heard.length === 1);
  const from = performance.now();
  expect(await errorOf(() => heartbeat.end(0, null))).toMatchObject({ message: "no answer within 0.2 s" });
  // The try at hand of the start, three of the end, two pauses.
  expect(performance.now() - from).toBeLessThan(4 * 200 + 15 + 400);
  expect(monitor.calls).toEqual(["GET /x/start", "GET /x", "GET /x", "GET /x"]);
});

test("one that answers 500 is tried again, one that answers 404 is not", async () => {
  await using monitor = await Listener.start();
  const answers = [500, 503, 200];
  monitor.answer = ({ target }) => (target.includes("/start") ? 200 : (answers.shift() ?? 404));
  const first = begin(monitor.url("/x"));
  await until(() => monitor.heard.length === 1);
  expect(await first.end(0, null)).toBe(true);
  expect(monitor.calls).toEqual(["GET /x/start", "GET /x", "GET /x", "GET /x"]);
  expect(await errorOf(() => begin(monitor.url("/x"), 60_000).end(0, null))).toMatchObject({ message: "answered 404" });
  expect(monitor.calls).toHaveLength(6);
});

test("one that is not there is an error without the URL, which is a secret", async () => {
  const url = await nobodyThere("/secret");
  const error = await errorOf(() => begin(url, 60_000).end(0, null));
  expect(String(error.cause ?? error)).toContain("ECONNREFUSED");
  expect(`${error.message} ${String(error.cause)}`).not.toContain("secret");
});

test("user and password of a URL go into the header", async () => {
  await using monitor = await Listener.start();
  await tellFailure(monitor.url("/x").replace("//", "//me:p%40ss@"), "killed", patience);
  expect(monitor.heard[0]).toMatchObject({ method: "POST", target: "/x/fail", body: "killed" });
  expect(monitor.heard[0]?.headers.authorization).toBe(`Basic ${Buffer.from("me:p@ss").toString("base64")}`);
});
