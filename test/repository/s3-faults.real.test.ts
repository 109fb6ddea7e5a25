import { randomBytes } from "node:crypto";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import {
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { packKey } from "../../src/repository/layout.ts";
import { S3Store, type S3StoreOptions } from "../../src/repository/s3.ts";
import { digestOf } from "../../src/system/digest.ts";
import { failure, gather } from "../contract/object-store.ts";
import { sharedCeph } from "../support/ceph.ts";
import { FaultyProxy, type SeenRequest } from "../support/faulty-proxy.ts";
import { needs } from "../support/needs.ts";
import type { ObjectServer } from "../support/object-server.ts";
import { newBucket, plainClient, writeCredentials } from "../support/s3.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

describe.skipIf(!needs("ceph"))("between us and Ceph", () => {
  const scratch = makeScratch();
  const credentialsFile = join(scratch, "credentials");
  let server: ObjectServer;
  let bucket: string;
  let proxy: FaultyProxy;
  let plain: S3Client;
  const opened: S3Store[] = [];

  beforeAll(async () => {
    server = await sharedCeph();
    bucket = await newBucket(server);
    proxy = await FaultyProxy.start(server.endpoint);
    plain = plainClient(server);
    writeCredentials(credentialsFile, server);
  });
  afterEach(() => {
    proxy.fault = () => undefined;
    proxy.seen.length = 0;
  });
  afterAll(async () => {
    for (const store of opened) await store.close();
    plain?.destroy();
    await proxy?.close();
    destroyScratch(scratch);
  });

  function newStore(over: Partial<S3StoreOptions> = {}): S3Store {
    const store = new S3Store({
      bucket,
      prefix: randomBytes(6).toString("hex"),
      endpoint: proxy.endpoint,
      credentialsFile,
      timing: { connectMs: 500, silenceMs: 1000, answerMs: 5000, attempts: 3 },
      ...over,
    });
    opened.push(store);
    return store;
  }

  /** The fault hits the first requests that match. */
  function hit(times: number, matches: (request: SeenRequest) => boolean, fault: ReturnType<FaultyProxy["fault"]>) {
    let left = times;
    proxy.fault = (request) => (matches(request) && left-- > 0 ? fault : undefined);
  }

  /** The first requests that match meet one fault each. */
  function hitInTurn(matches: (request: SeenRequest) => boolean, ...faults: ReturnType<FaultyProxy["fault"]>[]) {
    proxy.fault = (request) => (matches(request) ? faults.shift() : undefined);
  }

  const isPut = ({ method, url }: SeenRequest) => method === "PUT" && !url.includes("partNumber");
  const isPart = ({ method, url }: SeenRequest) => method === "PUT" && url.includes("partNumber=2");
  const isCompletion = ({ method, url }: SeenRequest) => method === "POST" && /uploadId=./.test(url);
  const isGet = ({ method, url }: SeenRequest) => method === "GET" && !url.includes("list-type");

  const small = randomBytes(100_000);
  const large = randomBytes(17 * 1024 * 1024);
  const key = packKey(digestOf(small).digest);
  const put = (store: S3Store, body = small) => store.put(key, body, digestOf(body).digest);
  const unfinished = async () =>
    (await plain.send(new ListMultipartUploadsCommand({ Bucket: bucket }))).Uploads?.map((upload) => upload.Key) ?? [];

  describe("what passes by itself is tried again", () => {
    test.each([
      ["a cut connection", { kind: "cut" }],
      ["a lost answer", { kind: "lose-answer" }],
      ["an error of the server", { kind: "answer", status: 503, code: "SlowDown" }],
      ["a silence", { kind: "silence" }],
    ] as const)("%s during a put", async (_, fault) => {
      const store = newStore();
      hit(2, isPut, fault);
      await put(store);
      expect((await store.get(key)).equals(small)).toBe(true);
    });

    test.each([
      ["a part is cut", isPart, { kind: "cut" }],
      ["a part's answer is lost", isPart, { kind: "lose-answer" }],
      ["the completion's answer is lost", isCompletion, { kind: "lose-answer" }],
      ["the completion fails at first", isCompletion, { kind: "answer", status: 500, code: "InternalError" }],
      [
        "the completion says 200 and then an error",
        isCompletion,
        { kind: "answer", status: 200, code: "InternalError" },
      ],
    ] as const)("%s", async (_, matches, fault) => {
      const store = newStore();
      hit(1, matches, fault);
      await put(store, large);
      expect((await store.get(key)).equals(large)).toBe(true);
      expect(await unfinished()).toEqual([]);
    });

    test.each([
      ["cut", { kind: "cut-body", afterBytes: 40_000 }],
      ["cut at once", { kind: "cut-body", afterBytes: 0 }],
      ["that goes silent", { kind: "stall-body", afterBytes: 40_000 }],
    ] as const)("a body %s is read on from where it ended", async (_, fault) => {
      const store = newStore();
      await put(store);
      hit(2, isGet, fault);
      expect((await store.get(key)).equals(small)).toBe(true);
      hit(2, isGet, fault);
      expect(Buffer.concat(await gather(store.open(key))).equals(small)).toBe(true);
    });

    test("a completion whose answer was lost, and that the server does not know the second time", async () => {
      const store = newStore();
      hitInTurn(isCompletion, { kind: "lose-answer" }, { kind: "answer", status: 404, code: "NoSuchUpload" });
      await put(store, large);
      expect((await store.get(key)).equals(large)).toBe(true);
    });

    test("a body cut by a server that knows no ranges is read from its start", async () => {
      const store = newStore();
      await put(store);
      hitInTurn(isGet, { kind: "cut-body", afterBytes: 40_000 }, { kind: "answer", status: 200, text: small });
      expect((await store.get(key)).equals(small)).toBe(true);
    });

    test("a body cut many times is read as long as it gets further", async () => {
      const store = newStore();
      await put(store);
      hit(9, isGet, { kind: "cut-body", afterBytes: 10_000 });
      expect((await store.get(key)).equals(small)).toBe(true);
    });
  });

  describe("what does not pass ends with an error that says what to do", () => {
    const ways: [string, Parameters<typeof hit>[2], RegExp, RegExp][] = [
      ["403", { kind: "answer", status: 403, code: "AccessDenied" }, /AccessDenied \(403\)|403/, /s3:PutObject/],
      ["500", { kind: "answer", status: 500, code: "InternalError", text: "disk on fire" }, /500/, /in trouble/],
      ["503", { kind: "answer", status: 503, code: "SlowDown" }, /503/, /later|in trouble/],
      ["507", { kind: "answer", status: 507, code: "InsufficientStorage" }, /507/, /full/],
      ["a clock error", { kind: "answer", status: 403, code: "RequestTimeTooSkewed" }, /403/, /clock|may not/],
      ["nothing", { kind: "silence" }, /TimeoutError/, /does not answer/],
      ["a closed connection", { kind: "cut" }, /ECONNRESET|socket hang up/, /network/],
    ];
    const calls: [string, (store: S3Store) => Promise<unknown>][] = [
      ["put", (store) => put(store)],
      ["get", (store) => store.get(key)],
      ["list", (store) => gather(store.list(""))],
      ["remove", (store) => store.remove(key)],
      ["sweep", (store) => store.sweep()],
    ];
    for (const [way, fault, message, hint] of ways) {
      test.each(calls)(`the server answers ${way} to %s`, async (_, call) => {
        const store = newStore();
        hit(1000, () => true, fault);
        const started = performance.now();
        const error = await failure(call(store));
        expect(performance.now() - started).toBeLessThan(10_000);
        expect(error.kind).toBe("store-failed");
        expect(error.message).toContain(store.url);
        expect(error.message).toMatch(message);
        expect(error.hints.join("; ")).toMatch(hint);
        expect(JSON.stringify([error.message, error.hints, String(error.cause)])).not.toContain(server.secretKey);
      });
    }

    test("a clock error is told as such where the answer has a body", async () => {
      hit(1000, isPut, { kind: "answer", status: 403, code: "RequestTimeTooSkewed" });
      const error = await failure(put(newStore()));
      expect(error.message).toContain("RequestTimeTooSkewed (403)");
      expect(error.hints.join()).toContain("timedatectl");
    });

    test("a body that never gets further", async () => {
      const store = newStore();
      await put(store);
      hit(1000, isGet, { kind: "cut-body", afterBytes: 0 });
      const error = await failure(store.get(key));
      expect(error.kind).toBe("store-failed");
      expect(error.message).toContain("IncompleteBody");
    });

    test("a server nobody listens for", async () => {
      const closed = await FaultyProxy.start(server.endpoint);
      const { endpoint } = closed;
      await closed.close();
      const error = await failure(put(newStore({ endpoint })));
      expect(error.message).toContain("ECONNREFUSED");
      expect(error.hints.join()).toContain(`nothing listens at ${endpoint}`);
    });

    test("a listener that takes connections and says nothing", async () => {
      const sockets: Socket[] = [];
      const mute: Server = createServer((socket) => sockets.push(socket));
      await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
      const address = mute.address();
      const port = typeof address === "object" ? address?.port : 0;
      const error = await failure(put(newStore({ endpoint: `http://127.0.0.1:${port}` })));
      expect(error.hints.join()).toContain("does not answer");
      for (const socket of sockets) socket.destroy();
      mute.close();
    });

    test("a host name that does not exist", async () => {
      const error = await failure(put(newStore({ endpoint: "http://s3.invalid" })));
      expect(error.hints.join()).toMatch(/can't be resolved|check the network/);
    });

    test("a signal ends the wait for a silent server at once", async () => {
      const store = newStore({ timing: { silenceMs: 60_000 } });
      const reason = new OperatorError("interrupted", "stopped by a test");
      for (const call of [
        (signal: AbortSignal) => store.put(key, small, digestOf(small).digest, signal),
        (signal: AbortSignal) => store.get(key, signal),
        (signal: AbortSignal) => gather(store.list("", signal)),
      ]) {
        hit(1000, () => true, { kind: "silence" });
        const stop = new AbortController();
        setTimeout(() => stop.abort(reason), 100);
        const started = performance.now();
        expect(await failure(call(stop.signal))).toBe(reason);
        expect(performance.now() - started).toBeLessThan(2000);
      }
    });

    test("a signal ends a body that went silent at once", async () => {
      const store = newStore({ timing: { silenceMs: 60_000 } });
      await put(store);
      hit(1, isGet, { kind: "stall-body", afterBytes: 1000 });
      const reason = new OperatorError("interrupted", "stopped by a test");
      const stop = new AbortController();
      setTimeout(() => stop.abort(reason), 300);
      const started = performance.now();
      expect(await failure(store.get(key, stop.signal))).toBe(reason);
      expect(performance.now() - started).toBeLessThan(2000);
    });
  });

  describe("credentials", () => {
    test.each([
      [
        "a wrong secret",
        { accessKey: "test", secretKey: "not-the-secret" },
        "SignatureDoesNotMatch",
        /secret key is wrong/,
      ],
      ["an unknown key", { accessKey: "nobody", secretKey: "testtest" }, "InvalidAccessKeyId", /access key/],
      ["another account's", { accessKey: "other", secretKey: "otherother" }, "AccessDenied", /may not do that/],
    ])("%s", async (name, keys, code, hint) => {
      const path = join(scratch, `credentials ${name}`);
      writeCredentials(path, keys);
      const store = newStore({ credentialsFile: path });
      for (const error of [await failure(gather(store.list(""))), await failure(store.get(key))]) {
        expect(error.kind).toBe("store-failed");
        expect(error.message).toContain(`${code} (403)`);
        expect(error.hints.join()).toMatch(hint);
        expect(JSON.stringify([error.message, error.hints, String(error.cause)])).not.toContain(keys.secretKey);
      }
      expect((await failure(put(store))).kind).toBe("store-failed");
    });
  });

  describe("what a server says of itself is not believed", () => {
    const otherTag = { etag: '"0123456789abcdef0123456789abcdef"' };

    test.each([
      ["small", small],
      ["large", large],
    ])("a %s object under a tag we don't know is read back", async (_, body) => {
      const store = newStore();
      hit(1000, (request) => request.method !== "GET" && !request.url.includes("partNumber"), {
        kind: "meddle",
        headers: otherTag,
      });
      await put(store, body);
      expect(proxy.seen.some(isGet)).toBe(true);
    });

    test("an object whose tag is right is not read back", async () => {
      const store = newStore();
      await put(store);
      await store.remove(key);
      await put(store, large);
      expect(proxy.seen.some(isGet)).toBe(false);
    });

    test("an object that reads back as something else is an error, and is taken away", async () => {
      const store = newStore();
      const wrong = Buffer.from(small);
      wrong[5000] = (wrong[5000] ?? 0) ^ 1;
      const swap = async () => {
        const at = proxy.seen.findLast(isPut)?.url.split("?")[0]?.split("/").slice(2).join("/") ?? "";
        await plain.send(new PutObjectCommand({ Bucket: bucket, Key: at, Body: wrong }));
      };
      hit(1, isPut, { kind: "meddle", act: swap, headers: otherTag });
      const error = await failure(put(store));
      expect(error.kind).toBe("store-failed");
      expect(error.message).toContain("is not what was sent");
      expect(await gather(store.list(""))).toEqual([]);
      await put(store);
    });

    test("a body with one byte flipped on the way to the reader is the reader's to find", async () => {
      const store = newStore();
      await put(store);
      hit(1, isGet, { kind: "flip-byte", at: 500 });
      expect(digestOf(await store.get(key)).digest).not.toBe(digestOf(small).digest);
    });
  });

  describe("multipart uploads", () => {
    test.each([
      ["a part fails for good", isPart],
      ["the completion fails for good", isCompletion],
    ] as const)("are aborted when %s", async (_, matches) => {
      const store = newStore();
      hit(1000, matches, { kind: "answer", status: 403, code: "AccessDenied" });
      const error = await failure(put(store, large));
      expect(error.message).toContain("AccessDenied (403)");
      expect(await unfinished()).toEqual([]);
      expect(await gather(store.list(""))).toEqual([]);
    });

    test("are aborted when a signal ends the put", async () => {
      const store = newStore();
      const reason = new OperatorError("interrupted", "stopped by a test");
      const stop = new AbortController();
      proxy.fault = (request) => {
        if (isPart(request)) stop.abort(reason);
        return undefined;
      };
      expect(await failure(store.put(key, large, digestOf(large).digest, stop.signal))).toBe(reason);
      expect(await unfinished()).toEqual([]);
    });

    test("that a killed writer left are swept when they are 48 hours old, if they are ours", async () => {
      const prefix = randomBytes(6).toString("hex");
      const ours = `${prefix}/${key}`;
      const foreign = [`${prefix}/movie.mp4`, `other/${key}`];
      for (const Key of [ours, ...foreign]) {
        const { UploadId } = await plain.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key }));
        await plain.send(new UploadPartCommand({ Bucket: bucket, Key, UploadId, PartNumber: 1, Body: "left" }));
      }
      const hours = 3_600_000;
      expect(await newStore({ prefix, now: () => Date.now() + 47 * hours }).sweep()).toBe(0);
      expect(await unfinished()).toContain(ours);
      expect(await newStore({ prefix, now: () => Date.now() + 49 * hours }).sweep()).toBe(1);
      expect((await unfinished()).sort()).toEqual([...foreign].sort());
    });
  });

  test("the whole bucket without a prefix is a repository too, and prefixes don't mix", async () => {
    const own = await newBucket(server);
    const whole = newStore({ bucket: own, prefix: "" });
    const below = newStore({ bucket: own, prefix: "a" });
    const beside = newStore({ bucket: own, prefix: "ab" });
    for (const store of [whole, below, beside]) await put(store);
    expect((await gather(below.list(""))).map((object) => object.key)).toEqual([key]);
    expect((await gather(whole.list(""))).map((object) => object.key)).toEqual([`a/${key}`, `ab/${key}`, key]);
    expect(whole.url).toBe(`s3://${own}`);
    expect(below.url).toBe(`s3://${own}/a`);
  });

  test("folders a console made are not objects", async () => {
    const store = newStore({ prefix: "console" });
    await plain.send(new PutObjectCommand({ Bucket: bucket, Key: "console/", Body: "" }));
    await plain.send(new PutObjectCommand({ Bucket: bucket, Key: "console/packs/", Body: "" }));
    await put(store);
    expect((await gather(store.list(""))).map((object) => object.key)).toEqual([key]);
  });

  test("an 8 MiB put does not wait for a server that never says to go on", async () => {
    const store = newStore({ timing: {} });
    const body = randomBytes(8 * 1024 * 1024);
    const started = performance.now();
    await store.put(key, body, digestOf(body).digest);
    expect(performance.now() - started).toBeLessThan(5000);
  });
});
