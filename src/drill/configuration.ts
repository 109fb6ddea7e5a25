import { existsSync, mkdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compiledFiles, type NamedFile, namedFiles } from "../postfix/maps.ts";
import { type PostfixParameters, readParameters, scopes } from "../postfix/parameters.ts";
import { applyConfiguration, type ConfigurationReport } from "../restore/configuration.ts";
import type { RestoreJob } from "../restore/restore.ts";
import type { DrillCheck } from "../snapshot/drill.ts";
import { type TakenOver, takenOver } from "./instance.ts";
import type { DrillNetwork } from "./network.ts";

/** The backed-up configuration of an instance as it lies in the drill's directory, for nobody to use but to look at. */
export interface RestoredConfiguration {
  readonly report: ConfigurationReport;
  readonly parameters: PostfixParameters;
  /** What a drill's Postfix takes over. */
  readonly settings: TakenOver;
  /** Where a file named by an absolute path of the primary lies here. */
  readonly place: (path: string) => string;
}

/**
 * Restore the configuration of an instance, by the code that restores it into /etc/postfix, into a directory where no
 * Postfix takes it for its own. What it names elsewhere goes below that directory, too, and tables are compiled.
 *
 * @param directory of the instance's drill
 */
export async function restoreConfiguration(
  { source, choice, reader, clock, signal }: Pick<RestoreJob, "source" | "choice" | "reader" | "clock" | "signal">,
  directory: string,
): Promise<RestoredConfiguration> {
  const { instance } = choice;
  const configDirectory = join(directory, "saved");
  const root = join(directory, "files");
  for (const path of [configDirectory, root, join(directory, "state")])
    mkdirSync(path, { mode: 0o700, recursive: true });
  // Without it the queue it is locked against would be that of the host's own Postfix.
  writeFileSync(join(configDirectory, "main.cf"), `queue_directory = ${join(directory, "spool")}\n`);
  writeFileSync(join(configDirectory, "master.cf"), "");
  utimesSync(join(configDirectory, "main.cf"), 1_000_000_000, 1_000_000_000);
  const stateDirectory = join(directory, "state");
  const job = { source, instance, configDirectory, root, reader, stateDirectory, clock, signal };
  const report = await applyConfiguration({ ...job, withoutCommands: true, linksInside: true });
  const parameters = await readParameters(configDirectory, signal, plainSettings(directory));
  const [main] = scopes(parameters);
  const settings = Object.fromEntries(takenOver.map((name) => [name, main?.value(name) ?? ""]));
  const { savedDirectory } = report.plan;
  const place = (path: string) =>
    path.startsWith(`${savedDirectory}/`) ? join(configDirectory, path.slice(savedDirectory.length)) : join(root, path);
  return { report, parameters, settings, place };
}

/** Settings that name nothing of this host, to ask Postfix for map types with. */
function plainSettings(directory: string): string {
  const plain = join(directory, "plain");
  mkdirSync(plain, { mode: 0o700 });
  for (const name of ["main.cf", "master.cf"]) writeFileSync(join(plain, name), "");
  utimesSync(join(plain, "main.cf"), 1_000_000_000, 1_000_000_000);
  return plain;
}

/** Whether a restore of configuration was complete, and whether Postfix can read what came of it. */
export function configurationChecks({ report, parameters }: RestoredConfiguration): DrillCheck[] {
  const { problems, written, tables } = report;
  const files = `${written} files restored, ${tables.length} tables compiled`;
  const detail = problems.length === 0 ? files : `${files}; ${problems.join("; ")}`;
  const settings = `main.cf sets ${parameters.explicit.size - 1} parameters, master.cf has ${parameters.services.length} services`;
  return [
    { name: "configuration restored", ok: problems.length === 0, detail },
    {
      name: "configuration readable",
      ok: parameters.explicit.size > 1 && parameters.services.length > 0,
      detail: settings,
    },
  ];
}

// These ask a server, or a database that lies elsewhere than their own settings say.
const clients = ["ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb", "nis"];

/**
 * Ask every restored table for something, as postmap(1) does for an administrator. Those that would ask another host are
 * counted and not asked.
 *
 * @param configDirectory of the drill's own Postfix
 */
export async function checkMaps(
  restored: RestoredConfiguration,
  configDirectory: string,
  network: DrillNetwork,
  signal: AbortSignal | undefined,
): Promise<DrillCheck> {
  const tables = tablesOf(restored);
  const asked = tables.filter(({ mapType }) => !clients.includes(mapType ?? ""));
  const silent: string[] = [];
  for (const { mapType, path } of asked) {
    const place = restored.place(path);
    const name = `${mapType}:${path}`;
    if (![place, ...compiledFiles(mapType ?? "", place)].some((file) => existsSync(file))) {
      silent.push(`${name} is not in the snapshot`);
      continue;
    }
    const { code, stderr } = await network.run(
      "postmap",
      ["-c", configDirectory, "-q", "drill.invalid", `${mapType}:${place}`],
      {
        okCodes: [0, 1],
        ...(signal === undefined ? {} : { signal }),
      },
    );
    // What it says may quote the table. Exit 1 is the answer "not found", unless it complains.
    if (code === 1 && stderr.trim() !== "") silent.push(`${name} does not answer`);
  }
  const others = tables.length - asked.length;
  const more = others === 0 ? "" : `, ${others} not asked, as they are kept by a server or database elsewhere`;
  const detail = `${asked.length - silent.length} of ${asked.length} answered${more}`;
  return {
    name: "every map answers",
    ok: silent.length === 0,
    detail: silent.length === 0 ? detail : `${detail}; ${silent.join("; ")}`,
  };
}

/** Each once, and those only that somebody has written down: what is built in need not be there. */
function tablesOf({ parameters, place }: RestoredConfiguration): NamedFile[] {
  const wanted = namedFiles(parameters).filter(
    ({ shape, required, path }) => shape === "map" && (required || existsSync(place(path))),
  );
  return [...new Map(wanted.map((table) => [`${table.mapType}:${table.path}`, table])).values()];
}
