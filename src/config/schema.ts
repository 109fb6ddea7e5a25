import { isAbsolute } from "node:path";
import ms from "ms";
import * as z from "zod";
import { relayOf } from "../alerts/mail.ts";
import { expressionProblem } from "../schedule/expression.ts";

/** What the table says of an option beside its type. */
export interface OptionAbout {
  /** One line for the person who edits the file. */
  readonly help: string;
  /** The default as it would stand in the file; for an option without one, an example. */
  readonly shown: unknown;
  readonly hasDefault: boolean;
  /** Names a file that must be readable by its owner only. */
  readonly secretFile: boolean;
}

/** Help, default and secrecy of every option in `sections`. */
export const about = z.registry<OptionAbout>();

const text = z.string();
const absolutePath = text.refine(isAbsolute, { error: "must be an absolute path" });
const hostName = text.regex(/^[A-Za-z0-9._-]{1,255}$/, {
  error: "must be letters, digits, dots, dashes and underscores",
});
const httpUrl = text.refine((value) => URL.canParse(value) && /^https?:/i.test(value), {
  error: "must be an http:// or https:// URL",
});
const repositoryUrl = text.refine((value) => /^\/|^file:\/\/\/|^s3:\/\/[^/\s]+(\/[A-Za-z0-9._/-]*)?$/.test(value), {
  error: 'must be "file:///directory" or "s3://bucket/prefix"',
});
const smtpUrl = text.refine((value) => /^smtps?:\/\/[^/]/i.test(value) && isReadable(value), {
  error: 'must be "smtp://relay:port" or "smtps://user:password@relay:port"',
});
const mailAddress = text.regex(/^([^\r\n<>]*<[^\s@<>]+@[^\s@<>]+>|[^\s@<>]+@[^\s@<>]+)$/, {
  error: 'must be an address such as "postmaster@example.org"',
});
const listen = text.refine((value) => listenAddress(value) !== undefined, {
  error: 'must be "address:port", such as "127.0.0.1:9625" or "[::1]:9625"',
});
const count = z.int().min(0);
const warningAndCritical = z
  .tuple([count, count], { error: "must be two numbers: warning, critical" })
  .refine(([warning, critical]) => warning <= critical, { error: "the warning must not be above the critical value" });

const duration = text.transform((value, context) => {
  const parsed = parseDuration(value);
  if (parsed === undefined)
    context.addIssue({ code: "custom", message: 'must be a duration such as "2s", "26h" or "2d"' });
  return parsed ?? z.NEVER;
});
const positiveDuration = duration.refine((value) => value > 0, { error: "must be longer than nothing" });
const durationPair = z
  .tuple([positiveDuration, positiveDuration], {
    error: 'must be two durations: warning, critical, such as ["2d", "4d"]',
  })
  .refine(([warning, critical]) => warning <= critical, { error: "the warning must not be above the critical value" });
const rate = text.transform((value, context) => {
  const parsed = parseRate(value);
  if (parsed === undefined) context.addIssue({ code: "custom", message: 'must be a rate such as "20MB/s"' });
  return parsed ?? z.NEVER;
});
const timezone = text.refine(isTimezone, { error: 'must be a time zone such as "Europe/Paris"' });
const cron = text.superRefine((value, context) => {
  const message = expressionProblem(value);
  if (message !== undefined) context.addIssue({ code: "custom", message });
});
/** Nobody can take a lock back, so a slip of the finger must not reach over a century. */
const lockDays = count.refine((days) => days <= 3650, { error: "must be at most 3650: a lock can't be taken back" });

const repository = {
  url: optional(
    repositoryUrl,
    "file:///var/backups/spoolsafe",
    'Where snapshots go: "file:///directory" or "s3://bucket/prefix".',
  ),
  endpoint: optional(httpUrl, "https://s3.example.net", "S3 other than AWS."),
  region: optional(text, "us-east-1", "S3 region; default: what the SDK finds."),
  path_style: setting(z.boolean(), true, "Address the bucket in the path and not in the host name."),
  credentials_file: optional(
    absolutePath,
    "/etc/spoolsafe/s3.credentials",
    "Shared-credentials format, mode 0600; default: the SDK's normal chain.",
    "secret",
  ),
  object_lock_days: setting(
    lockDays,
    0,
    "More than 0: every object is locked for so long, in a bucket with Object Lock; nobody can end that early.",
  ),
};

