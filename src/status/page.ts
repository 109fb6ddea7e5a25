import { ago } from "./ago.ts";
import type { DrillResult } from "./drills.ts";
import { type Html, html } from "./html.ts";
import { backupsSection } from "./page-backups.ts";
import { type PageFacts, type PageProblem, pageProblems } from "./page-facts.ts";
import { queuesSection } from "./page-queues.ts";
import { pageStyle } from "./page-style.ts";
import { type ShowTime, showTimeIn } from "./page-time.ts";
import type { Happened, JobStatus, StatusReport } from "./report.ts";
import { runbookOf } from "./runbook-of.ts";

/** Seconds after which a browser asks for the page again. */
const refreshSeconds = 60;

/**
 * The status page: one document that needs nothing else, no script and nothing from the network. What is wrong comes first,
 * with the runbook to open.
 */
export function statusPage(facts: PageFacts): string {
  const { report } = facts;
  const show = showTimeIn(facts.timezone);
  const problems = pageProblems(facts);
  const worst = problems.some(({ severity }) => severity === "critical") ? "critical" : "warning";
  const level = problems.length === 0 ? "good" : worst;
  const verdict =
    problems.length === 0 ? "all is well" : `${problems.length} ${problems.length === 1 ? "problem" : "problems"}`;
  return document(
    `${report.host}: ${verdict}`,
    html`<header><h1><bdi>${report.host}</bdi></h1><span class="tag ${level}">${verdict}</span>
<span class="soft">computed at ${show(Date.parse(report.time))} (${facts.timezone})</span></header>
${problemsSection(problems)}
${backupsSection(facts, show)}
${queuesSection(report)}
${holdsSection(report, show)}
${jobsSection(report, facts, show)}
${drillsSection(facts, show)}
${copiesSection(report)}
<footer>Spoolsafe ${facts.version}. Reloads every ${refreshSeconds} seconds; nothing here changes anything.
<a href="/metrics">/metrics</a> <a href="/healthz">/healthz</a></footer>`,
  );
}

/** Shown until the first look is done. @param error why the one before did not come to its end */
export function waitingPage(error: string | null): string {
  const why = error === null ? null : html`<p><span class="tag critical">critical</span> It has failed: ${error}</p>`;
  return document("Spoolsafe", html`<section><h2>Spoolsafe</h2><p>The first look is under way.</p>${why}</section>`, 5);
}

function document(title: string, body: Html, refresh = refreshSeconds): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="${refresh}"><meta name="robots" content="noindex"><link rel="icon" href="data:,">
${html`<title>${title}</title>`.text}<style>${pageStyle}</style></head>
<body><main>${body.text}</main></body></html>
`;
}

function problemsSection(problems: readonly PageProblem[]): Html {
  if (problems.length === 0) return html`<section><h2>What is wrong</h2><p>Nothing that is looked at.</p></section>`;
  return html`<section><h2>What is wrong</h2><ul class="problems">${problems.map(problemItem)}</ul></section>`;
}

function problemItem({ severity, name, problem, remedy }: PageProblem): Html {
  const runbook = runbookOf(name);
  const open =
    runbook === null
      ? null
      : html`<p>Runbook <strong>${runbook}</strong>: <code>spoolsafe runbook show ${runbook.slice(0, 2)}</code></p>`;
  return html`<li class="is-${severity}"><span class="tag ${severity}">${severity}</span> ${problem}<p class="soft">${remedy}</p>${open}</li>`;
}

function holdsSection({ holds }: StatusReport, show: ShowTime): Html | null {
  if (holds.length === 0) return null;
  const rows = holds.map(
    ({ kind, instance, run, since, ageSeconds, messages }) =>
      html`<tr><td>${kind}</td><td><bdi>${instance}</bdi></td><td class="n">${messages}</td><td>${show(Date.parse(since))} (${ago(ageSeconds)})</td><td><code>${run}</code></td></tr>`,
  );
  return html`<section><h2>On hold because of Spoolsafe</h2><div class="scroll"><table>
