import { type AgeIdentities, loadIdentities } from "../crypto/keys.ts";
import { OperatorError } from "../errors.ts";
import { readLargePack, readPack } from "../pack/pack.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { type PostfixParameters, parseParameters, parseServices, readParameters } from "../postfix/parameters.ts";
import { loadManifest } from "../repository/manifest-reader.ts";
import type { Repository } from "../repository/repository.ts";
import { type FileEntry, isOfHostTree, type Manifest, type StoredFile } from "../snapshot/manifest.ts";
import { SavedTree } from "../snapshot/saved-tree.ts";
import type { SnapshotInstance } from "../snapshot/snapshot.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Newest, TakeoverToExamine } from "./newest-snapshot.ts";

/** The newest snapshot with its manifest: everything that takes an identity to see. */
export interface Opened extends Newest {
  readonly manifest: Manifest;
  readonly saved: SavedFiles;
}

/**
 * Open the manifest, and one pack of mail to the last byte; of the other packs it is seen that they are there with their
 * size.
 *
 * @throws OperatorError `no-identity` when it can't be opened here, `damaged`
 */
export async function openNewest(
  newest: Newest,
  { identityFile, signal }: TakeoverToExamine,
): Promise<{ readonly opened: Opened; readonly findings: readonly Finding[] }> {
  if (identityFile === undefined) {
    throw new OperatorError("no-identity", "no identity is configured", { hints: ["set encryption.identity_file"] });
  }
  const identities = await loadIdentities(identityFile);
  const { repository, signed } = newest;
  const manifest = await loadManifest(repository, signed.snapshot, identities, signal);
  const saved = new SavedFiles(repository, identities, signal);
  const opened = { ...newest, manifest, saved };
  return { opened, findings: [await readOnePack(opened, identities, signal), await packsFinding(newest, signal)] };
}

async function readOnePack(opened: Opened, identities: AgeIdentities, signal: AbortSignal): Promise<Finding> {
  const { repository, signed, manifest } = opened;
  const of = `its manifest (${manifest.messages.length} messages, ${manifest.files.length} files)`;
  const mail = new Set(manifest.messages.map(({ file }) => file.pack));
  const [pack] = signed.snapshot.packs
    .filter(({ id }) => mail.size === 0 || mail.has(id))
    .sort((a, b) => a.bytes - b.bytes);
  if (pack === undefined) return good("opens here", `${of} was read and opened; it has no pack`);
  const found = new Set<string>();
  for await (const { digest, body } of readLargePack(repository.openObject("pack", pack.id, signal), identities)) {
    for await (const _ of body); // its digest is checked at its end
    found.add(digest);
  }
  const missing = storedFiles(manifest).find((file) => file.pack === pack.id && !found.has(file.digest));
  if (missing !== undefined) throw notInPack(missing);
  return good("opens here", `${of} and one pack (${pack.bytes} bytes, ${found.size} files) were read back and opened`);
}

function storedFiles({ messages, files }: Manifest): StoredFile[] {
  return [...messages.flatMap(({ file, logs }) => [file, ...logs]), ...files.flatMap(({ file }) => file ?? [])];
}

async function packsFinding({ repository, signed }: Newest, signal: AbortSignal): Promise<Finding> {
  const there = await repository.packs(signal);
  const { packs } = signed.snapshot;
  const lacking = packs.filter(({ id, bytes }) => there.get(id) !== bytes);
  const [first] = lacking;
  if (first === undefined) return good("packs", `all ${packs.length} are there`);
  return bad(
    "packs",
    `${lacking.length} of ${packs.length} are missing or have another size, such as ${first.id.slice(0, 12)}`,
    "take a new backup on the primary while it lives; another copy of the repository may still have them",
  );
}

function notInPack({ digest, pack }: StoredFile): OperatorError {
  return new OperatorError("damaged", `pack ${pack.slice(0, 12)} does not hold the file ${digest.slice(0, 12)}`, {
    hints: ["`spoolsafe verify latest --level deep` names everything that is affected"],
  });
}

/** Bytes of small files of a snapshot. The pack that was opened last is kept: what configuration needs is mostly in one. */
export class SavedFiles {
  readonly #repository: Repository;
  readonly #identities: AgeIdentities;
  readonly #signal: AbortSignal;
  #last: { readonly pack: string; readonly files: ReadonlyMap<string, Buffer> } | undefined;

  constructor(repository: Repository, identities: AgeIdentities, signal: AbortSignal) {
    this.#repository = repository;
    this.#identities = identities;
    this.#signal = signal;
  }

  /** @throws OperatorError `damaged` when the pack is missing, damaged or has no such file */
  async read(stored: StoredFile): Promise<Buffer> {
    if (this.#last?.pack !== stored.pack) {
      const sealed = await this.#repository.object("pack", stored.pack, this.#signal);
      this.#last = { pack: stored.pack, files: await readPack(sealed, this.#identities) };
    }
    const bytes = this.#last.files.get(stored.digest);
    if (bytes === undefined) throw notInPack(stored);
    return bytes;
  }
}

/** An instance of the snapshot, the instance here that would take it over, and what both are configured to do. */
export interface Pair {
  readonly source: SnapshotInstance;
  readonly target: PostfixInstance;
  /** What Postfix said of its configuration when the snapshot was taken; undefined where it said nothing. */
  readonly saved: PostfixParameters | undefined;
  readonly here: PostfixParameters;
  /** Its saved files and those of its host. */
  readonly tree: SavedTree;
}

/** @param pairs of instances, by `pairInstances` */
export function readSettings(
  { manifest, saved }: Opened,
  pairs: readonly Pick<Pair, "source" | "target">[],
  signal: AbortSignal,
): Promise<Pair[]> {
  return Promise.all(
    pairs.map(async ({ source, target }) => {
      const here = await readParameters(target.configDirectory, signal);
      const files = manifest.files.filter(({ instance }) => instance === null || instance === source.name);
      const reports = files.filter(({ area, instance }) => area === "report" && instance === source.name);
      const tree = new SavedTree(files.filter(({ area }) => isOfHostTree(area)));
      return { source, target, here, tree, saved: await savedParameters(reports, source, here, saved) };
    }),
  );
}

/** What `postconf -n`, `-M` and `-P` said on the source host, over what is built into the Postfix of this one. */
async function savedParameters(
  reports: readonly FileEntry[],
  { configDirectory }: SnapshotInstance,
  here: PostfixParameters,
  saved: SavedFiles,
): Promise<PostfixParameters | undefined> {
  const texts = new Map<string, Buffer>();
  for (const { path, file } of reports) if (file !== null) texts.set(path, await saved.read(file));
  const text = (name: string) => texts.get(name)?.toString();
  const [main, master, overrides] = ["postconf-n", "postconf-M", "postconf-P"].map(text);
  if (main === undefined || master === undefined || overrides === undefined) return undefined;
  return {
    configDirectory,
    explicit: parseParameters(main).set("config_directory", configDirectory),
    defaults: here.defaults,
    services: parseServices(master, overrides),
    mapTypes: here.mapTypes,
    reports: texts,
  };
}
