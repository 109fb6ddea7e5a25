import { messageQueues } from "../postfix/queue.ts";
import type { InstanceState } from "./queue-state.ts";
import type { StatusReport, Threshold } from "./report.ts";
import { heldByUs, unsentCopies } from "./summary.ts";

interface Field {
  readonly name: string;
  readonly label: string;
  /** Undefined is unknown: `U`. */
  readonly value: number | undefined;
  readonly warning?: number | undefined;
  readonly critical?: number | undefined;
  readonly draw?: "AREASTACK" | undefined;
  readonly info?: string | undefined;
}

interface Graph {
  readonly name: string;
  readonly title: string;
  readonly unit: string;
  readonly category: "backup" | "mail";
  readonly info: string;
  readonly fields: readonly Field[];
}

/** What a plugin prints for `config`: every graph of a multigraph plugin with its fields and thresholds. */
export function muninConfig(report: StatusReport): string {
  return graphs(report).map(configOf).join("\n");
}

/** What a plugin prints when it is called without an argument. */
export function muninValues(report: StatusReport): string {
  return graphs(report).map(valuesOf).join("\n");
}

/** Both at once, for a node that asks for it (`MUNIN_CAP_DIRTYCONFIG`): the plugin runs half as often. */
export function muninDirtyConfig(report: StatusReport): string {
  return graphs(report)
    .map((graph) => `${configOf(graph)}\n${fieldValues(graph)}`)
    .join("\n");
}

function configOf({ name, title, unit, category, info, fields }: Graph): string {
  return [
    `multigraph ${name}`,
    `graph_title ${title}`,
    "graph_args --base 1000 -l 0",
    `graph_vlabel ${unit}`,
    `graph_category ${category}`,
    `graph_info ${info}`,
    ...fields.flatMap((field) => [
      `${field.name}.label ${field.label}`,
      `${field.name}.type GAUGE`,
      `${field.name}.min 0`,
      ...(field.draw === undefined ? [] : [`${field.name}.draw ${field.draw}`]),
      ...(field.warning === undefined ? [] : [`${field.name}.warning :${field.warning}`]),
      ...(field.critical === undefined ? [] : [`${field.name}.critical :${field.critical}`]),
      ...(field.info === undefined ? [] : [`${field.name}.info ${field.info}`]),
    ]),
  ].join("\n");
}

function valuesOf(graph: Graph): string {
  return `multigraph ${graph.name}\n${fieldValues(graph)}`;
}

function fieldValues({ fields }: Graph): string {
  return fields.map(({ name, value }) => `${name}.value ${value ?? "U"}`).join("\n");
}

function graphs(report: StatusReport): Graph[] {
  return [
    ages(report),
    troubles(report),
    holdWindow(report),
    ...report.instances.flatMap((one) => queues(one, report)),
  ];
}

function ages({ lastBackup, lastVerify, lastDrill, limits }: StatusReport): Graph {
  const { warning, critical } = limits.backupAge;
  const field = (name: string, seconds: number | undefined): Field => ({
    name,
    label: name,
    value: seconds === undefined ? undefined : hours(Math.max(0, seconds)),
  });
  const backup = {
    ...field("backup", lastBackup?.ageSeconds),
    ...(warning === null ? {} : { warning: hours(warning) }),
    critical: hours(critical),
  };
  return {
    name: "spoolsafe_age",
    title: "Spoolsafe: age of the newest backup",
    unit: "hours",
    category: "backup",
    info: "Age of the newest good backup, verification and drill.",
    fields: [backup, field("verify", lastVerify?.ageSeconds), field("drill", lastDrill?.ageSeconds)],
  };
}

function troubles({ problems, holds, unsentAlerts, copies }: StatusReport): Graph {
  const criticals = problems.filter(({ severity }) => severity === "critical").length;
  return {
    name: "spoolsafe_problems",
    title: "Spoolsafe: problems",
    unit: "number",
    category: "backup",
    info: "What spoolsafe status calls a problem, and mail that is on hold because of it.",
    fields: [
      { name: "critical", label: "critical problems", value: criticals, critical: 0 },
      { name: "warnings", label: "warnings", value: problems.length - criticals, warning: 0 },
      { name: "held", label: "messages held by us", value: heldByUs(holds) },
      { name: "unsent_alerts", label: "alerts not sent", value: unsentAlerts.length },
      { name: "unsent_copies", label: "copies not sent", value: unsentCopies(copies) ?? undefined },
    ],
  };
}

function holdWindow({ lastBackup }: StatusReport): Graph {
  const milliseconds = lastBackup?.heldLongestMs ?? undefined;
  return {
    name: "spoolsafe_hold_window",
    title: "Spoolsafe: hold window of the last backup",
    unit: "seconds",
    category: "backup",
    info: "How long the last backup had a message on hold at most.",
    fields: [
      { name: "longest", label: "longest", value: milliseconds === undefined ? undefined : milliseconds / 1000 },
    ],
  };
}

function queues({ name, queues: states, oldest, deferredShare }: InstanceState, { limits }: StatusReport): Graph[] {
  const id = name.replace(/[^A-Za-z0-9_]/g, "_");
  const limit = (queue: string) => (queue === "deferred" || queue === "active" ? thresholds(limits[queue]) : {});
  return [
    {
      name: `spoolsafe_queue_${id}`,
      title: `Postfix ${name}: messages per queue`,
      unit: "messages",
      category: "mail",
      info: "Messages in each queue.",
      fields: messageQueues.map((queue) => ({
        name: queue,
        label: queue,
        value: states[queue].messages,
        draw: "AREASTACK" as const,
        ...limit(queue),
      })),
    },
    {
      name: `spoolsafe_oldest_${id}`,
      title: `Postfix ${name}: age of the oldest message`,
      unit: "hours",
      category: "mail",
      info: "Of maildrop, incoming, active and deferred; what is on hold waits for a person.",
      fields: [
        {
          name: "oldest",
          label: "oldest",
          value: hours(oldest?.ageSeconds ?? 0),
          ...thresholds([hours(limits.oldest[0]), hours(limits.oldest[1])]),
        },
      ],
    },
    {
      name: `spoolsafe_deferred_share_${id}`,
      title: `Postfix ${name}: share of mail that is deferred`,
      unit: "percent",
      category: "mail",
      info: "Deferred messages as a share of all.",
      fields: [{ name: "share", label: "deferred", value: Number(((deferredShare ?? 0) * 100).toFixed(1)) }],
    },
  ];
}

function thresholds([warning, critical]: Threshold): Pick<Field, "warning" | "critical"> {
  return { warning, critical };
}

function hours(seconds: number): number {
  return Number((seconds / 3600).toFixed(3));
}
