import { createHash } from "node:crypto";
import { parse } from "node-cron";
import type { JobName } from "../jobs/record.ts";
import { deadlineOf, type JobPlan } from "./engine.ts";

/*
 * systemd units, as text: the daemon or a timer for each job, and what a mail server needs when it boots.
 */

/** A file to be, its name relative to the directory of units. */
export interface Unit {
  readonly name: string;
  readonly text: string;
}

export interface UnitsFor {
  readonly jobs: readonly ({ readonly job: JobName } & JobPlan)[];
  /** The most a job is started later than its time, milliseconds. */
  readonly jitterMs: number;
  /** Program and first arguments that a command's words follow, and options that follow those. */
  readonly program: readonly string[];
  readonly options: readonly string[];
  /** Units do nothing while it is not there. */
  readonly configFile: string;
  /** What is written: state directory, repository, textfile. */
  readonly writes: readonly string[];
}

/** The daemon, and for the boot of a host that makes backups. */
export function daemonUnits(request: UnitsFor): Unit[] {
  return [{ name: daemonUnit, text: daemon(request) }, ...bootUnits(request)];
}

/**
 * A timer and a service for each job, and for the boot of a host that makes backups.
 *
 * @throws RangeError with the job and why, for an expression that OnCalendar= can't say
 */
export function timerUnits(request: UnitsFor): Unit[] {
  return [...request.jobs.flatMap((each) => jobUnits(each, request)), ...bootUnits(request)];
}

export const daemonUnit = "spoolsafe-schedule.service";

export function timerUnit(job: JobName): string {
  return `spoolsafe-${job}.timer`;
}

function daemon(request: UnitsFor): string {
  const backs = backsUp(request);
  return lines(
    "[Unit]",
    "Description=Spoolsafe: back up the mail queue on schedule",
    `ConditionPathExists=${path(request.configFile)}`,
    "Wants=network-online.target",
    "After=network-online.target nss-lookup.target local-fs.target remote-fs.target time-sync.target",
    "",
    "[Service]",
    "Type=notify",
    "# systemd-notify is a process of its own.",
    "NotifyAccess=all",
    "WatchdogSec=10min",
    `ExecStart=${command(request, "schedule", "run")}`,
    ...(backs ? recovery(request) : []),
    "Restart=always",
    "RestartSec=30s",
    "# Not when there is something to correct first: wrong usage or configuration, or a second daemon.",
    "RestartPreventExitStatus=2 11",
    ...stopping,
    ...hardening(
      request,
      request.jobs.some(({ job }) => job === "drill"),
    ),
    "",
    "[Install]",
    "WantedBy=multi-user.target",
  );
}

/** A job of the daemon is told once, by the daemon: a second SIGTERM would end it at once, with mail on hold. */
const stopping = ["KillMode=mixed", "TimeoutStopSec=5min"];

function recovery(request: UnitsFor): string[] {
  return [
    "# Mail that a backup which was killed had put on hold goes back to where it was.",
    `ExecStopPost=${command(request, "holds", "release", "--quiet")}`,
  ];
}

function jobUnits({ job, ...plan }: UnitsFor["jobs"][number], request: UnitsFor): Unit[] {
  const due = plan.calendar.next(Date.UTC(2027, 0, 1)) ?? 0;
  const deadlineMinutes = Math.ceil(deadlineOf(plan.calendar, due) / 60_000);
  const service = lines(
    "[Unit]",
    `Description=Spoolsafe: ${job}`,
    `ConditionPathExists=${path(request.configFile)}`,
    "Wants=network-online.target",
    "After=network-online.target nss-lookup.target local-fs.target remote-fs.target time-sync.target",
    "",
    "[Service]",
    "# Not oneshot, which can't be started again for an exit code.",
    "Type=exec",
    `ExecStart=${command(request, job)}`,
    ...(job === "backup" ? recovery(request) : []),
    "# Another run holds the lock: again in a minute.",
    "RestartForceExitStatus=11",
    "RestartSec=1min",
    `RuntimeMaxSec=${deadlineMinutes}min`,
    ...stopping,
    ...hardening(request, job === "drill"),
  );
  const timer = lines(
    "[Unit]",
    `Description=Spoolsafe: ${job} on schedule`,
    "",
    "[Timer]",
    ...onCalendar(plan.calendar.expression, plan.calendar.timezone).map((time) => `OnCalendar=${time}`),
    "# A run that was missed while the machine was off is made up once.",
    "Persistent=true",
    `RandomizedDelaySec=${Math.round(request.jitterMs / 1000)}s`,
    "FixedRandomDelay=true",
    "AccuracySec=1s",
    "",
    "[Install]",
    "WantedBy=timers.target",
  );
  return [
    { name: `spoolsafe-${job}.service`, text: service },
    { name: timerUnit(job), text: timer },
  ];
}

