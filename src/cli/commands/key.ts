import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { createIdentity, loadRecipients, parseRecipients } from "../../crypto/keys.ts";
import { fingerprintOfPem, loadSigningKey, loadTrustedKeys } from "../../crypto/sign.ts";
import { OperatorError } from "../../errors.ts";
import { readPart } from "../../pack/part.ts";
import { readableSnapshots } from "../choose.ts";
import type { Context } from "../context.ts";
import { createFile, identityText, replaceText, splitPems, textIfThere, withLine } from "../key-files.ts";
import { localTime } from "../table.ts";

export interface NewKeyOptions {
  readonly out?: string | undefined;
  readonly postQuantum?: true | undefined;
}

/** `spoolsafe key show`: every key this host has or believes; secrets are never printed. */
export async function show(context: Context): Promise<number> {
  const { render, config } = context;
  const { recipients_file: recipientsFile } = config.encryption;
  const recipients = existsSync(recipientsFile) ? loadRecipients(recipientsFile) : undefined;
  const signing = existsSync(config.signing.key_file) ? loadSigningKey(config.signing.key_file) : undefined;
  const trusted = loadTrustedKeys(config.signing.trusted_keys_file).fingerprints;
  const identities = (await context.identitiesIfAny())?.recipients;

  for (const recipient of recipients?.list ?? []) render.line({ type: "recipient", recipient, kind: recipients?.kind });
  if (signing !== undefined) {
    const { fingerprint, writer, publicPem } = signing;
    render.line({ type: "signing", fingerprint, writer, publicKey: publicPem });
  }
  for (const fingerprint of trusted) {
    render.line({ type: "trusted", fingerprint, own: fingerprint === signing?.fingerprint });
  }
  for (const recipient of identities ?? []) {
    render.line({ type: "identity", recipient, sealedTo: recipients?.list.includes(recipient) ?? false });
  }
  render.summary({
    recipients: recipients?.list.length ?? 0,
    signing: signing?.fingerprint ?? null,
    trusted: trusted.length,
    identities: identities?.length ?? 0,
  });
  render.text(
    [
      `age recipients (${recipientsFile}${recipients === undefined ? "" : `, ${recipients.kind}`})`,
      ...listed(recipients?.list),
      `signing key (${config.signing.key_file})`,
      ...listed(signing && [signing.fingerprint]),
      `trusted keys (${config.signing.trusted_keys_file})`,
      ...listed(trusted.map((each) => (each === signing?.fingerprint ? `${each} (this host's own)` : each))),
      `recipients of the identity (${config.encryption.identity_file ?? "no identity is configured"})`,
      ...listed(identities?.map((each) => (recipients?.list.includes(each) ? each : `${each} (not sealed to)`))),
    ].join("\n"),
  );
  return 0;
}

function listed(lines: readonly string[] | undefined): readonly string[] {
  return lines === undefined || lines.length === 0 ? ["  none"] : lines.map((line) => `  ${line}`);
}

/** `spoolsafe key new`: a new age identity, to a file or to standard output. */
export async function create(context: Context, options: NewKeyOptions): Promise<number> {
  const { render, clock, cwd } = context;
  const { identity, recipient } = await createIdentity(options.postQuantum === true);
  const text = identityText(identity, recipient, new Date(clock.now()));
  if (options.out === undefined) {
    render.summary({ recipient, identity, file: null });
    render.text(text.trimEnd());
    render.note(`age recipient: ${recipient}`);
  } else {
    const file = resolve(cwd, options.out);
    createFile(file, text, 0o600);
    render.summary({ recipient, file });
    render.text(recipient);
    render.note(`identity written to ${file}; keep it where the mail server can't reach it`);
  }
  render.note(`\`spoolsafe key add ${recipient}\` on the primary seals snapshots to it`);
  return 0;
}

/** `spoolsafe key test`: really opens the newest snapshot's first part. */
export async function test(context: Context): Promise<number> {
  const { render, signal, globals } = context;
  const identities = await context.identities();
  const repository = await context.openRepository();
  const { snapshots } = await readableSnapshots(context, repository);
  const newest = snapshots
    .filter(({ snapshot }) => globals.host === undefined || snapshot.host === globals.host)
    .reduce<(typeof snapshots)[number] | undefined>((best, each) => (isNewer(each, best) ? each : best), undefined);
  const part = newest?.snapshot.parts[0];
  if (newest === undefined || part === undefined) {
    throw new OperatorError("failed", "there is no snapshot to try the identity on", {
      hints: ["take one with `spoolsafe backup` on the primary"],
    });
  }
  await readPart(await repository.object("part", part.id, signal), identities);
  render.summary({ ok: true, snapshot: newest.id, host: newest.snapshot.host, time: newest.snapshot.time });
  render.text(
    `the identity opens ${newest.id.slice(0, 8)} of ${newest.snapshot.host}, ${localTime(new Date(newest.snapshot.time))}`,
  );
  return 0;
}

