import { drillKey } from "../repository/layout.ts";
import type { DrillCheck, DrillReport, DrillTarget } from "../snapshot/drill.ts";
import type { SignedDrill } from "../snapshot/record.ts";
import { accountingOf, equationText } from "./accounting.ts";
import { embedded, evidenceOf, unpackCommand } from "./evidence.ts";
import { type Markup, markup } from "./markup.ts";
import { historyPicture, phasesPicture, queueClass, queuesPicture } from "./pictures.ts";
import { duration, phaseWords, targetWords, utc, verdict, whoRan } from "./words.ts";

/**
 * The report as one page that needs nothing else: no script, no network (it forbids itself both), pictures inside. It is drawn from
 * the signed record alone, the same bytes for the same record, and holds that record.
 */
export function renderHtml(signed: SignedDrill): string {
  const { drill } = signed;
  const title = `Drill ${drill.id} of ${drill.host}`;
  const page = markup`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<style>${style}</style>
</head>
<body>
<main>
<header>
<p class="${drill.ok ? "badge good" : "badge bad"}">${drill.ok ? "PASSED" : "FAILED"}</p>
<h1>${drill.scenario === null ? "Recovery drill" : "Rehearsed failure"}: ${drill.host}</h1>
<p class="lead">${verdict(drill)}</p>
<p class="faint">${utc(drill.started)} · drill <code>${drill.id}</code> · number ${drill.number} of writer <code>${drill.writer}</code></p>
</header>
${scenarioPart(drill)}
${figures(drill)}
${troubles(drill)}
<section>
<h2>Time by phase</h2>
${phases(drill)}
</section>
${history(drill)}
<section>
<h2>Queue by age</h2>
<p class="faint">Messages when the snapshot was taken.</p>
${queues(drill)}
</section>
<section>
<h2>Accounting</h2>
${accounting(drill)}
</section>
<section>
<h2>Isolation</h2>
<p>Connections tried outside loopback: <strong>${drill.isolation.outsideConnections ?? "not counted"}</strong></p>
${checks(drill.isolation.proofs)}
</section>
<section>
<h2>Checks</h2>
${checks(drill.checks)}
</section>
<section>
<h2>What, where, who</h2>
${scope(drill)}
</section>
<section>
<h2>Findings and sign-off</h2>
<table class="form"><thead><tr><th>Finding</th><th>Owner</th><th>Due</th></tr></thead><tbody>${[1, 2, 3].map(() => markup`<tr><td>&nbsp;</td><td></td><td></td></tr>`)}</tbody></table>
<table class="form"><thead><tr><th></th><th>Name</th><th>Date</th><th>Signature</th></tr></thead><tbody><tr><th>Operator</th><td></td><td></td><td></td></tr><tr><th>Approved by</th><td></td><td></td><td></td></tr></tbody></table>
</section>
<section>
<h2>Evidence</h2>
${evidence(signed)}
</section>
</main>
</body>
</html>
`;
  return page.text;
}

function scenarioPart({ scenario }: DrillReport): Markup | null {
  if (scenario === null) return null;
  return markup`<section>
<h2>Rehearsed: ${scenario.name}</h2>
<dl><dt>Expected</dt><dd>${scenario.expected}</dd><dt>Happened</dt><dd>${scenario.happened}</dd><dt>As documented</dt><dd class="${scenario.ok ? "good" : "bad"}">${scenario.ok ? "yes" : "NO"}</dd></dl>
<p class="faint">Faults were put between this host and the repository while it was read. Nothing was changed in it. This is no proof that the mail can be recovered: a drill without a scenario is.</p>
</section>`;
}

function figures({
  rpoSeconds,
  rtoSeconds,
  targets,
  messages,
  delivered,
  scenario,
  failure,
}: DrillReport): Markup | null {
  if (scenario !== null && failure !== null) return null;
  return markup`<section class="figures">
${figure("RPO", duration(rpoSeconds), targetWords(targets.rpo), targets.rpo?.met)}
${figure("RTO", duration(rtoSeconds), targetWords(targets.rto), targets.rto?.met)}
${figure("Restored", `${messages.restored} of ${due(messages)}`, "messages", messages.restored === due(messages))}
${figure("Identical", `${messages.identical} of ${messages.restored}`, "byte for byte", messages.identical === messages.restored)}
${delivered === null ? null : figure("Delivered", `${delivered.identical} of ${delivered.promised.messages}`, "as promised", delivered.identical === delivered.promised.messages)}
</section>`;
}

