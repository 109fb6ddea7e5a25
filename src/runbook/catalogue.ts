import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { errnoOf, OperatorError } from "../errors.ts";
import { RunbookFault } from "./finding.ts";
import { type Reading, readRunbook } from "./parse.ts";
import type { Runbook } from "./runbook.ts";

/** Where runbooks are looked for. */
export interface RunbookPlaces {
  /** Those that came with the program; see `packagedRunbooks`. */
  readonly packaged: string;
  /** The site's own, such as /etc/spoolsafe/runbooks; it need not exist. */
  readonly site: string;
}

/** A runbook's file, read. */
export interface FoundRunbook {
  readonly name: string;
  /** Absolute, without symbolic links. */
  readonly path: string;
  /** `file`: called by its path. */
  readonly origin: "packaged" | "site" | "file";
  /** The packaged runbook of the same name or id, in whose place it stands; null where there is none. */
  readonly replaces: string | null;
  /** Whether it differs from the packaged one of the same name; null where there is none of that name, or it is that one. */
  readonly modified: boolean | null;
  readonly text: string;
  readonly reading: Reading;
}

/** A file larger than this is no runbook. */
const mostBytes = 1_000_000;

/**
 * The directory of the runbooks that came with this program. The code lies in `dist` of the package, or in `src` of a
 * checkout; a link to the command leads to the same place, since Node resolves it before it loads a module.
 */
export function packagedRunbooks(from: string = fileURLToPath(import.meta.url)): string {
  for (let at = dirname(from); at !== dirname(at); at = dirname(at)) {
    if (isOurPackage(join(at, "package.json"))) return join(at, "runbooks");
  }
  throw new OperatorError("failed", `no package of spoolsafe is around ${from}`, {
    hints: ["install spoolsafe again: its runbooks are missing"],
  });
}

function isOurPackage(path: string): boolean {
  if (!existsSync(path)) return false;
  const parsed: unknown = JSON.parse(readFileSync(path, "utf8"));
  return typeof parsed === "object" && parsed !== null && "name" in parsed && parsed.name === "spoolsafe";
}

/**
 * Every runbook, by name; where the site has one of the same name or id as a packaged one, the site's alone.
 *
 * @param wanted of the packaged ones only these: reading one takes some ten milliseconds
 */
export function listRunbooks(places: RunbookPlaces, wanted?: readonly string[]): FoundRunbook[] {
  const packaged = readDirectory(places.packaged, "packaged", wanted);
  const site = readDirectory(places.site, "site").map((own) => besidePackaged(own, packaged));
  const replaced = new Set(site.map(({ replaces }) => replaces));
  return [...packaged.filter(({ name }) => !replaced.has(name)), ...site].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function readDirectory(directory: string, origin: "packaged" | "site", wanted?: readonly string[]): FoundRunbook[] {
  return namesIn(directory)
    .filter((name) => /^[a-z0-9][a-z0-9-]*\.md$/.test(name))
    .filter((name) => wanted === undefined || wanted.includes(name.replace(/\.md$/, "")))
    .map((name) => readFound(join(directory, name), origin));
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw new OperatorError("config", `${directory} can't be read (${errnoOf(error) ?? "unknown"})`, { cause: error });
  }
}

/** @throws OperatorError `config` when the file can't be read or is none */
function readFound(path: string, origin: FoundRunbook["origin"]): FoundRunbook {
  const { real, text } = readText(path);
  const name = basename(path).replace(/\.md$/, "");
  return { name, path: real, origin, replaces: null, modified: null, text, reading: readRunbook(text, path) };
}

function readText(path: string): { real: string; text: string } {
  try {
    const real = realpathSync(path);
    const stats = statSync(real);
    if (!stats.isFile()) throw new OperatorError("config", `${path} is not a file`);
    if (stats.size > mostBytes)
      throw new OperatorError("config", `${path} is too large for a runbook: ${stats.size} bytes`);
    return { real, text: readFileSync(real, "utf8") };
  } catch (error) {
    if (error instanceof OperatorError) throw error;
    throw new OperatorError("config", `${path} can't be read (${errnoOf(error) ?? "unknown"})`, {
      hints: ["`spoolsafe runbook list` shows the runbooks there are"],
      cause: error,
    });
  }
}

function besidePackaged(own: FoundRunbook, packaged: readonly FoundRunbook[]): FoundRunbook {
  const sameName = packaged.find(({ name }) => name === own.name);
  const same = sameName ?? packaged.find((each) => own.reading.front !== null && idOf(each) === idOf(own));
  const modified = sameName === undefined || sameName.path === own.path ? null : sameName.text !== own.text;
  return { ...own, replaces: same === undefined || same.path === own.path ? null : same.name, modified };
}

/** The id in the front matter; undefined where that can't be read. */
export function idOf({ reading }: FoundRunbook): string | undefined {
  return reading.front?.id;
}

/**
 * The runbook that is meant: `09`, `RB-09`, `09-stuck-hold`, or the path of a file (with a slash, or ending in `.md`).
 *
 * @param cwd where relative paths start
 * @throws OperatorError `usage` when there is none, or several
 */
export function findRunbook(places: RunbookPlaces, call: string, cwd: string): FoundRunbook {
  if (call.includes("/") || call.endsWith(".md")) {
    return besidePackaged(readFound(resolve(cwd, call), "file"), readDirectory(places.packaged, "packaged"));
  }
  const all = listRunbooks(places);
  const number = /^\d{1,2}$/.test(call) ? `${call.padStart(2, "0")}-` : undefined;
  const found = all.filter(
    (each) =>
      each.name === call.toLowerCase() ||
      idOf(each)?.toLowerCase() === call.toLowerCase() ||
      (number !== undefined && each.name.startsWith(number)),
  );
  const [only, ...more] = found;
  if (only !== undefined && more.length === 0) return only;
  throw new OperatorError(
    "usage",
    only === undefined ? `there is no runbook ${call}` : `${call} may be several runbooks`,
    {
      hints: [
        `call one by its name: ${(only === undefined ? all : found).map(({ name }) => name).join(", ")}`,
        "or give the path of a file, such as ./own.md",
      ],
    },
  );
}

/** As a runner wants it. @throws RunbookFault with every mistake */
export function requireRunbook(found: FoundRunbook): Runbook {
  const { runbook, mistakes } = found.reading;
  if (runbook === null) throw new RunbookFault(found.path, mistakes);
  return runbook;
}

/**
 * Before anything of it is executed: nobody but root (or who runs this) could have put something into the file. What came
 * with the program is as safe as the program.
 *
 * @throws OperatorError `refused` that names what is writable, by whom, and the command that mends it
 */
export function requireTrusted(found: FoundRunbook): void {
  const fault = trustFault(found);
  if (fault !== null) throw new OperatorError("refused", fault.fact, { hints: [fault.remedy] });
}

/** Null where it may be executed. */
export function trustFault({ origin, path }: FoundRunbook): { readonly fact: string; readonly remedy: string } | null {
  if (origin === "packaged") return null;
  for (let at = path; ; at = dirname(at)) {
    const { uid, mode } = statSync(at);
    const mayOwn = uid === 0 || uid === process.geteuid?.();
    if (!mayOwn)
      return { fact: `${at} belongs to user ${uid}, who could change what root runs`, remedy: `chown root '${at}'` };
    // In a sticky directory such as /tmp nobody else can replace a file.
    if ((mode & 0o022) !== 0 && !(at !== path && (mode & 0o1000) !== 0)) {
      return { fact: `${at} may be written by others, who could change what root runs`, remedy: `chmod go-w '${at}'` };
    }
    if (at === dirname(at)) return null;
  }
}
