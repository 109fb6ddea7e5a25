import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { hostFiles, type NamedFile, namedFiles } from "../postfix/maps.ts";
import { type PostfixParameters, readParameters } from "../postfix/parameters.ts";
import { processName } from "../system/processes.ts";

/** main.cf and master.cf by themselves, in a private directory that Postfix's commands can be pointed at. */
export class StagedSettings implements Disposable {
  readonly directory: string;
  /**
   * The same for programs that do more than print settings. When they start those read the file that myorigin may be (Debian:
   * /etc/mailname), and connect to postlogd(8) of the queue where there is a maillog_file: the one need not be on this host, or
   * not yet, and the other is none of ours.
   */
  readonly programsDirectory: string;
  readonly parameters: PostfixParameters;

  private constructor(directory: string, parameters: PostfixParameters) {
    this.directory = directory;
    this.programsDirectory = programsIn(directory);
    this.parameters = parameters;
  }

  /**
   * Ask this host's Postfix what files of another say. A crash leaves the directory in the system's temporary directory,
   * readable by root alone; the next run removes it.
   *
   * @param configDirectory what `$config_directory` stands for
   * @throws OperatorError `refused` when it can't be read; without quoting, as the file may be secret
   */
  static async make(
    files: { readonly main: Uint8Array; readonly master: Uint8Array },
    configDirectory: string,
    signal?: AbortSignal,
  ): Promise<StagedSettings> {
    sweepDead();
    const directory = mkdtempSync(join(tmpdir(), `${prefix}${process.pid}-`));
    try {
      writeSettings(directory, files);
      mkdirSync(programsIn(directory), { mode: 0o700 });
      const main = Buffer.concat([files.main, Buffer.from("\nmyorigin = localhost\nmaillog_file =\n")]);
      writeSettings(programsIn(directory), { ...files, main });
      const said = await readParameters(directory, signal, programsIn(directory)).catch((error) => {
        signal?.throwIfAborted();
        throw error instanceof OperatorError ? unreadable() : error;
      });
      const explicit = new Map(said.explicit).set("config_directory", configDirectory);
      return new StagedSettings(directory, { ...said, configDirectory, explicit });
    } catch (error) {
      rmSync(directory, { recursive: true, force: true });
      throw error;
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

function programsIn(directory: string): string {
  return join(directory, "programs");
}

function writeSettings(
  directory: string,
  { main, master }: { readonly main: Uint8Array; readonly master: Uint8Array },
): void {
  for (const [name, bytes] of [["main.cf", main] as const, ["master.cf", master] as const]) {
    writeFileSync(join(directory, name), bytes, { mode: 0o600 });
    // Postfix waits until a main.cf is two seconds old before it believes it (`util/dict.c`, dict_load_file_xt).
    utimesSync(join(directory, name), longAgo, longAgo);
  }
}

const longAgo = 1_000_000_000;
const prefix = "spoolsafe-settings-";

/** Directories of ours whose process is gone; who else may write to the temporary directory can't make us follow a link. */
function sweepDead(): void {
  for (const name of readdirSync(tmpdir())) {
    const [, pid] = new RegExp(`^${prefix}(\\d+)-\\w+$`).exec(name) ?? [];
    if (pid === undefined || processName(Number(pid)) !== undefined) continue;
    const path = join(tmpdir(), name);
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat?.isDirectory() && stat.uid === process.getuid?.()) rmSync(path, { recursive: true, force: true });
  }
}

function unreadable(): OperatorError {
  return new OperatorError("refused", "Postfix here can't read main.cf or master.cf of the snapshot", {
    hints: [
      "get them as files and look: spoolsafe restore SNAP --to DIR, then postconf -c DIR/INSTANCE/config -n",
      "is Postfix installed here?",
    ],
  });
}

/** What the target is configured to do now; a configuration directory without main.cf is one nobody has set up yet. */
export async function settingsHere(configDirectory: string, signal?: AbortSignal): Promise<PostfixParameters> {
  const complete = ["main.cf", "master.cf"].every((name) => existsSync(join(configDirectory, name)));
  if (complete) return readParameters(configDirectory, signal);
  using staged = await StagedSettings.make({ main: Buffer.alloc(0), master: Buffer.alloc(0) }, configDirectory, signal);
  return staged.parameters;
}

/**
 * Every file that settings name, and what those name in turn.
 *
 * @param read the text of a file of the snapshot; undefined for one it does not have, or that is none
 */
export async function everyNamedFile(
  parameters: PostfixParameters,
  read: (path: string) => Promise<Buffer | undefined>,
): Promise<NamedFile[]> {
  const found: NamedFile[] = [];
  const seen = new Map<NamedFile["reader"], Set<string>>();
  const waiting = [...namedFiles(parameters), ...hostFiles(parameters)];
  for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
    found.push(file);
    const { reader, path } = file;
    const paths = seen.get(reader) ?? new Set();
    seen.set(reader, paths);
    if (reader === null || paths.has(path)) continue;
    paths.add(path);
    const bytes = await read(path);
    if (bytes !== undefined && !bytes.includes(0)) waiting.push(...reader(path, bytes.toString()));
  }
  return found;
}

/** Whether a setting names files or values nobody may see. */
export function namesSecret({ namedBy, mapType }: NamedFile): boolean {
  return (
    secretSetting.test(namedBy) || ["sqlite", "mysql", "pgsql", "ldap", "memcache", "mongodb"].includes(mapType ?? "")
  );
}

const secretSetting =
  / (\w*_password_maps|\w*_(?:ec|d)?key_file|\w*_chain_files|tls_server_sni_maps)$|^smtpd_sasl_(type|path)$/;

/** Whether main.cf or master.cf itself holds a password: a table of them written into the setting. */
export function holdsPassword(setting: string, value: string): boolean {
  return secretSetting.test(setting) && /\b(inline|static):/.test(value);
}
