import { drillKey } from "../repository/layout.ts";
import type { DrillCheck, DrillReport } from "../snapshot/drill.ts";
import type { SignedDrill } from "../snapshot/record.ts";
import { accountingOf, equationText } from "./accounting.ts";
import { evidenceOf } from "./evidence.ts";
import { harmless } from "./markup.ts";
import { ageLabels } from "./pictures.ts";
import { duration, phaseWords, targetWords, utc, verdict, whoRan } from "./words.ts";

/** The report as Markdown (CommonMark with tables), drawn from the signed record alone: the same bytes for the same record. */
export function renderMarkdown(signed: SignedDrill): string {
  const { drill } = signed;
  return [
    `# ${drill.scenario === null ? "Recovery drill" : "Rehearsed failure"}: ${plain(drill.host)}: ${drill.ok ? "PASSED" : "FAILED"}`,
    plain(verdict(drill)),
    `${utc(drill.started)}, drill \`${drill.id}\`, number ${drill.number} of writer \`${drill.writer}\``,
    ...scenarioPart(drill),
    ...figures(drill),
    "## Deviations",
    ...troubles(drill),
    "## Time by phase",
    phases(drill),
    "## The last drills",
    history(drill),
    "## Queue by age",
    queues(drill),
    "## Accounting",
    ...accounting(drill),
    "## Isolation",
    `Connections tried outside loopback: ${drill.isolation.outsideConnections ?? "not counted"}`,
    checks(drill.isolation.proofs),
    "## Checks",
    checks(drill.checks),
    "## What, where, who",
    scope(drill),
    "## Findings and sign-off",
    table(
      ["Finding", "Owner", "Due"],
      [
        ["", "", ""],
        ["", "", ""],
      ],
    ),
    table(
      ["", "Name", "Date", "Signature"],
      [
        ["Operator", "", "", ""],
        ["Approved by", "", "", ""],
      ],
    ),
    "## Evidence",
    ...evidence(signed),
    "",
  ].join("\n\n");
}

function scenarioPart({ scenario }: DrillReport): string[] {
  if (scenario === null) return [];
  return [
    `## Rehearsed: ${scenario.name}`,
    list([
      `Expected: ${plain(scenario.expected)}`,
      `Happened: ${plain(scenario.happened)}`,
      `As documented: ${scenario.ok ? "yes" : "NO"}`,
    ]),
    "Faults were put between this host and the repository while it was read. Nothing was changed in it. This is no proof that the mail can be recovered: a drill without a scenario is.",
  ];
}

function figures({ rpoSeconds, rtoSeconds, targets, messages, delivered, scenario, failure }: DrillReport): string[] {
  if (scenario !== null && failure !== null) return [];
  return [
    table(
      ["Figure", "Value", ""],
      [
        ["RPO", duration(rpoSeconds), targetWords(targets.rpo)],
        ["RTO", duration(rtoSeconds), targetWords(targets.rto)],
        ["Restored", `${messages.restored} of ${messages.manifest - messages.finished}`, "messages"],
        ["Identical", `${messages.identical} of ${messages.restored}`, "byte for byte"],
        ...(delivered === null
          ? []
          : [["Delivered", `${delivered.identical} of ${delivered.promised.messages}`, "as promised"]]),
      ],
    ),
  ];
}

function troubles({ failure, deviations }: DrillReport): string[] {
  return [
    ...(failure === null
      ? []
      : [`Ended with an error (${plain(failure.kind)}): ${plain(failure.message)}`, list(failure.hints.map(plain))]),
    deviations.length === 0 ? "None." : list(deviations.map(plain)),
  ];
}

function phases({ phases, rtoSeconds }: DrillReport): string {
  return table(
    ["Phase", "", "Time"],
    [
      ...phases.map(({ name, milliseconds }) => [name, phaseWords[name], duration(milliseconds / 1000)]),
      ["RTO", "from the start to ready", duration(rtoSeconds)],
    ],
  );
}

function history(drill: DrillReport): string {
  const all = [...drill.before].reverse().concat([drill]);
  return table(
    ["Started", "Drill", "RPO", "RTO", "Result"],
    all.map(({ started, id, rpoSeconds, rtoSeconds, ok }) => [
      utc(started),
      id,
      duration(rpoSeconds),
      duration(rtoSeconds),
      ok ? "passed" : "FAILED",
    ]),
  );
}

