import { judgeCertificate, type NamedCertificate } from "../postfix/certificates.ts";
import type { PostfixParameters, Scope } from "../postfix/parameters.ts";

/** Something that was right on the source host and must be looked at on this one. */
export interface ReviewItem {
  /** `wrong`: it will not work here as it is. `look`: somebody has to decide. */
  readonly level: "wrong" | "look";
  /** `main.cf myhostname`, `smtp/inet smtpd_tls_cert_file`. */
  readonly setting: string;
  /** Value saved, expanded; of a certificate its file. */
  readonly saved: string;
  /** What the target has now; null for what it doesn't have. */
  readonly here: string | null;
  readonly finding: string;
}

/** Parameters whose right value is another on every host. None of them is a secret. */
const hostSpecific: readonly string[] = [
  "myhostname",
  "mydomain",
  "myorigin",
  "inet_interfaces",
  "inet_protocols",
  "mynetworks",
  "mydestination",
  "proxy_interfaces",
  "relayhost",
  "smtp_bind_address",
  "smtp_bind_address6",
  "smtp_helo_name",
];
/** Where the mail is and which instances there are: another value here makes the mail of before invisible. */
const placeSpecific: readonly string[] = [
  "queue_directory",
  "data_directory",
  "multi_instance_name",
  "multi_instance_directories",
];

/** What of this host decides whether a setting can work. */
export interface HostFacts {
  /** Addresses of its interfaces, IPv6 without zone. */
  readonly addresses: readonly string[];
  userExists(name: string): boolean;
  groupExists(name: string): boolean;
  /** A directory or file is there. */
  exists(path: string): boolean;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/**
 * What differs between the two hosts in settings that are a host's own, and what of the saved settings can't work here.
 * Certificates are `reviewCertificates`.
 */
export function reviewSettings(saved: readonly Scope[], here: readonly Scope[], host: HostFacts): ReviewItem[] {
  const before = new Map(here.map((scope) => [scope.label, scope]));
  return saved.flatMap((scope) => [
    ...[...hostSpecific, ...placeSpecific].flatMap((name) => differing(scope, before, name)),
    ...impossible(scope, host),
  ]);
}

function differing(scope: Scope, here: ReadonlyMap<string, Scope>, name: string): ReviewItem[] {
  if (!scope.names.includes(name)) return [];
  const saved = scope.value(name);
  const now = (here.get(scope.label) ?? here.get("main.cf"))?.value(name) ?? null;
  const given = scope.given(name) || here.get(scope.label)?.given(name) === true;
  if (!given || saved === now) return [];
  const finding = placeSpecific.includes(name)
    ? "it decides where this instance's mail and data are: mail queued here now would not be seen"
    : "it is a host's own: is the saved value right here?";
  return [{ level: "look", setting: `${scope.label} ${name}`, saved, here: now, finding }];
}

function impossible(scope: Scope, host: HostFacts): ReviewItem[] {
  const item = (name: string, saved: string, finding: string): ReviewItem => {
    return { level: "wrong", setting: `${scope.label} ${name}`, saved, here: null, finding };
  };
  const given = (name: string) => scope.names.includes(name) && scope.given(name);
  const bound = ["inet_interfaces", "smtp_bind_address", "smtp_bind_address6"].filter(given).flatMap((name) =>
    addressesIn(scope.value(name))
      .filter((address) => !isLocal(address, host))
      .map((address) => item(name, scope.value(name), `${address} is no address of this host`)),
  );
  const users = ["mail_owner", "default_privs"].filter(given).filter((name) => !host.userExists(scope.value(name)));
  const groups = ["setgid_group"].filter(given).filter((name) => !host.groupExists(scope.value(name)));
  const needed = ["daemon_directory", "command_directory", "shlib_directory", "meta_directory"].filter(given);
  const gone = needed.filter((name) => scope.value(name) !== "no" && !host.exists(scope.value(name)));
  return [
    ...bound,
    ...users.map((name) => item(name, scope.value(name), "there is no such user here")),
    ...groups.map((name) => item(name, scope.value(name), "there is no such group here")),
    ...gone.map((name) => item(name, scope.value(name), "there is no such directory here")),
  ];
}

/** Services of master.cf that listen on an address this host does not have: master(8) gives up over one. */
export function reviewListeners({ services }: PostfixParameters, host: HostFacts): ReviewItem[] {
  return services.flatMap(({ name, type }) => {
    const [, address = ""] = /^\[?([0-9a-fA-F.:]+?)\]?:[^:]+$/.exec(name) ?? [];
    if (type !== "inet" || !isAddress(address) || isLocal(address, host)) return [];
    const finding = `${address} is no address of this host: Postfix will not start`;
    return [{ level: "wrong" as const, setting: `master.cf ${name}/${type}`, saved: name, here: null, finding }];
  });
}

function addressesIn(value: string): string[] {
  return value
    .split(/[\s,]+/)
    .map((word) => word.replace(/^\[(?:ipv6:)?(.*)\]$/i, "$1"))
    .filter(isAddress);
}

function isAddress(text: string): boolean {
  return (
    /^\d+\.\d+\.\d+\.\d+$/.test(text) ||
    (/^[0-9a-f:.]+$/i.test(text) && text.includes("::")) ||
    /^([0-9a-f]+:){7}[0-9a-f]+$/i.test(text)
  );
}

/** Any address of 127/8 is the loopback interface's, and the unspecified ones are every host's. */
function isLocal(address: string, { addresses }: HostFacts): boolean {
  if (/^127\./.test(address) || address === "0.0.0.0" || address === "::") return true;
  return addresses.some((own) => canonical(own) === canonical(address));
}

function canonical(address: string): string {
  return address.includes(":") ? new URL(`http://[${address}]/`).hostname : address;
}

/** Say so of every certificate that is no longer valid, not for this host's name, or not its key's. */
export function reviewCertificates(certificates: readonly NamedCertificate[], now: number): ReviewItem[] {
  return certificates.flatMap((one) =>
    judgeCertificate(one, now).map(({ level, finding }) => {
      return { level, setting: one.setting, saved: one.path, here: null, finding };
    }),
  );
}
