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
import { afterAll, beforeAll, describe, expect, test } from "vitest";
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

// Side by side, each with its own way to the server and a bucket of its own: most of the time is spent on silence and on
// pauses between attempts.
describe.skipIf(!needs("ceph")).concurrent("between us and Ceph", () => {
  const scratch = makeScratch();
  const credentialsFile = join(scratch, "credentials");
  let server: ObjectServer;
  let plain: S3Client;

  beforeAll(async () => {
    server = await sharedCeph();
    plain = plainClient(server);
    writeCredentials(credentialsFile, server);
  });
  afterAll(() => {
    plain?.destroy();
    destroyScratch(scratch);
  });

  // A busy machine is silent for a while, too; where silence is what a test is about, it is a short one.
  const patient = { connectMs: 5000, silenceMs: 10_000, answerMs: 20_000, attempts: 3 };
  const impatient = { connectMs: 500, silenceMs: 500, answerMs: 5000, attempts: 3 };
  const silent = { ...patient, silenceMs: 2000 };

  /** The way of one test to a bucket of its own, with the faults it wants on it. */
  class Way implements AsyncDisposable {
    readonly proxy: FaultyProxy;
    readonly bucket: string;
    private readonly opened: S3Store[] = [];

    private constructor(proxy: FaultyProxy, bucket: string) {
      this.proxy = proxy;
      this.bucket = bucket;
    }

    static async open(): Promise<Way> {
      return new Way(await FaultyProxy.start(server.endpoint), await newBucket(server));
    }

    store(over: Partial<S3StoreOptions> = {}): S3Store {
      const store = new S3Store({
        bucket: this.bucket,
        prefix: randomBytes(6).toString("hex"),
        endpoint: this.proxy.endpoint,
        credentialsFile,
        timing: patient,
        ...over,
      });
      this.opened.push(store);
      return store;
    }

    /** The fault hits the first requests that match. */
    hit(times: number, matches: (request: SeenRequest) => boolean, fault: ReturnType<FaultyProxy["fault"]>): void {
      let left = times;
      this.proxy.fault = (request) => (matches(request) && left-- > 0 ? fault : undefined);
    }

    /** The first requests that match meet one fault each. */
    hitInTurn(matches: (request: SeenRequest) => boolean, ...faults: ReturnType<FaultyProxy["fault"]>[]): void {
      this.proxy.fault = (request) => (matches(request) ? faults.shift() : undefined);
    }

    async unfinished(): Promise<(string | undefined)[]> {
      const { Uploads } = await plain.send(new ListMultipartUploadsCommand({ Bucket: this.bucket }));
      return Uploads?.map((upload) => upload.Key) ?? [];
    }

    async [Symbol.asyncDispose](): Promise<void> {
      for (const store of this.opened) await store.close();
      await this.proxy.close();
    }
  }

  const isPut = ({ method, url }: SeenRequest) => method === "PUT" && !url.includes("partNumber");
  const isPart = ({ method, url }: SeenRequest) => method === "PUT" && url.includes("partNumber=2");
  const isCompletion = ({ method, url }: SeenRequest) => method === "POST" && /uploadId=./.test(url);
  const isGet = ({ method, url }: SeenRequest) => method === "GET" && !url.includes("list-type");

  const small = randomBytes(100_000);
  const large = randomBytes(17 * 1024 * 1024);
  const key = packKey(digestOf(small).digest);
  const put = (store: S3Store, body = small) => store.put(key, body, digestOf(body).digest);

  describe("what passes by itself is tried again", () => {
    test.each([
      ["a cut connection", { kind: "cut" }],
      ["a lost answer", { kind: "lose-answer" }],
      ["an error of the server", { kind: "answer", status: 503, code: "SlowDown" }],
      ["a silence", { kind: "silence" }],
    ] as const)("%s during a put", async (_, fault) => {
      await using way = await Way.open();
      const store = way.store({ timing: fault.kind === "silence" ? silent : patient });
      way.hit(2, isPut, fault);
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
      await using way = await Way.open();
      const store = way.store();
      way.hit(1, matches, fault);
      await put(store, large);
      expect((await store.get(key)).equals(large)).toBe(true);
      expect(await way.unfinished()).toEqual([]);
    });

    test.each([
      ["cut", { kind: "cut-body", afterBytes: 40_000 }],
      ["cut at once", { kind: "cut-body", afterBytes: 0 }],
      ["that goes silent", { kind: "stall-body", afterBytes: 40_000 }],
    ] as const)("a body %s is read on from where it ended", async (_, fault) => {
      await using way = await Way.open();
      const store = way.store({ timing: fault.kind === "stall-body" ? silent : patient });
      await put(store);
      way.hit(2, isGet, fault);
      expect((await store.get(key)).equals(small)).toBe(true);
      way.hit(2, isGet, fault);
      expect(Buffer.concat(await gather(store.open(key))).equals(small)).toBe(true);
    });

    test("a completion whose answer was lost, and that the server does not know the second time", async () => {
      await using way = await Way.open();
      const store = way.store();
      way.hitInTurn(isCompletion, { kind: "lose-answer" }, { kind: "answer", status: 404, code: "NoSuchUpload" });
      await put(store, large);
      expect((await store.get(key)).equals(large)).toBe(true);
    });

    test("a body cut by a server that knows no ranges is read from its start", async () => {
      await using way = await Way.open();
      const store = way.store();
      await put(store);
      way.hitInTurn(isGet, { kind: "cut-body", afterBytes: 40_000 }, { kind: "answer", status: 200, text: small });
      expect((await store.get(key)).equals(small)).toBe(true);
    });

    test("a body cut many times is read as long as it gets further", async () => {
      await using way = await Way.open();
      const store = way.store();
      await put(store);
      way.hit(9, isGet, { kind: "cut-body", afterBytes: 10_000 });
      expect((await store.get(key)).equals(small)).toBe(true);
    });
  });

  describe("what does not pass ends with an error that says what to do", () => {
    const ways: [string, ReturnType<FaultyProxy["fault"]>, RegExp, RegExp][] = [
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
        await using way = await Way.open();
        const store = way.store({ timing: fault?.kind === "silence" ? impatient : patient });
        way.hit(1000, () => true, fault);
        const started = performance.now();
        const error = await failure(call(store));
        expect(performance.now() - started).toBeLessThan(20_000);
        expect(error.kind).toBe("store-failed");
        expect(error.message).toContain(store.url);
        expect(error.message).toMatch(message);
        expect(error.hints.join("; ")).toMatch(hint);
        expect(JSON.stringify([error.message, error.hints, String(error.cause)])).not.toContain(server.secretKey);
      });
    }

    test("a clock error is told as such where the answer has a body", async () => {
      await using way = await Way.open();
      way.hit(1000, isPut, { kind: "answer", status: 403, code: "RequestTimeTooSkewed" });
      const error = await failure(put(way.store()));
      expect(error.message).toContain("RequestTimeTooSkewed (403)");
      expect(error.hints.join()).toContain("timedatectl");
    });

    test("a body that never gets further", async () => {
      await using way = await Way.open();
      const store = way.store();
      await put(store);
      way.hit(1000, isGet, { kind: "cut-body", afterBytes: 0 });
      const error = await failure(store.get(key));
      expect(error.kind).toBe("store-failed");
      expect(error.message).toContain("IncompleteBody");
    });

    test("a server nobody listens for", async () => {
      await using way = await Way.open();
      const closed = await FaultyProxy.start(server.endpoint);
      const { endpoint } = closed;
      await closed.close();
      const error = await failure(put(way.store({ endpoint })));
      expect(error.message).toContain("ECONNREFUSED");
      expect(error.hints.join()).toContain(`nothing listens at ${endpoint}`);
    });

    test("a listener that takes connections and says nothing", async () => {
      await using way = await Way.open();
      const sockets: Socket[] = [];
      const mute: Server = createServer((socket) => sockets.push(socket));
      await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
      const address = mute.address();
      const port = typeof address === "object" ? address?.port : 0;
      const error = await failure(put(way.store({ endpoint: `http://127.0.0.1:${port}`, timing: impatient })));
      expect(error.hints.join()).toContain("does not answer");
      for (const socket of sockets) socket.destroy();
      mute.close();
    });

    test("a host name that does not exist", async () => {
      await using way = await Way.open();
      const error = await failure(put(way.store({ endpoint: "http://s3.invalid" })));
      expect(error.hints.join()).toMatch(/can't be resolved|check the network/);
    });

    test("a signal ends the wait for a silent server at once", async () => {
      await using way = await Way.open();
      const store = way.store({ timing: { silenceMs: 60_000 } });
      const reason = new OperatorError("interrupted", "stopped by a test");
      for (const call of [
        (signal: AbortSignal) => store.put(key, small, digestOf(small).digest, signal),
        (signal: AbortSignal) => store.get(key, signal),
        (signal: AbortSignal) => gather(store.list("", signal)),
      ]) {
        way.hit(1000, () => true, { kind: "silence" });
        const stop = new AbortController();
        setTimeout(() => stop.abort(reason), 100);
        const started = performance.now();
        expect(await failure(call(stop.signal))).toBe(reason);
        expect(performance.now() - started).toBeLessThan(2000);
      }
    });

    test("a signal ends a body that went silent at once", async () => {
      await using way = await Way.open();
      const store = way.store({ timing: { silenceMs: 60_000 } });
      await put(store);
      way.hit(1, isGet, { kind: "stall-body", afterBytes: 1000 });
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
      await using way = await Way.open();
      const path = join(scratch, `credentials ${name}`);
      writeCredentials(path, keys);
      const store = way.store({ credentialsFile: path });
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
      await using way = await Way.open();
      const store = way.store();
      way.hit(1000, (request) => request.method !== "GET" && !request.url.includes("partNumber"), {
        kind: "meddle",
        headers: otherTag,
      });
      await put(store, body);
      expect(way.proxy.seen.some(isGet)).toBe(true);
    });

    test("an object whose tag is right is not read back", async () => {
      await using way = await Way.open();
      const store = way.store();
      await put(store);
      await store.remove(key);
      await put(store, large);
      expect(way.proxy.seen.some(isGet)).toBe(false);
    });

    test("an object that reads back as something else is an error, and is taken away", async () => {
      await using way = await Way.open();
      const store = way.store();
      const wrong = Buffer.from(small);
      wrong[5000] = (wrong[5000] ?? 0) ^ 1;
      const swap = async () => {
        const at = way.proxy.seen.findLast(isPut)?.url.split("?")[0]?.split("/").slice(2).join("/") ?? "";
        await plain.send(new PutObjectCommand({ Bucket: way.bucket, Key: at, Body: wrong }));
      };
      way.hit(1, isPut, { kind: "meddle", act: swap, headers: otherTag });
      const error = await failure(put(store));
      expect(error.kind).toBe("store-failed");
      expect(error.message).toContain("is not what was sent");
      expect(await gather(store.list(""))).toEqual([]);
      await put(store);
    });

    test("a body with one byte flipped on the way to the reader is the reader's to find", async () => {
      await using way = await Way.open();
      const store = way.store();
      await put(store);
      way.hit(1, isGet, { kind: "flip-byte", at: 500 });
      expect(digestOf(await store.get(key)).digest).not.toBe(digestOf(small).digest);
    });
  });

  describe("multipart uploads", () => {
    test.each([
      ["a part fails for good", isPart],
      ["the completion fails for good", isCompletion],
    ] as const)("are aborted when %s", async (_, matches) => {
      await using way = await Way.open();
      const store = way.store();
      way.hit(1000, matches, { kind: "answer", status: 403, code: "AccessDenied" });
      const error = await failure(put(store, large));
      expect(error.message).toContain("AccessDenied (403)");
      expect(await way.unfinished()).toEqual([]);
      expect(await gather(store.list(""))).toEqual([]);
    });

    test("are aborted when a signal ends the put", async () => {
      await using way = await Way.open();
      const store = way.store();
      const reason = new OperatorError("interrupted", "stopped by a test");
      const stop = new AbortController();
      way.proxy.fault = (request) => {
        if (isPart(request)) stop.abort(reason);
        return undefined;
      };
      expect(await failure(store.put(key, large, digestOf(large).digest, stop.signal))).toBe(reason);
      expect(await way.unfinished()).toEqual([]);
    });

    test("that a killed writer left are swept when they are 48 hours old, if they are ours", async () => {
      await using way = await Way.open();
      const prefix = randomBytes(6).toString("hex");
      const ours = `${prefix}/${key}`;
      const foreign = [`${prefix}/movie.mp4`, `other/${key}`];
      for (const Key of [ours, ...foreign]) {
        const { UploadId } = await plain.send(new CreateMultipartUploadCommand({ Bucket: way.bucket, Key }));
        await plain.send(new UploadPartCommand({ Bucket: way.bucket, Key, UploadId, PartNumber: 1, Body: "left" }));
      }
      const hours = 3_600_000;
      expect(await way.store({ prefix, now: () => Date.now() + 47 * hours }).sweep()).toBe(0);
      expect(await way.unfinished()).toContain(ours);
      expect(await way.store({ prefix, now: () => Date.now() + 49 * hours }).sweep()).toBe(1);
      expect((await way.unfinished()).sort()).toEqual([...foreign].sort());
    });
  });

  test("the whole bucket without a prefix is a repository too, and prefixes don't mix", async () => {
    await using way = await Way.open();
    const whole = way.store({ prefix: "" });
    const below = way.store({ prefix: "a" });
    const beside = way.store({ prefix: "ab" });
    for (const store of [whole, below, beside]) await put(store);
    expect((await gather(below.list(""))).map((object) => object.key)).toEqual([key]);
    expect((await gather(whole.list(""))).map((object) => object.key)).toEqual([`a/${key}`, `ab/${key}`, key]);
    expect(whole.url).toBe(`s3://${way.bucket}`);
    expect(below.url).toBe(`s3://${way.bucket}/a`);
  });

  test("folders a console made are not objects", async () => {
    await using way = await Way.open();
    const store = way.store({ prefix: "console" });
    await plain.send(new PutObjectCommand({ Bucket: way.bucket, Key: "console/", Body: "" }));
    await plain.send(new PutObjectCommand({ Bucket: way.bucket, Key: "console/packs/", Body: "" }));
    await put(store);
    expect((await gather(store.list(""))).map((object) => object.key)).toEqual([key]);
  });

  test("an 8 MiB put does not wait for a server that never says to go on", async () => {
    await using way = await Way.open();
    const store = way.store({ timing: {} });
    const body = randomBytes(8 * 1024 * 1024);
    const started = performance.now();
    await store.put(key, body, digestOf(body).digest);
    expect(performance.now() - started).toBeLessThan(5000);
  });
});
