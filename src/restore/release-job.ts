import type { FencingClaim } from "../holds/fence-claims.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { Clock } from "../system/clock.ts";
import type { NotReleased, ReleaseChoice } from "./release-choice.ts";
import type { ReleaseForecast } from "./release-forecast.ts";
import type { Pace } from "./release-order.ts";
import type { PaceEvent, Patience } from "./release-pace.ts";

export interface ReleaseJob {
  /** The run's whole name. */
  readonly run: string;
  /** The instance it placed mail in. */
  readonly instance: PostfixInstance;
  readonly stateDirectory: string;
  /** Also what may have been delivered already. */
  readonly inDoubt: boolean;
  /** Standing claims of others on mail of the host the run's mail is of: what they name is not released. */
  readonly claims: readonly FencingClaim[];
  /** Undefined: as fast as Postfix takes it. */
  readonly pace?: Pace | undefined;
  readonly patience?: Patience | undefined;
  readonly clock: Clock;
  readonly signal?: AbortSignal | undefined;
  readonly report?: ((event: ReleaseEvent) => void) | undefined;
}

export type ReleaseEvent =
  | PaceEvent
  | ({ readonly type: "forecast" } & ReleaseForecast)
  | {
      readonly type: "batch";
      readonly batch: number;
      readonly released: number;
      readonly remaining: number;
      /** Seen so far; null when nobody watches. */
      readonly cameBack: number | null;
      readonly returned: number | null;
    };

export interface ReleaseReport {
  readonly run: string;
  /** Let go by this call. */
  readonly released: number;
  /** Of this run, let go before. */
  readonly before: number;
  /** Messages left on hold: in doubt, an administrator's, fenced at the source. */
  readonly inDoubt: number;
  readonly admin: number;
  readonly fence: number;
  /** Still on hold, and not because of any of these. */
  readonly remaining: number;
  readonly claimed: ReleaseChoice["claimed"];
  readonly notFound: readonly NotReleased[];
  /** Could not be let go. */
  readonly problems: readonly NotReleased[];
  /** Deferred again, and returned to the sender, as far as that was watched; null when it was not. */
  readonly cameBack: number | null;
  readonly returned: number | null;
  readonly paused: number;
  /** Most was still not delivered: the rest was not tried. */
  readonly gaveUp: boolean;
  /** Why that was. */
  readonly reason: string | null;
  /** Let go, and not tried at once: Postfix tries them in its own time, or when it starts. */
  readonly notWoken: number;
  readonly running: boolean;
}
