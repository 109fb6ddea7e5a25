import { readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { errnoOf, OperatorError } from "../../errors.ts";
import { PackReader } from "../../pack/pack-pool.ts";
import { loadInstance, type PostfixInstance } from "../../postfix/instance.ts";
import type { Claiming } from "../../restore/claiming.ts";
import type { RestoreChoice, RestorePlan } from "../../restore/plan.ts";
import { approved, formatPlan, parsePlan, type StoredPlan, storedMail } from "../../restore/plan-file.ts";
import type { PlanRequest, Prepared } from "../../restore/prepare.ts";
import { planOnly, restoreInto } from "../../restore/restore.ts";
import { quoted } from "../../restore/resume.ts";
import { chooseInstance, type RestoreSource } from "../../restore/source.ts";
import { refuseWithoutRoom } from "../../restore/target.ts";
import { planDirectory, restoreToDirectory, type ToDirectoryReport } from "../../restore/to-directory.ts";
import { chooseSnapshot, requireInstance } from "../choose.ts";
import { claimsFor } from "../claims.ts";
import type { Context } from "../context.ts";
import { confirm } from "../prompt.ts";
import { printable, size } from "../table.ts";
import { version } from "../version.ts";
import { configurationToDirectory, type RestoredConfiguration, restoreConfiguration } from "./restore-configuration.ts";
import { checkOptions, choiceOf, type RestoreOptions } from "./restore-options.ts";
import { tellPlan } from "./restore-plan.ts";
import { tell, tellReport } from "./restore-report.ts";
import { counted } from "./restore-text.ts";

export type { RestoreOptions } from "./restore-options.ts";

/** Exit 3 when a message could not be placed, 13 when one was written and could not be proven. */
export async function run(context: Context, spec: string, options: RestoreOptions): Promise<number> {
  checkOptions(spec, options);
  if (options.to !== undefined) return await toDirectory(context, spec, options.to, options);
  return await into(context, spec, resolve(context.cwd, options.into ?? ""), options);
}

async function openSource(context: Context, spec: string): Promise<RestoreSource> {
  const identities = await context.identities();
  const repository = await context.openRepository();
  const signed = await chooseSnapshot(context, repository, spec);
  requireInstance(context, signed);
  return { repository, signed, identities, trusted: await context.trustedKeys() };
}

async function toDirectory(context: Context, spec: string, to: string, options: RestoreOptions): Promise<number> {
  const { signal, render } = context;
  const dryRun = options.dryRun === true;
  const source = await openSource(context, spec);
  const { instance } = context.globals;
  if (options.configOnly === true) return await configurationToDirectory(context, source, to, { instance, dryRun });
  const directory = resolve(context.cwd, to);
  const job = { source, directory, instance, signal };
  if (dryRun) {
    tellDirectory(context, await planDirectory(job), directory, "would be written");
    render.note("Dry run: nothing was written.");
    return 0;
  }
  const { processors } = context.config.limits;
  await using reader = new PackReader({ identities: source.identities, processors });
  const report = await restoreToDirectory({ ...job, reader, processors, report: (event) => tell(context, event) });
  tellDirectory(context, report, directory, "written");
  return 0;
}

function tellDirectory({ render }: Context, report: ToDirectoryReport, directory: string, done: string): void {
  const { messages, queues, files, logs, bytes, renamed, warnings } = report;
  for (const warning of warnings) render.warn(printable(warning));
  for (const { from, to } of renamed) render.warn(`${printable(from)} is named ${printable(to)}: its name was taken`);
  render.summary({
    ...{ run: null, directory, restored: messages, skipped: 0, stillQueued: 0, alreadyDelivered: 0, deleted: 0 },
    ...{ inDoubt: [], renamed, warnings, queues, logs, files, bytes },
  });
  const shares = Object.entries(queues).filter(([, count]) => count > 0);
  const list = shares.map(([queue, count]) => `${count} ${queue}`).join(", ");
  render.text(
    `${messages} messages${list === "" ? "" : ` (${list})`}, ${logs} logs and ${files} other files, ${size(bytes)}, ${done} below ${directory}`,
  );
}

async function into(context: Context, spec: string, configDirectory: string, options: RestoreOptions): Promise<number> {
  requireRoot();
  const source = await openSource(context, spec);
  const stored = options.apply === undefined ? undefined : readPlan(context, options.apply, source, configDirectory);
  const name = stored?.instance ?? chooseInstance(source.signed.snapshot, context.globals.instance);
  const choice = stored?.mail?.choice ?? choiceOf(name, options);
  const configuration =
    stored === undefined ? (options.withConfig ?? options.configOnly) : stored.configuration !== null;
  const mail = stored === undefined ? options.configOnly !== true : stored.mail !== null;
  const wants = { configuration: configuration === true, mail };
  const restoration = { context, source, configDirectory, choice, options, wants, stored };
  if (options.dryRun === true || options.plan !== undefined) return await showPlan(restoration);
  return await act(restoration);
}

/** One restore into an instance, as it was asked for. */
interface Restoration {
  readonly context: Context;
  readonly source: RestoreSource;
  readonly configDirectory: string;
  readonly choice: RestoreChoice;
  readonly options: RestoreOptions;
  readonly wants: { readonly configuration: boolean; readonly mail: boolean };
  /** The plan that is to be carried out, if somebody has signed one off. */
  readonly stored: StoredPlan | undefined;
}

function requireRoot(): void {
  if (process.getuid?.() === 0) return;
  throw new OperatorError("refused", "only root can write to a mail queue", {
    hints: ["run it as root", "or get plain files: spoolsafe restore SNAP --to DIR"],
  });
}

function readPlan(
  { render, cwd }: Context,
  file: string,
  { signed }: RestoreSource,
  configDirectory: string,
): StoredPlan {
  const { plan, digest } = parsePlan(textOf(resolve(cwd, file)), file);
  if (plan.spoolsafe !== version) {
    throw new OperatorError(
      "refused",
      `the plan ${file} was made by spoolsafe ${plan.spoolsafe}, and this is ${version}`,
      {
        hints: ["another version may mean something else by it: make it again with --plan, and have it signed off"],
      },
    );
  }
  const words = [plan.snapshot.slice(0, 12), "--into", plan.configDirectory, "--apply", file];
  const wrong = (what: string, is: string) =>
    new OperatorError("refused", `the plan ${file} is ${what}, not ${is}`, {
      hints: [`to carry out the plan: spoolsafe restore ${words.map(quoted).join(" ")}`],
    });
  if (plan.snapshot !== signed.id) {
    throw wrong(`of snapshot ${plan.snapshot.slice(0, 12)}`, `of ${signed.id.slice(0, 12)}`);
  }
  if (plan.configDirectory !== configDirectory) throw wrong(`for ${plan.configDirectory}`, `for ${configDirectory}`);
  render.note(`Plan ${digest.slice(0, 16)} of ${plan.time}.`);
  return plan;
}

function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new OperatorError("usage", `the plan ${path} can't be read: ${errnoOf(error) ?? error}`, {
      hints: ["write one: spoolsafe restore SNAP --into CONFIG_DIR --plan FILE"],
    });
  }
}

