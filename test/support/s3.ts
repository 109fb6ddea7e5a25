import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { CreateBucketCommand, S3Client } from "@aws-sdk/client-s3";
import type { ObjectServer } from "./object-server.ts";

/** A plain client of the SDK for what tests do behind the store's back. */
export function plainClient(server: ObjectServer): S3Client {
  return new S3Client({
    // A server that has just started on a busy machine asks for patience.
    maxAttempts: 8,
    endpoint: server.endpoint,
    region: "us-east-1",
    forcePathStyle: true,
    credentials: { accessKeyId: server.accessKey, secretAccessKey: server.secretKey },
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
  });
}

/** Make a bucket nobody else uses. */
export async function newBucket(server: ObjectServer): Promise<string> {
  const bucket = `spoolsafe-${randomBytes(6).toString("hex")}`;
  const client = plainClient(server);
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  client.destroy();
  return bucket;
}

/** Write a credentials file as `credentials_file` wants it. */
export function writeCredentials(path: string, server: Pick<ObjectServer, "accessKey" | "secretKey">): void {
  const text = `[default]\naws_access_key_id = ${server.accessKey}\naws_secret_access_key = ${server.secretKey}\n`;
  writeFileSync(path, text, { mode: 0o600 });
}
