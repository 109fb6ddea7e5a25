import { messageQueues } from "../postfix/queue.ts";
import { ago } from "../status/ago.ts";
import { countsText } from "../triage/judge.ts";
import type { InstanceFacts, LogSigns, TriageFinding, TriageReport } from "../triage/report.ts";
import type { Render } from "./render.ts";
import { localTime, printable, size, table } from "./table.ts";

/** `triage` for people: what was measured, what couldn't be, what was found, and last, where the eye is, the runbook to open. */
export function triageText(report: TriageReport, render: Pick<Render, "colour">): string {
  const { host, time, instances, logs, findings, unseen } = report;
  return [
    `${host}, ${localTime(new Date(time))}`,
    table(["", ""], [...instances.flatMap(instanceRows), ...logs.flatMap(logRows), ...hostRows(report)]).replace(
      /^\n/,
      "",
    ),
    ...unseen.map((what) => `${render.colour("yellow", "not seen")}: ${printable(what)}`),
    ...findings.map((finding) => findingText(finding, render)),
    verdict(report, render),
  ].join("\n");
}

function instanceRows(instance: InstanceFacts): string[][] {
  const { name, running, locked, state, disk, traffic, corrupt, heldByOthers } = instance;
  const at = locked === true ? "; its lock is held: a backup, a restore or a runbook is at work" : "";
  const counts = messageQueues.map((queue) => `${queue} ${state?.queues[queue].messages ?? "?"}`).join(", ");
  const oldest =
    state?.oldest == null ? "" : `; oldest ${state.oldest.exact ? "" : "at least "}${ago(state.oldest.ageSeconds)}`;
  return [
    [name, `${running === null ? "unknown whether it runs" : running ? "runs" : "does not run"}${at}`],
    ["  queue", `${counts}, corrupt ${corrupt.length}${oldest}`],
    ["  on hold by others", heldByOthers === null ? "unknown" : String(heldByOthers)],
    ...(disk === null ? [] : [["  room", roomText(disk)]]),
    ...(traffic === null || traffic.looked === 0
      ? []
      : [
          ["  messages looked at", `${traffic.looked}, of MAILER-DAEMON ${traffic.notices}`],
          ["  senders", countsText(traffic.senders)],
          ["  destinations", countsText(traffic.destinations)],
          ["  logins", countsText(traffic.logins)],
          ["  clients", countsText(traffic.clients)],
        ]),
  ];
}

function roomText({
  freeBytes,
  totalBytes,
  usedShare,
  freeInodes,
  usedInodeShare,
}: NonNullable<InstanceFacts["disk"]>) {
  const inodes =
    freeInodes === null ? "" : `, ${freeInodes} inodes free (${Math.floor((usedInodeShare ?? 0) * 100)}% used)`;
  return `${size(freeBytes)} of ${size(totalBytes)} free (${Math.floor(usedShare * 100)}% used)${inodes}`;
}

function logRows({ source, lines, to, levels, rates, last, windowSeconds, rateSeconds }: LogSigns): string[][] {
  const counts = Object.entries(levels).map(([level, count]) => `${level} ${count}`);
  const perMinute = Object.entries(rates).map(([what, rate]) => `${what} ${rate}`);
  return [
    ["log", `${source}: ${lines} lines read, the last ${to === null ? "never" : localTime(new Date(to))}`],
    [`  last ${ago(windowSeconds)}`, counts.join(", ")],
    [`  a minute, last ${ago(rateSeconds)}`, perMinute.join(", ")],
    ...last.map((line) => ["", line]),
  ];
}

function hostRows({ holds, lastBackup, jobs, repository }: TriageReport): string[][] {
  const ours = holds.map(({ kind, messages, run }) => `${messages} (${kind} ${run})`).join(", ");
  const failed = jobs.filter(({ lastExit }) => lastExit !== null && lastExit !== 0);
  const running = jobs.filter((job) => job.running).map(({ job }) => job);
  const told =
    repository === null
      ? "none is configured"
      : repository.problem === null
        ? `${repository.url} answers`
        : `${repository.url}: ${repository.problem}`;
  return [
    ["on hold by us", ours || "none"],
    [
      "newest backup",
      lastBackup === null ? "never" : `${ago(lastBackup.ageSeconds)} ago, ${lastBackup.messages ?? "?"} messages`,
    ],
    ["last ended badly", failed.map(({ job, lastExit }) => `${job} (exit ${lastExit})`).join(", ") || "none"],
    ["at work now", running.join(", ") || "none"],
    ["repository", told],
  ];
}

function findingText({ severity, problem, evidence, remedy, runbook }: TriageFinding, render: Pick<Render, "colour">) {
  const word = render.colour(severity === "critical" ? "red" : "yellow", severity);
  return [
    `${word}: ${printable(problem)}`,
    ...evidence.map((line) => `    ${printable(line)}`),
    `    ${printable(remedy)}`,
    ...(runbook === null ? [] : [`    runbook ${runbook}`]),
  ].join("\n");
}

function verdict({ findings, open, unseen }: TriageReport, render: Pick<Render, "colour">): string {
  if (findings.length === 0 && unseen.length > 0) {
    return render.colour("yellow", "nothing was found in what could be looked at");
  }
  if (findings.length === 0) return render.colour("green", "nothing was found");
  const [first, ...others] = open;
  if (first === undefined) return render.colour("bold", "no runbook fits: the remedies above are all there is to do");
  const then = others.length === 0 ? "" : `; then ${others.join(", ")}`;
  return render.colour("bold", `open ${first}: spoolsafe runbook show ${first.slice(0, 2)}${then}`);
}