/**
 * The configuration as one table: section, option, type, default, help, secret. Keys are the names in the file and
 * stay as they are (docs/INTERFACE.md). "" is the top of the file. An empty string means: not set.
 */
export const sections = {
  "": {
    host: optional(
      hostName,
      "mx1.example.org",
      "Name of this host in snapshots; default: myhostname of the first instance.",
    ),
    state_directory: setting(
      absolutePath,
      "/var/lib/spoolsafe",
      "Journals, cache and what was seen of the repository.",
    ),
  },
  repository,
  encryption: {
    recipients_file: setting(
      absolutePath,
      "/etc/spoolsafe/recipients.txt",
      "Age recipients, one per line: all a primary needs.",
    ),
    identity_file: optional(
      absolutePath,
      "/etc/spoolsafe/identity.txt",
      "Age identities, mode 0600; only where backups are read: standby, drill host.",
      "secret",
    ),
  },
  signing: {
    key_file: setting(
      absolutePath,
      "/etc/spoolsafe/signing.key",
      "Ed25519 key, PEM, mode 0600; init makes it.",
      "secret",
    ),
    trusted_keys_file: setting(
      absolutePath,
      "/etc/spoolsafe/trusted.pub",
      "Public keys this host believes, one PEM after another.",
    ),
  },
  postfix: {
    config_directories: optional(
      z.array(absolutePath).min(1, { error: "must name a directory, or be left out" }),
      ["/etc/postfix"],
      "Default: every instance of postmulti -l.",
    ),
    mode: setting(
      z.enum(["hold", "freeze", "live"]),
      "hold",
      "How a running instance is captured: hold, freeze or live.",
    ),
    hold_batch: setting(z.int().min(1).max(100_000), 500, "Messages put on hold at once."),
    hold_limit: setting(positiveDuration, "2s", "A batch is released after this, whatever happens."),
    freeze_limit: setting(positiveDuration, "5m", "The same for mode freeze."),
    include: setting(
      z.array(absolutePath),
      [],
      'Further paths to keep with the configuration, such as "/etc/opendkim".',
    ),
    mail_services: setting(
      z.boolean(),
      true,
      "Keep SpamAssassin, ClamAV, postgrey, OpenDKIM, Rspamd, SASL and Dovecot auth where found.",
    ),
  },
  limits: {
    upload: optional(rate, "20MB/s", "Bytes per second to the repository."),
    processors: setting(z.int().min(1).max(1024), 2, "Worker threads for packing and unpacking."),
  },
  retention: {
    keep_last: setting(count, 7, "Snapshots to keep, per host: the newest, whatever their age."),
    keep_hourly: setting(count, 24, "One for each of so many hours."),
    keep_daily: setting(count, 14, "One for each of so many days."),
    keep_weekly: setting(count, 8, "One for each of so many weeks."),
    keep_monthly: setting(count, 12, "One for each of so many months."),
  },
  schedule: {
    timezone: optional(
      timezone,
      "Europe/Paris",
      "Time zone of the cron expressions and of retention; default: the host's.",
    ),
    backup: optional(cron, "0 2 * * *", "Cron expression; a job without one does not run."),
    verify: optional(cron, "30 4 * * 0", "Deep where an identity is readable, else sealed."),
    drill: optional(cron, "0 5 1 * *", "Needs an identity."),
    prune: optional(cron, "0 6 * * *", "Apply retention."),
    catch_up: setting(duration, "24h", "A run missed by less than this is made up once."),
    jitter: setting(duration, "5m", "Start up to this much later, always the same on one host."),
  },
  drill: {
    rto: setting(positiveDuration, "30m", "Target for the time to recover; a miss is exit 1 and an alert."),
    rpo: setting(positiveDuration, "26h", "Target for the age of what is recovered."),
  },
  thresholds: {
    deferred: setting(warningAndCritical, [5000, 20000], "Messages: warning, critical."),
    active: setting(warningAndCritical, [2000, 10000], "Messages: warning, critical."),
    oldest: setting(durationPair, ["2d", "4d"], "Age of the oldest message: warning, critical."),
  },
  alerts: {
    max_age: setting(positiveDuration, "26h", "The newest snapshot must not be older."),
    heartbeat_url: optional(
      httpUrl,
      "https://health.example.net/ping/backup",
      "Called with /start, nothing, /3 (incomplete) or /fail.",
    ),
    drill_heartbeat_url: optional(httpUrl, "https://health.example.net/ping/drill", "The same for drills."),
    webhook_url: optional(httpUrl, "https://alerts.example.net/spoolsafe", "Alerts are posted there as JSON."),
    command: setting(
      z.array(text.min(1, { error: "must not be empty" })),
      [],
      "Program and arguments; gets alerts as JSON on standard input.",
    ),
    smtp: optional(smtpUrl, "smtp://relay.example.net:587", "Relay for alerts: never the Postfix being protected."),
    smtp_from: optional(mailAddress, "spoolsafe@example.org", "Sender of alerts."),
    smtp_to: setting(z.array(mailAddress), [], "Receivers of alerts; best in a mailbox this host has no part in."),
  },
  status: {
    listen: optional(
      listen,
      "127.0.0.1:9625",
      "Where schedule run serves a status page, /metrics and /healthz, to everybody who can reach it.",
    ),
    textfile: optional(
      absolutePath,
      "/var/lib/prometheus/node-exporter/spoolsafe.prom",
      "Prometheus textfile; schedule run renews it each minute.",
    ),
  },
};

