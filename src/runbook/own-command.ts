import { accessSync, chmodSync, constants, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { quoted } from "./block.ts";

/** A directory with an executable `spoolsafe` that is this very program, whatever is installed elsewhere. */
export interface OwnCommand {
  /** Null where no directory can be written from which programs may be run. */
  readonly directory: string | null;
  remove(): void;
}

/**
 * Makes `<run>/bin/spoolsafe`; where the file system of the run is mounted noexec, as /run is on Debian, one in a directory
 * for temporary files.
 *
 * @param command Node and script
 */
export function placeOwnCommand(runDirectory: string | null, command: readonly string[]): OwnCommand {
  const script = `#!/bin/sh\nexec ${command.map(quoted).join(" ")} "$@"\n`;
  if (runDirectory !== null) {
    const own = join(runDirectory, "bin");
    if (place(own, script)) return { directory: own, remove: () => {} };
  }
  for (const parent of [tmpdir(), "/dev/shm", "/root"]) {
    const made = temporary(parent);
    if (made === undefined) continue;
    if (place(made, script)) return { directory: made, remove: () => rmSync(made, { recursive: true, force: true }) };
    rmSync(made, { recursive: true, force: true });
  }
  return { directory: null, remove: () => {} };
}

function temporary(parent: string): string | undefined {
  try {
    return mkdtempSync(join(parent, "spoolsafe-"));
  } catch {
    return undefined;
  }
}

/** Whether it is there and can be run; access(2) says no for a file system without execution. */
function place(directory: string, script: string): boolean {
  const path = join(directory, "spoolsafe");
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    writeFileSync(path, script, { mode: 0o700 });
    chmodSync(path, 0o700);
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
