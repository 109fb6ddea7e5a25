import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { afterAll, beforeAll, describe } from "vitest";
import { S3Store, type S3StoreOptions } from "../../src/repository/s3.ts";
import { describeObjectStore } from "../contract/object-store.ts";
import { sharedCeph } from "../support/ceph.ts";
import { needs } from "../support/needs.ts";
import type { ObjectServer } from "../support/object-server.ts";
import { newBucket, writeCredentials } from "../support/s3.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { sharedSwift } from "../support/swift.ts";

const scratch = makeScratch();
afterAll(() => destroyScratch(scratch));

interface Variant {
  readonly exclusive: boolean;
  readonly manyObjects: number;
  readonly over?: Partial<S3StoreOptions>;
}

describe.skipIf(!needs("ceph"))("Ceph", () => {
  contractOn("a bucket of Ceph", sharedCeph, { exclusive: true, manyObjects: 1050 });
  contractOn("a bucket of Ceph, sent what AWS is sent,", sharedCeph, {
    exclusive: true,
    manyObjects: 50,
    over: { checksums: true, pageKeys: 20 },
  });
});

describe.skipIf(!needs("swift"))("Swift", () => {
  contractOn("a container of Swift", sharedSwift, { exclusive: false, manyObjects: 50, over: { pageKeys: 20 } });
});

function contractOn(name: string, server: () => Promise<ObjectServer>, { over, ...variant }: Variant): void {
  let running: ObjectServer;
  let bucket: string;
  const credentialsFile = join(scratch, `credentials-${randomBytes(4).toString("hex")}`);
  beforeAll(async () => {
    running = await server();
    bucket = await newBucket(running);
    writeCredentials(credentialsFile, running);
  });
  const settings = () => ({ endpoint: running.endpoint, credentialsFile, ...over });
  describeObjectStore(name, () => ({
    open: (place) => new S3Store({ ...settings(), bucket, prefix: `backups/${place}` }),
    missing: () => new S3Store({ ...settings(), bucket: "nobody-made-this", prefix: "" }),
    ...variant,
  }));
}
