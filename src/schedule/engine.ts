import type { JobProcess } from "../jobs/record.ts";
import { type Calendar, minute } from "./expression.ts";

/*
 * Which runs are due, from what is on disk and the time on the wall: no timers and no disk here. A run that has become due
 * is owed until a run for it has ended, so whatever is killed in between, the next look finds it again.
 */

/** A time on the schedule that is still to be run. Times are milliseconds since 1970. */
export interface Owed {
  readonly due: number;
  /** Not to be started earlier: jitter, or the next minute after a held lock. */
  readonly notBefore: number;
  /** Runs for it that died without an end. */
  readonly deaths: number;
}

export interface Running {
  readonly due: number;
  readonly deaths: number;
  readonly startedAt: number;
  readonly process: JobProcess;
}

/** What the daemon knows of one job; it survives the daemon. */
export interface JobState {
  readonly expression: string;
  readonly timezone: string;
  /** Every time on the schedule up to here is decided. */
  readonly seenUntil: number;
  /** The time on the schedule that was done with last, by a run or by being given up; null when none was. */
  readonly lastDone: number | null;
  readonly owed: Owed | null;
  readonly running: Running | null;
}

export interface JobPlan {
  readonly calendar: Calendar;
  /** Stable on one host: see `jitterOf`. */
  readonly jitterMs: number;
  readonly catchUpMs: number;
}

/** What a look found that somebody may want to know. */
export type Finding =
  | { readonly type: "missed"; readonly due: number }
  | { readonly type: "made-up"; readonly due: number; readonly lateMs: number }
  | { readonly type: "clock-set-back"; readonly byMs: number };

export interface Looked {
  readonly state: JobState;
  readonly findings: readonly Finding[];
}

/** Ticks come by the minute; one that is less late than this was not missed. */
const punctualMs = 2 * minute;
/** An owed run that waits for its lock waits at least so long. */
const leastWaitMs = 60 * minute;
/** A clock set back by more is a correction (cron(8)): what comes again is due again. */
const correctionMs = { everyHour: 60 * minute, other: 180 * minute };
/** Runs for one time on the schedule that may die with the daemon before it is given up. */
const mostDeaths = 3;

/**
 * Bring what is known up to now. The newest time on the schedule since the last look becomes owed; older ones are made up
 * by it (one run for all). One that is later than `catch_up` is missed for good.
 *
 * A job that is seen for the first time owes nothing. When its expression or time zone has changed, the old one counts up
 * to now.
 */
export function look(before: JobState | undefined, plan: JobPlan, now: number, old?: Calendar): Looked {
  const { expression, timezone } = plan.calendar;
  if (before === undefined) {
    return { state: { expression, timezone, seenUntil: now, lastDone: null, owed: null, running: null }, findings: [] };
  }
  const back = setBack(before, old ?? plan.calendar, now);
  const scanned = scan(back.state, { ...plan, calendar: old ?? plan.calendar }, now);
  const kept = expire(scanned.state, plan, now);
  return {
    state: { ...kept.state, expression, timezone },
    findings: [...back.findings, ...scanned.findings, ...kept.findings],
  };
}

/** A step back that is no correction is waited out: each time on the schedule comes once. */
function setBack(state: JobState, calendar: Calendar, now: number): Looked {
  const byMs = state.seenUntil - now;
  if (byMs <= (calendar.everyHour ? correctionMs.everyHour : correctionMs.other)) return { state, findings: [] };
  const owed = state.owed !== null && state.owed.due > now ? null : state.owed;
  return { state: { ...state, seenUntil: now, owed }, findings: [{ type: "clock-set-back", byMs }] };
}

function scan(state: JobState, { calendar, jitterMs, catchUpMs }: JobPlan, now: number): Looked {
  if (now <= state.seenUntil) return { state, findings: [] };
  const horizon = now - Math.max(catchUpMs, punctualMs);
  const newest = last(calendar.between(Math.max(state.seenUntil, horizon - minute), now));
  if (newest === undefined || newest < horizon) {
    const missed = state.seenUntil < horizon ? calendar.between(state.seenUntil, now).next().value : undefined;
    const findings: Finding[] = missed === undefined ? [] : [{ type: "missed", due: missed }];
    return { state: { ...state, seenUntil: now }, findings };
  }
  const lateMs = now - newest;
  // The clock was set back over it and forward again (or a host without a clock of its own has booted).
  if (newest === state.lastDone && lateMs > punctualMs) return { state: { ...state, seenUntil: now }, findings: [] };
  return {
    state: { ...state, seenUntil: now, owed: { due: newest, notBefore: newest + jitterMs, deaths: 0 } },
    findings: lateMs > punctualMs ? [{ type: "made-up", due: newest, lateMs }] : [],
  };
}

