import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { compareVersions } from "../postfix/version.ts";
import { systemPath } from "./environment.ts";
import type { Runbook } from "./runbook.ts";
import type { RunWorld } from "./world.ts";

/** Why a runbook can't be run here. */
export interface Unmet {
  readonly fact: string;
  readonly remedy: string;
}

/** What the front matter requires and this host has not; the role of the host is not among it. */
export function unmetRequirements(runbook: Runbook, world: RunWorld): Unmet[] {
  const { requires } = runbook;
  const unmet: Unmet[] = [];
  if (requires.root && world.uid !== 0) unmet.push({ fact: "it must be run as root", remedy: "run it as root" });
  const missing = requires.commands.filter((name) => !isThere(name));
  if (missing.length > 0) {
    unmet.push({ fact: `it needs ${missing.join(", ")}, not found here`, remedy: "install what is missing" });
  }
  const least = requires.postfix?.replace(/^>=\s*/, "");
  if (least === undefined) return unmet;
  if (world.instance === null) {
    unmet.push({ fact: `it needs Postfix ${least} or newer, and there is none`, remedy: "install Postfix" });
  } else if (compareVersions(world.instance.version, least) < 0) {
    const fact = `it needs Postfix ${least} or newer, and this is ${world.instance.version}`;
    unmet.push({ fact, remedy: "upgrade Postfix first" });
  }
  return unmet;
}

function isThere(name: string): boolean {
  // Blocks get the program that runs them.
  if (name === "spoolsafe") return true;
  return systemPath.split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Null where the host has the role that the runbook is for, else why it has not. */
export function wrongRole(runbook: Runbook, { roles, host }: RunWorld): string | null {
  if (runbook.hosts === "any" || roles.includes(runbook.hosts)) return null;
  const why =
    runbook.hosts === "standby"
      ? "no age identity is configured here"
      : "an age identity is configured here, and no scheduled backup";
  return `${runbook.name} is for a ${runbook.hosts}, which ${host} does not look like: ${why}`;
}
