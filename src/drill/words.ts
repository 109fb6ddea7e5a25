import type { DrillFacts, DrillPhase, DrillReport } from "../snapshot/drill.ts";

/** "4.2 s", "6 min 12 s", "3 h 05 min", "2 d 4 h", "26 h"; what is not known is "not known". */
export function duration(seconds: number | null): string {
  if (seconds === null) return "not known";
  if (seconds < 0) return `-${duration(-seconds)}`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return inTwo(whole, 60, "min", 1, "s");
  if (whole < 2 * 86_400) return inTwo(whole, 3600, "h", 60, "min");
  return inTwo(whole, 86_400, "d", 3600, "h");
}

function inTwo(seconds: number, large: number, name: string, small: number, more: string): string {
  const rest = Math.floor((seconds % large) / small);
  return `${Math.floor(seconds / large)} ${name}${rest === 0 ? "" : ` ${more === "h" ? rest : two(rest)} ${more}`}`;
}

/** In one unit, for where there is little room: "41 s", "1.2 min", "27 h". */
export function briefly(seconds: number | null): string {
  if (seconds === null) return "?";
  if (seconds < 0) return `-${briefly(-seconds)}`;
  const [size, name] =
    seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"] : seconds < 2 * 86_400 ? [3600, "h"] : [86_400, "d"];
  const value = seconds / size;
  return `${value < 9.95 ? Math.round(value * 10) / 10 : Math.round(value)} ${name}`;
}

function two(value: number): string {
  return String(value).padStart(2, "0");
}

/** "2026-11-25 02:00:00 UTC": the same text wherever and whenever it is drawn. */
export function utc(time: string): string {
  return `${time.slice(0, 19).replace("T", " ")} UTC`;
}

export const phaseWords: Readonly<Record<DrillPhase, string>> = {
  fetch: "choose the snapshot, read its record and manifest",
  open: "fetch and open packs, write files",
  place: "give every message its place",
  repair: "repair names, look over the queue",
  check: "compare with the manifest, ask every map",
  ready: "start Postfix",
  deliver: "deliver into the sink (after ready)",
};

/** What the drill came to, in a sentence. */
export function verdict({ ok, scenario, failure, targets, deviations }: DrillReport): string {
  if (scenario !== null) {
    return ok
      ? `Rehearsed ${scenario.name}: it ended as documented.`
      : `Rehearsed ${scenario.name}: it did not end as documented.`;
  }
  if (failure !== null) return "The mail was not recovered: the drill ended with an error.";
  if (ok) return "The mail would have been saved, within the targets.";
  const missed = [...(targets.rto?.met === false ? ["RTO"] : []), ...(targets.rpo?.met === false ? ["RPO"] : [])];
  if (missed.length > 0 && deviations.length <= missed.length) {
    return `The mail would have been saved, but not within the target: ${missed.join(" and ")}.`;
  }
  return "Not everything was as it should be: see the deviations.";
}

/** "root (by sudo from alice), at a terminal" */
export function whoRan({ user, sudoUser, attended }: Pick<DrillReport, "user" | "sudoUser" | "attended">): string {
  return `${user}${sudoUser === null ? "" : ` (by sudo from ${sudoUser})`}, ${attended ? "at a terminal" : "unattended"}`;
}

export function targetWords(target: { readonly seconds: number; readonly met: boolean } | null): string {
  return target === null ? "no target" : `target ${duration(target.seconds)}: ${target.met ? "met" : "MISSED"}`;
}

/**
 * What a drill missed that was right in everything else; null when it met its targets, or something worse was wrong with it.
 * One line, for status and alerts.
 */
export function missedTarget({ failure, deviations, targets, ...facts }: DrillFacts): string | null {
  if (failure !== null || deviations.length > 0) return null;
  const missed = (["rto", "rpo"] as const).flatMap((name) => {
    const target = targets[name];
    if (target === null || target.met) return [];
    return [`${name} ${duration(facts[`${name}Seconds`])}, the target is ${duration(target.seconds)}`];
  });
  return missed.length === 0 ? null : missed.join("; ");
}