function expire(state: JobState, { jitterMs, catchUpMs }: JobPlan, now: number): Looked {
  const { owed } = state;
  if (owed === null) return { state, findings: [] };
  if (now - owed.due > Math.max(catchUpMs, leastWaitMs) + jitterMs) {
    return { state: { ...state, owed: null, lastDone: owed.due }, findings: [{ type: "missed", due: owed.due }] };
  }
  // Of a clock that was set back: nobody waits longer than jitter and a minute.
  const notBefore = Math.min(owed.notBefore, Math.max(now, owed.due) + jitterMs + minute);
  return { state: { ...state, owed: { ...owed, notBefore } }, findings: [] };
}

function last(values: Iterable<number>): number | undefined {
  let newest: number | undefined;
  for (const value of values) newest = value;
  return newest;
}

/** When the owed run may be started: now if not later than now. Null while nothing is owed, or the job is at work. */
export function readyAt({ owed, running }: JobState): number | null {
  return owed === null || running !== null ? null : owed.notBefore;
}

/** The owed run is at work. */
export function started(state: JobState, process: JobProcess, now: number): JobState {
  if (state.owed === null) return state;
  const { due, deaths } = state.owed;
  return { ...state, owed: null, running: { due, deaths, startedAt: now, process } };
}

/**
 * How a run ended. `exited`: with that code. `stopped`: because the daemon was told to stop. `died`: it is gone, the daemon
 * was gone as well, and nobody saw it end.
 */
export type Ending =
  | { readonly type: "exited"; readonly exit: number }
  | { readonly type: "stopped" }
  | { readonly type: "died" };

/** The owed run could not be started: again in the next minute. */
export function putOff(state: JobState, now: number): JobState {
  return state.owed === null ? state : { ...state, owed: { ...state.owed, notBefore: nextMinute(now) } };
}

/** Exit code of a run that found the lock held. */
const lockedExit = 11;

/** A run that found the lock held is owed again from the next minute on; one that was stopped or died, at once. */
export function ended(state: JobState, ending: Ending, now: number): JobState {
  const { running } = state;
  if (running === null) return state;
  const again = owedAgain(running, ending, now);
  const lastDone = again === null ? running.due : state.lastDone;
  return { ...state, running: null, lastDone, owed: state.owed ?? again };
}

function owedAgain({ due, deaths }: Running, ending: Ending, now: number): Owed | null {
  switch (ending.type) {
    case "exited":
      return ending.exit === lockedExit ? { due, deaths, notBefore: nextMinute(now) } : null;
    case "stopped":
      return { due, deaths, notBefore: now };
    case "died":
      return deaths + 1 < mostDeaths ? { due, deaths: deaths + 1, notBefore: now } : null;
  }
}

function nextMinute(now: number): number {
  return (Math.floor(now / minute) + 1) * minute;
}

/** What is owed or comes next. */
export interface Due {
  readonly due: number;
  /** When it will be started, with jitter; of what is owed, not before now. */
  readonly start: number;
  readonly madeUp: boolean;
}

/** The next run of a job: what is owed now, else the next time on the schedule. Undefined when none ever comes. */
export function nextRun(state: JobState | undefined, plan: JobPlan, now: number): Due | undefined {
  if (state !== undefined && state.owed !== null) {
    const { due, notBefore } = state.owed;
    return { due, start: Math.max(now, notBefore), madeUp: now - due > punctualMs + plan.jitterMs };
  }
  const due = plan.calendar.next(Math.max(now, state?.seenUntil ?? now));
  return due === undefined ? undefined : { due, start: due + plan.jitterMs, madeUp: false };
}

/** Long enough for any run that is at work, short enough to be through before the one after the next is due. */
export function deadlineOf(calendar: Calendar, due: number): number {
  const [least, most] = [60 * minute, 24 * 60 * minute];
  const next = calendar.next(due);
  const pace = next === undefined ? most : next - due;
  return Math.min(most, Math.max(least, 2 * pace));
}