function isNewer(one: { snapshot: { time: string } }, other: { snapshot: { time: string } } | undefined): boolean {
  return other === undefined || Date.parse(one.snapshot.time) >= Date.parse(other.snapshot.time);
}

/** `spoolsafe key add`: an age recipient to seal to, or public keys to believe. */
export async function add(context: Context, what: string): Promise<number> {
  return isRecipient(what) ? addRecipient(context, what) : addTrusted(context, resolve(context.cwd, what));
}

/** `spoolsafe key remove`: the counterpart. */
export async function remove(context: Context, what: string): Promise<number> {
  return isRecipient(what) ? removeRecipient(context, what) : removeTrusted(context, what);
}

function isRecipient(what: string): boolean {
  return /^age1/.test(what) && !existsSync(what);
}

function addRecipient({ config, render }: Context, recipient: string): number {
  const file = config.encryption.recipients_file;
  parseRecipients(recipient, "the recipient");
  const before = textIfThere(file);
  if (lines(before).includes(recipient)) {
    render.summary({ added: [], file });
    render.text(`${file} has it already`);
    return 0;
  }
  const after = withLine(before, recipient);
  const { list } = parseRecipients(after, file);
  replaceText(file, after, 0o644);
  render.summary({ added: [recipient], file });
  render.text(`added to ${file}, now ${list.length} age recipients`);
  render.note(
    "this holds for packs of later backups; what is stored keeps the age recipients it has (the next backup stores everything anew, sealed to all of these)",
  );
  return 0;
}

function removeRecipient({ config, render }: Context, recipient: string): number {
  const file = config.encryption.recipients_file;
  const { list } = loadRecipients(file);
  if (!list.includes(recipient)) throw new OperatorError("usage", `${file} does not have this age recipient`, seeKeys);
  if (list.length === 1) {
    throw new OperatorError("refused", "this is the last age recipient: nothing could be sealed without one", {
      hints: ["add another first: `spoolsafe key add age1...`"],
    });
  }
  const kept = textIfThere(file)
    .split("\n")
    .filter((line) => line.trim() !== recipient);
  replaceText(file, kept.join("\n"), 0o644);
  render.summary({ removed: [recipient], file });
  render.text(`removed from ${file}, ${list.length - 1} age recipients left`);
  render.note(
    "this holds for packs of later backups; what is stored keeps the age recipients it has, and the removed one's identity still opens it (the next backup stores everything anew)",
  );
  return 0;
}

function lines(text: string): readonly string[] {
  return text.split("\n").map((line) => line.trim());
}

const seeKeys = { hints: ["`spoolsafe key show` lists them"] };

function addTrusted({ config, render }: Context, source: string): number {
  if (!existsSync(source)) {
    throw new OperatorError("usage", `${source} is neither an age recipient (age1...) nor a file with public keys`);
  }
  const file = config.signing.trusted_keys_file;
  const offered = loadTrustedKeys(source).fingerprints;
  if (offered.length === 0) throw new OperatorError("usage", `${source} holds no public key`);
  const known = loadTrustedKeys(file).fingerprints;
  const before = textIfThere(file);
  const fresh = splitPems(textIfThere(source)).pems.filter((pem) => !known.includes(fingerprintOfPem(pem)));
  const added = [...new Set(fresh.map(fingerprintOfPem))];
  if (fresh.length > 0)
    replaceText(
      file,
      fresh.reduce((text, pem) => withLine(text, pem.trimEnd()), before),
      0o644,
    );
  render.summary({ added, file });
  render.text(
    added.length === 0
      ? `${file} has them already`
      : `added to ${file}:\n${added.map((each) => `  ${each}`).join("\n")}`,
  );
  if (added.length > 0)
    render.note("compare the fingerprint with what `spoolsafe key show` says on the host it belongs to");
  return 0;
}

/** @param what a file with public keys, or the beginning of a fingerprint (8 digits or more) */
function removeTrusted({ config, render, cwd }: Context, what: string): number {
  const file = config.signing.trusted_keys_file;
  const known = loadTrustedKeys(file).fingerprints;
  const source = resolve(cwd, what);
  const meant = existsSync(source)
    ? loadTrustedKeys(source).fingerprints
    : known.filter((each) => /^[0-9a-f]{8,64}$/.test(what) && each.startsWith(what));
  const removed = known.filter((each) => meant.includes(each));
  if (removed.length === 0) throw new OperatorError("usage", `${file} does not have this key`, seeKeys);
  if (!existsSync(source) && removed.length > 1) {
    throw new OperatorError("usage", `${what} is the beginning of several fingerprints`, seeKeys);
  }
  const { pattern } = splitPems("");
  const kept = textIfThere(file).replace(pattern, (pem) => (removed.includes(fingerprintOfPem(pem)) ? "" : pem));
  replaceText(file, kept, 0o644);
  render.summary({ removed, file });
  render.text(`removed from ${file}:\n${removed.map((each) => `  ${each}`).join("\n")}`);
  render.note("its snapshots stay where they are; from now on they count as signed by a stranger");
  return 0;
}
