import { hostname, networkInterfaces } from "node:os";
import { describe, expect, test } from "vitest";
import { isOwnAddress, isOwnHost } from "../../src/system/own-host.ts";

const ownAddresses = Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address));

describe("this host", () => {
  test.each([
    "localhost",
    "LocalHost.",
    "mail.localhost",
    "ip6-localhost",
    "127.0.0.1",
    "127.3.2.1",
    "127.1",
    "0x7f.1",
    "2130706433",
    "0.0.0.0",
    "::1",
    "[::1]",
    "::ffff:127.0.0.1",
    hostname(),
    hostname().toUpperCase(),
    ...ownAddresses,
  ])("%s", (name) => expect(isOwnHost(name)).toBe(true));

  test("under a further name, long and short", () => {
    expect(isOwnHost("mx1.example.org", ["mx1.example.org"])).toBe(true);
    expect(isOwnHost("mx1", ["mx1.example.org"])).toBe(true);
    expect(isOwnHost("mx2", ["mx1.example.org", undefined])).toBe(false);
  });
});

test.each(["relay.example.net", "192.0.2.1", "128.0.0.1", "2001:db8::1", "", "localhost.example.org", "beef", "a.b"])(
  "%s is another host",
  (name) => expect(isOwnHost(name)).toBe(false),
);

test("a name is no address", () => expect(isOwnAddress("localhost")).toBe(false));
