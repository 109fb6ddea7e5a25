import { describe, expect, test } from "vitest";
import { OperatorError } from "../../src/errors.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { S3Store } from "../../src/repository/s3.ts";
import { openStore, parseStoreUrl } from "../../src/repository/store-url.ts";

describe("a repository URL", () => {
  test.each([
    ["file:///var/backups/spoolsafe", "/var/backups/spoolsafe"],
    ["file:///var/my%20backups/50%25", "/var/my backups/50%"],
    ["file:///var/my backups", "/var/my backups"],
    ["FILE:///srv/B", "/srv/B"],
    ["file:///srv/%C3%BC", "/srv/ü"],
    ["file:///a/../b", "/b"],
    ["/srv/plain 50%", "/srv/plain 50%"],
  ])("%s is the directory %s", (url, path) => {
    expect(parseStoreUrl(url)).toEqual({ kind: "directory", path });
    expect(openStore({ url })).toBeInstanceOf(DirectoryStore);
  });

  test("of a directory is said back as it was meant", () => {
    expect(openStore({ url: "file:///var/my%20backups/" }).url).toBe("file:///var/my%20backups");
  });

  test.each([
    ["s3://bucket", "bucket", ""],
    ["s3://bucket/", "bucket", ""],
    ["s3://my.bucket-1/a/b_c/", "my.bucket-1", "a/b_c"],
    ["S3://bucket//a", "bucket", "a"],
  ])("%s is the bucket %s, prefix %j", (url, bucket, prefix) => {
    expect(parseStoreUrl(url)).toEqual({ kind: "s3", bucket, prefix });
    expect(openStore({ url })).toBeInstanceOf(S3Store);
  });

  test.each([
    ["", /neither file/],
    ["relative/path", /neither file/],
    ["sftp://host/path", /neither file/],
    ["file:relative", /three slashes/],
    ["file://host/path", /three slashes/],
    ["file:///a?b", /%3F/],
    ["file:///a#b", /%23/],
    ["file:///a%zz", /not a %XX/],
    ["file:///a%2Fb", /names no directory/],
    ["s3://", /must be s3:/],
    ["s3:///prefix", /must be s3:/],
    ["s3://buck et/p", /must be s3:/],
    ["s3://bucket/a b", /prefix with something/],
    ["s3://bucket/../a", /prefix with something/],
  ])("%j is none", (url, message) => {
    const error = thrown(() => openStore({ url }));
    expect(error.kind).toBe("config");
    expect(error.message).toMatch(message);
    expect(error.hints).not.toEqual([]);
  });

  test.each(["s3://AKIAKEY:topsecret@bucket/prefix", "sftp://me:topsecret@host/", "http://topsecret@host"])(
    "%s is refused without its secret being said",
    (url) => {
      const error = thrown(() => openStore({ url }));
      expect(error.kind).toBe("config");
      expect(error.message + error.hints.join()).not.toMatch(/topsecret|AKIAKEY/);
    },
  );
});

function thrown(act: () => unknown): OperatorError {
  try {
    act();
  } catch (error) {
    if (error instanceof OperatorError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}
