import { ago } from "./ago.ts";
import { type Html, html } from "./html.ts";
import type { PageFacts } from "./page-facts.ts";
import type { ShowTime } from "./page-time.ts";
import { type HostLine, hostLines, type Mark } from "./timeline.ts";

/** Of every host the backups of the last days, how long mail was on hold for them, and the newest of them in words. */
export function backupsSection(facts: PageFacts, show: ShowTime): Html {
  const lines = hostLines(facts);
  const none = lines.length === 0 ? html`<p>No backup is known, here or in the repository.</p>` : null;
  return html`<section><h2>Backups</h2>${none}${lines.map((line) => hostPart(line, facts, show))}
${repositoryNote(facts, show)}</section>`;
}

function hostPart(line: HostLine, facts: PageFacts, show: ShowTime): Html {
  const { host, own, marks, days } = line;
  const newest = marks.findLast(({ end }) => end !== "failed") ?? lastKnown(line, facts);
  const age = newest === undefined ? null : (facts.now - newest.at) / 1000;
  const old = age === null || age > facts.report.limits.backupAge.critical;
  const verdict = html`<span class="tag ${old ? "critical" : "good"}">${age === null ? "none" : `${ago(age)} ago`}</span>`;
  const first = show(facts.now - days * 86_400_000);
  return html`<h3><bdi>${host}</bdi>${own ? " (this host)" : ""} ${verdict}</h3>
${drawing(line, facts)}
<div class="ends"><span>${first}</span><span>now</span></div>
<p class="soft">${holdText(marks, days)}</p>
${recent(marks, show)}`;
}

/** One that is older than the time line shows. */
function lastKnown({ host, own }: HostLine, { report, repository }: PageFacts): { readonly at: number } | undefined {
  const stored = repository?.answer?.status.hosts.find((one) => one.host === host)?.lastBackup;
  const times = [...(own ? [report.lastBackup] : []), stored].flatMap((one) => (one == null ? [] : [one.time]));
  return times.length === 0 ? undefined : { at: Math.max(...times.map((time) => Date.parse(time))) };
}

const width = 1000;
const height = 64;
const laneTop = 20;

/** Above when a backup was made and how it ended, below how long its longest hold was. The drawing stretches sideways. */
function drawing({ host, marks, days }: HostLine, { now }: PageFacts): Html {
  const span = days * 86_400_000;
  const most = Math.max(1, ...marks.map(({ heldLongestMs }) => heldLongestMs ?? 0));
  const x = (at: number) => Math.round(Math.min(1, Math.max(0, 1 - (now - at) / span)) * (width - 8));
  const failed = marks.filter(({ end }) => end === "failed").length;
  const label = `${marks.length} backups of ${host} in ${days} days, ${failed} of them failed`;
  const grid = Array.from({ length: days + 1 }, (_, day) => x(now - day * 86_400_000));
  return html`<svg class="line" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" role="img" aria-label="${label}">
${days <= 30 ? grid.map((at) => html`<rect class="grid" x="${at}" y="0" width="1" height="${height}"/>`) : null}
<rect class="grid" x="0" y="${height - 1}" width="${width}" height="1"/>
${marks.map((mark) => drawnMark(mark, x(mark.at), most))}</svg>`;
}

function drawnMark({ at, end, heldLongestMs }: Mark, x: number, most: number): Html {
  const tall = Math.max(2, Math.round(((heldLongestMs ?? 0) / most) * (height - laneTop - 4)));
  const hold =
    heldLongestMs === null
      ? null
      : html`<rect class="hold" x="${x}" y="${height - 1 - tall}" width="7" height="${tall}"/>`;
  const title = `${new Date(at).toISOString()} ${end}${heldLongestMs === null ? "" : `, longest hold ${duration(heldLongestMs)}`}`;
  const size = end === "failed" ? height - 1 : laneTop - 6;
  return html`<g><title>${title}</title>${hold}<rect class="${end}" x="${x}" y="0" width="7" height="${size}"/></g>`;
}

function holdText(marks: readonly Mark[], days: number): string {
  const holds = marks.flatMap(({ heldLongestMs }) => heldLongestMs ?? []);
  const last = holds.at(-1);
  const failed = marks.filter(({ end }) => end === "failed").length;
  const made = `${days} days: ${marks.length - failed} made, ${failed} failed`;
  if (last === undefined) return `${made}.`;
  const longest = Math.max(...holds);
  return `${made}. Longest a message was on hold for one (lower bars): ${duration(last)} in the newest, ${duration(longest)} at most.`;
}

/** "143 ms", "1.9 s", "75 s". */
function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

const rows = 8;

function recent(marks: readonly Mark[], show: ShowTime): Html | null {
  if (marks.length === 0) return null;
  const last = marks.slice(-rows).reverse();
  return html`<details><summary>the last ${last.length}</summary><div class="scroll"><table>
<thead><tr><th>began</th><th>end</th><th class="n">messages</th><th class="n">longest hold</th><th>snapshot</th></tr></thead>
<tbody>${last.map((mark) => recentRow(mark, show))}</tbody></table></div></details>`;
}

function recentRow({ at, end, exit, messages, heldLongestMs, snapshot, mode, tags }: Mark, show: ShowTime): Html {
  const about = [mode, ...tags].filter((word) => word !== null).join(", ");
  return html`<tr><td>${show(at)}</td><td><span class="tag ${end}">${end}${exit === null ? "" : ` (exit ${exit})`}</span></td>
<td class="n">${messages ?? "-"}</td><td class="n">${heldLongestMs === null ? "-" : duration(heldLongestMs)}</td>
<td>${snapshot === null ? "-" : html`<code>${snapshot.slice(0, 8)}</code>`} <span class="soft"><bdi>${about}</bdi></span></td></tr>`;
}

function repositoryNote({ repository, now }: PageFacts, show: ShowTime): Html {
  if (repository === null)
    return html`<p class="soft">No repository is configured: only what this host did itself is shown.</p>`;
  const { answer, failure } = repository;
  const asked =
    answer === null
      ? "The repository has not answered yet: only what this host did itself is shown."
      : `As the repository was at ${show(Date.parse(answer.time))}, ${ago((now - Date.parse(answer.time)) / 1000)} ago.`;
  const why =
    failure === null ? null : html` <span class="tag warning">it does not answer now</span> ${failure.message}`;
  return html`<p class="soft">${asked}${why}</p>`;
}
