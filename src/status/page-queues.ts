import { messageQueues } from "../postfix/queue.ts";
import { ago } from "./ago.ts";
import { type Html, html } from "./html.ts";
import { ageLimits, type InstanceState, type Oldest, type QueueState } from "./queue-state.ts";
import type { StatusLimits, StatusReport, Threshold } from "./report.ts";

/** Of every instance its queues by age; empty where no Postfix is. */
export function queuesSection({ instances, limits }: StatusReport): Html | null {
  if (instances.length === 0) return null;
  return html`<section><h2>Queues by age</h2>${instances.map((instance) => instancePart(instance, limits))}</section>`;
}

function instancePart({ name, queues, total, deferredShare, oldest }: InstanceState, limits: StatusLimits): Html {
  const share = deferredShare === null ? "" : `, ${Math.round(deferredShare * 100)} % of them deferred`;
  const facts = `${total} messages${share}; the oldest that Postfix works on is ${oldestText(oldest)} old`;
  const sampled = messageQueues.some((queue) => isSampled(queues[queue]));
  const note = sampled
    ? html`<p class="soft">~ Ages are worked out from a part of their messages, spread evenly.</p>`
    : null;
  return html`<h3><bdi>${name}</bdi></h3><p class="soft">${total === 0 ? "empty" : facts}</p>
<div class="scroll"><table class="ages"><thead><tr><th>queue</th>${columns.map((column) => html`<th class="n">${column}</th>`)}<th class="n">all</th></tr></thead>
<tbody>${messageQueues.map((queue) => queueRow(queue, queues[queue], thresholdOf(queue, limits)))}</tbody></table></div>${note}`;
}

const columns = [...ageLimits.map((limit) => `<${shortAge(limit)}`), `${shortAge(ageLimits.at(-1) ?? 0)}+`];

function shortAge(seconds: number): string {
  if (seconds < 3600) return `${seconds / 60}m`;
  return seconds < 86_400 ? `${seconds / 3600}h` : `${seconds / 86_400}d`;
}

function thresholdOf(queue: string, limits: StatusLimits): Threshold | null {
  return queue === "deferred" || queue === "active" ? limits[queue] : null;
}

function queueRow(queue: string, state: QueueState, threshold: Threshold | null): Html {
  const seen = sum(state.ages);
  const scale = isSampled(state) && seen > 0 ? state.messages / seen : 1;
  const cells = columns.map((_, index) => ageCell(state.ages[index] ?? 0, seen, scale));
  const [warning, critical] = threshold ?? [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  const level = state.messages > critical ? " critical" : state.messages > warning ? " warning" : "";
  return html`<tr><th>${queue}${scale === 1 ? "" : "~"}</th>${cells}<td class="n${level}">${state.messages}</td></tr>`;
}

function ageCell(count: number, of: number, scale: number): Html {
  if (count === 0) return html`<td class="n"></td>`;
  const share = count / of;
  const heat = share > 0.66 ? "h4" : share > 0.33 ? "h3" : share > 0.1 ? "h2" : "h1";
  return html`<td class="n ${heat}">${shortCount(Math.max(1, Math.round(count * scale)))}</td>`;
}

/** Four characters at most, so that seven columns fit a phone: "950", "1.2k", "48k", "1.3M". */
function shortCount(count: number): string {
  if (count < 1000) return String(count);
  const [value, unit] = count < 999_500 ? [count / 1000, "k"] : [count / 1_000_000, "M"];
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)}${unit}`;
}

/** Some that are gone by the time they are looked at make no difference worth telling. */
function isSampled({ messages, ages, oldest }: QueueState): boolean {
  return oldest?.exact === false && sum(ages) < messages;
}

function oldestText(oldest: Oldest | null): string {
  if (oldest === null) return "0s";
  return `${oldest.exact ? "" : "at least "}${ago(oldest.ageSeconds)}`;
}

function sum(counts: readonly number[]): number {
  return counts.reduce((all, count) => all + count, 0);
}
