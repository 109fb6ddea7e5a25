import { OperatorError } from "../errors.ts";
import { prometheusText } from "../status/prometheus.ts";
import type { StatusReport } from "../status/report.ts";
import { writeFileAtomic } from "../system/files.ts";
import type { Context } from "./context.ts";
import { statusReport } from "./status-report.ts";

/**
 * Replace the file that node_exporter's textfile collector reads: whole or not at all, and readable by everybody.
 *
 * @throws OperatorError `config` when none is configured, `failed` when it can't be written
 */
export function writeTextfile(path: string | undefined, report: StatusReport): void {
  if (path === undefined) {
    throw new OperatorError("config", "no textfile is configured", {
      hints: ["name it as status.textfile, in the directory that node_exporter --collector.textfile.directory names"],
    });
  }
  try {
    writeFileAtomic(path, prometheusText(report), 0o644);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new OperatorError("failed", `the textfile ${path} can't be written: ${reason}`, {
      hints: ["its directory must be there: apt-get install prometheus-node-exporter makes one"],
      cause,
    });
  }
}

/** The same at the end of a job, where one is configured. Whatever goes wrong is told of and changes nothing of the job. */
export async function refreshTextfile(context: Context): Promise<void> {
  const path = context.config.status.textfile;
  if (path === undefined) return;
  try {
    writeTextfile(path, await statusReport(context, { remote: false, allHosts: false }));
  } catch (error) {
    context.render.warn(error instanceof Error ? error.message : String(error));
  }
}
