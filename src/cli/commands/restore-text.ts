import type { SkipKind } from "../../restore/plan.ts";
import type { Bound } from "../../restore/report.ts";
import { localTime, printable } from "../table.ts";

/** Lines of a kind that a person is shown. */
const shown = 20;

/** The first lines of a list, and how many there are beside them. */
export function firstOf(lines: readonly string[]): string[] {
  const rest = lines.length - shown;
  return rest <= 0 ? [...lines] : [...lines.slice(0, shown), `and ${rest} more: --json lists them all`];
}

/** `1 message`, `2 messages`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** How many messages were left out for each reason there was, and what can be done about it. */
export function leftOut(
  counts: Readonly<Record<SkipKind, number>>,
  restoredBy: readonly string[],
): { readonly kind: SkipKind; readonly text: string }[] {
  const runs = restoredBy.length > 3 ? `${restoredBy.slice(-3).join(", ")} and others` : restoredBy.join(", ");
  const words: Readonly<Record<SkipKind, string>> = {
    impossible: "impossible here",
    refused: "not for --requeue",
    queued: "still queued here",
    restored: `restored into this queue before, by run ${runs}; --again restores once more what has left the queue since`,
    served: "with nobody left to deliver to",
    unselected: "not asked for",
  };
  const kinds = Object.keys(words) as SkipKind[];
  return kinds.filter((kind) => counts[kind] > 0).map((kind) => ({ kind, text: `${counts[kind]} ${words[kind]}` }));
}

export function servedText(delivered: number, deleted: number, restoreDeleted: boolean): string[] {
  return [
    ...(delivered === 0 ? [] : [`by the logs, ${counted(delivered, "recipient")} got it since: not sent again`]),
    ...(deleted === 0 || restoreDeleted
      ? []
      : [`by the logs, mail was deleted for ${counted(deleted, "recipient")}: --restore-deleted restores it`]),
  ];
}

/**
 * @param host whose mail it is
 * @param inDoubt recipients
 */
export function boundText({ sentence, counts, acceptedLater }: Bound, host: string, inDoubt: number): string[] {
  const hint = `mail logs of ${host} that survived would tell what was delivered since: --delivered-log FILE...`;
  const later = acceptedLater.map(({ queueId, time, sender, recipients }) => {
    const to = recipients.map(({ address }) => address).join(", ");
    const at = localTime(new Date(time * 1000));
    return `in no snapshot: ${queueId} of ${at}, from ${printable(sender ?? "?")} to ${printable(to)}`;
  });
  return [sentence, ...(counts === null && inDoubt > 0 ? [hint] : []), ...firstOf(later)];
}
