import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import {
  applyConfiguration,
  type ConfigurationJob,
  type ConfigurationPlan,
  type ConfigurationReport,
  planConfiguration,
  undoConfiguration,
} from "../../src/restore/configuration.ts";
import { systemClock } from "../../src/system/clock.ts";
import { type PostfixOptions, PrivatePostfix } from "../support/postfix.ts";
import type { Site } from "../support/site.ts";
import { configurationJob, type Where } from "./configuration-job.ts";

export const canary = "cAnArY-7f3a";

/**
 * Paths that are an instance's own wherever its configuration directory is. `postfix check` writes them into main.cf as they
 * are then (`conf/post-install`), so a source gets them again after it was made.
 */
export const movable = {
  queue_directory: "$config_directory/../spool",
  data_directory: "$config_directory/../data",
  maillog_file: "$config_directory/../log/mail.log",
  maillog_file_prefixes: "/tmp",
};

export function write(path: string, text: string | Uint8Array, mode = 0o644): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  chmodSync(path, mode);
  utimesSync(path, 1_780_000_000, 1_780_000_000);
  return path;
}

export function makeCertificate(directory: string, name: string, days = 400): { key: Buffer; certificate: Buffer } {
  const [key, certificate] = [join(directory, "key.pem"), join(directory, "cert.pem")];
  execFileSync(
    "openssl",
    [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key],
      ...["-out", certificate, "-days", String(days), "-subj", `/CN=${name}`, "-addext", `subjectAltName=DNS:${name}`],
    ],
    { stdio: "ignore" },
  );
  return { key: readFileSync(key), certificate: readFileSync(certificate) };
}

/** An instance whose configuration has a file of every kind. */
export async function makeSource(named: string, more: PostfixOptions = {}): Promise<PrivatePostfix> {
  const tables = ["hash:h", "btree:b", "texthash:t", "cidr:c", "regexp:r", ...(hasType("pcre") ? ["pcre:p"] : [])];
  const source = await PrivatePostfix.create({
    ...more,
    main: {
      ...movable,
      myhostname: "mx1.source.test",
      virtual_alias_maps: tables.map((one) => one.replace(":", ":$config_directory/maps/")).join(", "),
      alias_maps: "hash:$config_directory/aliases",
      alias_database: "hash:$config_directory/aliases",
      smtp_sasl_password_maps: "hash:$config_directory/sasl_passwd",
      relocated_maps: `hash:${named}/relocated`,
      smtpd_tls_cert_file: "$config_directory/tls/cert.pem",
      smtpd_tls_key_file: "$config_directory/tls/key.pem",
      smtpd_tls_security_level: "may",
      smtp_tls_key_file: `${named}/tls/private/client.key`,
      smtp_tls_cert_file: `${named}/tls/client.pem`,
      tls_server_sni_maps: "hash:$config_directory/sni",
      ...more.main,
    },
  });
  for (const [name, value] of Object.entries(movable)) await source.setParameter(name, value);
  const at = (name: string) => join(source.configDirectory, name);
  write(at("maps/h"), "h@in.test h@out.test\n");
  write(at("maps/b"), "b@in.test b@out.test\n");
  write(at("maps/t"), "t@in.test t@out.test\n");
  write(at("maps/c"), "192.0.2.0/24 c@out.test\n");
  write(at("maps/r"), "/^r.*@in\\.test$/ r@out.test\n");
  write(at("maps/p"), "/^p.*@in\\.test$/ p@out.test\n");
  write(at("aliases"), "postmaster: root@out.test\n");
  write(at("sasl_passwd"), `[relay.test]:587 user:${canary}\n`, 0o600);
  write(join(named, "relocated"), "gone@in.test there@out.test\n");
  mkdirSync(at("tls"));
  makeCertificate(at("tls"), "mx1.source.test");
  chmodSync(at("tls/key.pem"), 0o600);
  mkdirSync(join(named, "tls/private"), { recursive: true, mode: 0o700 });
  const client = makeCertificate(join(named, "tls"), "client.test");
  write(join(named, "tls/private/client.key"), client.key, 0o600);
  write(join(named, "tls/client.pem"), client.certificate);
  const chain = Buffer.concat([client.key, client.certificate]);
  write(at("sni"), `client.test ${write(join(named, "tls/chain.pem"), chain, 0o600)}\n`);
  execFileSync("postmap", ["-c", source.configDirectory, "-F", `hash:${at("sni")}`], { env: source.env() });
  chmodSync(at("sni.db"), 0o600);
  for (const table of ["hash:maps/h", "btree:maps/b", "hash:sasl_passwd"]) postmap("postmap", source, table);
  postmap("postalias", source, "hash:aliases");
  execFileSync("postmap", ["-c", source.configDirectory, `hash:${named}/relocated`], { env: source.env() });
  return source;
}

