import { spawn } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import { listClaims, readDigests, requireChecked } from "../../src/repository/claims.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { claimedKey, claimKey, parseClaimKey } from "../../src/repository/layout.ts";
import { Repository } from "../../src/repository/repository.ts";
import { type TakeClaimRequest, takeClaim, withdrawClaim } from "../../src/repository/take-claim.ts";
import {
  type Claim,
  type Claimed,
  type ClaimedIdentity,
  claimDigester,
  formatDigests,
  overlapOf,
  parseDigests,
  type Shard,
} from "../../src/snapshot/claim.ts";
import { formatRecord, parseClaimRecord } from "../../src/snapshot/record.ts";
import { digestOf } from "../../src/system/digest.ts";
import { failure } from "../contract/object-store.ts";
import { claimRequest, identities, newSigningKey, trustFile } from "../support/claims.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { chooseSeed, Random } from "../support/random.ts";
import { digestFrom } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { until } from "../support/wait.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

/** In the order of their names, which is the order of the keys of their first claims. */
let keys: SigningKey[];
const keyFiles = new Map<string, string>();
let low: SigningKey;
let high: SigningKey;
let stranger: SigningKey;
let trustedFile: string;
let directory: string;
let repository: Repository;
let made = 0;

beforeAll(() => {
  keys = ["a", "b", "c", "d", "e"].map((name) => {
    const key = newSigningKey(scratch, name);
    keyFiles.set(key.writer, join(scratch, `${name}.key`));
    return key;
  });
  keys.sort((one, other) => (one.writer < other.writer ? -1 : 1));
  [low, , , , high] = keys as [SigningKey, SigningKey, SigningKey, SigningKey, SigningKey];
  stranger = newSigningKey(scratch, "stranger");
  trustedFile = trustFile(scratch, "trusted", keys);
});

beforeEach(async () => {
  directory = join(scratch, `repository${++made}`);
  repository = await Repository.create(new DirectoryStore(directory));
});

function request(
  key: SigningKey,
  by: string,
  messages: readonly ClaimedIdentity[] = identities(10),
  over: Parameters<typeof claimRequest>[5] = {},
): TakeClaimRequest {
  return claimRequest(repository, key, trustedFile, by, messages, over);
}

const trusted = () => loadTrustedKeys(trustedFile);
const look = () => listClaims(repository, trusted());

function claimOf(key: Pick<SigningKey, "writer">, over: Partial<Claimed> = {}): Claimed {
  return {
    format: 1,
    type: "claim",
    repository: "00112233445566778899aabbccddeeff",
    writer: key.writer,
    number: 1,
    previous: null,
    time: "2026-11-24T02:00:00.000Z",
    state: "claimed",
    host: "mx1.source.test",
    snapshot: digestFrom("snapshot"),
    run: "run",
    by: "mx2.standby.test",
    into: "mx",
    shard: null,
    overrules: [],
    salt: Buffer.alloc(32, 7).toString("base64"),
    digests: { id: digestFrom("list"), bytes: 0, messages: 0 },
    ...over,
  };
}

const identity: fc.Arbitrary<ClaimedIdentity> = fc.record({
  instance: fc.constantFrom("mx", "out"),
  queueId: fc.constantFrom("4Z5j73J8pzBvYj", "7E48C16210F", "7E48C16210"),
  created: fc.constantFrom("1790000000", "1790000001"),
  content: fc.constantFrom(digestFrom(1), digestFrom(2)),
});
const shard: fc.Arbitrary<Shard | null> = fc.option(
  fc.integer({ min: 1, max: 3 }).chain((n) => fc.record({ k: fc.integer({ min: 1, max: n }), n: fc.constant(n) })),
);
const text = (one: ClaimedIdentity) => JSON.stringify([one.instance, one.queueId, one.created, one.content]);

