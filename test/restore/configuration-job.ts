import { join } from "node:path";
import { loadIdentities } from "../../src/crypto/keys.ts";
import { loadTrustedKeys } from "../../src/crypto/sign.ts";
import { PackReader } from "../../src/pack/pack-pool.ts";
import { DirectoryStore } from "../../src/repository/directory.ts";
import { Repository } from "../../src/repository/repository.ts";
import { applyConfiguration, type ConfigurationJob } from "../../src/restore/configuration.ts";
import { systemClock } from "../../src/system/clock.ts";

/** Everything that tells which snapshot goes where, as plain data, so that another process can be given it. */
export interface Where {
  /** With identity.txt, trusted.pub and the repository. */
  readonly site: string;
  readonly snapshot: { readonly id: string; readonly writer: string; readonly number: number };
  readonly instance: string;
  readonly configDirectory: string;
  readonly root: string;
  readonly stateDirectory: string;
}

export async function configurationJob(where: Where): Promise<ConfigurationJob & AsyncDisposable> {
  const identities = await loadIdentities(join(where.site, "identity.txt"));
  const repository = await Repository.open(new DirectoryStore(join(where.site, "repository")));
  const reader = new PackReader({ identities, processors: 1 });
  return {
    source: {
      repository,
      identities,
      signed: await repository.load(where.snapshot),
      trusted: loadTrustedKeys(join(where.site, "trusted.pub")),
    },
    instance: where.instance,
    configDirectory: where.configDirectory,
    root: where.root,
    stateDirectory: where.stateDirectory,
    reader,
    clock: systemClock,
    [Symbol.asyncDispose]: () => reader.close(),
  };
}

// Run as a program it applies what its argument says, telling each step, and prints the report.
if (process.argv[1] === import.meta.filename) {
  await using job = await configurationJob(JSON.parse(process.argv[2] ?? ""));
  const report = await applyConfiguration({ ...job, report: (event) => console.log(JSON.stringify(event)) });
  console.log(JSON.stringify({ type: "report", report }));
}