async function showPlan(restoration: Restoration): Promise<number> {
  const { context, source, configDirectory, choice, options, wants } = restoration;
  const { render } = context;
  const target = { name: choice.instance, configDirectory };
  const shown = wants.configuration ? await restoreConfiguration(context, source, target, { dryRun: true }) : undefined;
  const plan = wants.mail ? (await planOnly(await requestOf(restoration))).plan : undefined;
  const written = options.plan === undefined ? undefined : writePlan(restoration, options.plan, plan, shown?.key);
  const more = { ...(shown === undefined ? {} : { configuration: shown.summary }), ...written };
  if (plan === undefined) render.summary({ dryRun: true, run: null, ...nothing, ...more });
  else tellPlan(context, plan, more);
  if (written === undefined) {
    render.note("Dry run: nothing was touched.");
  } else {
    const words = [source.signed.id.slice(0, 12), "--into", configDirectory, "--apply", written.plan];
    const again = `spoolsafe restore ${words.map(quoted).join(" ")}`;
    render.text(`plan ${written.digest.slice(0, 16)} is in ${written.plan}\nto do exactly that: ${again}`);
  }
  return 0;
}

const nothing = {
  ...{ restored: 0, skipped: 0, stillQueued: 0, alreadyDelivered: 0, deleted: 0 },
  ...{ inDoubt: [], renamed: [], warnings: [] },
};

function writePlan(
  { context, source, choice, configDirectory }: Restoration,
  path: string,
  plan: RestorePlan | undefined,
  configuration: string | undefined,
): { plan: string; digest: string } {
  const file = resolve(context.cwd, path);
  const now = plan === undefined ? context.clock.now() : plan.target.now * 1000;
  const { text, digest } = formatPlan({
    ...{ spoolsafe: version, time: new Date(now).toISOString(), snapshot: source.signed.id, instance: choice.instance },
    ...{ configDirectory, configuration: configuration ?? null, mail: plan === undefined ? null : storedMail(plan) },
  });
  try {
    // It names senders and recipients. One that is there may be what somebody is about to sign off.
    writeFileSync(file, text, { mode: 0o600, flag: "wx" });
  } catch (error) {
    if (errnoOf(error) === "EEXIST") {
      throw new OperatorError("usage", `${file} is there already`, { hints: ["give the plan a name of its own"] });
    }
    throw new OperatorError("failed", `the plan ${file} can't be written: ${errnoOf(error) ?? error}`, {
      cause: error,
    });
  }
  return { plan: file, digest };
}