describe("the format", () => {
  test("brings every claim and withdrawal back as it was, whatever its words are", () => {
    fc.assert(
      fc.property(
        fc.record({
          state: fc.constantFrom("claimed" as const, "withdrawn" as const),
          host: fc.string({ minLength: 1 }),
          shard,
          number: fc.integer({ min: 1, max: 9_999_999_999 }),
          salt: fc.uint8Array({ minLength: 32, maxLength: 32 }),
        }),
        ({ state, host, number, salt, ...more }) => {
          const claimed = claimOf(low, { host, number, salt: Buffer.from(salt).toString("base64"), ...more });
          const { format, type, repository: id, writer, previous, time } = claimed;
          const head = { format, type, repository: id, writer, number, previous, time };
          const claim: Claim =
            state === "claimed" ? claimed : { ...head, state, withdraws: digestFrom("claim"), reason: host };
          const { id: recordId, bytes } = formatRecord(claim, low);
          const read = parseClaimRecord(bytes, id);
          expect(read).toMatchObject({ id: recordId, claim });
          expect(trusted().check(read.key, read.line, read.signature)).toBe("trusted");
        },
      ),
    );
  });

  test("has names that say writer, number and id, and no others", () => {
    const place = { writer: low.writer, number: 12, id: digestFrom("x") };
    expect(claimKey(place)).toBe(`claims/${low.writer}/0000000012-${digestFrom("x")}`);
    expect(parseClaimKey(claimKey(place))).toEqual(place);
    expect(parseClaimKey(`snapshots/${low.writer}/0000000012-${digestFrom("x")}`)).toBeUndefined();
    expect(claimedKey(digestFrom("x"))).toBe(`claimed/${digestFrom("x").slice(0, 2)}/${digestFrom("x")}`);
  });

  test("refuses a record of a later format, of another repository, and one in other words", async () => {
    const { bytes } = formatRecord(claimOf(low), low);
    const spoilt = (from: string, to: string) => Buffer.from(bytes.toString().replace(from, to));
    for (const [other, says] of [
      [spoilt('"format":1', '"format":2'), "format 2"],
      [spoilt('"state":"claimed"', '"state":"released"'), "not as the format says"],
      [spoilt('"shard":null', '"shard": null'), "canonical"],
      [spoilt('"by":', '"more":1,"by":'), "not as the format says"],
    ] as const) {
      expect(() => parseClaimRecord(other, claimOf(low).repository)).toThrow(says);
    }
    expect(() => parseClaimRecord(bytes, "ff".repeat(16))).toThrow("another repository");
  });

  test("lists digests sorted, each once, and takes no other list", () => {
    fc.assert(
      fc.property(fc.array(fc.stringMatching(/^[0-9a-f]{32}$/)), (digests) => {
        const list = formatDigests([...digests, ...digests]);
        expect(parseDigests(list)).toEqual(new Set(digests));
        expect(list.length).toBe(33 * new Set(digests).size);
      }),
    );
    const [one, two] = ["1".repeat(32), "2".repeat(32)];
    for (const wrong of [
      `${two}\n${one}\n`,
      `${one}\n${one}\n`,
      one,
      `${one}\n\n`,
      `${one.slice(1)}\n`,
      `${"A".repeat(32)}\n`,
    ]) {
      expect(parseDigests(Buffer.from(wrong)), wrong).toBeUndefined();
    }
  });

  test("has a digest that every part of the identity, the host and the salt change", () => {
    const claim = claimOf(low);
    const [message] = identities(1);
    if (message === undefined) throw new Error("no identity");
    const others = [
      claimDigester(claim).of({ ...message, instance: "out" }),
      claimDigester(claim).of({ ...message, queueId: "7E48C16210F" }),
      claimDigester(claim).of({ ...message, created: "1" }),
      claimDigester(claim).of({ ...message, content: digestFrom("other") }),
      claimDigester({ ...claim, host: "mx9" }).of(message),
      claimDigester({ ...claim, salt: Buffer.alloc(32, 8).toString("base64") }).of(message),
      // The NUL between the parts: nothing moves from one into the next.
      claimDigester(claim).of({
        ...message,
        instance: `mx${message.queueId.slice(0, 1)}`,
        queueId: message.queueId.slice(1),
      }),
    ];
    expect(new Set([claimDigester(claim).of(message), ...others]).size).toBe(others.length + 1);
  });
});

