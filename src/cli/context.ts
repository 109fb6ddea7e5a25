import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { type ConfigSources, configFile, loadConfig, parseConfig } from "../config/load.ts";
import type { Config } from "../config/schema.ts";
import type { AgeIdentities, AgeRecipients } from "../crypto/keys.ts";
import type { SigningKey, TrustedKeys } from "../crypto/sign.ts";
import { OperatorError } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import type { ObjectStore } from "../repository/object-store.ts";
import type { Repository } from "../repository/repository.ts";
import type { StoreSettings } from "../repository/store-url.ts";
import { type Clock, systemClock } from "../system/clock.ts";
import type { GlobalOptions } from "./globals.ts";
import type { Render } from "./render.ts";

export interface ContextSources {
  readonly globals: GlobalOptions;
  readonly render: Render;
  readonly env: ConfigSources["env"];
  readonly cwd: string;
  readonly signal: AbortSignal;
}

export function createContext(sources: ContextSources): Context {
  return new Context(sources);
}

/**
 * The real things a command works with, made from the configuration when they are first asked for, each once. Modules
 * are imported then, too: listing snapshots of a directory need not load what S3 needs.
 */
export class Context implements AsyncDisposable {
  readonly globals: GlobalOptions;
  readonly render: Render;
  /** Aborts at SIGINT and SIGTERM; its reason is the error to end with. */
  readonly signal: AbortSignal;
  readonly clock: Clock = systemClock;
  /** Absolute path of the configuration file, there or not. */
  readonly configFile: string;
  readonly cwd: string;
  readonly #configSources: ConfigSources;
  #config: Config | undefined;
  #store: ObjectStore | undefined;
  #repository: Promise<Repository> | undefined;
  #instances: Promise<PostfixInstance[]> | undefined;

  constructor({ globals, render, env, cwd, signal }: ContextSources) {
    this.globals = globals;
    this.render = render;
    this.signal = signal;
    this.cwd = cwd;
    this.#configSources = { flags: globals, env, cwd };
    this.configFile = configFile(this.#configSources).path;
  }

  /** @throws ConfigFault with everything that is wrong in file, environment and flags */
  get config(): Config {
    this.#config ??= loadConfig(this.#configSources);
    return this.#config;
  }

  /**
   * Go by this text where there is no configuration file yet.
   *
   * @returns the text, or that of the file if there is one
   */
  assumeConfig(text: string): string {
    if (existsSync(this.configFile)) return readFileSync(this.configFile, "utf8");
    this.#config = parseConfig(text, this.configFile, this.#configSources);
    return text;
  }

  /** The repository that flag or environment name, whatever the file says. */
  get repositoryUrl(): string | undefined {
    return this.globals.repository ?? (this.#configSources.env.SPOOLSAFE_REPOSITORY || undefined);
  }

  /** The Postfix instance that the environment names. */
  get mailConfig(): string | undefined {
    return this.#configSources.env.MAIL_CONFIG || undefined;
  }

  /** All of our environment: for programs that are started on behalf of whoever started us. */
  get environment(): ConfigSources["env"] {
    return this.#configSources.env;
  }

  /** The time on the schedule that the daemon started this command for, RFC 3339 in UTC; null when it did not. */
  get scheduledFor(): string | null {
    return this.#configSources.env.SPOOLSAFE_DUE || null;
  }

  get stateDirectory(): string {
    return this.config.state_directory;
  }

  /** The store of the configured repository, opened or not. @throws OperatorError `config` when none is configured */
  async store(): Promise<ObjectStore> {
    if (this.#store === undefined) {
      const { url } = this.config.repository;
      if (url === undefined) throw noRepositoryConfigured(this.configFile);
      const { openStore } = await import("../repository/store-url.ts");
      this.#store ??= openStore(storeSettings({ ...this.config.repository, url }));
    }
    return this.#store;
  }

  /** @throws OperatorError `no-repository` when there is none at the configured place */
  openRepository(): Promise<Repository> {
    this.#repository ??= (async () => {
      const { Repository } = await import("../repository/repository.ts");
      return await Repository.open(await this.store(), this.signal, { cacheDirectory: this.#cacheDirectory });
    })();
    return this.#repository;
  }

  get #cacheDirectory(): string {
    return join(this.stateDirectory, "cache");
  }

  async recipients(): Promise<AgeRecipients> {
    const { loadRecipients } = await import("../crypto/keys.ts");
    return loadRecipients(this.config.encryption.recipients_file);
  }

  /** @throws OperatorError `no-identity` when none is configured */
  async identities(): Promise<AgeIdentities> {
    const found = await this.identitiesIfAny();
    if (found !== undefined) return found;
    throw new OperatorError("no-identity", "this needs an age identity, and none is configured", {
      hints: [
        "name it with --identity-file FILE or SPOOLSAFE_IDENTITY_FILE",
        `or as encryption.identity_file in ${this.configFile}, on a host where backups are read (not on the primary)`,
      ],
    });
  }

  /** Undefined where no identity is configured; a configured one that can't be used is an error. */
  async identitiesIfAny(): Promise<AgeIdentities | undefined> {
    const file = this.config.encryption.identity_file;
    if (file === undefined) return undefined;
    const { loadIdentities } = await import("../crypto/keys.ts");
    return loadIdentities(file);
  }

  async signingKey(): Promise<SigningKey> {
    const { loadSigningKey } = await import("../crypto/sign.ts");
    return loadSigningKey(this.config.signing.key_file);
  }

  async trustedKeys(): Promise<TrustedKeys> {
    const { loadTrustedKeys } = await import("../crypto/sign.ts");
    return loadTrustedKeys(this.config.signing.trusted_keys_file);
  }

  /** Every Postfix instance that is configured, or else known to postmulti. */
  instances(): Promise<PostfixInstance[]> {
    this.#instances ??= (async () => {
      const { discoverInstances } = await import("../postfix/instance.ts");
      return await discoverInstances(this.config.postfix.config_directories);
    })();
    return this.#instances;
  }

  /** The name of this host in snapshots: the flag, the configuration, or myhostname of the first instance. */
  async host(): Promise<string> {
    const named = this.globals.host ?? this.config.host;
    if (named !== undefined) return named;
    const [first] = await this.instances();
    return first?.host ?? hostname();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#store?.close();
  }
}

/** What a table of the configuration says of a store, as the store takes it. */
export function storeSettings(table: Config["repository"] & { readonly url: string }): StoreSettings {
  const { url, endpoint, region, path_style, credentials_file, object_lock_days } = table;
  return {
    url,
    endpoint,
    region,
    pathStyle: path_style,
    credentialsFile: credentials_file,
    lockDays: object_lock_days,
  };
}

function noRepositoryConfigured(file: string): OperatorError {
  return new OperatorError("config", "no repository is configured", {
    hints: [
      `set repository.url in ${file}, or give --repository URL`,
      "`spoolsafe init --repository URL` makes a repository and a configuration that names it",
    ],
  });
}