/** Messages somebody is still to get. */
function due({ manifest, finished }: DrillReport["messages"]): number {
  return manifest - finished;
}

function figure(name: string, value: string, note: string, good: boolean | undefined): Markup {
  const mark = good === undefined ? "" : good ? " good" : " bad";
  return markup`<div class="figure${mark}"><p class="name">${name}</p><p class="value">${value}</p><p class="note">${note}</p></div>`;
}

function troubles({ failure, deviations }: DrillReport): Markup {
  const ended =
    failure === null
      ? null
      : markup`<p class="bad">Ended with an error (${failure.kind}): ${failure.message}</p><ul>${failure.hints.map((hint) => markup`<li>${hint}</li>`)}</ul>`;
  const list =
    deviations.length === 0
      ? markup`<p>None.</p>`
      : markup`<ul class="checks">${deviations.map((deviation) => markup`<li class="bad">${deviation}</li>`)}</ul>`;
  return markup`<section>
<h2>Deviations</h2>
${ended}
${list}
</section>`;
}

function phases({ phases, rtoSeconds }: DrillReport): Markup {
  if (phases.length === 0) return markup`<p>No phase was reached.</p>`;
  const rows = phases.map(
    ({ name, milliseconds }) =>
      markup`<tr><td class="together"><span class="swatch"><svg viewBox="0 0 1 1"><rect class="phase-${name}" width="1" height="1"/></svg></span>${name}</td><td class="faint">${phaseWords[name]}</td><td class="number">${duration(milliseconds / 1000)}</td></tr>`,
  );
  return markup`${phasesPicture(phases)}
<table><tbody>${rows}</tbody><tfoot><tr><th colspan="2">RTO: from the start to ready</th><td class="number">${duration(rtoSeconds)}</td></tr></tfoot></table>`;
}

function history(drill: DrillReport): Markup {
  const { before, targets, started, ok, rpoSeconds, rtoSeconds, id } = drill;
  const all = [...before].reverse().concat([{ id, started, ok, rpoSeconds, rtoSeconds }]);
  const bars = (pick: (one: (typeof all)[number]) => number | null) =>
    all.map((one) => ({ started: one.started, ok: one.ok, seconds: pick(one) }));
  const rows = all.map(
    (one) =>
      markup`<tr${one.id === id ? markup` class="now"` : null}><td class="together">${one.started.slice(0, 16).replace("T", " ")}</td><td class="if-room"><code>${one.id}</code></td><td class="number">${duration(one.rpoSeconds)}</td><td class="number">${duration(one.rtoSeconds)}</td><td class="${one.ok ? "good" : "bad"}">${one.ok ? "passed" : "FAILED"}</td></tr>`,
  );
  return markup`<section>
<h2>The last drills</h2>
<div class="pictures">
<figure><figcaption>RPO: age of what is recovered</figcaption>${historyPicture(
    "RPO",
    bars((one) => one.rpoSeconds),
    secondsOf(targets.rpo),
  )}</figure>
<figure><figcaption>RTO: time until ready</figcaption>${historyPicture(
    "RTO",
    bars((one) => one.rtoSeconds),
    secondsOf(targets.rto),
  )}</figure>
</div>
<div class="wide"><table><thead><tr><th>Started (UTC)</th><th class="if-room">Drill</th><th class="number">RPO</th><th class="number">RTO</th><th>Result</th></tr></thead><tbody>${rows}</tbody></table></div>
</section>`;
}

function secondsOf(target: DrillTarget | null): number | null {
  return target?.seconds ?? null;
}

function queues({ queues }: DrillReport): Markup {
  if (queues.rows.length === 0) return markup`<p>Not looked at.</p>`;
  const legend = queues.rows.map(
    ({ queue, counts }) =>
      markup`<li><span class="swatch"><svg viewBox="0 0 1 1"><rect class="${queueClass(queue)}" width="1" height="1"/></svg></span>${queue} ${counts.reduce((sum, count) => sum + count, 0)}</li>`,
  );
  return markup`<figure>${queuesPicture(queues)}<ul class="legend">${legend}</ul></figure>`;
}

function accounting(drill: DrillReport): Markup {
  const equations = accountingOf(drill);
  if (equations.length === 0) return markup`<p>Nothing was restored.</p>`;
  return markup`<ul class="checks">${equations.map((one) => markup`<li class="${one.holds ? "good" : "bad"}">${equationText(one)}</li>`)}</ul>
${delivered(drill)}`;
}