/** On a host that makes backups, before its Postfix starts. */
function bootUnits(request: UnitsFor): Unit[] {
  if (!backsUp(request)) return [];
  return [
    { name: recoverUnit, text: recover(request) },
    { name: fenceUnit, text: fence(request) },
    { name: "postfix@.service.d/spoolsafe-fence.conf", text: fenceDropIn },
  ];
}

export const recoverUnit = "spoolsafe-recover.service";
export const fenceUnit = "spoolsafe-fence.service";

function recover(request: UnitsFor): string {
  return lines(
    "# Gives back what a backup had put on hold when the machine went down. Before the fence, which may put some of it on hold",
    "# again because another host has taken it over; Postfix starts whether this works or not, and the next backup tries again.",
    "",
    "[Unit]",
    "Description=Release mail that an interrupted backup had put on hold",
    "Documentation=man:postsuper(1)",
    `ConditionPathExists=${path(request.configFile)}`,
    `Before=${fenceUnit} postfix.service postfix@-.service`,
    "After=local-fs.target remote-fs.target",
    "",
    "[Service]",
    "Type=oneshot",
    `ExecStart=${command(request, "holds", "release", "--quiet")}`,
    "UMask=0077",
    "TimeoutStartSec=5min",
    "",
    "[Install]",
    "WantedBy=multi-user.target",
  );
}

/** As examples/systemd/spoolsafe-fence.service; a test compares them. */
function fence(request: UnitsFor): string {
  return lines(
    "# Puts on hold what another host has taken over of this host's mail, before Postfix starts: without it, an old primary that",
    "# comes back delivers that mail a second time. If it can't be known what was taken over, Postfix does not start.",
    "#",
    "# It runs before every start of Postfix, not only after a boot. `postfix start` by hand goes past it.",
    "",
    "[Unit]",
    "Description=Hold mail that another host has taken over",
    "Documentation=man:postsuper(1)",
    `ConditionPathExists=${path(request.configFile)}`,
    "Before=postfix.service postfix@-.service",
    "Wants=network-online.target",
    "After=network-online.target nss-lookup.target local-fs.target remote-fs.target time-sync.target",
    "",
    "[Service]",
    "Type=oneshot",
    `ExecStart=${command(request, "holds", "fence")}`,
    "UMask=0077",
    "# It waits two minutes for another spoolsafe on the queue, and reads every message when something was taken over.",
    "TimeoutStartSec=30min",
    "",
    "[Install]",
    "# On Debian up to 12 postfix.service starts nothing itself; postfix@-.service is the Postfix of /etc/postfix.",
    "RequiredBy=postfix.service postfix@-.service",
  );
}

const fenceDropIn = lines(
  "# Every instance that postfix@.service starts, whatever it is called, comes after the fence, and not at all if that fails.",
  "[Unit]",
  "Requires=spoolsafe-fence.service",
  "After=spoolsafe-fence.service",
);

function backsUp({ jobs }: UnitsFor): boolean {
  return jobs.some(({ job }) => job === "backup");
}

/**
 * Root with few of root's powers: reading every queue, postsuper (which becomes the owner of the queue), signals to
 * Postfix's master, and the open files and locks of its processes. Not MemoryDenyWriteExecute= (Node compiles what it runs)
 * and not RestrictSUIDSGID= (a queue has directories with those bits).
 *
 * @param drills a drill makes a network of its own for its Postfix, which takes CAP_SYS_ADMIN, and CAP_NET_ADMIN for loopback
 */