const { "": top, ...tables } = sections;

export const configSchema = z.strictObject({
  ...top,
  repository: table(tables.repository),
  copy: z.array(z.strictObject(repository)).prefault([]),
  encryption: table(tables.encryption),
  signing: table(tables.signing),
  postfix: table(tables.postfix),
  limits: table(tables.limits),
  retention: table(tables.retention),
  schedule: table(tables.schedule),
  drill: table(tables.drill),
  thresholds: table(tables.thresholds),
  alerts: table(tables.alerts),
  status: table(tables.status),
});

/** Validated and complete. Durations are milliseconds, rates bytes per second; what is not set is undefined. */
export type Config = Readonly<z.infer<typeof configSchema>>;

function table<Shape extends z.ZodRawShape>(shape: Shape) {
  // The default goes through the table's own defaults, which the types of a generic shape can't say.
  return z.strictObject(shape).prefault({} as never);
}

function setting<Schema extends z.ZodType>(schema: Schema, value: z.input<Schema>, help: string, secret?: "secret") {
  const option = z.preprocess(emptyIsUnset, schema.prefault(value as z.util.NoUndefined<z.input<Schema>>));
  about.add(option, { help, shown: value, hasDefault: true, secretFile: secret !== undefined });
  return option;
}

function optional<Schema extends z.ZodType>(schema: Schema, example: z.input<Schema>, help: string, secret?: "secret") {
  const option = z.preprocess(emptyIsUnset, schema.optional());
  about.add(option, { help, shown: example, hasDefault: false, secretFile: secret !== undefined });
  return option;
}

function emptyIsUnset(value: unknown): unknown {
  return value === "" ? undefined : value;
}

/** Milliseconds of "2s", "1.5h" or "2 days"; undefined for anything else, also for a bare number. */
export function parseDuration(value: string): number | undefined {
  if (!/^\d+(\.\d+)? ?[a-z]+$/i.test(value)) return undefined;
  return ms(value as ms.StringValue);
}

const units: Record<string, number> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
};

/** Bytes per second of "20MB/s" (decimal) or "20MiB/s" (binary); undefined for anything else and for nothing at all. */
export function parseRate(value: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?) ?([kKMG]?i?B)\/s$/.exec(value);
  const bytes = Number(match?.[1]) * (units[match?.[2] ?? ""] ?? Number.NaN);
  return bytes >= 1 ? Math.floor(bytes) : undefined;
}

/** An address or a name and a port, of "127.0.0.1:9625", "[::1]:9625" or ":9625", which is loopback. */
export function listenAddress(value: string): { readonly host: string; readonly port: number } | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):(\d{1,5})$/.exec(value);
  const port = Number(match?.[3]);
  if (match === null || !(port >= 1 && port <= 65_535)) return undefined;
  return { host: match[1] ?? (match[2] || "127.0.0.1"), port };
}

/** Also its user and password, where characters that mean something in a URL are to be written as %40. */
function isReadable(url: string): boolean {
  try {
    return relayOf(url).host !== "";
  } catch {
    return false;
  }
}

function isTimezone(value: string): boolean {
  try {
    return new Intl.DateTimeFormat("en", { timeZone: value }) !== undefined;
  } catch {
    return false;
  }
}
