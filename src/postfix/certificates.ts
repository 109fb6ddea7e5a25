import { createPrivateKey, X509Certificate } from "node:crypto";
import { type Scope, splitWords } from "./parameters.ts";

/** A parameter that names a certificate. */
export interface CertificatePlace {
  readonly name: string;
  readonly path: string;
  readonly keyPath: string | null;
}

/**
 * What a parameter of a scope names: `smtpd_tls_cert_file` goes with `smtpd_tls_key_file`; a chain file holds its key
 * itself. Nothing for parameters of other kinds.
 */
export function certificatesOf(scope: Scope, name: string): CertificatePlace[] {
  const value = scope.value(name);
  const [, prefix, kind] = /^(\w+_tls_)((?:ec|d)?)cert_file$/.exec(name) ?? [];
  if (prefix !== undefined && value.startsWith("/")) {
    return [{ name, path: value, keyPath: scope.value(`${prefix}${kind ?? ""}key_file`) || value }];
  }
  if (!/_tls_chain_files$/.test(name)) return [];
  return splitWords(value).map((path) => ({ name, path, keyPath: path }));
}

/** A certificate that settings name, with the key that goes with it. */
export interface NamedCertificate {
  readonly setting: string;
  readonly path: string;
  readonly pem: Buffer;
  /** Null when settings name none, or it is not there. */
  readonly key: Buffer | null;
  /** The name clients ask for; null for a client's own certificate. */
  readonly serverName: string | null;
}

export interface CertificateFinding {
  /** `wrong`: it will not work. `look`: somebody has to decide. */
  readonly level: "wrong" | "look";
  readonly finding: string;
}

/**
 * What is wrong with a certificate: no longer (or soon not) valid, not for this host's name, not its key's.
 *
 * @param now milliseconds since 1970
 */
export function judgeCertificate(
  { pem, serverName, key }: Pick<NamedCertificate, "pem" | "serverName" | "key">,
  now: number,
): CertificateFinding[] {
  const certificate = parseCertificate(pem);
  if (certificate === undefined) return [{ level: "wrong", finding: "it holds no certificate that can be read" }];
  return [
    ...expiry(certificate, now).map(([level, finding]) => ({ level, finding })),
    ...nameProblem(certificate, serverName).map((finding) => ({ level: "look" as const, finding })),
    ...keyProblem(certificate, key).map((finding) => ({ level: "wrong" as const, finding })),
  ];
}

function parseCertificate(pem: Buffer): X509Certificate | undefined {
  const [first] = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/.exec(pem.toString("latin1")) ?? [];
  if (first === undefined) return undefined;
  try {
    return new X509Certificate(first);
  } catch {
    return undefined;
  }
}

const soonMs = 30 * 86_400_000;

function expiry({ validFrom, validTo }: X509Certificate, now: number): [CertificateFinding["level"], string][] {
  const [from, to] = [Date.parse(validFrom), Date.parse(validTo)];
  const on = (time: number) => new Date(time).toISOString().slice(0, 10);
  if (to < now) return [["wrong", `it expired on ${on(to)}`]];
  if (from > now) return [["wrong", `it is not valid before ${on(from)}`]];
  return to < now + soonMs ? [["look", `it expires on ${on(to)}`]] : [];
}

function nameProblem(certificate: X509Certificate, serverName: string | null): string[] {
  if (serverName === null || serverName === "" || certificate.checkHost(serverName) !== undefined) return [];
  const names = certificate.subjectAltName ?? certificate.subject.replaceAll("\n", ", ");
  return [`it is for ${names}, and myhostname is ${serverName}`];
}

function keyProblem(certificate: X509Certificate, key: Buffer | null): string[] {
  if (key === null) return [];
  try {
    return certificate.checkPrivateKey(createPrivateKey(key)) ? [] : ["the private key is not this certificate's"];
  } catch {
    return ["its private key can't be read"];
  }
}
