import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createSigningKey, loadSigningKey, type SigningKey } from "../../src/crypto/sign.ts";
import { examineSetup, type SetupToExamine } from "../../src/doctor/doctor.ts";
import type { Finding } from "../../src/doctor/finding.ts";
import { discoverInstances } from "../../src/postfix/instance.ts";
import { Repository } from "../../src/repository/repository.ts";
import { systemClock } from "../../src/system/clock.ts";
import type { PrivatePostfix } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";

/** Where a standby's identity, and the key it believes, come from. */
export interface Source {
  readonly directory: string;
  readonly repository: Repository;
}

/** A host that is ready to take over from the writer of a repository: keys of its own, and instances of its own. */
export class Standby implements AsyncDisposable {
  readonly directory = makeScratch();
  readonly key: SigningKey;
  readonly #source: Source;
  readonly #postfixes: readonly PrivatePostfix[];

  constructor(source: Source, postfixes: readonly PrivatePostfix[]) {
    this.#source = source;
    this.#postfixes = postfixes;
    const { privatePem, publicPem } = createSigningKey();
    writeFileSync(this.path("signing.key"), privatePem, { mode: 0o600 });
    const primary = readFileSync(join(source.directory, "trusted.pub"), "utf8");
    writeFileSync(this.path("trusted.pub"), `${publicPem}${primary}`);
    // Of the identity.
    const recipients = execFileSync("age-keygen", ["-y", this.identityFile], { encoding: "utf8" });
    writeFileSync(this.path("recipients.txt"), recipients);
    mkdirSync(this.path("state"), { mode: 0o700 });
    this.key = loadSigningKey(this.path("signing.key"));
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  get identityFile(): string {
    return join(this.#source.directory, "identity.txt");
  }

  async findings(over: Partial<SetupToExamine> = {}): Promise<Finding[]> {
    const findings: Finding[] = [];
    const setup: SetupToExamine = {
      role: "standby",
      stateDirectory: this.path("state"),
      recipientsFile: this.path("recipients.txt"),
      identityFile: this.identityFile,
      signingKeyFile: this.path("signing.key"),
      trustedKeysFile: this.path("trusted.pub"),
      findInstances: () => discoverInstances(this.#postfixes.map(({ configDirectory }) => configDirectory)),
      openRepository: () => Repository.open(this.#source.repository.store),
      scope: { host: undefined, ownHost: undefined },
      instance: undefined,
      maxAgeMs: 26 * 3_600_000,
      port25: undefined,
      probe: false,
      clock: systemClock,
      signal: new AbortController().signal,
      ...over,
    };
    await examineSetup(setup, (finding) => findings.push(finding));
    return findings;
  }

  /** What is in the way of a takeover: `name: message | remedy`. */
  async wrong(over: Partial<SetupToExamine> = {}): Promise<string[]> {
    return said(await this.findings(over), false);
  }

  /** What one check says when it is passed: `name: message | advice`. */
  async passed(name: string, over: Partial<SetupToExamine> = {}): Promise<string[]> {
    return said(await this.findings(over), true).filter((line) => line.startsWith(`${name}: `));
  }

  /** A configuration file for the command line. */
  configure(): string {
    const directories = this.#postfixes.map(({ configDirectory }) => configDirectory);
    const file = this.path("spoolsafe.toml");
    const lines = [
      `state_directory = ${JSON.stringify(this.path("state"))}`,
      `repository.url = ${JSON.stringify(this.#source.repository.store.url)}`,
      `encryption.recipients_file = ${JSON.stringify(this.path("recipients.txt"))}`,
      `encryption.identity_file = ${JSON.stringify(this.identityFile)}`,
      `signing.key_file = ${JSON.stringify(this.path("signing.key"))}`,
      `signing.trusted_keys_file = ${JSON.stringify(this.path("trusted.pub"))}`,
      `postfix.config_directories = ${JSON.stringify(directories)}`,
    ];
    writeFileSync(file, `${lines.join("\n")}\n`);
    return file;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    destroyScratch(this.directory);
  }
}

function said(findings: readonly Finding[], ok: boolean): string[] {
  return findings
    .filter((finding) => finding.ok === ok)
    .map(({ name, message, remedy }) => `${name}: ${message}${remedy === null ? "" : ` | ${remedy}`}`);
}

/**
 * A self-signed certificate with its key, made by openssl.
 *
 * @param dates days from now at which it begins and ends, which may be in the past
 */
export function makeCertificate(directory: string, name: string, dates: readonly [number, number]) {
  mkdirSync(directory, { recursive: true });
  const path = (file: string) => join(directory, file);
  const ca = `[ca]\ndefault_ca=d\n[d]\ndatabase=${path("index")}\nnew_certs_dir=${directory}\nserial=${path("serial")}
default_md=sha256\npolicy=p\nx509_extensions=x\nunique_subject=no\n[p]\ncommonName=supplied\n[x]\nsubjectAltName=DNS:${name}\n`;
  writeFileSync(path("ca.cnf"), ca);
  writeFileSync(path("index"), "");
  writeFileSync(path("serial"), "01\n");
  const openssl = (...args: string[]) => execFileSync("openssl", args, { stdio: "ignore" });
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl("req", ...curve, "-keyout", path("key.pem"), "-out", path("request"), "-subj", `/CN=${name}`);
  const [from, to] = dates.map((days) =>
    new Date(Date.now() + days * 86_400_000).toISOString().replaceAll(/[-:T]|\.\d+/g, ""),
  );
  const validity = ["-startdate", from ?? "", "-enddate", to ?? ""];
  const signing = ["-selfsign", "-keyfile", path("key.pem"), "-in", path("request"), "-out", path("cert.pem")];
  openssl("ca", "-batch", "-notext", "-config", path("ca.cnf"), ...signing, ...validity);
  return { key: path("key.pem"), certificate: path("cert.pem") };
}
