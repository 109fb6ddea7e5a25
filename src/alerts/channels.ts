import { runCommand } from "./command.ts";
import type { AlertEvent } from "./decide.ts";
import { call } from "./http.ts";
import { type MailSettings, sendMail } from "./mail.ts";

/** Where alerts and heartbeats go; what is not set is not used. */
export interface AlertSettings {
  /** Of backups. */
  readonly heartbeatUrl?: string | undefined;
  readonly drillHeartbeatUrl?: string | undefined;
  readonly webhookUrl?: string | undefined;
  /** Program and arguments; empty for none. */
  readonly command: readonly string[];
  readonly mail?: MailSettings | undefined;
}

export type ChannelName = "webhook" | "command" | "smtp";

export interface Channel {
  readonly name: ChannelName;
  /** One try. Rejects when the event did not arrive. */
  readonly send: (event: AlertEvent, one: OneTry) => Promise<void>;
}

export interface OneTry {
  readonly signal: AbortSignal;
  readonly tryNumber: number;
  readonly timeoutMs: number;
}

export function channelsOf({ webhookUrl, command, mail }: AlertSettings): readonly Channel[] {
  const channels: Channel[] = [];
  if (webhookUrl !== undefined) {
    const url = new URL(webhookUrl);
    const headers = { "content-type": "application/json" };
    const post = (event: AlertEvent, { signal }: OneTry) =>
      call(url, { method: "POST", headers, body: JSON.stringify(event), signal });
    channels.push({ name: "webhook", send: post });
  }
  if (command.length > 0) {
    channels.push({ name: "command", send: (event, { signal }) => runCommand(command, event, signal) });
  }
  if (mail !== undefined) channels.push({ name: "smtp", send: (event, one) => sendMail(mail, event, one) });
  return channels;
}
