import { schedule } from "node-cron";

/** Something that calls again and again, until it is stopped. */
export interface Ticks {
  /** To be called when the wall clock has been set: the next call goes by the new time. */
  restart(): void;
  stop(): void;
}

export type StartTicks = (tick: () => void) => Ticks;

const silent = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} };

/**
 * At the beginning of every minute, by node-cron: in UTC, where no minute is left out or comes twice. After the clock was
 * set back it is silent until the old time comes again, hence `restart`.
 */
export const everyMinute: StartTicks = (tick) => {
  const start = () =>
    schedule("* * * * *", () => tick(), { timezone: "UTC", suppressMissedWarning: true, logger: silent });
  let task = start();
  return {
    restart: () => {
      void task.destroy();
      task = start();
    },
    stop: () => void task.destroy(),
  };
};
