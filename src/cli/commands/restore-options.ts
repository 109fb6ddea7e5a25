import { OperatorError } from "../../errors.ts";
import type { Land, RestoreChoice, Route } from "../../restore/plan.ts";
import { parseConditions, parseShard } from "../../restore/selection.ts";

export interface RestoreOptions {
  readonly to?: string | undefined;
  readonly into?: string | undefined;
  readonly merge?: true | undefined;
  readonly requeue?: true | undefined;
  readonly land?: Land | undefined;
  readonly only?: readonly string[] | undefined;
  readonly shard?: string | undefined;
  readonly deliveredLog?: readonly string[] | undefined;
  /** As `Europe/Paris`. */
  readonly logZone?: string | undefined;
  readonly restoreDeleted?: true | undefined;
  readonly again?: true | undefined;
  readonly withConfig?: true | undefined;
  readonly configOnly?: true | undefined;
  readonly withoutClaim?: true | undefined;
  readonly dryRun?: true | undefined;
  readonly plan?: string | undefined;
  readonly apply?: string | undefined;
}

type Name = keyof RestoreOptions;

/** What decides which mail goes where; a plan that is applied has it in itself. */
const choosing: readonly Name[] = [
  "merge",
  "requeue",
  "land",
  "only",
  "shard",
  "deliveredLog",
  "logZone",
  "restoreDeleted",
  "again",
];

/** Pairs of options that contradict each other, by the option that needs the others gone. */
const excludes: Readonly<Partial<Record<Name, readonly Name[]>>> = {
  to: ["into", ...choosing, "withConfig", "withoutClaim", "plan", "apply"],
  requeue: ["merge", "land"],
  configOnly: ["withConfig", ...choosing, "withoutClaim"],
  apply: [...choosing, "withConfig", "configOnly", "plan", "dryRun"],
};

/**
 * Refuse what contradicts itself, before anything is looked at.
 *
 * @throws OperatorError `usage`
 */
export function checkOptions(spec: string, options: RestoreOptions): void {
  const given = (name: Name) => options[name] !== undefined;
  for (const [name, others] of Object.entries(excludes) as [Name, readonly Name[]][]) {
    const other = given(name) ? others.find(given) : undefined;
    if (other !== undefined) throw new OperatorError("usage", `${flag(name)} and ${flag(other)} exclude each other`);
  }
  if (!given("to") && !given("into")) throw nowhere();
  if (given("restoreDeleted") && !given("deliveredLog")) {
    throw new OperatorError(
      "usage",
      "what was deleted is known from logs alone: --restore-deleted needs --delivered-log",
    );
  }
  if (given("logZone") && !given("deliveredLog")) {
    throw new OperatorError(
      "usage",
      "--log-zone is the zone of the logs that --delivered-log names, and none is named",
    );
  }
  if (options.logZone !== undefined && !isTimeZone(options.logZone)) {
    throw new OperatorError("usage", `--log-zone ${options.logZone} is not the name of a time zone`, {
      hints: ["write it as the time zone database does: Europe/Paris, America/New_York, UTC"],
    });
  }
  if (given("shard") && !/^[0-9a-f]{8,64}$/i.test(spec)) {
    throw new OperatorError("usage", `--shard needs the id of a snapshot, and ${spec} may mean another one elsewhere`, {
      hints: ["give every operator the same id, eight digits of it at least: spoolsafe snapshots"],
    });
  }
}

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return true;
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
}

function flag(name: Name): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function nowhere(): OperatorError {
  return new OperatorError("usage", "restore where to?", {
    hints: [
      "--to DIR: plain files, no Postfix needed",
      "--into CONFIG_DIR: into a stopped Postfix with an empty queue; with --merge into any",
    ],
  });
}

/**
 * The choice the options make.
 *
 * @param instance of the snapshot
 */
export function choiceOf(instance: string, options: RestoreOptions): RestoreChoice {
  const route: Route = options.merge === true ? "merge" : options.requeue === true ? "requeue" : "fresh";
  return {
    instance,
    route,
    land: options.land ?? (route === "merge" ? "hold" : "original"),
    selection: {
      conditions: parseConditions(options.only ?? []),
      shard: options.shard === undefined ? null : parseShard(options.shard),
    },
    restoreDeleted: options.restoreDeleted === true,
    again: options.again === true,
  };
}