<thead><tr><th>why</th><th>instance</th><th class="n">messages</th><th>since</th><th>run</th></tr></thead><tbody>${rows}</tbody></table></div></section>`;
}

function jobsSection({ jobs, unsentAlerts }: StatusReport, facts: PageFacts, show: ShowTime): Html {
  const known = jobs.filter(({ lastStart, scheduled }) => lastStart !== null || scheduled);
  const rows = known.map(
    (job) =>
      html`<tr><td>${job.job}</td><td>${happened(job.lastSuccess, show)}</td><td>${lastRun(job, show)}</td></tr>`,
  );
  const level = facts.report.lastVerify?.level;
  const verified = level == null ? null : html`<p class="soft">The last verify was ${level}.</p>`;
  const table = html`<div class="scroll"><table><thead><tr><th>job</th><th>last ended well</th><th>last run</th></tr></thead><tbody>${rows}</tbody></table></div>`;
  const unsent = unsentAlerts.length === 0 ? null : html`<p>${unsentAlerts.length} alerts could not be sent.</p>`;
  return html`<section><h2>Jobs of this host</h2>${known.length === 0 ? html`<p>None has run yet.</p>` : table}${verified}${unsent}</section>`;
}

function lastRun({ running, died, lastExit, lastStart, missedSince }: JobStatus, show: ShowTime): Html {
  if (running) return html`<span class="tag good">running</span> since ${happened(lastStart, show)}`;
  const missed = missedSince === null ? null : html` <span class="tag warning">missed</span>`;
  if (died) return html`<span class="tag failed">ended without a word</span>${missed}`;
  if (lastExit === null) return html`-${missed}`;
  const level = lastExit === 0 ? "good" : lastExit === 3 ? "incomplete" : "failed";
  return html`<span class="tag ${level}">exit ${lastExit}</span>${missed}`;
}

function happened(event: Happened | null, show: ShowTime): string {
  return event === null ? "never" : `${show(Date.parse(event.time))} (${ago(event.ageSeconds)} ago)`;
}

function drillsSection({ drills, report }: PageFacts, show: ShowTime): Html {
  const last = report.lastDrill === null ? "" : ` The last one that ended well: ${happened(report.lastDrill, show)}.`;
  if (drills.length === 0) {
    return html`<section><h2>Drills</h2><p>No report of a drill is on this host.${last} <code>spoolsafe drill</code> proves a backup by restoring it.</p></section>`;
  }
  return html`<section><h2>Drills</h2><div class="scroll"><table>
<thead><tr><th>began</th><th>of</th><th>result</th><th class="n">RPO</th><th class="n">RTO</th><th>report</th></tr></thead>
<tbody>${drills.map((drill) => drillRow(drill, show))}</tbody></table></div></section>`;
}

function drillRow(drill: DrillResult, show: ShowTime): Html {
  const { id, host, scenario, started, ok, rpoSeconds, rtoSeconds, targets, messages, deviations } = drill;
  const what = scenario === null ? `${messages.identical} of ${messages.manifest} messages` : scenario.name;
  const first = ok ? null : html` <span class="soft">${deviations[0] ?? ""}</span>`;
  return html`<tr><td>${show(Date.parse(started))}</td><td><bdi>${host}</bdi>, ${what}</td>
<td><span class="tag ${ok ? "good" : "failed"}">${ok ? "passed" : "failed"}</span>${first}</td>
<td class="n">${figure(rpoSeconds, targets.rpo)}</td><td class="n">${figure(rtoSeconds, targets.rto)}</td><td><code>${id.slice(0, 12)}</code></td></tr>`;
}

function figure(seconds: number | null, target: DrillResult["targets"]["rpo"]): Html {
  const value = seconds === null ? "-" : ago(seconds);
  if (target === null) return html`${value}`;
  const level = target.met ? "" : html` <span class="tag failed">missed</span>`;
  return html`${value} of ${ago(target.seconds)}${level}`;
}

function copiesSection({ copies }: StatusReport): Html | null {
  if (copies.length === 0) return null;
  const rows = copies.map(
    ({ url, behind, lastSuccess, error }) =>
      html`<tr><td><code>${url}</code>${error === null ? null : html`<p class="soft">${error}</p>`}</td><td class="n">${behind}</td><td>${lastSuccess === null ? "never" : `${ago(lastSuccess.ageSeconds)} ago`}</td></tr>`,
  );
  return html`<section><h2>Copies</h2><div class="scroll"><table>
<thead><tr><th>repository</th><th class="n">behind</th><th>whole</th></tr></thead><tbody>${rows}</tbody></table></div></section>`;
}