async function act(restoration: Restoration): Promise<number> {
  const { context, choice, wants } = restoration;
  // Before the configuration is touched: mail that can't be placed must not leave another configuration behind.
  const first = wants.mail && (wants.configuration || choice.route === "requeue");
  const prepared = first ? await refuseBeforehand(restoration) : undefined;
  if (choice.route === "requeue" && prepared !== undefined && !(await agreesToRequeue(context, prepared))) return 1;
  const configuration = wants.configuration ? await configure(restoration) : undefined;
  if (configuration !== undefined && (configuration.exit === 1 || !wants.mail)) {
    context.render.summary({ run: configuration.run, ...nothing, configuration: configuration.summary });
    return configuration.exit;
  }
  const exit = await placeMail(restoration, configuration);
  return exit === 0 ? (configuration?.exit ?? 0) : exit;
}

async function refuseBeforehand(restoration: Restoration): Promise<Prepared> {
  const { context, stored } = restoration;
  const prepared = await planOnly(await requestOf(restoration));
  const now = context.clock.now();
  const plan = stored?.mail == null ? prepared.plan : approved(stored.mail, prepared, { now, reconfigured: false });
  if (prepared.remains.unfinished === undefined) refuseWithoutRoom(plan);
  return { ...prepared, plan };
}

async function agreesToRequeue({ render, globals, signal }: Context, { plan, remains }: Prepared): Promise<boolean> {
  const { place } = plan;
  const { unfinished } = remains;
  if (unfinished === undefined && place.length === 0) return true;
  render.warn(
    "--requeue makes new mail of it: new ids and a new age, content filters and *_bcc_maps once more, one Received line more; " +
      "what is on hold or in doubt is left out; what pickup has taken can't be undone",
  );
  const recipients = place.reduce((sum, one) => sum + one.recipients.length, 0);
  const anew = `Send ${counted(place.length, "message")} to ${counted(recipients, "recipient")} as new mail?`;
  const question = unfinished === undefined ? anew : `Finish run ${unfinished.run}, which was interrupted?`;
  return await confirm(question, globals.yes === true, signal);
}

function configure({ context, source, configDirectory, choice, stored }: Restoration): Promise<RestoredConfiguration> {
  const target = { name: choice.instance, configDirectory };
  return restoreConfiguration(context, source, target, {
    dryRun: false,
    expectedKey: stored?.configuration ?? undefined,
  });
}

async function placeMail(restoration: Restoration, configuration: RestoredConfiguration | undefined): Promise<number> {
  const { context, source, stored } = restoration;
  const { processors } = context.config.limits;
  await using reader = new PackReader({ identities: source.identities, processors });
  const request = await requestOf(restoration);
  const mail = stored?.mail;
  const reconfigured = configuration !== undefined;
  const approve =
    mail && ((prepared: Prepared) => approved(mail, prepared, { now: context.clock.now(), reconfigured }));
  const claiming = await claimingOf(restoration, request.instance);
  const report = await restoreInto({ ...request, reader, processors, claiming, approve: approve ?? undefined });
  const more = configuration === undefined ? {} : { configuration: configuration.summary };
  const { queueDirectory } = request.instance;
  tellReport(context, report, { queueDirectory, host: source.signed.snapshot.host, next: nextOf(restoration) }, more);
  if (report.unproven.length > 0) return 13;
  if (report.notPlaced.length === 0)
    context.render.detail(`the journal of run ${report.run} is in ${context.stateDirectory}/runs`);
  return report.notPlaced.length > 0 ? 3 : 0;
}

function nextOf({ choice, configDirectory }: Restoration): string[] {
  return choice.route === "fresh" ? [`when all is as it should be: postfix -c ${quoted(configDirectory)} start`] : [];
}

/** Each time anew: a configuration that was restored may have changed the instance. */
async function requestOf({
  context,
  source,
  configDirectory,
  choice,
  options,
  stored,
}: Restoration): Promise<PlanRequest> {
  const { stateDirectory, clock, signal, cwd } = context;
  return {
    ...{ source, choice, stateDirectory, clock, signal },
    instance: await loadInstance(configDirectory),
    // What the logs proved is in a plan that was signed off.
    deliveredLog: stored === undefined ? options.deliveredLog?.map((file) => resolve(cwd, file)) : undefined,
    logZone: options.logZone,
    now: stored === undefined ? undefined : Date.parse(stored.time),
    report: (event) => tell(context, event),
  };
}

async function claimingOf(
  { context, source, choice, options }: Restoration,
  instance: PostfixInstance,
): Promise<Claiming | undefined> {
  if (options.withoutClaim === true) {
    context.render.warn(
      "no claim is made: be certain that nobody else restores this mail, and that its old host stays off",
    );
    return undefined;
  }
  const { snapshot, id } = source.signed;
  const { shard } = choice.selection;
  return await claimsFor(context, { host: snapshot.host, snapshot: id, into: instance, shard });
}
