import type { PostfixInstance } from "../postfix/instance.ts";
import { listQueue } from "../postfix/spool.ts";
import { type Clock, systemClock } from "../system/clock.ts";
import type { HoldKind } from "./journal.ts";
import { placedHolds } from "./placed.ts";
import { batchOnHold, journalsOf } from "./recover.ts";

/** A message on hold because of us. */
export interface ListedHold {
  readonly kind: HoldKind;
  readonly instance: string;
  readonly queueId: string;
  /** RFC 3339. */
  readonly since: string;
  readonly run: string;
}

/** What is in hold/ at this moment and in our journals; what an administrator or a filter holds is not listed. */
export function listHolds(stateDirectory: string, instance: PostfixInstance, clock: Clock = systemClock): ListedHold[] {
  const captures = journalsOf(stateDirectory, instance).flatMap((journal) =>
    journal.open.flatMap((batch) =>
      batchOnHold(journal, batch, instance, clock).ours.map((queueId) => ({
        kind: "capture" as const,
        instance: instance.name,
        queueId,
        since: batch.since,
        run: journal.start.run,
      })),
    ),
  );
  const placed = placedHolds(stateDirectory, instance);
  const others = listQueue(instance.queueDirectory, "hold").flatMap(({ id }) => {
    const hold = placed.get(id);
    return hold === undefined ? [] : [{ ...hold, instance: instance.name, queueId: id }];
  });
  return [...captures, ...others];
}
