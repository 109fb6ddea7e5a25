import type { DrillReport } from "../snapshot/drill.ts";

/** Counts that have to agree: the first term is what the others have to add up to. */
export interface Equation {
  readonly total: Term;
  readonly parts: readonly Term[];
  readonly holds: boolean;
}

export interface Term {
  readonly what: string;
  readonly count: number;
}

/** Where every message of the manifest has ended up, counted in independent ways; nothing where a failure kept it all from that. */
export function accountingOf(drill: Pick<DrillReport, "messages" | "delivered" | "scenario" | "failure">): Equation[] {
  const { messages, delivered, scenario, failure } = drill;
  if (scenario !== null && failure !== null) return [];
  // Of a recovery without this program neither postqueue nor postcat was asked.
  if (scenario?.name === "no-spoolsafe") return placedByHand(messages);
  const { manifest, finished, restored, readable, identical, inQueue, maildrop } = messages;
  const total = { what: "restored", count: restored };
  return [
    equation({ what: "in the manifest", count: manifest }, [
      total,
      ...(finished === 0 ? [] : [{ what: "with nobody left to serve", count: finished }]),
    ]),
    equation(total, [
      { what: "listed by postqueue", count: inQueue },
      { what: "in maildrop", count: maildrop },
    ]),
    equation(total, [{ what: "byte for byte as the manifest says", count: identical }]),
    equation(total, [{ what: "read by postcat", count: readable }]),
    ...(delivered === null ? [] : deliveries(delivered)),
  ];
}

function placedByHand({ manifest, restored, identical, inQueue, maildrop }: DrillReport["messages"]): Equation[] {
  const total = { what: "placed by the script", count: restored };
  return [
    equation({ what: "in the manifest", count: manifest }, [total]),
    equation(total, [
      { what: "in queue directories", count: inQueue },
      { what: "in maildrop", count: maildrop },
    ]),
    equation(total, [{ what: "byte for byte as the manifest says", count: identical }]),
  ];
}

function deliveries(delivered: NonNullable<DrillReport["delivered"]>): Equation[] {
  const { messages, recipients, identical, promised, kept } = delivered;
  return [
    equation({ what: "promised to somebody", count: promised.messages }, [
      { what: "delivered into the sink", count: messages },
      ...(kept === 0 ? [] : [{ what: "kept on hold", count: kept }]),
    ]),
    equation({ what: "delivered into the sink", count: messages }, [
      { what: "byte for byte as promised", count: identical },
    ]),
    equation({ what: "recipients promised", count: promised.recipients }, [
      { what: "recipients reached", count: recipients },
    ]),
  ];
}

function equation(total: Term, parts: readonly Term[]): Equation {
  return { total, parts, holds: parts.reduce((sum, { count }) => sum + count, 0) === total.count };
}

/** "12 restored = 11 listed by postqueue + 1 in maildrop" */
export function equationText({ total, parts, holds }: Equation): string {
  const term = ({ what, count }: Term) => `${count} ${what}`;
  return `${term(total)} ${holds ? "=" : "≠"} ${parts.map(term).join(" + ")}`;
}
