import { rmSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { isAlive, type JobProcess } from "../jobs/record.ts";
import { makePrivateDirectory, textIfThere, writeFileAtomic } from "../system/files.ts";
import { parseJson } from "../system/json.ts";
import type { DaemonFault } from "./report.ts";

/*
 * `<state>/schedule-faults.json`: what `schedule run` can't do beside its jobs, so that `status` says it as well. It counts
 * as long as that daemon lives.
 */

const fileSchema = z.object({
  process: z.object({ pid: z.int(), startTicks: z.string() }),
  faults: z.array(z.object({ name: z.enum(["status-page", "textfile"]), problem: z.string(), since: z.string() })),
});

/** Of the daemon that is at work; none where there is no daemon, or nothing is wrong with it. */
export function daemonFaults(stateDirectory: string): readonly DaemonFault[] {
  const parsed = fileSchema.safeParse(parseJson(textIfThere(fileOf(stateDirectory)) ?? ""));
  return parsed.success && isAlive(parsed.data.process) ? parsed.data.faults : [];
}

/** Replace what is written; nothing to say removes the file. Makes the state directory where it is missing. */
export function writeDaemonFaults(stateDirectory: string, process: JobProcess, faults: readonly DaemonFault[]): void {
  if (faults.length === 0) {
    rmSync(fileOf(stateDirectory), { force: true });
    return;
  }
  makePrivateDirectory(stateDirectory);
  writeFileAtomic(fileOf(stateDirectory), `${JSON.stringify({ process, faults })}\n`);
}

function fileOf(stateDirectory: string): string {
  return join(stateDirectory, "schedule-faults.json");
}
