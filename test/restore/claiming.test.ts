import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { loadTrustedKeys, type SigningKey } from "../../src/crypto/sign.ts";
import { OperatorError } from "../../src/errors.ts";
import { listClaims, readDigests } from "../../src/repository/claims.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { takeClaim } from "../../src/repository/take-claim.ts";
import { type ClaimsOptions, claimsOf } from "../../src/restore/claiming.ts";
import { type ClaimedIdentity, claimDigester } from "../../src/snapshot/claim.ts";
import { systemClock } from "../../src/system/clock.ts";
import { failure } from "../contract/object-store.ts";
import { claimRequest, identities, newSigningKey, trustFile } from "../support/claims.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { digestFrom } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

let own: SigningKey;
let other: SigningKey;
let trustedFile = "";
let store: FaultyStore;
let repository: Repository;
let made = 0;

beforeAll(() => {
  own = newSigningKey(scratch, "own");
  other = newSigningKey(scratch, "other");
  trustedFile = trustFile(scratch, "trusted", [own, other]);
});

beforeEach(freshRepository);

async function freshRepository(): Promise<void> {
  const directory = join(scratch, `repository${++made}`);
  mkdirSync(directory);
  store = new FaultyStore(new DirectoryStore(directory));
  repository = await Repository.create(store);
}

const run = "20261124T120000-01234567";
const ten = identities(10);

function claims(over: Partial<ClaimsOptions> = {}) {
  return claimsOf({
    ...{ repository, key: own, trusted: loadTrustedKeys(trustedFile), clock: systemClock, settleMs: 20, waitMs: 2000 },
    ...{ host: "mx1.source.test", snapshot: digestFrom("snapshot"), by: "mx2.test", into: "mx", shard: null },
    ...over,
  });
}

const standing = async () => (await listClaims(repository, loadTrustedKeys(trustedFile))).standing;

/** Whether the claims that stand name this message. */
async function isClaimed(message: ClaimedIdentity): Promise<boolean> {
  for (const { claim } of await standing()) {
    if ((await readDigests(repository, claim)).has(claimDigester(claim).of(message))) return true;
  }
  return false;
}

async function claimed(messages: readonly ClaimedIdentity[]): Promise<boolean[]> {
  return await Promise.all(messages.map(isClaimed));
}

describe("a run that claims", () => {
  test("finds its own claim again, and makes another for other messages", async () => {
    const { id, warnings } = await claims().take(run, ten);
    expect(warnings).toEqual([]);
    expect((await claims().take(run, ten)).id).toBe(id);
    expect((await claims().take(run, ten.slice(1))).id).not.toBe(id);
    expect((await standing()).map(({ claim }) => [claim.run, claim.by, claim.into])).toEqual([
      [run, "mx2.test", "mx"],
      [run, "mx2.test", "mx"],
    ]);
  });

  test("is refused what another party has, and not told to do without a claim", async () => {
    await takeClaim(claimRequest(repository, other, trustedFile, "mx3.test", ten.slice(9)));
    const error = await failure(claims().take(run, ten));
    expect(error).toMatchObject({ kind: "refused", message: expect.stringContaining("mx3.test") });
    expect(error.hints.join()).not.toContain("--without-claim");
    expect(await standing()).toHaveLength(1);
  });

  test("hears of strangers who claim the same host's mail, and goes on", async () => {
    const stranger = newSigningKey(scratch, "stranger");
    const believing = trustFile(scratch, "stranger", [stranger]);
    const ask = (host: string, of: string) =>
      takeClaim(claimRequest(repository, stranger, believing, "evil.test", ten, { run: of, wanted: { host } }));
    const { key } = await ask("mx1.source.test", "one");
    await ask("mx9.source.test", "two");
    writeFileSync(join(scratch, `repository${made}`, "claims", stranger.writer, `0000000003-${"ab".repeat(32)}`), "x");
    const { warnings } = await claims().take(run, ten);
    expect(warnings).toHaveLength(2);
    expect(warnings[0]).toContain(`evil.test says it took over mail of mx1.source.test`);
    expect(warnings[0]).toContain(key);
    expect(warnings[1]).toContain("can't be read");
  });

  test.each([
    ["does not take any", "put"],
    ["does not list them", "list"],
  ] as const)("is told of --without-claim where the store %s", async (_, call) => {
    store.faults = {
      before: ({ name, key }) => {
        if (name === call && key.startsWith("claim")) {
          throw new OperatorError("store-failed", "the store is read-only", { hints: ["remount it"] });
        }
      },
    };
    const error = await failure(claims().take(run, ten));
    expect(error).toMatchObject({ kind: "store-failed", message: expect.stringContaining("could not be claimed") });
    expect(error.hints[0]).toBe("remount it");
    expect(error.hints.at(-1)).toMatch(/certain that no other host restores this mail.*--without-claim$/);
    store.faults = {};
    expect(await standing()).toEqual([]);
  });

  test("gives its reason and no advice when it was interrupted", async () => {
    const stop = AbortSignal.abort(new OperatorError("interrupted", "ended by SIGINT"));
    expect(await failure(claims({ signal: stop }).take(run, ten))).toMatchObject({ kind: "interrupted", hints: [] });
  });
});

