import { lstatSync } from "node:fs";
import { masterState } from "../postfix/control.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { isComplete, messageQueues, type QueueName } from "../postfix/queue.ts";
import { listQueue } from "../postfix/spool.ts";

/** What a backup would capture of one instance now, from names and sizes alone: nothing is opened, nothing held. */
export interface BackupForecast {
  readonly type: "forecast";
  readonly instance: string;
  readonly running: boolean;
  readonly messages: Readonly<Record<QueueName, number>> & { readonly total: number };
  readonly bytes: number;
}

/** @returns one forecast per instance, of mail that is complete at this moment */
export async function forecastBackup(instances: readonly PostfixInstance[]): Promise<BackupForecast[]> {
  const forecasts: BackupForecast[] = [];
  for (const instance of instances) {
    const running = (await masterState(instance)) !== "stopped";
    const sizes = messageQueues.map((queue) => [queue, completeSizes(instance, queue)] as const);
    const per = Object.fromEntries(sizes.map(([queue, found]) => [queue, found.length])) as Record<QueueName, number>;
    const all = sizes.flatMap(([, found]) => found);
    const bytes = all.reduce((sum, size) => sum + size, 0);
    forecasts.push({
      type: "forecast",
      instance: instance.name,
      running,
      messages: { total: all.length, ...per },
      bytes,
    });
  }
  return forecasts;
}

function completeSizes(instance: PostfixInstance, queue: QueueName): number[] {
  return listQueue(instance.queueDirectory, queue).flatMap((file) => {
    const stat = lstatSync(file.path, { throwIfNoEntry: false });
    return stat !== undefined && isComplete(stat.mode) ? [stat.size] : [];
  });
}
