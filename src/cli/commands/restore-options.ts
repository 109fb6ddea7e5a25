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

/** An option that needs others gone, and what to do about it. */
interface Exclusive {
  readonly option: Name;
  readonly others: readonly Name[];
  readonly hint: string;
}

const exclusive: readonly Exclusive[] = [
  {
    option: "to",
    others: ["into", ...choosing, "withConfig", "withoutClaim", "plan", "apply"],
    hint: "--to DIR writes all mail as plain files and needs no Postfix; all else is for --into CONFIG_DIR",
  },
  {
    option: "requeue",
    others: ["merge", "land"],
    hint: "--requeue makes new mail of it, beside what is there, and new mail can't be put on hold",
  },
  {
    option: "configOnly",
    others: ["withConfig", ...choosing, "withoutClaim"],
    hint: "--config-only leaves mail alone; with mail as well it is --with-config",
  },
  {
    option: "apply",
    others: [...choosing, "withConfig", "configOnly", "plan", "dryRun"],
    hint: "all that is in the plan: spoolsafe restore SNAP --into CONFIG_DIR --apply FILE; or make a new one with --plan FILE",
  },
];

/**
 * Refuse what contradicts itself, before anything is looked at.
 *
 * @throws OperatorError `usage`
 */
export function checkOptions(spec: string, options: RestoreOptions): void {
  const given = (name: Name) => options[name] !== undefined;
  for (const { option, others, hint } of exclusive.filter(({ option }) => given(option))) {
    const wrong = others.filter(given).map(flag).join(", ");
    if (wrong === "") continue;
    throw new OperatorError("usage", `${flag(option)} and ${wrong} exclude each other`, { hints: [hint] });
  }
  if (!given("to") && !given("into")) throw nowhere();
  if (given("restoreDeleted") && !given("deliveredLog")) {
    throw new OperatorError("usage", "--restore-deleted needs --delivered-log", {
      hints: ["what an administrator deleted is known from logs alone; without them it is restored like other mail"],
    });
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
  parseConditions(options.only ?? []);
  if (options.shard !== undefined) parseShard(options.shard);
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
