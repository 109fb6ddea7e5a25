import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LogRecord } from "../../src/postfix/mail-log.ts";
import { missingFile, readMailLogs } from "../../src/postfix/mail-log-files.ts";
import { errorOf } from "../support/keys.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "spoolsafe-logs-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

const noon = Date.parse("2026-11-24T12:00:00Z") / 1000;

/** A line so many seconds after noon. */
function line(seconds: number, text = `00000000${seconds}: removed`, tag = "postfix/qmgr[1]"): string {
  const stamp = new Date((noon + seconds) * 1000).toISOString();
  return `Nov 24 ${stamp.slice(11, 19)} mx ${tag}: ${text}`;
}

function write(name: string, lines: readonly string[] | Buffer): string {
  const path = join(directory, name);
  writeFileSync(path, Buffer.isBuffer(lines) ? lines : `${lines.join("\n")}\n`);
  return path;
}

async function read(...paths: string[]): Promise<LogRecord[]> {
  const records: LogRecord[] = [];
  for await (const batch of readMailLogs(paths, { reference: noon + 86_400, zone: "UTC" })) records.push(...batch);
  return records;
}

const secondsOf = (records: readonly LogRecord[]) => records.map(({ time }) => time - noon);
const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => from + at);
const bytes = (from: number, to: number) =>
  Buffer.from(
    `${numbers(from, to)
      .map((at) => line(at))
      .join("\n")}\n`,
  );

describe("files in any order", () => {
  test("come in the order of time: plain, gzip, zstd and JSON, rotated", async () => {
    const paths = [
      write(
        "mail.log",
        numbers(300, 400).map((at) => line(at)),
      ),
      write("mail.log.2.gz", gzipSync(bytes(100, 200))),
      write("mail.log.1", zstdCompressSync(bytes(200, 300))),
      write(
        "journal",
        numbers(0, 100).map((at) =>
          JSON.stringify({
            __REALTIME_TIMESTAMP: String((noon + at) * 1e6),
            SYSLOG_IDENTIFIER: "postfix/qmgr",
            MESSAGE: "x",
          }),
        ),
      ),
    ];
    expect(secondsOf(await read(...paths))).toEqual(numbers(0, 400));
  });

  test("of several frames and members are read to their end", async () => {
    const skippable = Buffer.from([0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7]);
    const zstd = write(
      "frames.zst",
      Buffer.concat([skippable, zstdCompressSync(bytes(0, 50)), skippable, zstdCompressSync(bytes(50, 90))]),
    );
    expect(secondsOf(await read(zstd))).toEqual(numbers(0, 90));
    const gzip = write("members.gz", Buffer.concat([gzipSync(bytes(0, 50)), gzipSync(bytes(50, 90))]));
    expect(secondsOf(await read(gzip))).toEqual(numbers(0, 90));
  });

  test("that overlap count once, in whichever order they are given", async () => {
    const first = write("first", bytes(0, 60));
    const second = write("second.gz", gzipSync(bytes(30, 90)));
    for (const paths of [
      [first, second],
      [second, first],
      [first, second, first],
    ]) {
      expect(secondsOf(await read(...paths))).toEqual(numbers(0, 90));
    }
  });

  test("count the same line as often as one of them has it", async () => {
    const twice = [line(1, "one"), line(1, "one"), line(1, "two"), line(2, "one")];
    const records = await read(
      write("twice", twice),
      write("again", twice),
      write("once", [line(1, "one"), line(1, "three")]),
    );
    expect(records.map(({ text }) => text).sort()).toEqual(["one", "one", "one", "three", "two"]);
  });

  test("tell processes apart that say the same", async () => {
    const paths = [
      write("a", [line(1, "one", "postfix/smtp[1]")]),
      write("b", [line(1, "one", "postfix/smtp[2]"), line(1, "one", "out/smtp[1]")]),
    ];
    expect(await read(...paths)).toHaveLength(3);
  });

  test("keep a file's order within a second, and lines that are out of order", async () => {
    const texts = ["b", "a", "c", "z"];
    expect(
      (
        await read(
          write(
            "order",
            texts.map((text) => line(5, text)),
          ),
        )
      ).map(({ text }) => text),
    ).toEqual(texts);
    expect(secondsOf(await read(write("back", [line(5), line(4), line(6)])))).toEqual([5, 4, 6]);
  });

  test("go on where the clock was put back", async () => {
    const wrong = write("wrong", [line(0), line(7200), line(1), line(3)]);
    expect(secondsOf(await read(wrong, write("right", [line(2), line(4)])))).toEqual([0, 2, 4, 7200, 1, 3]);
  });

  test("with a number missing tell so where its lines would be", async () => {
    const paths = [
      write("set.log", bytes(300, 310)),
      write("set.log.2", bytes(100, 110)),
      write("set.log.3.gz", gzipSync(bytes(0, 10))),
    ];
    const records = await read(...paths);
    expect(records.findIndex(({ daemon }) => daemon === missingFile)).toBe(20);
    expect(records[20]).toMatchObject({
      time: noon + 300,
      text: expect.stringContaining("set.log.1 is not among the logs"),
    });
  });

  test("split anywhere give what the whole gives", async () => {
    const whole = bytes(0, 120);
    const expected = await read(write("whole", whole));
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(120), { maxLength: 5 }), fc.nat(10), async (cuts, overlap) => {
        const bounds = [0, ...cuts.sort((a, b) => a - b), 120];
        const paths = bounds.slice(1).map((to, at) => {
          const part = bytes(Math.max(0, (bounds[at] ?? 0) - overlap), to);
          return write(`part${at}`, at % 2 === 0 ? part : gzipSync(part));
        });
        expect(await read(...paths.reverse())).toEqual(expected);
      }),
      { numRuns: 30 },
    );
  });
});

