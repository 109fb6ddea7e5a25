import type { JobName } from "../jobs/record.ts";
import type { Condition, ConditionKind } from "./conditions.ts";

/** What is sent, through every channel: the JSON of the webhook and of the command's standard input. */
export interface AlertEvent {
  readonly type: "alert";
  /** `raised`: it has begun. `reminder`: it is so since a day, or a further one. `resolved`: it is well again. */
  readonly event: "raised" | "reminder" | "resolved";
  readonly key: string;
  readonly kind: ConditionKind;
  readonly job: JobName;
  readonly severity: "ok" | "warning" | "critical";
  readonly host: string;
  /** Of this event; RFC 3339 in UTC, as is `since`. */
  readonly time: string;
  readonly since: string;
  readonly exit: number | null;
  /** One line for people, with the host. */
  readonly text: string;
}

/** A condition that was told through a channel, and when last. */
export interface Told {
  readonly at: string;
  readonly condition: Condition;
}

/** Something that is to be told through a channel: an event but for the host. */
export interface Due {
  readonly event: AlertEvent["event"];
  readonly condition: Condition;
}

const day = 86_400_000;

/**
 * What a channel is still to be told: what began to be wrong, once; what goes on, daily; what is well again, once. What
 * came and went without being told is not.
 */
export function dueFor(
  told: Readonly<Record<string, Told>>,
  conditions: readonly Condition[],
  now: Date,
): readonly Due[] {
  const current = new Set(conditions.map(({ key }) => key));
  const resolved = Object.entries(told)
    .filter(([key]) => !current.has(key))
    .map(([, { condition }]) => ({ event: "resolved" as const, condition }));
  const wrong = conditions.flatMap((condition): Due[] => {
    const before = told[condition.key];
    if (before === undefined) return [{ event: "raised", condition }];
    // A clock that was set back a day ago or more does not silence it either.
    const elapsed = Math.abs(now.getTime() - Date.parse(before.at));
    return elapsed >= day ? [{ event: "reminder", condition }] : [];
  });
  return [...wrong, ...resolved];
}

/** What a channel has been told, once this has gone through. */
export function afterTelling(
  told: Readonly<Record<string, Told>>,
  { event, condition }: Due,
  now: Date,
): Record<string, Told> {
  const { [condition.key]: _, ...others } = told;
  return event === "resolved" ? others : { ...others, [condition.key]: { at: now.toISOString(), condition } };
}

export function eventOf({ event, condition }: Due, host: string, now: Date): AlertEvent {
  const { key, kind, job, severity, since, exit, message } = condition;
  const texts = {
    raised: message,
    reminder: `still, since ${since}: ${message}`,
    resolved: `well again: ${wellAgain[kind](job)} (since ${since}: ${message})`,
  };
  return {
    type: "alert",
    event,
    key,
    kind,
    job,
    severity: event === "resolved" ? "ok" : severity,
    host,
    time: now.toISOString(),
    since,
    exit: event === "resolved" ? null : exit,
    text: `${host}: ${texts[event]}`,
  };
}

const wellAgain: Readonly<Record<ConditionKind, (job: JobName) => string>> = {
  failed: (job) => `${job} did not fail any more`,
  incomplete: (job) => `${job} was not incomplete any more`,
  old: (job) => `${job} has succeeded in time`,
  overdue: (job) => `${job} was done`,
  target: (job) => `${job} met its targets`,
  empty: () => "backup found messages, or finding none has become usual",
};
