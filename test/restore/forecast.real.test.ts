import { readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { relative } from "node:path";
import { describe, expect, test } from "vitest";
import { loadInstance } from "../../src/postfix/instance.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { type Forecast, type ForecastKind, forecast, type Placement } from "../../src/restore/forecast.ts";
import { gatherTarget } from "../../src/restore/target.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import { message } from "./entries.ts";

const hour = 3600;
const day = 24 * hour;

describe.skipIf(!needs("root", "postfix"))("what is foreseen is what Postfix does", () => {
  test.concurrent("with mail that is old, marked, to be warned of, or for a transport that is not there", async () => {
    await using postfix = await PrivatePostfix.start({
      main: {
        delay_warning_time: "1h",
        bounce_queue_lifetime: "1d",
        smtpd_sender_restrictions: "check_sender_access inline:{{filtered@src.test=FILTER gone:[127.0.0.1]:10024}}",
      },
    });
    const early = ["expired", "held", "notice", "forced", "warned", "warned-later", "renewed", "filtered", "young"];
    const ids = await submitFrom(postfix, early);
    await postfix.setParameter("delay_warning_time", "0");
    await postfix.reload();
    ids.set("unwarned", (await submitFrom(postfix, ["unwarned"])).get("unwarned") ?? "");
    const id = (name: string) => ids.get(name) ?? "";
    await postfix.hold([id("held")]);
    await postfix.stop();
    for (const name of ["expired", "held", "renewed"]) age(postfix, id(name), 6 * day);
    for (const name of ["notice", "young"]) age(postfix, id(name), 2 * day);
    age(postfix, id("unwarned"), 5 * hour);
    for (const name of ["filtered", "forced", "warned-later"]) age(postfix, id(name), 0);
    for (const name of ["warned", "renewed", "expired"]) warnAt(postfix, id(name), -1);
    warnAt(postfix, id("warned-later"), 600);
    await postfix.postsuper(["-e", "-"], [id("forced")]);
    // Three hours; they are in the text of a warning only, when it is sent is settled.
    await postfix.setParameter("delay_warning_time", "3");

    const place = [...ids].map(([name, queueId]) => placementOf(postfix, queueId, name === "renewed"));
    const forecasts = await foresee(postfix, place);
    const foreseen = (kind: ForecastKind) => namesOf(forecasts, kind, ids);
    expect(forecasts.map(({ kind }) => kind)).not.toContain("map-type");
    expect(forecasts.find(({ kind }) => kind === "delay-warning")?.text).not.toContain("0 hours");

    await postfix.postsuper(["-r", "-"], [id("renewed")]);
    await postfix.release([id("held")]);
    const before = postfix.log().length;
    await postfix.start();
    const log = () => postfix.log().slice(before);
    const tried = (queueId: string) => new RegExp(`[: =]${queueId}(: to=|: from=.*expired|$)`, "m").test(log());
    await until(() => [...ids.values()].every(tried), { what: () => `an attempt at each of them; log: ${log()}` });
    await postfix.settled();

    const renewedId = /(\w+): uid=\d+ from=<renewed@src\.test> orig_id=/.exec(log())?.[1] ?? "";
    const logged = (pattern: string) =>
      [...ids.keys()].filter((name) => {
        const now = name === "renewed" ? renewedId : id(name);
        return new RegExp(`[: ]${now}: ${pattern}`).test(log());
      });
    expect(logged("from=<.*status=expired")).toEqual([...foreseen("expires"), ...foreseen("notice-expires")]);
    expect(logged("from=<.*status=force-expired")).toEqual(foreseen("forced-expiry"));
    expect(logged("sender non-delivery")).toEqual([...foreseen("expires"), ...foreseen("forced-expiry")]);
    expect(logged("sender delay notification")).toEqual(foreseen("delay-warning"));
    expect(logged("to=.*mail transport unavailable")).toEqual(foreseen("transport"));

    // And the forecast itself is what was meant to be shown.
    expect(foreseen("expires")).toEqual(["expired", "held"]);
    expect(foreseen("notice-expires")).toEqual(["notice"]);
    expect(foreseen("forced-expiry")).toEqual(["forced"]);
    expect(foreseen("delay-warning")).toEqual(["warned", "renewed"]);
    expect(foreseen("transport")).toEqual(["filtered"]);
    expect(logged("to=.*status=")).not.toContain("forced");
    expect(logged("(removed|postmaster)")).toEqual(["expired", "held", "notice", "forced"]);
    const warnings = postfix.files("deferred").map((file) => readFileSync(file, "latin1"));
    expect(warnings.filter((text) => text.includes("for more than 3 hour(s)"))).toHaveLength(2);
  });

  test.concurrent("with a map type that is named and not there", async () => {
    await using sink = await Sink.start({ domains: { "good.test": {} } });
    await using postfix = await PrivatePostfix.start({ sink, main: { notify_classes: "resource, 2bounce" } });
    const facts = await gatherTarget(await loadInstance(postfix.configDirectory), [], Date.now());
    const { mapTypes, transports, postmasterHears } = facts;
    expect(transports).toEqual(expect.arrayContaining(["smtp", "relay", "error", "retry", "discard", "local"]));
    expect(transports.filter((name) => ["qmgr", "pickup", "cleanup", "showq", "postlog"].includes(name))).toEqual([]);
    expect(postmasterHears).toBe(true);
    const absent = ["cdb", "sdbm", "pgsql", "mongodb"].find((type) => !mapTypes.includes(type)) ?? "";
    await postfix.setParameter("smtp_generic_maps", `${absent}:/nowhere`);
    await postfix.reload();

    expect(await foresee(postfix, [])).toMatchObject([
      { kind: "map-type", text: expect.stringContaining(`names ${absent}: tables (main.cf smtp_generic_maps)`) },
    ]);
    const [letter] = await postfix.submit([plainLetter({ recipients: ["a@good.test"] })]);
    await until(() => postfix.find(letter?.queueId ?? "")?.includes("/deferred/"), { what: () => postfix.log() });
    expect(postfix.log()).toMatch(new RegExp(`${absent}:/nowhere.*unsupported dictionary type`));
  });
});

/** One letter from each name; `notice` is from the null sender. */
async function submitFrom(postfix: PrivatePostfix, names: readonly string[]): Promise<Map<string, string>> {
  const sender = (name: string) => (name === "notice" ? "" : `${name}@src.test`);
  const sent = await postfix.submit(
    names.map((name) => plainLetter({ sender: sender(name), recipients: ["a@dst.test"] })),
  );
  const ids = new Map(names.map((name, index) => [name, sent[index]?.queueId ?? ""]));
  await until(() => [...ids.values()].every((id) => postfix.find(id)?.includes("/deferred/")), {
    what: () => `all deferred; log: ${postfix.log()}`,
  });
  return ids;
}

/** As if it had been created so much earlier, and were due. */
function age(postfix: PrivatePostfix, queueId: string, seconds: number): void {
  edit(postfix, queueId, /(?<=create_time=)\d{10}/, (time) => String(Number(time) - seconds));
}

/** Move the time of its delay warning to so many seconds from now, and make it due. */
function warnAt(postfix: PrivatePostfix, queueId: string, seconds: number): void {
  const time = String(Math.floor(Date.now() / 1000) + seconds);
  edit(postfix, queueId, /(?<=W. {5})\d{10}/s, () => time);
}

function edit(postfix: PrivatePostfix, queueId: string, pattern: RegExp, change: (found: string) => string): void {
  const path = postfix.find(queueId) ?? "";
  const text = readFileSync(path, "latin1");
  expect(text).toMatch(pattern);
  writeFileSync(path, Buffer.from(text.replace(pattern, change), "latin1"));
  const now = Date.now() / 1000;
  utimesSync(path, now, now);
}

/** The message as a restore would plan it that puts it where it is, or through maildrop. */
function placementOf(postfix: PrivatePostfix, queueId: string, requeue: boolean): Placement {
  const path = postfix.find(queueId) ?? "";
  const { recipients, ...facts } = readQueueFile(bufferSource(readFileSync(path)));
  const { mode, mtimeMs } = statSync(path);
  const queue = relative(postfix.queueDirectory, path).startsWith("hold") ? "hold" : "deferred";
  return {
    message: message({ ...facts, queueId, queue, mtime: mtimeMs / 1000, recipients }),
    queue: requeue ? "maildrop" : queue,
    mode: requeue ? 0o700 : mode & 0o777,
    mtime: mtimeMs / 1000,
    recipients: recipients.flatMap(({ done }, index) => (done ? [] : [index])),
    waits: false,
  };
}

async function foresee(postfix: PrivatePostfix, place: readonly Placement[]): Promise<Forecast[]> {
  const target = await gatherTarget(await loadInstance(postfix.configDirectory), [], Date.now());
  expect(target.running).toBe(postfix.running());
  return forecast(place, { time: new Date().toISOString(), postfixVersion: target.postfixVersion }, target);
}

/** Names of the mail that forecasts of a kind are about, in the order of the names. */
function namesOf(forecasts: readonly Forecast[], kind: ForecastKind, ids: ReadonlyMap<string, string>): string[] {
  const found = forecasts.filter((one) => one.kind === kind).flatMap(({ queueIds }) => queueIds);
  return [...ids].flatMap(([name, id]) => (found.includes(id) ? [name] : []));
}