describe("years", () => {
  test("are found from a file's whole length, and from each file by itself", async () => {
    const stamps = ["Feb 27 10:00:00", "Feb 29 10:00:00", "Dec 31 23:59:59", "Jan  1 00:00:01", "Nov  2 10:00:00"];
    const path = write(
      "long",
      stamps.map((stamp) => `${stamp} mx postfix/qmgr[1]: x`),
    );
    const years = (await read(path)).map(({ time }) => new Date(time * 1000).getUTCFullYear());
    expect(years).toEqual([2024, 2024, 2024, 2025, 2025]);
    const old = write("old", ["Dec 30 10:00:00 mx postfix/qmgr[1]: x"]);
    const now = write("now", ["Nov 20 10:00:00 mx postfix/qmgr[1]: x"]);
    expect((await read(now, old)).map(({ time }) => new Date(time * 1000).getUTCFullYear())).toEqual([2025, 2026]);
  });
});

describe("a file", () => {
  test("whose last line is torn is read up to it", async () => {
    const text = bytes(0, 10);
    expect(secondsOf(await read(write("unended", text.subarray(0, -1))))).toEqual(numbers(0, 10));
    const end = "mx postfix/qmgr[1]: 000000009: removed\n".length;
    expect(secondsOf(await read(write("torn", text.subarray(0, -end))))).toEqual(numbers(0, 9));
    expect(secondsOf(await read(write("torn2", text.subarray(0, -end - 7))))).toEqual(numbers(0, 9));
  });

  test.each([
    ["gzip", "cut.gz", () => gzipSync(bytes(0, 900)).subarray(0, 700)],
    ["zstd", "cut.zst", () => zstdCompressSync(bytes(0, 900)).subarray(0, 700)],
    [
      "zstd",
      "second.zst",
      () => Buffer.concat([zstdCompressSync(bytes(0, 9)), zstdCompressSync(bytes(0, 900)).subarray(0, 700)]),
    ],
    [
      "gzip",
      "wrong.gz",
      () => {
        const damaged = gzipSync(bytes(0, 900));
        damaged.fill(0, 300, 340);
        return damaged;
      },
    ],
  ])("%s that is damaged or cut short is an error that names it: %s", async (_, name, content) => {
    const path = write(name, content());
    expect(await errorOf(() => read(path))).toMatchObject({ kind: "failed", message: expect.stringContaining(path) });
  });

  test.each([
    ["that is not there", () => join(directory, "nowhere"), "ENOENT"],
    ["that is a directory", () => directory, "not a regular file"],
    ["of xz", () => write("x.xz", Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 1])), "bzip2 or xz"],
  ])("%s is an error that names it", async (_, path, problem) => {
    const error = await errorOf(() => read(path()));
    expect(error).toMatchObject({
      kind: "failed",
      message: expect.stringMatching(problem),
      hints: [expect.any(String)],
    });
    expect((error as Error).message).toContain(path());
  });

  test("without a line of Postfix, or with nothing in it, gives none", async () => {
    expect(
      await read(
        write("empty", Buffer.alloc(0)),
        write("junk", Buffer.alloc(3_000_000, 0x41)),
        write("cron", [line(1, "x", "CRON[1]")]),
      ),
    ).toEqual([]);
  });

  test("of any bytes is read, or refused by name", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (junk) => {
        const path = write("any", Buffer.from(junk));
        try {
          await read(path);
        } catch (error) {
          expect(error).toMatchObject({ kind: "failed", message: expect.stringContaining(path) });
        }
      }),
      { numRuns: 200 },
    );
  });
});

test("memory stays flat", { timeout: 60_000 }, () => {
  const path = write("large.gz", gzipSync(Buffer.from(`${line(1)}\n`.repeat(1_500_000))));
  const program = `import { readMailLogs } from ${JSON.stringify(new URL("../../src/postfix/mail-log-files.ts", import.meta.url).href)};
    let count = 0;
    for await (const batch of readMailLogs([${JSON.stringify(path)}], { reference: ${noon + 86_400}, zone: "UTC" })) count += batch.length;
    console.log(count, process.resourceUsage().maxRSS);`;
  const said = execFileSync(process.execPath, ["--input-type=module-typescript", "--eval", program], {
    encoding: "utf8",
  });
  const [count, kilobytes] = said.split(" ").map(Number);
  expect(count).toBe(1_500_000);
  expect(kilobytes).toBeLessThan(500_000);
});