function hardening({ writes }: UnitsFor, drills: boolean): string[] {
  const closed = ["/usr", "/boot", "/etc", "/home", "/root", "/run/user"];
  const open = [...new Set(writes)].filter((file) => closed.some((top) => file === top || file.startsWith(`${top}/`)));
  return [
    "UMask=0077",
    "NoNewPrivileges=yes",
    `CapabilityBoundingSet=${[...capabilities, ...(drills ? forDrills : [])].join(" ")}`,
    "ProtectSystem=full",
    "ProtectHome=read-only",
    ...(open.length === 0 ? [] : [`ReadWritePaths=${open.map((file) => path(`-${file}`)).join(" ")}`]),
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    `RestrictNamespaces=${drills ? "net" : "yes"}`,
    "RestrictRealtime=yes",
    "SystemCallArchitectures=native",
  ];
}

const capabilities = [
  ...["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID"],
  ...["CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_PTRACE"],
];
const forDrills = ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"];

function command({ program, options }: UnitsFor, ...words: readonly string[]): string {
  return [...program, ...words, ...options].map(word).join(" ");
}

/** As systemd.service(5) has it: quoted where it needs to be, with nothing expanded. */
function word(text: string): string {
  const plain = text.replaceAll("%", "%%").replaceAll("$", "$$$$");
  if (/^[A-Za-z0-9_@%+=:,./$-]+$/.test(plain)) return plain;
  return `"${plain.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}

/** A path as a value that is no command: specifiers are expanded there as well. */
function path(text: string): string {
  const plain = text.replaceAll("%", "%%");
  return /\s/.test(plain) ? `"${plain}"` : plain;
}

const weekdays = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/**
 * A cron expression as systemd.time(7) says it; two of them where day of the month or day of the week is enough.
 *
 * @throws RangeError for `W`, `#` and `5L`, which it can't say
 */
export function onCalendar(expression: string, timezone: string): string[] {
  const fields = parse(expression);
  const [, , ofMonthField = "*", , ofWeekField = "*"] = expression.trim().split(/\s+/);
  const nickname = expression.trim().startsWith("@");
  const either = !nickname && [ofMonthField, ofWeekField].every((field) => !/^[*?]/.test(field));
  const month = list(fields.month, 12);
  const time = `${list(fields.hour, 24)}:${list(fields.minute, 60)}:00 ${timezone}`;
  const ofWeek = fields.dayOfWeek.length === 7 ? "" : `${fields.dayOfWeek.map(weekday).join(",")} `;
  const ofMonth = daysOfMonth(fields.dayOfMonth);
  if (!either) return ofMonth.map((days) => `${ofWeek}*-${month}${days} ${time}`);
  return [...ofMonth.map((days) => `*-${month}${days} ${time}`), `${ofWeek}*-${month}-* ${time}`];
}

function list(values: readonly number[], all: number): string {
  return values.length === all ? "*" : values.map((value) => String(value).padStart(2, "0")).join(",");
}

/** With the `-` that counts from the first, or the `~` that counts from the last. */
function daysOfMonth(days: readonly (number | string)[]): string[] {
  const counted = days.filter((day) => typeof day === "number");
  const other = days.filter((day) => typeof day === "string").filter((day) => day.toUpperCase() !== "L");
  if (other.length > 0) throw new RangeError(`OnCalendar= can't say ${other[0]}`);
  const last = days.length > counted.length;
  return [...(counted.length > 0 ? [`-${list(counted, 31)}`] : []), ...(last ? ["~01"] : [])];
}

function weekday(day: number | string): string {
  const name = typeof day === "number" ? weekdays[day] : undefined;
  if (name === undefined) throw new RangeError(`OnCalendar= can't say ${day}`);
  return name;
}

function lines(...text: readonly string[]): string {
  return `${text.join("\n")}\n`;
}

const markPattern = /^# Made by `spoolsafe schedule install` \(sha256 ([0-9a-f]{64})\)[^\n]*\n/;

/** The unit with a first line that tells whose it is and whether somebody has changed it since. */
export function marked(text: string): string {
  const how = "changes belong in a drop-in: systemctl edit";
  return `# Made by \`spoolsafe schedule install\` (sha256 ${digest(text)}); ${how}\n${text}`;
}

/** Whether a file is one that `marked` made and nobody has changed. */
export function isUnchanged(file: string): boolean {
  const [mark = "", sha256] = markPattern.exec(file) ?? [];
  return sha256 !== undefined && digest(file.slice(mark.length)) === sha256;
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}