export function postmap(program: string, postfix: PrivatePostfix, table: string): void {
  const [type, name] = table.split(":");
  const { configDirectory } = postfix;
  execFileSync(program, ["-c", configDirectory, `${type}:${configDirectory}/${name}`], { env: postfix.env() });
}

export function hasType(type: string): boolean {
  const said = spawnSync("postconf", ["-m"], { encoding: "utf8", env: { ...process.env, PATH: withSbin } });
  return said.stdout?.split("\n").includes(type) ?? false;
}

export const withSbin = `${process.env.PATH ?? ""}:/usr/sbin:/sbin`;

/** What a table says of a key; empty when nothing. */
export async function query(postfix: PrivatePostfix, table: string, key: string): Promise<string> {
  return (await postfix.run("postmap", ["-c", postfix.configDirectory, "-q", key, table])).stdout.trim();
}

/** A host that is to take over: its own instance, root and state directory. */
export class Standby implements AsyncDisposable {
  readonly postfix: PrivatePostfix;
  readonly root: string;
  readonly where: Where;

  constructor(postfix: PrivatePostfix, where: Omit<Where, "configDirectory" | "root" | "stateDirectory">) {
    this.postfix = postfix;
    this.root = join(postfix.directory, "root");
    mkdirSync(this.root);
    this.where = {
      ...where,
      configDirectory: postfix.configDirectory,
      root: this.root,
      stateDirectory: join(postfix.directory, "state"),
    };
  }

  async plan(): Promise<ConfigurationPlan> {
    await using job = await configurationJob(this.where);
    return await planConfiguration(job);
  }

  async apply(more: Partial<ConfigurationJob> = {}): Promise<ConfigurationReport> {
    await using job = await configurationJob(this.where);
    return await applyConfiguration({ ...job, ...more });
  }

  undo(run: string) {
    return undoConfiguration(this.where.stateDirectory, run, systemClock);
  }

  path(name: string): string {
    return join(this.postfix.configDirectory, name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.postfix.destroy();
  }
}

/** Every file below directories, as its type, mode, owner and content. */
export function everything(...directories: string[]): Map<string, string> {
  const found = new Map<string, string>();
  const walk = (path: string) => {
    const stat = lstatSync(path);
    const owner = `${(stat.mode & 0o7777).toString(8)} ${stat.uid}:${stat.gid}`;
    if (stat.isDirectory()) {
      found.set(path, `directory ${owner}`);
      for (const name of readdirSync(path)) walk(join(path, name));
    } else if (stat.isSymbolicLink()) found.set(path, `link ${readlinkSync(path)}`);
    else if (stat.isFile()) found.set(path, `file ${owner} ${readFileSync(path).toString("base64")}`);
    else found.set(path, `other ${owner}`);
  };
  for (const directory of directories) walk(directory);
  return found;
}

/** Which snapshot, and of which instance. */
export type Taken = Omit<Where, "configDirectory" | "root" | "stateDirectory">;

export async function backup(site: Site, postfix: PrivatePostfix): Promise<Taken> {
  const taken = await site.backup(postfix);
  const { writer, number, instances } = taken.snapshot;
  return { site: site.directory, snapshot: { id: taken.id, writer, number }, instance: instances[0]?.name ?? "" };
}

export async function standby(from: Taken, options: PostfixOptions = {}): Promise<Standby> {
  const main = { ...movable, myhostname: "mx2.target.test", ...options.main };
  return new Standby(await PrivatePostfix.create({ ...options, main }), from);
}

export function actionOf(plan: ConfigurationPlan, path: string): string | undefined {
  return plan.files.find((file) => file.path === path)?.action;
}
