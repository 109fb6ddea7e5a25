import { createHash, randomBytes } from "node:crypto";
import { closeSync, createReadStream, openSync, writeSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { identityToRecipient } from "age-encryption";
import { buildLargePack, readLargePack } from "../../src/pack/pack.ts";

/*
 * A program of its own, so that its memory can be measured. In DIRECTORY, with the identity in DIRECTORY/KEY: `make` a
 * file of 200 MB, half of which compresses, `build` its pack, or `read` that. Prints the file's digest (with `build`,
 * what `make` said is given after DIRECTORY) and by how many MB the step has raised the peak of memory.
 */
const [step, directory = "", known = ""] = process.argv.slice(2);
const identity = (await readFile(join(directory, "KEY"), "utf8")).trim();
const recipient = await identityToRecipient(identity);
const megabytes = 200;
const path = join(directory, "large");
const before = process.resourceUsage().maxRSS;
let digest = known;
if (step === "make") {
  digest = makeFile();
} else if (step === "build") {
  const fd = openSync(path, "r");
  await buildLargePack(fd, digest, megabytes << 20, { list: [recipient], kind: "x25519" }, join(directory, "sealed"));
  closeSync(fd);
} else {
  const sealed = createReadStream(join(directory, "sealed"), { highWaterMark: 1 << 20 });
  for await (const entry of readLargePack(sealed, { identities: [identity], recipients: [recipient] })) {
    const hash = createHash("sha256");
    for await (const piece of entry.body) hash.update(piece);
    digest = hash.digest("hex");
  }
}
const grownMb = Math.round((process.resourceUsage().maxRSS - before) / 1024);
process.stdout.write(`${JSON.stringify({ digest, grownMb })}\n`);

function makeFile(): string {
  const fd = openSync(path, "w");
  const hash = createHash("sha256");
  for (let at = 0; at < megabytes; at++) {
    const piece = at % 2 === 0 ? randomBytes(1 << 20) : Buffer.alloc(1 << 20, `line ${at}\n`);
    hash.update(piece);
    writeSync(fd, piece);
  }
  closeSync(fd);
  return hash.digest("hex");
}
