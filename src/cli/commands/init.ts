import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { defaultConfigFile } from "../../config/load.ts";
import { type ConfigValues, configText } from "../../config/template.ts";
import { createIdentity, loadIdentities, parseRecipients } from "../../crypto/keys.ts";
import { createSigningKey, loadSigningKey, loadTrustedKeys } from "../../crypto/sign.ts";
import { OperatorError } from "../../errors.ts";
import { Repository } from "../../repository/repository.ts";
import { makePrivateDirectory } from "../../system/files.ts";
import type { Context } from "../context.ts";
import { createFile, identityText, replaceText, textIfThere, withLine } from "../key-files.ts";

export interface InitOptions {
  readonly role: "primary" | "standby";
  readonly recipient?: readonly string[] | undefined;
  readonly identityOut?: string | undefined;
  readonly postQuantum?: true | undefined;
}

/**
 * `spoolsafe init`: repository, keys, configuration. Makes what is missing and replaces nothing, so that it can be run
 * again after a failure; the repository comes first, because it is what fails most.
 */
export async function run(context: Context, options: InitOptions): Promise<number> {
  const { render, clock } = context;
  const text = context.assumeConfig(initialConfig(context, options));
  const { encryption, signing, state_directory: stateDirectory } = context.config;
  const identityOut = options.identityOut && resolve(context.cwd, options.identityOut);
  checkRequest(options, identityOut, encryption.recipients_file);
  const done = new Account(context);

  const store = await context.store();
  const repository = await Repository.open(store, context.signal).catch(ifMissing);
  const { id } = repository ?? (await Repository.create(store, context.signal));
  done.tell(repository === undefined, "repository", store.url);

  for (const file of [context.configFile, encryption.recipients_file, signing.key_file, signing.trusted_keys_file]) {
    makePrivateDirectory(dirname(file));
  }
  done.tell(!existsSync(stateDirectory), "state directory", stateDirectory);
  makePrivateDirectory(stateDirectory);
  const recipients = await makeRecipients(
    options,
    identityOut,
    encryption.recipients_file,
    new Date(clock.now()),
    done,
  );
  const fingerprint = makeSigningKey(signing.key_file, signing.trusted_keys_file, done);
  done.make("configuration", context.configFile, text, 0o644);

  render.summary({ repository: id, recipients, signingKey: fingerprint, made: done.made, left: done.left });
  giveAdvice(context, options, identityOut);
  return 0;
}

function ifMissing(error: unknown): undefined {
  if (error instanceof OperatorError && error.kind === "no-repository") return undefined;
  throw error;
}

/** Says what was made and what was there already. */
class Account {
  readonly made: string[] = [];
  readonly left: string[] = [];
  readonly #context: Context;

  constructor(context: Context) {
    this.#context = context;
  }

  tell(made: boolean, what: string, where: string): void {
    (made ? this.made : this.left).push(where);
    this.#context.render.line({ type: made ? "made" : "left", what, where });
    this.#context.render.text(`${made ? "made" : "left"}  ${what.padEnd(15)}  ${where}`);
  }

  /** Write a file unless it is there. */
  make(what: string, path: string, text: string, mode: number): boolean {
    const missing = !existsSync(path);
    if (missing) createFile(path, text, mode);
    this.tell(missing, what, path);
    return missing;
  }
}

/** The configuration this host gets if it has none: keys beside it, so that a trial can live in a directory of its own. */
function initialConfig(context: Context, options: InitOptions): string {
  const { globals, configFile, cwd } = context;
  const beside = (name: string) => join(dirname(configFile), name);
  const postfix = context.mailConfig;
  const identity = options.identityOut ?? globals.identityFile;
  const standby = options.role === "standby";
  const values: ConfigValues = {
    ...(globals.host === undefined ? {} : { host: globals.host }),
    state_directory: configFile === defaultConfigFile ? "/var/lib/spoolsafe" : beside("state"),
    ...(context.repositoryUrl === undefined ? {} : { "repository.url": context.repositoryUrl }),
    "encryption.recipients_file": beside("recipients.txt"),
    ...(standby ? { "encryption.identity_file": identity ? resolve(cwd, identity) : beside("identity.txt") } : {}),
    "signing.key_file": beside("signing.key"),
    "signing.trusted_keys_file": beside("trusted.pub"),
    ...(postfix === undefined ? {} : { "postfix.config_directories": [postfix] }),
    ...(standby
      ? { "schedule.verify": "30 4 * * 0", "schedule.drill": "0 5 1 * *", "schedule.prune": "0 6 * * *" }
      : { "schedule.backup": "0 2 * * *", "schedule.verify": "30 4 * * 0" }),
  };
  return configText(values, [
    `Spoolsafe on a ${options.role}. Every option is here; what has a # in front has the value shown,`,
    "or none where it says example. An empty string means: not set.",
  ]);
}

