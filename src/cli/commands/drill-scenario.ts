import { randomBytes } from "node:crypto";
import { createServer } from "node:net";
import { join } from "node:path";
import type { AgeIdentities } from "../../crypto/keys.ts";
import type { Chosen } from "../../drill/perform.ts";
import type { Rehearsing } from "../../drill/rehearsing.ts";
import { OperatorError } from "../../errors.ts";
import { DirectoryStore } from "../../repository/directory.ts";
import type { ObjectStore } from "../../repository/object-store.ts";
import type { Repository } from "../../repository/repository.ts";
import { openStore, parseStoreUrl } from "../../repository/store-url.ts";
import { type Context, storeSettings } from "../context.ts";
import { textIfThere } from "../key-files.ts";

/** What a rehearsal of failure takes beside what every drill does. */
export async function rehearsing(
  context: Context,
  job: Rehearsing["job"],
  identities: AgeIdentities,
  choose: (repository: Repository, identities: AgeIdentities) => Promise<Chosen>,
): Promise<Rehearsing> {
  const { encryption, signing } = context.config;
  return {
    job,
    repository: await context.openRepository(),
    choose,
    identities,
    identityFile: encryption.identity_file ?? "",
    trustedPems: textIfThere(signing.trusted_keys_file),
    unreachable: () => unreachable(context),
  };
}

/** The same kind of store where none is: a bucket behind a port that nobody listens on, a directory that is not mounted. */
async function unreachable({ config, stateDirectory }: Context): Promise<ObjectStore> {
  const { url } = config.repository;
  if (url === undefined) throw new OperatorError("config", "no repository is configured");
  if (parseStoreUrl(url).kind === "directory") {
    return new DirectoryStore(join(stateDirectory, `not-mounted-${randomBytes(6).toString("hex")}`));
  }
  const endpoint = `http://127.0.0.1:${await closedPort()}`;
  return openStore({ ...storeSettings({ ...config.repository, url }), endpoint, pathStyle: true });
}

/** One that was free a moment ago. */
async function closedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string")
    throw new OperatorError("failed", "no port can be had on loopback");
  return address.port;
}