function delivered({ delivered, messages }: DrillReport): Markup {
  const held = `Held by an administrator: ${messages.heldByAdmin}. In doubt, and so on hold: ${messages.inDoubt}.`;
  if (delivered === null) return markup`<p class="faint">${held} Nothing was delivered in this drill.</p>`;
  const { expired, deviating } = delivered;
  return markup`<p class="faint">${held}</p>
${expired.length === 0 ? null : markup`<p>Past their lifetime, which a real release tries once and then returns (${expired.length}): ${expired.map((id) => markup`<code>${id}</code> `)}</p>`}
${deviating.length === 0 ? null : markup`<ul class="checks">${deviating.map(({ queueId, detail }) => markup`<li class="bad"><code>${queueId}</code> ${detail}</li>`)}</ul>`}`;
}

function checks(list: readonly DrillCheck[]): Markup {
  if (list.length === 0) return markup`<p>None were reached.</p>`;
  return markup`<ul class="checks">${list.map(({ name, ok, detail }) => markup`<li class="${ok ? "good" : "bad"}"><strong>${name}</strong> ${detail}</li>`)}</ul>`;
}

function scope({ snapshot, store, repository, where, ...drill }: DrillReport): Markup {
  const lock =
    store.objectLockDays === null ? "not known" : store.objectLockDays === 0 ? "off" : `${store.objectLockDays} days`;
  const facts: (readonly [string, Markup | string])[] = [
    ...(snapshot === null
      ? [["Snapshot", "none could be read"] as const]
      : ([
          ["Snapshot", markup`<code>${snapshot.id}</code>`],
          ["Taken", `${utc(snapshot.time)} on ${snapshot.host}, mode ${snapshot.mode}, number ${snapshot.number}`],
          ["Instances", snapshot.instances.join(", ")],
          ["Signed by", snapshot.signedBy === null ? "no trusted key" : markup`<code>${snapshot.signedBy}</code>`],
        ] as const)),
    ["Repository", markup`${store.url} <code>${repository}</code>`],
    ["Object Lock", lock],
    ["Drilled on", `${where.hostname}: ${where.system}`],
    ["Versions", `Postfix ${where.postfix ?? "not known"}, spoolsafe ${where.spoolsafe}, Node ${where.node}`],
    ["Run by", whoRan(drill)],
    ["Started", utc(drill.started)],
    ["Ready", drill.ready === null ? "never" : utc(drill.ready)],
    ["Ended", utc(drill.ended)],
  ];
  return markup`<dl>${facts.map(([name, value]) => markup`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

function evidence(signed: SignedDrill): Markup {
  const { drill, id } = signed;
  const { sha256, fingerprint, key, commands } = evidenceOf(signed, drillKey({ ...drill, id }));
  return markup`<dl>
<dt>SHA-256 of report.json</dt><dd><code>${sha256}</code></dd>
<dt>Record in the repository</dt><dd><code>${key}</code></dd>
<dt>Record before it</dt><dd>${drill.previous === null ? "none: it is the first" : markup`<code>${drill.previous}</code>`}</dd>
<dt>Signed by the key</dt><dd><code>${fingerprint}</code></dd>
</dl>
<p>All above is drawn from the signed record at the end of this page. With report.json beside you (it is in the repository; this takes it from the page, saved as report.html):</p>
<pre>${unpackCommand}</pre>
<p>OpenSSL 3 says whether it is what was signed. The second line must print the fingerprint above, and that must be the one the drilling host is known by (<code>spoolsafe key show</code> there): don't take it from this page alone.</p>
<pre>${lines(commands)}</pre>
<p>With Spoolsafe: <code>spoolsafe drill verify report.html</code>, which also draws the page anew and compares, or <code>spoolsafe drill verify --all</code> for the whole chain.</p>
<details><summary>The signed record</summary><pre class="record">
${lines(embedded(signed))}</pre></details>`;
}

function lines(texts: readonly string[]): Markup[] {
  return texts.map((text) => markup`${text}\n`);
}

// A constant of ours, without anything from a record.
const style: Markup = markup`
:root{--ink:#1b1f24;--faint:#5c6670;--paper:#fff;--card:#f5f7f9;--rule:#d5dbe1;--good:#1a7f4b;--bad:#b3261e;--now:#2462b4;--before:#9db8d8}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--faint:#9aa5b1;--paper:#14181d;--card:#1d232a;--rule:#38424d;--good:#5ccb8f;--bad:#ff8a80;--now:#6ea8fe;--before:#44607f}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:48rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}
h2{font-size:1.1rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--rule);padding-bottom:.25rem}
p{margin:.5rem 0}
.lead{font-size:1.15rem}
.faint{color:var(--faint)}
.badge{display:inline-block;margin:0;padding:.15rem .7rem;border:2px solid;border-radius:.4rem;font-weight:700;letter-spacing:.05em}
.good{color:var(--good)}.bad{color:var(--bad)}
code,pre{font:.85em/1.45 ui-monospace,monospace;overflow-wrap:anywhere}
pre{background:var(--card);padding:.75rem;border-radius:.4rem;white-space:pre-wrap}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin-top:1.5rem}
.figure{background:var(--card);border-radius:.5rem;padding:.7rem .9rem;border-left:4px solid var(--rule)}
.figure.good{border-color:var(--good)}.figure.bad{border-color:var(--bad)}
.figure p{margin:0}.figure .name,.figure .note{color:var(--faint);font-size:.85rem}
.figure .value{color:var(--ink);font-size:1.05rem;font-weight:650}
.figure.bad .note{color:var(--bad)}
figure{margin:0}figcaption{font-weight:600;font-size:.9rem}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1rem}
svg{width:100%;max-width:34rem;height:auto;display:block;overflow:visible}
svg text{font-size:11px;fill:var(--ink)}svg text.faint{fill:var(--faint)}
svg.bar{max-width:none;height:2rem;border-radius:.3rem}
.axis{stroke:var(--rule)}.target{stroke:var(--bad);stroke-dasharray:5 4}svg text.target-text{fill:var(--bad)}
.bar-now{fill:var(--now)}.bar-before{fill:var(--before)}.bar-bad{fill:var(--bad);opacity:.65}
.phase-fetch{fill:#4c78a8}.phase-open{fill:#72b7b2}.phase-place{fill:#54a24b}.phase-repair{fill:#eeca3b}.phase-check{fill:#f58518}.phase-ready{fill:#b279a2}.phase-deliver{fill:#9d755d}
.queue-incoming{fill:#72b7b2}.queue-active{fill:#54a24b}.queue-deferred{fill:#4c78a8}.queue-hold{fill:#f58518}.queue-maildrop{fill:#b279a2}.queue-other{fill:#9d755d}
.swatch{display:inline-block;width:.8em;height:.8em;margin-right:.4em;vertical-align:-.05em}.swatch svg{border-radius:.15em}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;font-size:.9rem}
table{border-collapse:collapse;width:100%;font-size:.92rem;margin:.5rem 0}
th,td{text-align:left;padding:.25rem .5rem .25rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
.number{text-align:right;padding-right:1.2rem;white-space:nowrap;font-variant-numeric:tabular-nums}
.together{white-space:nowrap}.now{font-weight:650}.wide{overflow-x:auto}
.form td,.form th{border:1px solid var(--rule);padding:.6rem .5rem}.form td{min-width:5rem;height:2.4rem}
.checks{list-style:none;padding:0;margin:.5rem 0}.checks li{padding:.15rem 0 .15rem 1.6rem;text-indent:-1.6rem;color:var(--ink);overflow-wrap:anywhere}
.checks li::before{content:"✓";display:inline-block;width:1.6rem;text-indent:0;color:var(--good);font-weight:700}.checks li.bad::before{content:"✗";color:var(--bad)}.checks li.bad{color:var(--bad)}
dl{display:grid;grid-template-columns:minmax(8rem,auto) 1fr;gap:.2rem 1rem;margin:.5rem 0}dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}
.record{font-size:.7rem}
@media (max-width:32rem){.number{padding-right:.5rem}.if-room{display:none}dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}}
@media print{@page{size:A4;margin:14mm}:root{--ink:#000;--faint:#444;--paper:#fff;--card:#f2f2f2;--rule:#aaa;--good:#0b5f35;--bad:#9b1c14;--now:#2462b4;--before:#9db8d8}body{font-size:10.5pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}main{max-width:none;padding:0}section,figure,tr,li{break-inside:avoid}details{display:none}h2{break-after:avoid}}
`;
