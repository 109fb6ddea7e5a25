import { type FileReader, fileNamedIn, type NamedFile } from "./maps.ts";

/** A program beside Postfix without whose settings mail is not handled as before. */
export interface MailService {
  readonly name: string;
  /** Files and directories (with all below) that are kept where they exist. */
  readonly paths: readonly string[];
  /** Data that changes while it is read and is merely nice to have: no word when it can't be kept whole. */
  readonly data?: readonly string[];
  /** What the files of the service name elsewhere. */
  readonly reader?: FileReader;
}

/**
 * Where the packages of Debian and of the projects themselves put configuration. Signatures, rules and message statistics
 * are left out: they are downloaded or learnt again.
 */
export const mailServices: readonly MailService[] = [
  {
    name: "SpamAssassin",
    paths: ["/etc/spamassassin", "/etc/mail/spamassassin", "/etc/default/spamassassin", "/etc/default/spamd"],
  },
  { name: "ClamAV", paths: ["/etc/clamav", "/etc/default/clamav-milter", "/etc/default/clamav-daemon"] },
  { name: "postgrey", paths: ["/etc/postgrey", "/etc/default/postgrey"], data: ["/var/lib/postgrey"] },
  {
    name: "OpenDKIM",
    paths: ["/etc/opendkim.conf", "/etc/opendkim", "/etc/opendkim.conf.d", "/etc/dkimkeys", "/etc/default/opendkim"],
    reader: namedByOpendkim,
  },
  {
    name: "OpenDMARC",
    paths: ["/etc/opendmarc.conf", "/etc/opendmarc", "/etc/default/opendmarc"],
    reader: namedByOpendmarc,
  },
  { name: "Rspamd", paths: ["/etc/rspamd", "/var/lib/rspamd/dkim"], reader: namedByRspamd },
  {
    name: "SASL",
    paths: ["/etc/postfix/sasl", "/etc/sasl2", "/etc/sasldb2", "/etc/saslauthd.conf", "/etc/default/saslauthd"],
  },
  { name: "Dovecot", paths: ["/etc/dovecot", "/etc/default/dovecot"], reader: namedByDovecot },
  {
    name: "policyd-spf",
    paths: ["/etc/postfix-policyd-spf-python", "/etc/postfix-policyd-spf-perl", "/etc/pyspf-milter"],
  },
  {
    name: "amavis",
    paths: ["/etc/amavis", "/etc/amavisd", "/etc/amavisd.conf", "/etc/default/amavis"],
    reader: namedByAmavis,
  },
];

/** The places of every mail service, as files to be kept where they exist. Absolute: the caller may put a root before. */
export function serviceFiles(): (NamedFile & { readonly data: boolean })[] {
  return mailServices.flatMap((service) => {
    const reader = service.reader ?? null;
    const place = (path: string, data: boolean) => ({
      ...fileNamedIn(service.name, path, reader),
      shape: "tree" as const,
      required: false,
      data,
    });
    return [
      ...service.paths.map((path) => place(path, false)),
      ...(service.data ?? []).map((path) => place(path, true)),
    ];
  });
}

// opendkim.conf(5), opendmarc.conf(5): settings whose value is a path that is no configuration.
const runtimePaths =
  /^(Socket|PidFile|BaseDirectory|ChangeRootDirectory|TemporaryDirectory|HistoryFile|ReportCommand)$/i;

/**
 * opendkim.conf names data sets (`KeyTable refile:/etc/opendkim/key.table`) and keys; a KeyTable names the private key of
 * each line as `name domain:selector:/path`.
 */
function namedByOpendkim(path: string, text: string): NamedFile[] {
  if (path.endsWith(".conf")) return settings(path, text).map((file) => ({ ...file, reader: namedByOpendkim }));
  return lines(text).flatMap((line) => {
    const [, key] = /^\S+\s+[^\s:]+:[^\s:]+:(\/\S+)$/.exec(line) ?? [];
    return key === undefined ? [] : [fileNamedIn(path, key, null)];
  });
}

function namedByOpendmarc(path: string, text: string): NamedFile[] {
  return path.endsWith(".conf") ? settings(path, text) : [];
}

/** `Name value` lines whose value holds absolute paths, each perhaps after a data set's type. */
function settings(path: string, text: string): NamedFile[] {
  return lines(text).flatMap((line) => {
    const [name = "", ...values] = line.split(/\s+/);
    if (runtimePaths.test(name)) return [];
    return values
      .flatMap((value) => value.split(","))
      .flatMap((value) => /^(?:(?:file|refile|db|bdb):)?(\/.+)$/.exec(value)?.[1] ?? [])
      .filter((file) => !file.startsWith("/usr/share/"))
      .map((file) => fileNamedIn(path, file, null));
  });
}

/** dkim_signing and arc: `path = "/var/lib/rspamd/dkim/$domain.$selector.key"`; keys named with `$` lie in a kept directory. */
function namedByRspamd(path: string, text: string): NamedFile[] {
  return [...text.matchAll(/^[^#\n]*\b(?:path|selector_map|path_map)\s*=\s*"(\/[^"$]+)"/gm)].map((match) => ({
    ...fileNamedIn(path, match[1] ?? "", null),
    required: false,
  }));
}

/** `ssl_key = </etc/dovecot/private/dovecot.pem` and password files (`args = scheme=... /etc/dovecot-users`). */
function namedByDovecot(path: string, text: string): NamedFile[] {
  const material = [...text.matchAll(/^\s*ssl_\w+\s*=\s*<(\/\S+)/gm)].map((match) => match[1] ?? "");
  const modern = [...text.matchAll(/^\s*ssl_\w*(?:_file)\s*=\s*(\/\S+)/gm)].map((match) => match[1] ?? "");
  const users = [...text.matchAll(/^\s*(?:args|passwd_file_path)\s*=\s*(?:[a-z_]+=\S+\s+)*(\/[^\s%]+)\s*$/gm)].map(
    (match) => match[1] ?? "",
  );
  return [
    ...[...material, ...modern].map((file) => fileNamedIn(path, file, null)),
    ...users.map((file) => ({ ...fileNamedIn(path, file, null), required: false })),
  ];
}

/** amavisd.conf: `dkim_key('example.org', 'selector', '/var/lib/amavis/dkim/key.pem');` */
function namedByAmavis(path: string, text: string): NamedFile[] {
  return [...text.matchAll(/^\s*dkim_key\([^;]*?["'](\/[^"']+)["']/gm)].map((match) =>
    fileNamedIn(path, match[1] ?? "", null),
  );
}

function lines(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.replace(/(^|\s)#.*$/, "").trim())
    .filter(Boolean);
}
