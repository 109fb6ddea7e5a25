import { posix } from "node:path";
import type { FileEntry } from "./manifest.ts";

/** As the kernel (MAXSYMLINKS). */
const mostLinks = 40;

/** The files, directories and links of a snapshot by their paths on the source host. */
export class SavedTree {
  readonly #byPath: ReadonlyMap<string, FileEntry>;

  /** @param entries one instance's, with the host's own: their paths are absolute */
  constructor(entries: readonly FileEntry[]) {
    this.#byPath = new Map(entries.map((entry) => [entry.path, entry]));
  }

  /** The file a path leads to inside the snapshot, over its links. */
  file(path: string): FileEntry | undefined {
    let at = this.canonical(path);
    for (let links = 0; links < mostLinks; links++) {
      const entry = this.#byPath.get(at);
      if (entry?.type !== "link") return entry?.type === "file" ? entry : undefined;
      at = this.canonical(posix.resolve(posix.dirname(at), entry.target ?? ""));
    }
    return undefined;
  }

  /** A path without links of the snapshot on its way; its last step may be one. */
  canonical(path: string): string {
    let at = "/";
    const ahead = posix.resolve("/", path).split("/").filter(Boolean);
    for (let links = 0; ahead.length > 1; ) {
      const next = posix.join(at, ahead.shift() ?? "");
      const entry = this.#byPath.get(next);
      if (entry?.type !== "link" || ++links > mostLinks) at = next;
      else {
        // Neither side holds a link before this step, so `..` in the target can be taken by name.
        ahead.unshift(
          ...posix
            .resolve(at, entry.target ?? "")
            .split("/")
            .filter(Boolean),
        );
        at = "/";
      }
    }
    return posix.join(at, ...ahead);
  }
}