describe("an overlap", () => {
  test("is a common message or shares that don't fit, seen by both sides alike", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(identity, { selector: text }),
        fc.uniqueArray(identity, { selector: text }),
        shard,
        shard,
        (ours, theirs, ourShard, theirShard) => {
          const side = (
            key: SigningKey,
            by: string,
            share: Shard | null,
            messages: readonly ClaimedIdentity[],
            salt: number,
          ) => {
            const claim = claimOf(key, { by, shard: share, salt: Buffer.alloc(32, salt).toString("base64") });
            const digests = new Set(messages.map((message) => claimDigester(claim).of(message)));
            return { claim, digests, claimant: { ...claim, messages } };
          };
          const one = side(low, "mx2", ourShard, ours, 1);
          const other = side(high, "mx3", theirShard, theirs, 2);
          const common = ours.filter((message) => theirs.some((each) => text(each) === text(message))).length;
          const clash =
            ourShard !== null && theirShard !== null && (ourShard.n !== theirShard.n || ourShard.k === theirShard.k);
          const expected = clash
            ? { reason: "shares" }
            : common > 0
              ? { reason: "messages", messages: common }
              : undefined;
          expect(overlapOf(one.claimant, other.claim, other.digests)).toEqual(expected);
          expect(overlapOf(other.claimant, one.claim, one.digests)).toEqual(expected);
        },
      ),
    );
  });

  test("is none between claims of one party, and none with another host's mail", () => {
    const messages = identities(3);
    const claim = claimOf(low);
    const digests = new Set(messages.map((message) => claimDigester(claim).of(message)));
    const other = { ...claimOf(high, { by: "mx3" }), messages };
    expect(overlapOf({ ...claimOf(low), messages }, claim, digests)).toBeUndefined();
    expect(overlapOf({ ...other, host: "mx7" }, claim, digests)).toBeUndefined();
    expect(overlapOf(other, claim, digests)).toEqual({ reason: "messages", messages: 3 });
    // Another instance of the same host delivers by itself.
    expect(overlapOf({ ...claimOf(low, { into: "out" }), messages }, claim, digests)).toBeDefined();
  });
});

describe("taking a claim", () => {
  test("writes what the host it speaks of can compute again, and nothing that names mail", async () => {
    const messages = identities(10);
    const { id } = await takeClaim(request(low, "mx2", messages));
    const { standing } = await look();
    expect(standing).toMatchObject([
      { id, claim: { by: "mx2", number: 1, previous: null, digests: { messages: 10 } } },
    ]);
    const [{ claim, record } = { claim: claimOf(low), record: Buffer.alloc(0) }] = standing;
    const digests = await readDigests(repository, claim);
    expect(digests).toEqual(new Set(messages.map((message) => claimDigester(claim).of(message))));
    const stored = record.toString() + readFileSync(join(directory, claimedKey(claim.digests.id))).toString();
    for (const { queueId, content } of messages) {
      expect(stored).not.toContain(queueId);
      expect(stored).not.toContain(content);
    }
  });

  test("refuses what another has, whichever name is lower, and writes nothing", async () => {
    for (const [first, second, n] of [
      [low, high, 0],
      [high, low, 100],
    ] as const) {
      const messages = identities(10, n);
      await takeClaim(request(first, "mx2", messages, { run: `first${n}` }));
      const before = await look();
      const error = await failure(takeClaim(request(second, "mx3", messages.slice(9), { run: `second${n}` })));
      expect(error).toMatchObject({ kind: "refused", message: expect.stringContaining("1 of these messages") });
      expect((await look()).places).toEqual(before.places);
    }
  });

  test("lets other messages, other shares and the same party pass, and no other number of shares", async () => {
    const [first, second, third] = [identities(5), identities(5, 5), identities(5, 10)];
    const share = (k: number, n: number) => ({ wanted: { shard: { k, n } } });
    await takeClaim(request(low, "mx2", first, share(1, 3)));
    await takeClaim(request(high, "mx3", second, share(2, 3)));
    await takeClaim(request(low, "mx2", first, { run: "again" }));
    expect(await failure(takeClaim(request(high, "mx4", third, share(2, 4))))).toMatchObject({ kind: "refused" });
    expect(await failure(takeClaim(request(high, "mx4", third, share(2, 3))))).toMatchObject({ kind: "refused" });
    await takeClaim(request(high, "mx4", third, share(3, 3)));
    expect((await look()).standing.length).toBe(4);
  });

  test("a withdrawn claim is in nobody's way, and only its writer withdraws it", async () => {
    const { id } = await takeClaim(request(low, "mx2"));
    expect(await failure(withdrawClaim(request(high, "mx3"), id, "mine"))).toMatchObject({ kind: "usage" });
    await withdrawClaim(request(low, "mx2"), id, "undone");
    await withdrawClaim(request(low, "mx2"), id, "twice is no error");
    const { withdrawn, places } = await look();
    expect(withdrawn).toMatchObject([{ id, withdrawal: { reason: "undone", number: 2 } }]);
    expect(places.length).toBe(2);
    await takeClaim(request(high, "mx3"));
  });

  test("a withdrawal by another writer takes nothing back", async () => {
    const { id } = await takeClaim(request(low, "mx2"));
    const { format, type, time } = claimOf(high);
    const head = { format, type, repository: repository.id, writer: high.writer, number: 1, previous: null, time };
    await store({ ...head, state: "withdrawn", withdraws: id, reason: "not mine" }, high);
    expect((await look()).standing.map((one) => one.id)).toEqual([id]);
  });

  test("goes on with the claim that its run wrote before it died", async () => {
    const dying = new FaultyStore(new DirectoryStore(directory));
    const behind = await Repository.open(dying);
    let written = false;
    dying.faults = {
      after: ({ name, key }) => {
        if (name === "put" && key.startsWith("claims/")) written = true;
      },
      before: () => {
        if (written) throw new Error("killed");
      },
    };
    await failure(takeClaim({ ...request(low, "mx2"), repository: behind }));
    const [left] = (await look()).standing;
    const { id } = await takeClaim(request(low, "mx2"));
    expect(id).toBe(left?.id);
    expect((await look()).places.length).toBe(1);
  });

  test("overrules a claim the operator has declared void, and says so in its own", async () => {
    const { id } = await takeClaim(request(low, "mx2"));
    await takeClaim(request(high, "mx3", identities(10), { overrule: [id] }));
    expect((await look()).standing.find(({ claim }) => claim.by === "mx3")?.claim.overrules).toEqual([id]);
  });

  test("ignores what a stranger claims, and tells of it", async () => {
    const believing = trustFile(scratch, "stranger", [stranger]);
    const { key } = await takeClaim(claimRequest(repository, stranger, believing, "evil", identities(10)));
    const { strangers } = await takeClaim(request(low, "mx2"));
    expect(strangers).toMatchObject([{ key, claim: { by: "evil" } }]);
    writeFileSync(join(directory, key), "not even a record");
    const { strangers: unreadable, unchecked } = await look();
    expect({ unreadable, unchecked }).toEqual({ unreadable: [{ key, claim: null }], unchecked: [] });
  });

  test("can't be had by who doesn't trust its own key", async () => {
    expect(await failure(takeClaim(request(stranger, "mx2")))).toMatchObject({ kind: "config" });
  });
});

