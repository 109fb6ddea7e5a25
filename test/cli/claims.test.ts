import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { claimsFor } from "../../src/cli/claims.ts";
import { createContext } from "../../src/cli/context.ts";
import { Render } from "../../src/cli/render.ts";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { listClaims } from "../../src/repository/claims.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { failure } from "../contract/object-store.ts";
import { identities, newSigningKey, trustFile } from "../support/claims.ts";
import { digestFrom } from "../support/records.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

let directory = "";
let repository: Repository;
beforeEach(async () => {
  directory = makeScratch();
  mkdirSync(join(directory, "repository"));
  repository = await Repository.create(new DirectoryStore(join(directory, "repository")));
});
afterEach(() => destroyScratch(directory));

const mail = {
  ...{ host: "mx1.source.test", snapshot: digestFrom("snapshot"), shard: null },
  into: { name: "postfix-in", host: "in.standby.test" },
};

function claims(host: string | null) {
  const lines = [
    ...(host === null ? [] : [`host = ${JSON.stringify(host)}`]),
    `[repository]\nurl = ${JSON.stringify(repository.store.url)}`,
    `[signing]\nkey_file = ${JSON.stringify(join(directory, "own.key"))}`,
    `trusted_keys_file = ${JSON.stringify(join(directory, "trusted.pub"))}`,
  ];
  const config = join(directory, "spoolsafe.toml");
  writeFileSync(config, `${lines.join("\n")}\n`);
  const render = new Render({ json: true, quiet: true, verbose: false });
  const globals = { config, host: "mx1.source.test" };
  const signal = new AbortController().signal;
  return claimsFor(createContext({ globals, render, env: {}, cwd: directory, signal }), mail);
}

test.each([
  ["its configured name", "mx2.standby.test", "mx2.standby.test"],
  ["the name of the instance", null, "in.standby.test"],
])("this host claims by %s, whichever host's snapshot is meant", async (_, configured, by) => {
  trustFile(directory, "trusted", [newSigningKey(directory, "own")]);
  await (await claims(configured)).take("run", identities(3));
  const { standing } = await listClaims(repository, loadTrustedKeys(join(directory, "trusted.pub")));
  expect(standing.map(({ claim }) => [claim.host, claim.by, claim.into])).toEqual([
    ["mx1.source.test", by, "postfix-in"],
  ]);
});

test("a host that has no key to sign with is told how to do without", async () => {
  trustFile(directory, "trusted", []);
  const error = await failure(claims("mx2.standby.test"));
  expect(error).toMatchObject({ kind: "config", message: expect.stringContaining("could not be claimed") });
  expect(error.hints.at(-1)).toContain("--without-claim");
});
