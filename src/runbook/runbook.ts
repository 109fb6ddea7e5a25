/*
 * What a runbook is once it is read: one Markdown file, one step per `##` heading, fenced shell blocks with attributes
 * as runme writes them. docs/RUNBOOKS.md is the format for those who write one.
 */

/** What a block is for; `do` is the default. A `manual` block is never executed: a person does what it says. */
export type BlockKind = "vars" | "pre" | "do" | "manual" | "verify" | "undo";

/** `read` changes nothing; `change` can be undone or repeated; `destructive` can't be taken back. */
export type Risk = "read" | "change" | "destructive";

/** `no` asks nothing, `yes` asks and Enter is not yes, `type` wants the name of the host typed. */
export type Confirm = "no" | "yes" | "type";

/** What a line of expected output is compared with, after scrut: as it is, with * and ?, or as a regular expression. */
export type ExpectRule = "equal" | "glob" | "regex";

/** How many lines of output one line of expectation stands for: exactly one, `?`, `*` or `+`. */
export type Quantifier = "" | "?" | "*" | "+";

export interface ExpectLine {
  readonly rule: ExpectRule;
  /** Without the trailing `(glob)`, `(re+)`, ...; a regular expression is matched against the whole line. */
  readonly text: string;
  readonly quantifier: Quantifier;
  /** In the file, from 1. */
  readonly line: number;
}

export interface Block {
  /** Unique in the runbook. */
  readonly name: string;
  readonly kind: BlockKind;
  /** Of the opening fence, from 1; the first line of `script` is the next one. */
  readonly line: number;
  /** The shell text as written, without a final newline. */
  readonly script: string;
  /** Null where the fence says nothing; lint demands it on `do`. */
  readonly risk: Risk | null;
  /** Null where the fence says nothing: then the risk decides. */
  readonly confirm: Confirm | null;
  /** As written, or what its kind has by default (defaultTimeoutMs). */
  readonly timeoutMs: number;
  /** How often a verify is tried in all before it has failed; 1 where the fence says nothing. */
  readonly retry: number;
  /** Between two tries. */
  readonly everyMs: number;
  /** Of the `text {expect=NAME}` block that names this one; null: the exit code alone decides. */
  readonly expect: readonly ExpectLine[] | null;
}

export interface Step {
  /** The name of its action block. */
  readonly name: string;
  /** Without the `##`, as text. */
  readonly heading: string;
  /** Of the heading. */
  readonly line: number;
  /** Markdown between heading and blocks, and between blocks, without the fences. */
  readonly prose: string;
  readonly pre: readonly Block[];
  /** Of kind `do` or `manual`. */
  readonly action: Block;
  /** At least one. */
  readonly verify: readonly Block[];
  readonly undo: Block | null;
}

/** A line `export NAME="${NAME:-default}"` of the vars block. */
export interface Variable {
  readonly name: string;
  /** What stands after `:-`, unexpanded: it may be a command substitution, or empty (a value must be given). */
  readonly default: string;
  readonly line: number;
}

/** Which host a runbook may run on: one that serves mail, one that stands by, or any. */
export type HostRole = "primary" | "standby" | "any";

export interface Requirements {
  readonly root: boolean;
  /** Names of programs that must be on the PATH. */
  readonly commands: readonly string[];
  /** Such as `>=3.1`; null: any. */
  readonly postfix: string | null;
  /** `none`: works offline; null: the file doesn't say. */
  readonly network: string | null;
}

export interface Runbook {
  /** Such as RB-09; stable, never given to another. */
  readonly id: string;
  /** The file's name without `.md`, such as 09-stuck-hold. */
  readonly name: string;
  /** Of the file, absolute. */
  readonly path: string;
  /** Of the file's bytes, in hexadecimal. */
  readonly sha256: string;
  /** The `#` heading. */
  readonly title: string;
  /** `sev1` is the worst. */
  readonly severity: "sev1" | "sev2" | "sev3" | "sev4";
  /** The budget of the whole run. */
  readonly rtoMs: number;
  /** Keys of the alerts and monitoring items that lead here. */
  readonly alerts: readonly string[];
  readonly hosts: HostRole;
  readonly requires: Requirements;
  /** Names of environment variables whose values are written nowhere. */
  readonly secrets: readonly string[];
  /** Configuration that may differ afterwards, such as main.cf. */
  readonly changes: readonly string[];
  /** Whether undoing every step leads back to the start. */
  readonly undo: boolean;
  /** The three at the beginning, each as one line of plain text. */
  readonly when: string;
  readonly impact: string;
  readonly never: string;
  /** The last section, Markdown. */
  readonly ifThisFails: string;
  readonly variables: readonly Variable[];
  readonly vars: Block | null;
  /** At least one. */
  readonly steps: readonly Step[];
  /** The whole file. */
  readonly text: string;
}

/** How long a block of each kind may take where its fence says nothing. A person has all the time there is. */
export const defaultTimeoutMs: Readonly<Record<BlockKind, number>> = {
  vars: 30_000,
  pre: 30_000,
  do: 300_000,
  manual: Number.POSITIVE_INFINITY,
  verify: 30_000,
  undo: 300_000,
};

/** Between two tries of a verify whose fence says nothing. */
export const defaultEveryMs = 3_000;
