import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { errnoOf } from "../errors.ts";
import { fsyncDirectory } from "../system/files.ts";

/**
 * Make durable what has left hold/. postsuper(1) renames and syncs nothing, and what we write down of it may lie on another
 * disk: after a power failure the message would be on hold again, and nobody would know that it is there by our hand.
 */
export function syncHold(queueDirectory: string): void {
  syncTree(join(queueDirectory, "hold"));
}

/** A hashed queue has directories of one character each (`dir_forest.c`), which come and go. */
function syncTree(directory: string): void {
  try {
    fsyncDirectory(directory);
    // Two names, its own and `.`, where no directory is in it. Some file systems always say one: then look.
    if (statSync(directory).nlink === 2) return;
    const below = readdirSync(directory, { withFileTypes: true }).filter((one) => one.isDirectory());
    for (const { name } of below) syncTree(join(directory, name));
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
  }
}
