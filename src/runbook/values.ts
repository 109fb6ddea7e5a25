import { OperatorError } from "../errors.ts";
import type { Runbook, Variable } from "./runbook.ts";

/** `export NAME="${NAME:-default}"`; the default may hold no double quote outside of `$(...)`. */
const exported = /^export ([A-Za-z_][A-Za-z0-9_]*)="\$\{\1:-(.*)\}"$/;

const form = `a line of this block is \`export NAME="\${NAME:-default}"\``;

/** The variables of a vars block whose first line is `line` of the file. Anything but such lines and comments is told. */
export function readVariables(
  script: string,
  line: number,
  tell: (line: number, rule: string, message: string) => void,
): Variable[] {
  const variables: Variable[] = [];
  for (const [index, text] of script.split("\n").entries()) {
    if (/^\s*(#.*)?$/.test(text)) continue;
    const [, name = "", value = ""] = exported.exec(text) ?? [];
    const at = line + index;
    if (name === "") tell(at, "vars", form);
    else if (variables.some((each) => each.name === name)) tell(at, "vars", `${name} is exported twice`);
    else variables.push({ name, default: value, line: at });
  }
  return variables;
}

export type Origin = "default" | "environment" | "--set";

/** A variable as a run would begin with it. */
export interface EffectiveValue {
  readonly name: string;
  /** Null: a secret, whose value is shown nowhere. */
  readonly value: string | null;
  readonly origin: Origin;
  /** The default is shell text, such as `$(postconf -h queue_directory)`, that only a run computes. */
  readonly computed: boolean;
}

/**
 * What the variables of a runbook would be. As in bash, an empty value in the environment counts as none.
 *
 * @param set of --set: K=V, as `parseSettings` gives it
 * @throws OperatorError `usage` when it sets what the runbook does not have
 */
export function effectiveValues(
  runbook: Runbook,
  set: ReadonlyMap<string, string>,
  environment: Readonly<Record<string, string | undefined>>,
): EffectiveValue[] {
  const known = runbook.variables.map(({ name }) => name);
  const strange = [...set.keys()].filter((name) => !known.includes(name) && !runbook.secrets.includes(name));
  if (strange.length > 0) {
    throw new OperatorError("usage", `${runbook.name} has no variable ${strange.join(", ")}`, {
      hints: [known.length === 0 ? "it has none" : `its variables are ${known.join(", ")}`],
    });
  }
  return runbook.variables.map(({ name, default: written }) => {
    const given = set.get(name) || undefined;
    const origin: Origin = given !== undefined ? "--set" : environment[name] ? "environment" : "default";
    const value = given ?? (environment[name] || written);
    const secret = runbook.secrets.includes(name);
    return { name, value: secret ? null : value, origin, computed: origin === "default" && /[$`\\]/.test(value) };
  });
}

/** `K=V` of --set, each given once. @throws OperatorError `usage` */
export function parseSettings(settings: readonly string[]): Map<string, string> {
  const values = new Map<string, string>();
  for (const setting of settings) {
    const [, name = "", value = ""] = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/s.exec(setting) ?? [];
    if (name === "") throw new OperatorError("usage", `--set ${setting} is not NAME=VALUE`);
    if (values.has(name)) throw new OperatorError("usage", `--set gives ${name} twice`);
    values.set(name, value);
  }
  return values;
}
