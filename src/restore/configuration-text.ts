import type { CommandResult } from "./configuration-commands.ts";
import type { ConfigurationPlan, FileAction, ParameterChange, PlannedFile } from "./configuration-plan.ts";
import type { ConfigurationReport } from "./configuration-report.ts";

/** A plan for people: what becomes of every file that is not the same, with its diff, and what must be looked at. */
export function configurationPlanText(plan: ConfigurationPlan): string {
  const shown = plan.files.filter(({ action }) => action !== "same");
  return sections([
    [
      `configuration of ${plan.instance} on ${plan.host} (${plan.savedDirectory}), ${plan.time}, into ${plan.configDirectory}` +
        (plan.root === "/" ? "" : `, other files below ${plan.root}`),
      `Postfix ${plan.savedVersion} there, ${plan.postfixVersion} here; compatibility_level ${plan.compatibilityLevel ?? "(not set)"} stays as saved`,
      countsOf(plan.files),
    ],
    titled("files", shown.map(fileLine)),
    ...shown.flatMap(({ difference }) => (difference?.kind === "text" ? [difference.diff.trimEnd().split("\n")] : [])),
    titled(
      "tables compiled here",
      plan.tables.map(({ program, type, source, insteadOf, namedBy }) => {
        const instead = insteadOf === null ? "" : `, as there is no type ${insteadOf} here`;
        return `${program} ${type}:${source} (${namedBy}${instead})`;
      }),
    ),
    titled("types of tables this Postfix lacks", plan.lackingTypes.flatMap(lackingLines)),
    titled(
      `settings that name files in ${plan.savedDirectory}, which are placed in ${plan.configDirectory}`,
      plan.moved.map(offer),
    ),
    titled(
      "look at these: they were right on the source host",
      plan.review.map(({ level, setting, saved, here, finding }) => {
        const now = here === null ? "" : `, here ${here === "" ? "(empty)" : here}`;
        return `${level === "wrong" ? "WRONG " : ""}${setting} = ${saved === "" ? "(empty)" : saved}${now}: ${finding}`;
      }),
    ),
    titled("postconf -n", changeLines(plan.parameters, plan.mainSecret)),
    titled(
      "then",
      plan.commands.map(({ command, runs, why }) => `${runs ? "" : "not "}postfix ${command}: ${why}`),
    ),
    titled("warnings", plan.warnings),
  ]);
}

/** What a restore of configuration did, for people. */
export function configurationReportText(report: ConfigurationReport): string {
  const { plan, mainSecret } = { plan: report.plan, mainSecret: report.plan.mainSecret };
  const built = report.tables.filter(({ problem }) => problem === null);
  return sections([
    [
      `${report.written} files of ${plan.instance} written, ${built.length} tables compiled`,
      `what was replaced lies in ${report.keptIn}; put it back: spoolsafe undo ${report.run}`,
      ...(plan.running ? [`Postfix runs: postfix -c ${plan.configDirectory} reload`] : []),
    ],
    titled(
      "warnings of postmap and postalias",
      report.tables.flatMap(({ source, warnings }) => warnings.map((line) => `${source}: ${line}`)),
    ),
    ...report.commands.map(commandLines),
    ...report.edited.map(({ command, path, diff }) => [
      `postfix ${command} changed ${path}${diff === null ? ", not shown" : ""}`,
      ...(diff === null ? [] : diff.trimEnd().split("\n")),
    ]),
    titled("postconf -n", changeLines(report.parameters, mainSecret)),
    titled("not done", report.problems),
  ]);
}

function sections(all: readonly (readonly string[])[]): string {
  return all
    .filter((lines) => lines.length > 0)
    .map((lines) => lines.map(printable).join("\n"))
    .join("\n\n");
}

function titled(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : [`${title}:`, ...lines.map((line) => `  ${line}`)];
}

function countsOf(files: readonly PlannedFile[]): string {
  const order: FileAction[] = ["new", "changed", "same", "rebuilt", "kept", "left"];
  return order
    .map((action) => [action, files.filter((file) => file.action === action).length] as const)
    .filter(([, count]) => count > 0)
    .map(([action, count]) => `${count} ${action}`)
    .join(", ");
}

function fileLine(file: PlannedFile): string {
  const { action, path, reason, mode, owner } = file;
  const dress = action === "new" || action === "changed" ? `  ${mode.saved ?? ""} ${owner ?? ""}` : "";
  return `${action.padEnd(7)}  ${path}${dress}${reason === null ? "" : `: ${reason}`}${differenceWord(file)}`;
}

function differenceWord({ difference, mode }: PlannedFile): string {
  switch (difference?.kind) {
    case undefined:
    case "text":
      return "";
    case "digest":
      return `: sha256 ${difference.here.slice(0, 16)} here, ${difference.saved.slice(0, 16)} saved`;
    case "secret":
      return ": changed, not shown";
    case "link":
    case "type":
      return `: ${difference.here} here, ${difference.saved} saved`;
    case "mode":
      return `: mode or owner only, ${mode.here ?? ""} here`;
  }
}

function lackingLines({ type, settings, remedy }: ConfigurationPlan["lackingTypes"][number]): string[] {
  return [`${type}: ${remedy}`, ...settings.map((setting) => `  ${offer(setting)}`)];
}

function offer({ setting, suggestion }: ConfigurationPlan["moved"][number]): string {
  return suggestion === null ? setting : `${setting}; possible: ${suggestion}`;
}

function changeLines(changes: readonly ParameterChange[], secret: boolean): string[] {
  if (secret) return changes.map(({ name }) => `${name}: changed, not shown`);
  return changes.map(({ name, here, saved }) => `${name}: ${here ?? "(not set)"} -> ${saved ?? "(not set)"}`);
}

function commandLines({ command, runs, why, code, lines }: CommandResult): string[] {
  if (!runs) return [`postfix ${command} was not run: ${why}`];
  return [`postfix ${command}: ${code === 0 ? "done" : `ended with ${code}`}`, ...lines.map((line) => `  ${line}`)];
}

/** Control characters of a file must not steer a terminal; tabs stay. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\x00-\x08\x0a-\x1f\x7f-\x9f]/g, "?");
}
