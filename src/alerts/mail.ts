import { lookup } from "node:dns/promises";
import { isOwnAddress } from "../system/own-host.ts";
import { SendFault } from "./attempt.ts";
import type { AlertEvent } from "./decide.ts";

export interface MailSettings {
  /** `smtp://[user:password@]relay[:25]`, or `smtps://...[:465]`. */
  readonly url: string;
  readonly from: string;
  readonly to: readonly string[];
}

/** Ports on which a Postfix takes mail: smtp, submissions, submission. */
export const mailPorts: readonly number[] = [25, 465, 587];

/** Where an smtp URL leads. */
export function relayOf(text: string) {
  const url = new URL(text);
  const secure = url.protocol === "smtps:";
  return {
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: url.port === "" ? (secure ? 465 : 25) : Number(url.port),
    secure,
    user: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
  };
}

/**
 * Send the event as a mail through the relay. With a password the connection must be encrypted and the relay's certificate
 * be right; without one, STARTTLS is used where it is offered, whatever the certificate: better an alert that is overheard
 * than none.
 *
 * @param tryNumber of the relay's addresses, another one is taken for each
 * @throws SendFault, also when the relay's name turns out to be this host: an alert in the queue that is in trouble helps nobody
 */
export async function sendMail(
  settings: MailSettings,
  event: AlertEvent,
  { signal, tryNumber, timeoutMs }: { signal: AbortSignal; tryNumber: number; timeoutMs: number },
): Promise<void> {
  const relay = relayOf(settings.url);
  const address = await addressOf(relay, tryNumber);
  const { createTransport } = await import("nodemailer");
  const authenticated = relay.user !== "";
  const transport = createTransport({
    host: address,
    port: relay.port,
    secure: relay.secure,
    name: event.host,
    requireTLS: authenticated && !relay.secure,
    // A name goes into SNI and is what the certificate is for; an address can't go into SNI.
    tls: { ...(relay.host === address ? {} : { servername: relay.host }), rejectUnauthorized: authenticated },
    ...(authenticated ? { auth: { user: relay.user, pass: relay.password } } : {}),
    connectionTimeout: timeoutMs,
    greetingTimeout: timeoutMs,
    socketTimeout: timeoutMs,
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  const close = () => transport.close();
  signal.addEventListener("abort", close, { once: true });
  try {
    const { rejected } = await transport.sendMail(letter(settings, event));
    if (rejected.length > 0)
      throw new SendFault(`the relay refused ${rejected.length} of ${settings.to.length} receivers`);
  } finally {
    signal.removeEventListener("abort", close);
    transport.close();
  }
}

async function addressOf({ host, port }: { host: string; port: number }, tryNumber: number): Promise<string> {
  const addresses = (await lookup(host, { all: true })).map(({ address }) => address);
  if (mailPorts.includes(port) && addresses.some(isOwnAddress)) {
    throw new SendFault(`the relay ${host} is this host itself: name one on another host`, { permanent: true });
  }
  return addresses[tryNumber % addresses.length] ?? host;
}

function letter({ from, to }: MailSettings, event: AlertEvent) {
  const { key, severity, host, job, since, time, text } = event;
  const exit = event.exit === null ? [] : [`exit code:  ${event.exit}`];
  const lines = [
    text,
    "",
    `host:       ${host}`,
    `job:        ${job}`,
    `condition:  ${key} (${event.event}, ${severity})`,
    ...exit,
    `since:      ${since}`,
    `time:       ${time}`,
    "",
    ...(event.event === "resolved" ? [] : [`On ${host}, run: spoolsafe status`, ""]),
  ];
  return {
    from,
    to: [...to],
    subject: `[spoolsafe] ${text}`.slice(0, 200),
    date: new Date(time),
    text: lines.join("\n"),
    // RFC 3834: no vacation notice is to answer this.
    headers: { "Auto-Submitted": "auto-generated", "X-Spoolsafe-Alert": `${key} ${event.event}` },
  };
}
