import type { Clock } from "../system/clock.ts";
import type { BlockOutcome } from "./block.ts";
import type { BlockKind, Risk, Step } from "./runbook.ts";
import type { Origin } from "./values.ts";

/** All that a run has of the world around it. */
export interface RunWorld {
  /** Directories that runs are kept in, each as `<place>/<run>`, best first; the first that can be written is used. */
  readonly places: readonly string[];
  /** This very program: Node and its script. Blocks find it as `spoolsafe`. */
  readonly command: readonly string[];
  /** Absolute; null where there is none. */
  readonly configFile: string | null;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** The name a person types where a step wants it. */
  readonly host: string;
  /** Empty where it can't be told. */
  readonly roles: readonly ("primary" | "standby")[];
  /** Null where no Postfix is installed or configured. */
  readonly instance: RunInstance | null;
  readonly version: string;
  readonly uid: number;
  readonly clock: Clock;
  readonly people: People;
  readonly report: (event: RunEvent) => void;
  readonly hooks?: RunHooks;
}

export interface RunInstance {
  readonly configDirectory: string;
  readonly queueDirectory: string;
  /** mail_version. */
  readonly version: string;
}

/** Who answers, and what they have said already. */
export interface People {
  /** Null: nobody is there. `interrupt`: they pressed Ctrl-C. */
  ask(question: Question): Promise<string | null>;
  /** Who is at the keyboard, also behind sudo: for the journal. */
  readonly name: string;
  /** Whose rights the run has. */
  readonly account: string;
  readonly sudoUser: string | null;
  /** Null where there is none. */
  readonly terminal: string | null;
  /** --yes. */
  readonly yes: boolean;
  /** --answers, by the name of a step. */
  readonly answers: ReadonlyMap<string, string>;
  /** Calls at every Ctrl-C that comes outside of a question. Returns how to stop that. */
  onInterrupt(listener: () => void): () => void;
  /** Aborts when the run is to wind up (SIGTERM). */
  readonly terminated: AbortSignal;
}

export interface Question {
  readonly text: string;
  /** What is typed is not shown. */
  readonly secret?: boolean;
  /** The question is out of date. */
  readonly signal?: AbortSignal;
}

/** Where a test stands between two moments of a run. Nothing of the command line reaches these. */
export interface RunHooks {
  /** Before an action is executed. `verify` says whether the step's verify holds now, tried once. */
  beforeAction?(step: Step, verify: () => Promise<boolean>): Promise<void>;
  reached?(point: "started" | "let-go" | "exited" | "verified", step: Step): Promise<void>;
}

/** What a run tells while it goes. */
export type RunEvent =
  | {
      readonly type: "run";
      readonly run: string;
      readonly runbook: string;
      readonly title: string;
      readonly when: string;
      readonly impact: string;
      readonly never: string;
      readonly directory: string;
      readonly resumed: boolean;
    }
  | {
      readonly type: "variable";
      readonly name: string;
      readonly value: string | null;
      readonly origin: Origin | "asked";
    }
  | {
      readonly type: "step";
      readonly step: string;
      readonly number: number;
      readonly of: number;
      readonly heading: string;
      readonly prose: string;
      readonly kind: BlockKind;
      readonly risk: Risk | null;
      readonly script: string;
      readonly elapsedMs: number;
      readonly budgetMs: number;
      /** The median of earlier runs on this host; null where there were none. */
      readonly usuallyMs: number | null;
    }
  | {
      readonly type: "passed";
      readonly step: string;
      readonly number: number;
      readonly of: number;
      readonly state: "done" | "skipped";
    }
  | { readonly type: "block"; readonly step: string | null; readonly block: string; readonly kind: BlockKind }
  | {
      readonly type: "output";
      readonly step: string | null;
      readonly block: string;
      readonly kind: BlockKind;
      readonly text: string;
    }
  | {
      readonly type: "block-end";
      readonly step: string | null;
      readonly block: string;
      readonly kind: BlockKind;
      readonly outcome: BlockOutcome;
      readonly code: number | null;
      readonly ms: number;
    }
  | {
      readonly type: "verify";
      readonly step: string;
      readonly block: string;
      readonly ok: boolean;
      readonly attempts: number;
      readonly problem: string | null;
    }
  | { readonly type: "waiting"; readonly step: string; readonly block: string; readonly reason: string }
  | {
      readonly type: "step-end";
      readonly step: string;
      readonly state: "done" | "failed" | "refused" | "skipped" | "undone";
      readonly reason: string | null;
    }
  | {
      readonly type: "checked";
      readonly step: string;
      readonly number: number;
      readonly state: CheckState;
      readonly until: string | null;
      readonly reason: string | null;
    }
  | { readonly type: "note"; readonly step: string | null; readonly text: string }
  | { readonly type: "warning"; readonly text: string };

/** What `check` can know of a step without changing anything. */
export type CheckState = "would-run" | "satisfied" | "refused" | "unknowable";