/** What would fail halfway is found before anything is made. */
function checkRequest(options: InitOptions, identityOut: string | undefined, recipientsFile: string): void {
  const there = existsSync(recipientsFile);
  if (options.recipient !== undefined) parseRecipients(options.recipient.join("\n"), "--recipient");
  if (options.postQuantum && identityOut === undefined) {
    throw new OperatorError("usage", "--post-quantum is about the identity that --identity-out makes");
  }
  if (!there && options.recipient === undefined && identityOut === undefined) {
    throw new OperatorError("usage", "init needs --recipient or --identity-out: something to seal snapshots to", {
      hints: [
        "--recipient age1...: the public half of an identity that is kept elsewhere (make one with `spoolsafe key new` there)",
        "--identity-out FILE: make an identity now, and take FILE away from this host afterwards",
      ],
    });
  }
  if (there && identityOut !== undefined && !existsSync(identityOut)) {
    throw new OperatorError("refused", `${recipientsFile} is there already, so a new identity would open nothing`, {
      hints: ["`spoolsafe key new --out FILE` makes an identity, `spoolsafe key add age1...` adds its recipient"],
    });
  }
}

/** @returns the age recipients snapshots will be sealed to */
async function makeRecipients(
  options: InitOptions,
  identityOut: string | undefined,
  file: string,
  now: Date,
  done: Account,
): Promise<readonly string[]> {
  const wanted = [...(options.recipient ?? [])];
  if (identityOut !== undefined)
    wanted.push(...(await makeIdentity(identityOut, options.postQuantum === true, now, done)));
  const text = [
    "# Age recipients: whoever has the identity of one of them can open the snapshots.",
    ...wanted,
    "",
  ].join("\n");
  const made = done.make("age recipients", file, text, 0o644);
  const { list } = parseRecipients(textIfThere(file), file);
  const absent = wanted.filter((each) => !list.includes(each));
  if (!made && absent.length > 0) {
    throw new OperatorError("refused", `${file} was there already and does not have ${absent.join(", ")}`, {
      hints: ["`spoolsafe key add age1...` adds an age recipient; everything else is made"],
    });
  }
  return list;
}

async function makeIdentity(file: string, postQuantum: boolean, now: Date, done: Account): Promise<readonly string[]> {
  if (existsSync(file)) {
    done.tell(false, "identity", file);
    return (await loadIdentities(file)).recipients;
  }
  const { identity, recipient } = await createIdentity(postQuantum);
  makePrivateDirectory(dirname(file));
  done.make("identity", file, identityText(identity, recipient, now), 0o600);
  return [recipient];
}

/** This host's own key, and that this host believes it. @returns its fingerprint */
function makeSigningKey(keyFile: string, trustedFile: string, done: Account): string {
  if (existsSync(keyFile)) done.tell(false, "signing key", keyFile);
  else done.make("signing key", keyFile, createSigningKey().privatePem, 0o600);
  const { fingerprint, publicPem } = loadSigningKey(keyFile);
  const trusted = existsSync(trustedFile) && loadTrustedKeys(trustedFile).fingerprints.includes(fingerprint);
  if (!trusted) replaceText(trustedFile, withLine(textIfThere(trustedFile), publicPem.trimEnd()), 0o644);
  done.tell(!trusted, "trusted keys", trustedFile);
  return fingerprint;
}

function giveAdvice(
  { render, config, configFile }: Context,
  options: InitOptions,
  identityOut: string | undefined,
): void {
  const named = configFile === defaultConfigFile ? "" : ` --config ${configFile}`;
  if (options.role === "primary") {
    if (identityOut !== undefined) {
      render.warn(
        [
          `${identityOut} opens every snapshot, and this host does not need it.`,
          "  Store it elsewhere, in two places, before anything depends on it, and remove it from here:",
          "  without it no snapshot can ever be opened; with it, whoever breaks in here reads them all.",
        ].join("\n"),
      );
    } else {
      render.warn(
        "the identity of the age recipient must be stored elsewhere, in two places: without it no snapshot can be opened",
      );
    }
    render.note(`next: \`spoolsafe doctor${named}\`, then \`spoolsafe backup${named}\``);
    return;
  }
  if (config.encryption.identity_file !== undefined && !existsSync(config.encryption.identity_file)) {
    render.note(`the identity belongs in ${config.encryption.identity_file}, mode 0600`);
  }
  render.note(
    `next: \`spoolsafe key add FILE${named}\` with the primary's ${config.signing.trusted_keys_file.split("/").at(-1)}, then \`spoolsafe key test${named}\``,
  );
}
