import { existsSync, readFileSync, realpathSync, statSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { join, posix, resolve } from "node:path";
import { OperatorError } from "../errors.ts";
import type { PackReader } from "../pack/pack-pool.ts";
import { certificatesOf, type NamedCertificate } from "../postfix/certificates.ts";
import { masterState } from "../postfix/control.ts";
import { lackingTypes, settingsOf } from "../postfix/map-types.ts";
import { compiledFiles, type NamedFile } from "../postfix/maps.ts";
import { type PostfixParameters, type Scope, scopes } from "../postfix/parameters.ts";
import { compareVersions } from "../postfix/version.ts";
import { type FileEntry, isOfHostTree, type StoredFile } from "../snapshot/manifest.ts";
import { SavedTree } from "../snapshot/saved-tree.ts";
import type { SnapshotInstance } from "../snapshot/snapshot.ts";
import { groupId, userId } from "../system/accounts.ts";
import { digestOf } from "../system/digest.ts";
import { storedBytes } from "./configuration-bytes.ts";
import { setPermissionsPlan } from "./configuration-commands.ts";
import { isSecret } from "./configuration-difference.ts";
import { comparable, lookAt, namesIn, type Place, type Present, pathOf } from "./configuration-place.ts";
import {
  type ConfigurationPlan,
  type Considered,
  decide,
  forbidden,
  keptFile,
  type Mapping,
  modeHere,
  ownerHere,
  type PlannedCommand,
  type PlannedFile,
  type PlannedTable,
  parameterChanges,
  placeOf,
} from "./configuration-plan.ts";
import {
  type HostFacts,
  type ReviewItem,
  reviewCertificates,
  reviewListeners,
  reviewSettings,
} from "./configuration-review.ts";
import { everyNamedFile, holdsPassword, namesSecret, StagedSettings, settingsHere } from "./configuration-settings.ts";
import { movedSettings, type Table, tablesOf } from "./configuration-tables.ts";
import { type RestoreSource, readTrusted } from "./source.ts";

/** A restore of configuration: from what, of which instance, into which configuration directory. */
export interface ConfigurationRequest {
  readonly source: RestoreSource;
  /** The instance of the snapshot whose configuration is meant; the host's own files come with it. */
  readonly instance: string;
  /** Of the target; must be there. */
  readonly configDirectory: string;
  /** Put before the absolute path of everything that is not below the configuration directory. Default `/`. */
  readonly root?: string | undefined;
  readonly reader: Pick<PackReader, "read">;
  /** Milliseconds since 1970. */
  readonly now: number;
  readonly signal?: AbortSignal | undefined;
}

/** One entry of the snapshot with all that is needed to write it. Holds no bytes. */
export interface Work extends Pick<Considered, "entry" | "place" | "here" | "owner"> {
  readonly planned: PlannedFile;
}

export interface TableWork {
  readonly planned: PlannedTable;
  readonly source: Place;
  readonly compiled: readonly { readonly place: Place; readonly here: Present; readonly dress: TableDress }[];
  /** The source's owner owns its directory, and can write the compiled file there. */
  readonly ownDirectory: boolean;
}

export interface TableDress {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

export interface Gathered extends Disposable {
  readonly plan: ConfigurationPlan;
  readonly work: readonly Work[];
  readonly tables: readonly TableWork[];
  /** Of the target before anything is changed. */
  readonly parametersHere: PostfixParameters;
  readonly queueDirectoryHere: string;
  /** The target's configuration directory without links: where main.cf lies. */
  readonly realDirectory: string;
  /** With main.cf and master.cf of the snapshot. */
  readonly staged: StagedSettings;
}

/** Look at snapshot and target and make the plan. Touches nothing but a private directory of its own for postconf(1). */
export async function gather(request: ConfigurationRequest): Promise<Gathered> {
  const manifest = await readTrusted(request.source, request.signal);
  const instance = instanceOf(request);
  realDirectory(request.configDirectory);
  const here = await settingsHere(resolve(request.configDirectory), request.signal);
  const entries = manifest.files.filter(
    ({ area, instance: owner }) => isOfHostTree(area) && (owner === null || owner === request.instance),
  );
  const files = new SnapshotFiles(entries, request);
  const main = (await files.read(posix.join(instance.configDirectory, "main.cf"))) ?? Buffer.alloc(0);
  const master = (await files.read(posix.join(instance.configDirectory, "master.cf"))) ?? Buffer.alloc(0);
  const staged = await StagedSettings.make({ main, master }, instance.configDirectory, request.signal);
  try {
    const gathering = new Gathering(request, instance, files, here, staged);
    return await gathering.finish();
  } catch (error) {
    staged[Symbol.dispose]();
    throw error;
  }
}

function instanceOf({ source, instance }: ConfigurationRequest): SnapshotInstance {
  const found = source.signed.snapshot.instances.find(({ name }) => name === instance);
  if (found !== undefined) return found;
  throw new OperatorError("usage", `the snapshot has no instance ${instance}`);
}

function realDirectory(path: string): string {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return realpathSync(path);
  throw new OperatorError("refused", `the configuration directory ${path} is not there`, {
    hints: ["install Postfix on this host first", "or get plain files: spoolsafe restore SNAP --to DIR"],
  });
}

/** The files of a snapshot by path, and the bytes of those that are asked for. */
class SnapshotFiles {
  readonly entries: readonly FileEntry[];
  readonly #tree: SavedTree;
  readonly #bytes = new Map<string, Buffer>();
  readonly #from: ConfigurationRequest;

  constructor(entries: readonly FileEntry[], from: ConfigurationRequest) {
    this.entries = entries;
    this.#tree = new SavedTree(entries);
    this.#from = from;
  }

  file(path: string): FileEntry | undefined {
    return this.#tree.file(path);
  }

  canonical(path: string): string {
    return this.#tree.canonical(path);
  }

  has(path: string): boolean {
    return this.file(path) !== undefined;
  }

  /** Undefined for what is no file of the snapshot, or too large to be looked into. */
  async read(path: string): Promise<Buffer | undefined> {
    const stored = this.file(path)?.file;
    if (stored === undefined || stored === null || stored.bytes > comparable) return undefined;
    await this.load([stored]);
    return this.#bytes.get(stored.digest);
  }

  /** Bytes read before. */
  content(stored: StoredFile | null): Buffer | null {
    return stored === null ? null : (this.#bytes.get(stored.digest) ?? null);
  }

  async load(files: readonly StoredFile[]): Promise<void> {
    const wanted = files.filter(({ digest, bytes }) => bytes <= comparable && !this.#bytes.has(digest));
    for await (const [digest, bytes] of storedBytes(wanted, this.#from)) this.#bytes.set(digest, Buffer.from(bytes));
  }
}

class Gathering {
  readonly #request: ConfigurationRequest;
  readonly #instance: SnapshotInstance;
  readonly #files: SnapshotFiles;
  readonly #here: PostfixParameters;
  readonly #staged: StagedSettings;
  readonly #mapping: Mapping;
  readonly #scopesHere: readonly Scope[];
  readonly #scopes: readonly Scope[];

  constructor(
    request: ConfigurationRequest,
    instance: SnapshotInstance,
    files: SnapshotFiles,
    here: PostfixParameters,
    staged: StagedSettings,
  ) {
    this.#request = request;
    this.#instance = instance;
    this.#files = files;
    this.#here = here;
    this.#staged = staged;
    this.#scopesHere = scopes(here);
    this.#scopes = scopes(staged.parameters);
    const queues = [this.#valueHere("queue_directory"), this.#value("queue_directory"), instance.queueDirectory];
    this.#mapping = {
      from: instance.configDirectory,
      to: realDirectory(request.configDirectory),
      root: resolve(request.root ?? "/"),
      queues: [...new Set(queues)],
    };
  }

  async finish(): Promise<Gathered> {
    const namedFiles = await everyNamedFile(this.#staged.parameters, (path) => this.#files.read(path));
    const named = namedFiles.map((file) => ({ ...file, path: this.#files.canonical(file.path) }));
    const tables = tablesOf(named, this.#staged.parameters, (path) => this.#files.has(path));
    const secrets = this.#secretPaths(named, tables);
    const { work, collisions } = this.#merge(await this.#consider(tables, secrets));
    const tableWork = tables.flatMap((table) => this.#tableWork(table, work));
    const files = [
      ...work.map(({ planned }) => planned),
      ...collisions,
      ...unsavedTables(tableWork, work),
      ...this.#keptFiles(work, tableWork),
    ];
    const plan = await this.#plan(named, files, tableWork, work);
    const staged = this.#staged;
    return {
      plan,
      work,
      tables: tableWork,
      parametersHere: this.#here,
      queueDirectoryHere: this.#valueHere("queue_directory"),
      realDirectory: this.#mapping.to,
      staged,
      [Symbol.dispose]: () => staged[Symbol.dispose](),
    };
  }

  #value(name: string): string {
    return this.#scopes[0]?.value(name) ?? "";
  }

  #valueHere(name: string): string {
    return this.#scopesHere[0]?.value(name) ?? "";
  }

  #secretPaths(named: readonly NamedFile[], tables: readonly Table[]): Set<string> {
    const secret = named.filter(namesSecret).flatMap(({ path }) => [path, this.#files.file(path)?.path ?? path]);
    const paths = new Set(secret);
    for (const { source, compiled } of tables) if (paths.has(source)) for (const path of compiled) paths.add(path);
    for (const { setting, value } of settingsOf(this.#staged.parameters)) {
      const file = setting.startsWith("main.cf ") ? "main.cf" : "master.cf";
      if (holdsPassword(setting, value)) paths.add(posix.join(this.#mapping.from, file));
    }
    for (const { setting, value } of settingsOf(this.#here)) {
      const file = setting.startsWith("main.cf ") ? "main.cf" : "master.cf";
      if (holdsPassword(setting, value)) paths.add(posix.join(this.#mapping.from, file));
    }
    return paths;
  }

  async #consider(tables: readonly Table[], secrets: ReadonlySet<string>): Promise<Work[]> {
    const built = new Set(tables.flatMap(({ compiled }) => compiled));
    const sources = new Set(tables.map(({ source }) => source));
    const looked = this.#files.entries.map((entry) => {
      const place = placeOf(entry, this.#mapping);
      return { entry, place, here: lookAt(place) };
    });
    await this.#files.load(
      looked.flatMap(({ entry: { file }, here }) =>
        file !== null && here.kind === "file" && here.digest !== file.digest ? [file] : [],
      ),
    );
    return looked.map(({ entry, place, here }) => {
      const owner = ownerHere(entry.owner, userId, groupId);
      const compiled = compiledOf(entry, built, sources, (path) => this.#files.has(path));
      const planned = decide({
        ...{ entry, place, here, owner, compiled },
        content: this.#files.content(entry.file),
        namedSecret: secrets.has(entry.path),
        forbidden: forbidden(entry, place, this.#mapping),
      });
      return { entry, place, here, owner, planned };
    });
  }

  /** Two entries of one place: what was below the configuration directory is what Postfix reads there. */
  #merge(all: readonly Work[]): { work: Work[]; collisions: PlannedFile[] } {
    const first = [...all].sort(
      (a, b) => Number(b.place.base === this.#mapping.to) - Number(a.place.base === this.#mapping.to),
    );
    const taken = new Set<string>();
    const links = new Set(all.filter(({ entry }) => entry.type === "link").map(({ planned }) => planned.path));
    const work: Work[] = [];
    const collisions: PlannedFile[] = [];
    for (const one of first) {
      const reason = this.#conflict(one.planned.path, taken, links);
      if (reason === null) {
        taken.add(one.planned.path);
        work.push(one);
      } else collisions.push({ ...one.planned, action: "left", reason, problem: true, difference: null });
    }
    return { work, collisions };
  }

  #conflict(path: string, taken: ReadonlySet<string>, links: ReadonlySet<string>): string | null {
    if (taken.has(path)) return "the snapshot has another file for the same place";
    for (let at = posix.dirname(path); at !== "/"; at = posix.dirname(at)) {
      if (links.has(at)) return `the snapshot has a link at ${at}, and nothing is written through one`;
    }
    return null;
  }

  #tableWork(table: Table, work: readonly Work[]): TableWork[] {
    // Postfix looks for the compiled file beside the name it was given, wherever a link of that name leads.
    const name = work.find(({ entry }) => entry.path === table.source);
    const final = this.#files.file(table.source);
    const source = work.find(({ entry }) => entry === final);
    if (name === undefined || source === undefined || !willBeThere(name) || !willBeThere(source)) return [];
    const compiled = table.compiled.map((path) => {
      const saved = work.find(({ entry }) => entry.path === path && entry.type === "file") ?? source;
      const { uid, gid } = saved.owner;
      const place = placeOf({ path }, this.#mapping);
      return { place, here: lookAt(place), dress: { mode: modeHere(saved.entry, saved.owner), uid, gid } };
    });
    if (compiled.some(({ here }) => !["nothing", "file", "link"].includes(here.kind))) return [];
    const directory = lookAt({ base: name.place.base, steps: name.place.steps.slice(0, -1) });
    const planned: PlannedTable = {
      ...table,
      source: name.planned.path,
      compiled: compiled.map(({ place }) => pathOf(place)),
      secret: source.planned.secret,
    };
    const { uid } = source.owner;
    const ownDirectory = uid === 0 || (directory.kind === "directory" && directory.uid === uid);
    return [{ planned, source: name.place, compiled, ownDirectory }];
  }

  /** Files beside those of the snapshot's directories that are nobody's but the target's. */
  #keptFiles(work: readonly Work[], tables: readonly TableWork[]): PlannedFile[] {
    const known = new Set([
      ...work.map(({ planned }) => planned.path),
      ...tables.flatMap(({ planned }) => planned.compiled),
    ]);
    const directories = work.filter(({ entry, here }) => entry.type === "directory" && here.kind === "directory");
    const kept = directories.flatMap(({ place }) =>
      namesIn(place).map((name) => pathOf({ base: place.base, steps: [...place.steps, name] })),
    );
    return [...new Set(kept)].filter((path) => !known.has(path)).map((path) => keptFile(path));
  }

  async #plan(
    named: readonly NamedFile[],
    files: readonly PlannedFile[],
    tables: readonly TableWork[],
    work: readonly Work[],
  ): Promise<ConfigurationPlan> {
    const { source, now } = this.#request;
    const { parameters } = this.#staged;
    const secret = (name: string) => this.#isSecretFile(name, work);
    const mainSecret = secret("main.cf");
    const masterSecret = secret("master.cf");
    const shown = (setting: string) => !(setting.startsWith("main.cf ") ? mainSecret : masterSecret);
    const { from, root } = this.#mapping;
    // The name the operator uses: Postfix's tools compare it with names in multi_instance_directories.
    const configDirectory = resolve(this.#request.configDirectory);
    const postfixVersion = this.#here.defaults.get("mail_version") ?? "0";
    const queueDirectory = this.#valueHere("queue_directory");
    const running = (await masterState({ configDirectory, queueDirectory })) !== "stopped";
    return {
      ...{ snapshot: source.signed.id, host: source.signed.snapshot.host, time: source.signed.snapshot.time },
      ...{ instance: this.#instance.name, savedDirectory: from, savedVersion: this.#instance.postfixVersion },
      ...{ configDirectory, root, postfixVersion, running, files, mainSecret },
      defaultDatabaseType: this.#value("default_database_type"),
      compatibilityLevel: parameters.explicit.get("compatibility_level") ?? null,
      tables: tables.map(({ planned }) => planned),
      lackingTypes: lackingTypes(parameters, shown),
      moved: movedSettings(parameters, from, configDirectory, shown),
      review: await this.#review(now),
      parameters: parameterChanges(this.#here.explicit, parameters.explicit, !mainSecret),
      commands: await this.#commands(configDirectory, postfixVersion),
      warnings: this.#warnings(named, files, tables, work, running),
      key: this.#key(work),
    };
  }

  /** Also when the snapshot has none: what the target has is shown in differences of parameters. */
  #isSecretFile(name: string, work: readonly Work[]): boolean {
    const path = posix.join(this.#mapping.to, name);
    const planned = work.find((one) => one.planned.path === path)?.planned;
    if (planned !== undefined) return planned.secret;
    const here = lookAt({ base: this.#mapping.to, steps: [name] });
    return isSecret({ path, namedSecret: false, savedMode: 0o644, saved: null, here });
  }

  async #review(now: number): Promise<ReviewItem[]> {
    const host = hostFacts(this.#mapping.root, now);
    return [
      ...reviewSettings(this.#scopesAsPlaced(), this.#scopesHere, host),
      ...reviewListeners(this.#staged.parameters, host),
      ...reviewCertificates(await this.#certificates(), now),
    ];
  }

  /** With `$config_directory` as it will be: what is below it is no difference between the hosts. */
  #scopesAsPlaced(): Scope[] {
    const { parameters } = this.#staged;
    const explicit = new Map(parameters.explicit).set("config_directory", resolve(this.#request.configDirectory));
    return scopes({ ...parameters, explicit });
  }

  async #certificates(): Promise<NamedCertificate[]> {
    const found = new Map<string, NamedCertificate>();
    for (const scope of this.#scopes) {
      for (const { name, path, keyPath } of scope.names.flatMap((one) => certificatesOf(scope, one))) {
        const pem = await this.#readEither(path);
        const serverName = name.startsWith("smtpd_") ? scope.value("myhostname") : null;
        const key = `${path} ${keyPath} ${serverName}`;
        if (pem === undefined || found.has(key)) continue;
        const keyBytes = keyPath === null ? undefined : await this.#readEither(keyPath);
        const keyed = keyBytes?.includes("PRIVATE KEY-----") ? keyBytes : null;
        found.set(key, { setting: `${scope.label} ${name}`, path, pem, key: keyed, serverName });
      }
    }
    return [...found.values()];
  }

  /** The snapshot's file, or one of the target that stays what it is. */
  async #readEither(path: string): Promise<Buffer | undefined> {
    const saved = await this.#files.read(path);
    if (saved !== undefined || this.#files.has(path) || !path.startsWith("/")) return saved;
    const place = join(this.#mapping.root, path);
    return statSync(place, { throwIfNoEntry: false })?.isFile() ? readFileSync(place) : undefined;
  }

  async #commands(configDirectory: string, version: string): Promise<PlannedCommand[]> {
    const newer = compareVersions(version, this.#instance.postfixVersion) > 0;
    const versions = `Postfix here is ${version}, the snapshot's ${this.#instance.postfixVersion}`;
    return [
      await setPermissionsPlan(configDirectory),
      {
        command: "upgrade-configuration",
        runs: newer,
        why: newer ? `${versions}: it may need services that main.cf and master.cf don't have` : versions,
      },
      { command: "check", runs: true, why: "it makes missing queue directories and warns of wrong owners" },
    ];
  }

  #warnings(
    named: readonly NamedFile[],
    files: readonly PlannedFile[],
    tables: readonly TableWork[],
    work: readonly Work[],
    running: boolean,
  ): string[] {
    const unknown = work.filter(({ owner, planned }) => owner.missing !== null && isWritten(planned));
    const setId = work.filter(
      ({ entry, planned }) => entry.type === "file" && (entry.mode & 0o6000) !== 0 && isWritten(planned),
    );
    const open = work.filter(
      ({ entry, planned }) => planned.secret && isWritten(planned) && isOpenKey(entry, this.#files),
    );
    const older = compareVersions(this.#here.defaults.get("mail_version") ?? "0", this.#instance.postfixVersion) < 0;
    return [
      ...(running
        ? ["Postfix runs here: new processes read the configuration as soon as it is placed; reload it then"]
        : []),
      ...(older
        ? [
            `Postfix here is older than the snapshot's ${this.#instance.postfixVersion}: settings it does not know have no effect`,
          ]
        : []),
      ...(this.#files.has(posix.join(this.#mapping.from, "main.cf"))
        ? []
        : ["the snapshot has no main.cf of this instance"]),
      ...unknown.map(({ owner, planned }) => `${planned.path} goes to root alone: there is no ${owner.missing} here`),
      ...setId.map(({ planned }) => `${planned.path} does not get its set-id bits back`),
      ...open.map(({ planned }) => `${planned.path} holds a private key that every user may read`),
      ...this.#missing(named),
      ...this.#compiledOnly(named, files),
      ...this.#notBuilt(named, tables),
    ];
  }

  #missing(named: readonly NamedFile[]): string[] {
    const gone = named.filter(({ path, shape, required, mapType }) => {
      if (!required || shape === "script" || this.#files.entries.some((entry) => entry.path === path)) return false;
      if (compiledFiles(mapType ?? "", path).some((one) => this.#files.has(one))) return false;
      return !existsSync(this.#pathHere(path));
    });
    const unique = new Map(gone.map((file) => [file.path, file]));
    return [...unique.values()].map(
      ({ namedBy, path }) => `${namedBy} names ${path}, which neither the snapshot nor this host has`,
    );
  }

  #compiledOnly(named: readonly NamedFile[], files: readonly PlannedFile[]): string[] {
    const placed = new Map(
      files.flatMap((file) => (isWritten(file) ? [[file.savedPath ?? file.path, file] as const] : [])),
    );
    const found = named.flatMap(({ path, mapType, namedBy }) => {
      const compiled = compiledFiles(mapType ?? "", path).filter((one) => placed.has(one));
      return this.#files.has(path) ? [] : compiled.map((one) => ({ one, mapType, namedBy }));
    });
    const unique = new Map(found.map((one) => [one.one, one]));
    return [...unique.values()].map(({ one, mapType, namedBy }) => {
      const known = this.#staged.parameters.mapTypes.includes(mapType ?? "");
      const remedy = known
        ? `try it: postmap -s ${mapType}:${one.replace(/\.\w+$/, "")}`
        : `there is no type ${mapType} here that could read it`;
      return `${one} (${namedBy}) is copied as it was compiled on another host, as the snapshot has no source of it; ${remedy}`;
    });
  }

  #pathHere(path: string): string {
    const { from, to, root } = this.#mapping;
    return path.startsWith(`${from}/`) ? join(to, path.slice(from.length)) : join(root, path);
  }

  /** Tables whose source is not placed, or whose compiled file something else is in the place of. */
  #notBuilt(named: readonly NamedFile[], tables: readonly TableWork[]): string[] {
    const built = new Set(tables.map(({ planned }) => `${planned.type}:${planned.source}`));
    return tablesOf(named, this.#staged.parameters, (path) => this.#files.has(path))
      .map((table) => ({ ...table, here: `${table.type}:${this.#pathHere(table.source)}` }))
      .filter(({ here }) => !built.has(here))
      .map(({ program, here, namedBy }) => `${here} (${namedBy}) is not compiled: run ${program} ${here} yourself`);
  }

  /** No digest of one secret by itself goes into it that could be told from the outside. */
  #key(work: readonly Work[]): string {
    const { source, instance } = this.#request;
    const { from, to, root } = this.#mapping;
    const facts = work.map(({ planned, entry, here }) => [
      planned.path,
      planned.action,
      entry.file?.digest ?? entry.target,
      here.kind === "file" ? here.digest : here.kind === "link" ? here.target : here.kind,
    ]);
    const text = JSON.stringify([source.signed.id, instance, from, to, root, facts]);
    return digestOf(Buffer.from(text)).digest;
  }
}

function willBeThere({ planned: { action } }: Work): boolean {
  return action === "new" || action === "same" || action === "changed";
}

function isWritten({ action }: PlannedFile): boolean {
  return action === "new" || action === "changed";
}

function isOpenKey(entry: FileEntry, files: SnapshotFiles): boolean {
  return (entry.mode & 0o004) !== 0 && (files.content(entry.file)?.includes("PRIVATE KEY-----") ?? false);
}

function compiledOf(
  { type, path }: FileEntry,
  built: ReadonlySet<string>,
  sources: ReadonlySet<string>,
  saved: (path: string) => boolean,
): Considered["compiled"] {
  if (type !== "file") return null;
  if (built.has(path)) return "rebuilt";
  const [, source] = /^(.+)\.(?:db|lmdb|cdb|dir|pag)$/.exec(path) ?? [];
  if (source === undefined) return null;
  return saved(source) || sources.has(source) ? "unnamed" : null;
}

/** Compiled files that will be made and that the snapshot does not have: of another type than the source host's. */
function unsavedTables(tables: readonly TableWork[], work: readonly Work[]): PlannedFile[] {
  const known = new Set(work.map(({ planned }) => planned.path));
  return tables.flatMap(({ planned, compiled }) =>
    compiled
      .filter(({ place }) => !known.has(pathOf(place)))
      .map(({ place }) => ({ ...keptFile(pathOf(place)), action: "rebuilt" as const, secret: planned.secret })),
  );
}

function hostFacts(root: string, now: number): HostFacts {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address));
  return {
    addresses: addresses.map((address) => address.replace(/%.*$/, "")),
    userExists: (name) => userId(name) !== undefined,
    groupExists: (name) => groupId(name) !== undefined,
    exists: (path) => existsSync(join(root, path)) || existsSync(path),
    now,
  };
}
