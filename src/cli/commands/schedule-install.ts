import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { ConfigFault, defaultConfigFile } from "../../config/load.ts";
import { OperatorError } from "../../errors.ts";
import type { ScheduledJob } from "../../schedule/daemon.ts";
import {
  daemonUnit,
  daemonUnits,
  fenceUnit,
  isUnchanged,
  marked,
  onCalendar,
  recoverUnit,
  timerUnit,
  timerUnits,
  type Unit,
  type UnitsFor,
} from "../../schedule/units.ts";
import { writeFileAtomic } from "../../system/files.ts";
import type { Context } from "../context.ts";
import { givenOptions, schedulable, someJobs } from "../schedule.ts";

export interface InstallOptions {
  readonly timers?: true | undefined;
  readonly directory?: string | undefined;
}

/** `spoolsafe schedule install`: writes units and says how to switch them on. Files it did not make stay as they are. */
export async function run(context: Context, options: InstallOptions): Promise<number> {
  const { render, cwd } = context;
  const directory = resolve(cwd, options.directory ?? "/etc/systemd/system");
  const timers = options.timers === true;
  const jobs = someJobs(context);
  if (timers) checkTimes(context, jobs);
  const request = requestOf(context, jobs);
  const units = (timers ? timerUnits(request) : daemonUnits(request)).map(({ name, text }) => ({
    name,
    text: marked(text),
  }));
  refuseForeign(directory, units);
  refuseBoth(directory, timers);
  for (const unit of units) {
    const done = place(directory, unit);
    render.line({ type: done, what: "unit", where: join(directory, unit.name) });
    render.text(`${done.padEnd(8)}  ${join(directory, unit.name)}`);
  }
  const enable = toEnable(units);
  render.summary({ directory, units: units.length, enable });
  render.note(`next: systemctl daemon-reload && systemctl enable ${enable.join(" ")}`);
  const now = timers ? jobs.map(({ job }) => timerUnit(job)).join(" ") : daemonUnit;
  render.note(`and to begin now: systemctl start ${now}`);
  return 0;
}

function requestOf(context: Context, jobs: readonly ScheduledJob[]): UnitsFor {
  const { config, configFile, stateDirectory } = context;
  const script = process.argv[1] ?? "";
  const repositories = [config.repository, ...config.copy].flatMap(({ url }) =>
    url?.startsWith("file://") ? [fileURLToPath(url)] : url?.startsWith("/") ? [url] : [],
  );
  const textfile = config.status.textfile === undefined ? [] : [dirname(config.status.textfile)];
  return {
    jobs,
    jitterMs: config.schedule.jitter,
    program: [process.execPath, resolve(context.cwd, script)],
    options: [...(configFile === defaultConfigFile ? [] : ["--config", configFile]), ...givenOptions(context)],
    configFile,
    writes: [stateDirectory, ...repositories, ...textfile],
  };
}

/** @throws ConfigFault with every expression that a timer can't have */
function checkTimes({ configFile }: Context, jobs: readonly ScheduledJob[]): void {
  const problems = jobs.flatMap(({ job, calendar }) => {
    try {
      onCalendar(calendar.expression, calendar.timezone);
      return [];
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return [
        { where: configFile, key: `schedule.${job}`, message: `no timer for ${calendar.expression}: ${error.message}` },
      ];
    }
  });
  if (problems.length > 0) throw new ConfigFault(problems, ["spoolsafe schedule install without --timers can"]);
}

/** Before anything is written. */
function refuseForeign(directory: string, units: readonly Unit[]): void {
  const foreign = units
    .map(({ name }) => join(directory, name))
    .filter((file) => existsSync(file) && !isUnchanged(readFileSync(file, "utf8")));
  if (foreign.length === 0) return;
  throw new OperatorError("refused", `not made by this command, or changed since: ${foreign.join(", ")}`, {
    hints: [
      "nothing was written; move the file away, and put what is special about it into a drop-in (systemctl edit)",
      "--directory DIR writes the units elsewhere, to compare them",
    ],
  });
}

/** Daemon and timers together would run every job twice. */
function refuseBoth(directory: string, timers: boolean): void {
  const others = (timers ? [daemonUnit] : schedulable.map(timerUnit)).filter((name) =>
    existsSync(join(directory, name)),
  );
  if (others.length === 0) return;
  throw new OperatorError("refused", `${join(directory, others[0] ?? "")} is there: every job would run twice`, {
    hints: [
      `systemctl disable --now ${others.join(" ")}, and remove ${others.length === 1 ? "it" : "them"}`,
      timers ? "or leave it as it is: the daemon does what timers do" : "or leave them: timers do what the daemon does",
    ],
  });
}

function place(directory: string, { name, text }: Unit): "made" | "replaced" | "left" {
  const file = join(directory, name);
  const before = existsSync(file) ? readFileSync(file, "utf8") : undefined;
  if (before === text) return "left";
  mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
  writeFileAtomic(file, text, 0o644);
  return before === undefined ? "made" : "replaced";
}

/** Services of timers are started by those, drop-ins by nobody. */
function toEnable(units: readonly Unit[]): string[] {
  const own = [daemonUnit, recoverUnit, fenceUnit];
  return units.map(({ name }) => name).filter((name) => own.includes(name) || name.endsWith(".timer"));
}
