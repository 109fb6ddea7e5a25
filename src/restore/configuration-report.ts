import type { CommandResult, TableResult } from "./configuration-commands.ts";
import type { ConfigurationPlan, ParameterChange, PlannedCommand } from "./configuration-plan.ts";

/** What a restore of configuration tells on its way. */
export type ConfigurationEvent =
  | {
      readonly type: "config-step";
      readonly step: "keep" | "write" | "place" | "tables" | "check";
      readonly files: number;
    }
  | { readonly type: "config-resumed"; readonly run: string };

export interface ConfigurationReport {
  readonly run: string;
  /** What was replaced lies here. */
  readonly keptIn: string;
  readonly plan: ConfigurationPlan;
  /** Files and links written, without compiled tables. */
  readonly written: number;
  readonly tables: readonly TableResult[];
  readonly commands: readonly CommandResult[];
  /** `postconf -n` before and after, as it turned out. */
  readonly parameters: readonly ParameterChange[];
  /** What Postfix's commands changed in main.cf and master.cf; diff null where it may not be shown. */
  readonly edited: readonly {
    readonly command: PlannedCommand["command"];
    readonly path: string;
    readonly diff: string | null;
  }[];
  /** What makes the restore incomplete (exit code 3). */
  readonly problems: readonly string[];
}

/** What of a finished restore somebody has to see to. */
export function problemsOf(
  plan: ConfigurationPlan,
  tables: readonly TableResult[],
  commands: readonly CommandResult[],
  compatibilityLevel: string | null,
): string[] {
  const left = plan.files
    .filter(({ problem }) => problem)
    .map(({ path, reason }) => `${path} was not placed: ${reason}`);
  const failed = tables.flatMap(({ source, problem }) =>
    problem === null ? [] : [`${source} was not compiled: ${problem}`],
  );
  const lacking = plan.lackingTypes.map(({ type, remedy }) => `this Postfix has no table type ${type}: ${remedy}`);
  const unwell = commands.flatMap(({ command, code, lines }) =>
    code === null || code === 0 ? [] : [`postfix ${command} ended with ${code}: ${lines.at(-1) ?? "it said nothing"}`],
  );
  const level =
    compatibilityLevel === plan.compatibilityLevel
      ? []
      : [
          `compatibility_level was ${plan.compatibilityLevel ?? "not set"} and is ${compatibilityLevel ?? "not set"} now`,
        ];
  return [...left, ...failed, ...lacking, ...unwell, ...level];
}