function queues({ queues }: DrillReport): string {
  if (queues.rows.length === 0) return "Not looked at.";
  return table(
    ["Age", ...queues.rows.map(({ queue }) => queue)],
    ageLabels(queues.ageLimits).map((label, column) => [
      label,
      ...queues.rows.map(({ counts }) => String(counts[column] ?? 0)),
    ]),
  );
}

function accounting(drill: DrillReport): string[] {
  const equations = accountingOf(drill);
  if (equations.length === 0) return ["Nothing was restored."];
  return [list(equations.map((one) => `${mark(one.holds)} ${plain(equationText(one))}`)), ...delivered(drill)];
}

function delivered({ delivered, messages }: DrillReport): string[] {
  const held = `Held by an administrator: ${messages.heldByAdmin}. In doubt, and so on hold: ${messages.inDoubt}.`;
  if (delivered === null) return [`${held} Nothing was delivered in this drill.`];
  return [
    held,
    ...(delivered.expired.length === 0
      ? []
      : [
          `Past their lifetime, which a real release tries once and then returns (${delivered.expired.length}): ${delivered.expired.map(plain).join(" ")}`,
        ]),
    ...(delivered.deviating.length === 0
      ? []
      : [list(delivered.deviating.map(({ queueId, detail }) => `✗ ${plain(queueId)}: ${plain(detail)}`))]),
  ];
}

function checks(all: readonly DrillCheck[]): string {
  if (all.length === 0) return "None were reached.";
  return list(all.map(({ name, ok, detail }) => `${mark(ok)} ${plain(name)}: ${plain(detail)}`));
}

function scope({ snapshot, store, repository, where, ...drill }: DrillReport): string {
  const lock =
    store.objectLockDays === null ? "not known" : store.objectLockDays === 0 ? "off" : `${store.objectLockDays} days`;
  return table(
    ["", ""],
    [
      ...(snapshot === null
        ? [["Snapshot", "none could be read"]]
        : [
            ["Snapshot", snapshot.id],
            ["Taken", `${utc(snapshot.time)} on ${snapshot.host}, mode ${snapshot.mode}, number ${snapshot.number}`],
            ["Instances", snapshot.instances.join(", ")],
            ["Signed by", snapshot.signedBy ?? "no trusted key"],
          ]),
      ["Repository", `${store.url} ${repository}`],
      ["Object Lock", lock],
      ["Drilled on", `${where.hostname}: ${where.system}`],
      ["Versions", `Postfix ${where.postfix ?? "not known"}, spoolsafe ${where.spoolsafe}, Node ${where.node}`],
      ["Run by", whoRan(drill)],
      ["Started", utc(drill.started)],
      ["Ready", drill.ready === null ? "never" : utc(drill.ready)],
      ["Ended", utc(drill.ended)],
    ],
  );
}

function evidence(signed: SignedDrill): string[] {
  const { drill, id } = signed;
  const { sha256, fingerprint, key, commands } = evidenceOf(signed, drillKey({ ...drill, id }));
  return [
    table(
      ["", ""],
      [
        ["SHA-256 of report.json", sha256],
        ["Record in the repository", key],
        ["Record before it", drill.previous ?? "none: it is the first"],
        ["Signed by the key", fingerprint],
      ],
    ),
    "All above is drawn from the signed record: `report.json` beside this file, and in the repository. OpenSSL 3 says whether it is what was signed. The second line must print the fingerprint above, and that must be the one the drilling host is known by (`spoolsafe key show` there): don't take it from this page alone.",
    ["```sh", ...commands, "```"].join("\n"),
    `With Spoolsafe: \`spoolsafe drill verify ${drill.id}\`, or \`spoolsafe drill verify --all\` for the whole chain.`,
  ];
}

function mark(ok: boolean): string {
  return ok ? "✓" : "✗";
}

function list(items: readonly string[]): string {
  return items.map((item) => `- ${item}`).join("\n");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head.map(plain)), line(head.map(() => "---")), ...rows.map((row) => line(row.map(plain)))].join("\n");
}

/** Text that stays text in Markdown: every character it could give a meaning is escaped (CommonMark 2.4). */
function plain(text: string): string {
  return harmless(text).replace(/[\\`*_{}[\]<>#|~!&$]|^[-+=]|^\d+(?=[.)])/g, (found) =>
    /\d/.test(found) ? `${found}\\` : `\\${found}`,
  );
}