describe("a run that gives its claim back", () => {
  test("withdraws each that stands, known or not, and no other run's", async () => {
    await claims().take(run, ten);
    await claims().take(run, ten.slice(3));
    await claims().take("another", identities(3, 50));
    await takeClaim(claimRequest(repository, other, trustedFile, "mx3.test", identities(3, 90), { run }));
    for (const _ of ["once", "again"]) await claims().withdraw(run, "undone");
    expect((await standing()).map(({ claim }) => [claim.run, claim.by]).sort()).toEqual([
      [run, "mx3.test"],
      ["another", "mx2.test"],
    ]);
  });

  test("does not take a claim for withdrawn that it can't see", async () => {
    const { id } = await claims().take(run, ten);
    writeFileSync(join(scratch, `repository${made}`, "claims", own.writer, `0000000001-${id}`), "damaged");
    expect(await failure(claims().withdraw(run, "undone"))).toMatchObject({ kind: "damaged" });
  });
});

describe("the first claim of a share", () => {
  test("fixes into how many the snapshot is cut, for the host that made it too", async () => {
    await claims({ shard: { k: 1, n: 3 } }).take(run, ten.slice(0, 3));
    const another = "20261124T130000-01234567";
    expect(await failure(claims({ shard: { k: 1, n: 4 } }).take(another, ten.slice(0, 2)))).toMatchObject({
      kind: "refused",
      message: expect.stringContaining("shared out in another way"),
    });
    await claims({ shard: { k: 2, n: 3 } }).take(another, ten.slice(3, 6));
    const later = claims({ shard: { k: 1, n: 4 }, snapshot: digestFrom("a later one") });
    await later.take("20261124T140000-01234567", ten.slice(6, 8));
    expect((await standing()).map(({ claim }) => claim.shard)).toEqual([
      { k: 1, n: 3 },
      { k: 2, n: 3 },
      { k: 1, n: 4 },
    ]);
  });
});

describe("a run that keeps part of its claim", () => {
  test("claims the rest and nothing else, with the same words", async () => {
    const shard = { k: 2, n: 3 };
    const { id } = await claims({ shard }).take(run, ten);
    const narrowed = await claims().narrow(run, ten.slice(6), "undone");
    expect(narrowed).not.toBe(id);
    expect(await standing()).toMatchObject([
      { id: narrowed, claim: { run, shard, host: "mx1.source.test", by: "mx2.test", into: "mx" } },
    ]);
    expect(await claimed(ten)).toEqual(ten.map((_, at) => at >= 6));
    expect(await claims().narrow(run, ten.slice(6), "undone")).toBe(narrowed);
  });

  test("never claims more than it had, which somebody else may have by now", async () => {
    await claims().take(run, ten.slice(0, 5));
    await claims().narrow(run, ten.slice(4), "undone");
    expect(await claimed(ten)).toEqual(ten.map((_, at) => at === 4));
    expect(await claims().narrow(run, ten.slice(7), "undone")).toBeNull();
    expect(await standing()).toEqual([]);
    expect(await claims().narrow(run, ten, "undone")).toBeNull();
    expect(await standing()).toEqual([]);
  });

  test("has it claimed at every moment, wherever it dies, and ends the same when it is called again", async () => {
    const rest = ten.slice(6);
    for (let nth = 1, killed = true; killed; nth++) {
      await freshRepository();
      await claims().take(run, ten);
      const counted = () => store.calls.filter(({ name }) => name === "put" || name === "list").length;
      const began = counted();
      store.faults = {
        before: () => {
          if (counted() - began >= nth) throw new Error("killed");
        },
      };
      const error = await claims()
        .narrow(run, rest, "undone")
        .catch((cause: unknown) => cause);
      killed = error instanceof Error;
      store.faults = {};
      expect(await claimed(rest)).toEqual(rest.map(() => true));
      await claims().narrow(run, rest, "undone");
      expect(await standing()).toHaveLength(1);
      expect(await claimed(ten)).toEqual(ten.map((_, at) => at >= 6));
      expect(nth).toBeLessThan(20);
    }
  });
});
