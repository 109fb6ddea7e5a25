import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import { spoolsafe } from "../support/cli.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

/** A store that takes every request and never answers. */
async function withSilentStore(work: (config: string, asked: Promise<unknown>) => Promise<void>): Promise<void> {
  const directory = makeScratch();
  const server = createServer((socket) => socket.on("error", () => {}));
  const asked = once(server, "connection");
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    const address = server.address();
    const port = typeof address === "object" ? address?.port : undefined;
    const config = join(directory, "spoolsafe.toml");
    writeFileSync(
      config,
      `state_directory = "${directory}"\n[repository]\nurl = "s3://bucket/prefix"\nendpoint = "http://127.0.0.1:${port}"\nregion = "us-east-1"\n[signing]\nkey_file = "${directory}/none"\ntrusted_keys_file = "${directory}/none"\n`,
    );
    await work(config, asked);
  } finally {
    server.close();
    destroyScratch(directory);
  }
}

const env = { AWS_ACCESS_KEY_ID: "test", AWS_SECRET_ACCESS_KEY: "test" };

test.each(["SIGTERM", "SIGINT"] as const)("%s ends a command that waits, with 130", async (name) => {
  await withSilentStore(async (config, asked) => {
    const { code, signal, json, stderr } = await spoolsafe(["snapshots", "--json", "--config", config], {
      env,
      meanwhile: (child) => void asked.then(() => child.kill(name)),
    });
    expect({ code, signal, stderr }).toEqual({ code: 130, signal: null, stderr: "" });
    expect(json).toMatchObject([{ type: "error", kind: "interrupted", message: `interrupted by ${name}`, exit: 130 }]);
  });
});