describe("claims that can't be checked", () => {
  test.each([
    ["a record that is gone", (path: string) => rmSync(path), "is not there"],
    ["a record that is damaged", (path: string) => writeFileSync(path, "{}\n{}\n"), "can't be read"],
    [
      "a signature of other bytes",
      (path: string) => {
        const other = formatRecord(claimOf(high, { by: "other" }), low)
          .bytes.toString()
          .split("\n")[1];
        writeFileSync(path, `${readFileSync(path, "utf8").split("\n")[0]}\n${other}\n`);
      },
      "not signed",
    ],
  ])("%s: no claim is made beside it", async (_, spoil, says) => {
    const first = await takeClaim(request(low, "mx2"));
    await takeClaim(request(low, "mx2", identities(5, 50), { run: "second" }));
    spoil(join(directory, first.key));
    const claims = await look();
    expect(() => requireChecked(claims)).toThrow(says);
    const error = await failure(takeClaim(request(high, "mx3", identities(5, 90))));
    expect(error).toMatchObject({ kind: "damaged", exitCode: 13 });
    expect((await look()).places.filter(({ writer }) => writer === high.writer)).toEqual([]);
  });

  test("the list of a rival is gone: refused", async () => {
    await takeClaim(request(low, "mx2"));
    const [one] = (await look()).standing;
    rmSync(join(directory, claimedKey(one?.claim.digests.id ?? "")));
    expect(await failure(takeClaim(request(high, "mx3")))).toMatchObject({ kind: "damaged" });
  });
});

