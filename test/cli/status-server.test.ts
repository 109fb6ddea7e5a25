import { request } from "node:http";
import { type AddressInfo, createServer } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isLoopbackAddress, StatusServer } from "../../src/cli/status-server.ts";
import { listenAddress } from "../../src/config/schema.ts";

const pages = { page: "<!doctype html>é", metrics: "a 1\n", health: { status: 200, text: "ok\n" } };
const nothingYet = { page: "wait", metrics: "", health: { status: 503, text: "not yet\n" } };

let port: number;
let server: StatusServer;
beforeEach(async () => {
  port = await freePort();
  server = new StatusServer({ host: "127.0.0.1", port }, pages);
  await server.listen();
});
afterEach(() => server.close());

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port: free } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return free;
}

function ask(path: string, { method = "GET", host = `127.0.0.1:${port}`, at = port } = {}) {
  return new Promise<{ status: number; type: string; headers: object; body: string }>((resolve, reject) => {
    const asked = request({ host: "127.0.0.1", port: at, path, method, headers: { Host: host } }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (chunk) => {
        body += chunk;
      });
      const { statusCode = 0, headers } = response;
      response.on("end", () => resolve({ status: statusCode, type: headers["content-type"] ?? "", headers, body }));
    });
    asked.on("error", reject).end();
  });
}

describe("the status server", () => {
  test("has three pages, each with its type, and nothing else", async () => {
    expect(await ask("/")).toMatchObject({ status: 200, type: "text/html; charset=utf-8", body: pages.page });
    expect(await ask("/?x=1")).toMatchObject({ status: 200 });
    expect(await ask("/metrics")).toMatchObject({
      status: 200,
      type: "text/plain; version=0.0.4; charset=utf-8",
      body: "a 1\n",
    });
    expect(await ask("/healthz")).toMatchObject({ status: 200, type: "text/plain; charset=utf-8", body: "ok\n" });
    for (const path of ["/favicon.ico", "/metrics/", "//", "/../etc/passwd", "/%00"]) {
      expect((await ask(path)).status, path).toBe(404);
    }
  });

  test("lets a browser do nothing but show it", async () => {
    const { headers } = await ask("/");
    expect(headers).toMatchObject({
      "content-security-policy": expect.stringMatching(/^default-src 'none'; style-src 'sha256-[^']+'; img-src data:;/),
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-store",
    });
  });

  test("takes GET and HEAD, and refuses the rest", async () => {
    expect(await ask("/metrics", { method: "HEAD" })).toMatchObject({
      status: 200,
      body: "",
      headers: { "content-length": "4" },
    });
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
      expect(await ask("/", { method })).toMatchObject({ status: 405, headers: { allow: "GET, HEAD" } });
    }
  });

  test("answers on loopback only those who ask for loopback", async () => {
    for (const host of ["localhost", `localhost:${port}`, "127.0.0.1", "127.8.8.8:80", "[::1]:9625", "LOCALHOST"]) {
      expect((await ask("/", { host })).status, host).toBe(200);
    }
    for (const host of ["evil.test", `evil.test:${port}`, "127.0.0.1.evil.test", "10.0.0.1", "localhost.evil.test"]) {
      expect((await ask("/metrics", { host })).status, host).toBe(421);
    }
  });

  test("on another address it answers to every name", async () => {
    const at = await freePort();
    const open = new StatusServer({ host: "0.0.0.0", port: at }, pages);
    await open.listen();
    try {
      expect(server.isLoopback).toBe(true);
      expect(open.isLoopback).toBe(false);
      expect(await ask("/healthz", { host: "mx1.example.org:9625", at })).toMatchObject({ status: 200 });
    } finally {
      await open.close();
    }
  });

  test("serves what it was given last; before the first look nobody takes it for well", async () => {
    server.pages = nothingYet;
    expect(await ask("/")).toMatchObject({ status: 200, body: "wait" });
    expect(await ask("/metrics")).toMatchObject({ status: 503, body: "" });
    expect(await ask("/healthz")).toMatchObject({ status: 503, body: "not yet\n" });
  });

  test("says that a port is in use, and takes it once it is free", async () => {
    const second = new StatusServer({ host: "127.0.0.1", port }, pages);
    await expect(second.listen()).rejects.toMatchObject({ code: "EADDRINUSE" });
    await expect(second.listen()).rejects.toMatchObject({ code: "EADDRINUSE" });
    expect(second.closed).toBe(true);
    await server.close();
    await second.listen();
    expect(second.closed).toBe(false);
    expect((await ask("/healthz")).status).toBe(200);
    await second.close();
  });
});

test("an address to listen on is loopback unless another is written", () => {
  expect(listenAddress("127.0.0.1:9625")).toEqual({ host: "127.0.0.1", port: 9625 });
  expect(listenAddress(":9625")).toEqual({ host: "127.0.0.1", port: 9625 });
  expect(listenAddress("[::1]:1")).toEqual({ host: "::1", port: 1 });
  expect(listenAddress("status.example.org:80")).toEqual({ host: "status.example.org", port: 80 });
  for (const wrong of ["9625", "127.0.0.1:0", "127.0.0.1:65536", "::1:9625", "a b:1", "127.0.0.1:", "http://a:1"]) {
    expect(listenAddress(wrong), wrong).toBeUndefined();
  }
  expect(["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"].every(isLoopbackAddress)).toBe(true);
  expect(["0.0.0.0", "::", "10.0.0.1", "localhost", ""].some(isLoopbackAddress)).toBe(false);
});
