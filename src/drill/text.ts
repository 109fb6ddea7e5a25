import type { SignedDrill } from "../snapshot/record.ts";
import { accountingOf, equationText } from "./accounting.ts";
import { harmless } from "./markup.ts";
import { duration, targetWords, utc, verdict, whoRan } from "./words.ts";

/** The report for a terminal: what it came to and the figures; the whole of it is in the other formats. */
export function renderText({ drill, key }: SignedDrill): string {
  const { messages, snapshot, scenario, failure, delivered, isolation } = drill;
  const facts: (readonly [string, string])[] = [
    ["drill", `${drill.id}, number ${drill.number}, started ${utc(drill.started)}`],
    ["host", drill.host],
    ["snapshot", snapshot === null ? "none could be read" : `${snapshot.id.slice(0, 12)}, taken ${utc(snapshot.time)}`],
    ["RPO", `${duration(drill.rpoSeconds)} (${targetWords(drill.targets.rpo)})`],
    ["RTO", `${duration(drill.rtoSeconds)} (${targetWords(drill.targets.rto)})`],
    ["phases", drill.phases.map(({ name, milliseconds }) => `${name} ${duration(milliseconds / 1000)}`).join(", ")],
    [
      "messages",
      `${messages.identical} of ${messages.manifest} identical, ${messages.heldByAdmin} held by an administrator, ${messages.inDoubt} in doubt`,
    ],
    ...(delivered === null
      ? []
      : [
          [
            "delivered",
            `${delivered.identical} of ${delivered.promised.messages} as promised, ${delivered.recipients} recipients, ${delivered.expired.length} past their lifetime`,
          ] as const,
        ]),
    ["isolation", `${isolation.outsideConnections ?? "uncounted"} connections tried outside loopback`],
    [
      "before",
      drill.before.map(({ started, ok }) => `${started.slice(0, 10)} ${ok ? "passed" : "FAILED"}`).join(", ") || "none",
    ],
    ["run by", `${whoRan(drill)}, on ${drill.where.hostname}`],
    ["signed by", key],
  ];
  const wide = Math.max(...facts.map(([name]) => name.length));
  return [
    verdict(drill),
    ...facts.map(([name, value]) => `${name.padEnd(wide)}  ${value}`),
    ...accountingOf(drill).map((one) => `${one.holds ? "  " : "! "}${equationText(one)}`),
    ...(scenario === null ? [] : [`expected  ${scenario.expected}`, `happened  ${scenario.happened}`]),
    ...(failure === null ? [] : [`! ended with an error (${failure.kind}): ${failure.message}`]),
    ...drill.deviations.map((deviation) => `! ${deviation}`),
  ]
    .map(harmless)
    .join("\n");
}