describe("claiming at one time", () => {
  test("a rival that comes between our look and our claim wins if it stood alone, whichever name is lower", async () => {
    for (const [first, late, n] of [
      [low, high, 0],
      [high, low, 100],
    ] as const) {
      const messages = identities(10, n);
      const store = new FaultyStore(new DirectoryStore(directory));
      let rival: unknown;
      store.faults = {
        before: async ({ name, key }) => {
          if (rival !== undefined || name !== "put" || !key.startsWith("claims/")) return;
          rival = await takeClaim(request(first, "mx2", messages, { run: `r${n}` }));
        },
      };
      const slow = {
        ...request(late, "mx3", messages, { waitMs: 300, run: `s${n}` }),
        repository: await Repository.open(store),
      };
      expect(await failure(takeClaim(slow))).toMatchObject({ kind: "refused" });
      expect(rival).toMatchObject({ id: expect.any(String) });
      const { standing } = await look();
      expect(standing.filter(({ claim }) => claim.run.endsWith(`${n}`)).map(({ claim }) => claim.by)).toEqual(["mx2"]);
    }
  });

  test("of five, exactly one gets it, in many interleavings", async () => {
    const random = new Random(chooseSeed("claims at one time"));
    for (let round = 0; round < 10; round++) {
      repository = await Repository.create(new DirectoryStore(join(directory, `round${round}`)));
      const messages = identities(4, round * 10);
      const outcomes = await Promise.all(
        keys.map(async (key, at) => {
          const pause = async () => void (await delay(random.below(15)));
          const store = new FaultyStore(repository.store, { before: pause, after: pause });
          const own = {
            ...request(key, `mx${at}`, messages, { run: `r${round}` }),
            repository: await Repository.open(store),
          };
          await delay(random.below(60));
          return await takeClaim(own).then(
            ({ id }) => id,
            (error) => (error as { kind: string }).kind,
          );
        }),
      );
      const won = outcomes.filter((outcome) => outcome !== "refused");
      expect(outcomes.length - won.length, outcomes.join(" ")).toBe(4);
      const standing = (await look()).standing.filter(({ claim }) => claim.run === `r${round}`);
      expect(standing.map(({ id }) => id)).toEqual(won);
    }
  });

  test("of two operators in two processes one wins and the other refuses, never both", async () => {
    for (let round = 0; round < 3; round++) {
      const own = join(scratch, `two-processes${round}`);
      await Repository.create(new DirectoryStore(own));
      const operators = [operator(own, low, "mx2"), operator(own, high, "mx3")];
      for (const { ready } of operators) await ready;
      for (const { begin } of operators) begin();
      const words = await Promise.all(operators.map(({ answer }) => answer));
      expect(words.filter((word) => word === "refused")).toHaveLength(1);
      expect(words.filter((word) => /^[0-9a-f]{64}$/.test(word))).toHaveLength(1);
    }
  });

  test("interrupted or failing while it waits, it withdraws", async () => {
    const stop = new AbortController();
    const reason = new Error("stopped");
    const waiting = takeClaim({ ...request(low, "mx2"), settleMs: 60_000, signal: stop.signal });
    const ended = waiting.catch((error: unknown) => error);
    await until(async () => (await look()).standing.length === 1, { everyMs: 20, what: "the claim" });
    stop.abort(reason);
    expect(await ended).toBe(reason);
    const { standing, withdrawn } = await look();
    expect({ standing, reasons: withdrawn.map(({ withdrawal }) => withdrawal.reason) }).toEqual({
      standing: [],
      reasons: ["the run failed"],
    });
  });
});

async function store(claim: Claim, key: SigningKey): Promise<void> {
  const { id, bytes } = formatRecord(claim, key);
  await repository.store.put(claimKey({ ...claim, id }), bytes, digestOf(bytes).digest);
}

/** claiming-operator.ts: when it is ready, what lets it begin, and what it answers. */
function operator(own: string, key: SigningKey, by: string) {
  const program = join(import.meta.dirname, "claiming-operator.ts");
  const keyFile = keyFiles.get(key.writer) ?? "";
  const child = spawn(process.execPath, [program, own, keyFile, trustedFile, by], {
    stdio: ["pipe", "pipe", "inherit"],
    timeout: 25_000,
  });
  const ready = new Promise<unknown>((resolve) => child.stdout.once("data", resolve));
  const answer = (async () => {
    let said = "";
    for await (const chunk of child.stdout) said += chunk;
    return said.replace("ready\n", "");
  })();
  return { ready, answer, begin: () => child.stdin.end("go\n") };
}
