import type { PostfixInstance } from "../postfix/instance.ts";
import type { Clock } from "../system/clock.ts";
import { isExpired } from "./forecast.ts";
import type { ReleaseChoice } from "./release-choice.ts";

/** What is about to be let go, and what becomes of it. */
export interface ReleaseForecast {
  readonly messages: number;
  /** Of these, mail that goes through maildrop. */
  readonly maildrop: number;
  /** RFC 3339; null without mail. */
  readonly oldest: string | null;
  /** Destination domains, most mail first. */
  readonly domains: readonly { readonly domain: string; readonly messages: number }[];
  /** Older than the queue keeps mail: returned to the sender if the first attempt fails. */
  readonly expired: number;
  /** The same of the null sender: it vanishes. */
  readonly expiredNotices: number;
  /** In doubt: among the messages, and left on hold. */
  readonly doubtful: { readonly messages: number; readonly recipients: number };
  readonly leftInDoubt: { readonly messages: number; readonly recipients: number };
  readonly admin: number;
  readonly fence: number;
  readonly running: boolean;
}

export function forecastOf(
  { instance, clock }: { readonly instance: PostfixInstance; readonly clock: Clock },
  { release: mail, inDoubt, admin, fence }: ReleaseChoice,
  running: boolean,
): ReleaseForecast {
  const now = clock.now() / 1000;
  const expired = mail.filter(({ waits }) => !waits).filter((one) => isExpired(one, { ...instance, now }));
  const notices = expired.filter(({ sender }) => sender === "");
  const domains = [...Map.groupBy(mail, ({ domain }) => domain)].map(([domain, mails]) => ({
    domain,
    messages: mails.length,
  }));
  const oldest = mail.reduce((least, { arrival }) => Math.min(least, arrival), Number.POSITIVE_INFINITY);
  const doubtful = mail.filter((one) => one.inDoubt);
  return {
    messages: mail.length,
    maildrop: mail.filter(({ waits }) => waits).length,
    oldest: mail.length === 0 ? null : new Date(oldest * 1000).toISOString(),
    domains: domains.sort((a, b) => b.messages - a.messages),
    expired: expired.length - notices.length,
    expiredNotices: notices.length,
    doubtful: {
      messages: doubtful.length,
      recipients: doubtful.reduce((sum, { recipients }) => sum + recipients.filter(({ done }) => !done).length, 0),
    },
    leftInDoubt: {
      messages: inDoubt.length,
      recipients: inDoubt.reduce((sum, { message }) => sum + message.recipients.length, 0),
    },
    admin: admin.length,
    fence: fence.length,
    running,
  };
}
