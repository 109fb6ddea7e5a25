import { ago } from "../status/ago.ts";
import type { StatusProblem } from "../status/report.ts";
import { type RunbookName, runbookOf } from "../status/runbook-of.ts";
import type { Count, DiskState, InstanceFacts, LogSigns, Traffic, TriageFacts, TriageFinding } from "./report.ts";

/** What is more than usual. Shares are of the messages that were looked at. */
const limits = {
  diskShare: 0.9,
  notices: { share: 0.5, messages: 50, perMinute: 10 },
  login: { share: 0.3, messages: 100, handedIn: 100 },
  client: { share: 0.5, messages: 500, handedIn: 500 },
  deleted: 10,
} as const;

/** The cause before its consequences: a full disk delays mail, and a flood fills deferred. */
const order: readonly RunbookName[] = [
  "10-spool-disk-full",
  "02-queue-corruption",
  "03-mail-deleted",
  "13-spam-flood",
  "12-bounce-storm",
  "09-stuck-hold",
  "11-deferred-backlog",
  "14-failback",
  "05-identity-lost",
  "06-storage-unreachable",
];

/**
 * What is wrong, the cause first, with what was measured and the runbook to open.
 *
 * @param problems what `status` says of the same host
 * @param stored what the repository says of the hosts that are backed up to it; none where this is one of them
 */
export function judge(
  facts: TriageFacts,
  problems: readonly StatusProblem[],
  stored: readonly StatusProblem[] = [],
): { readonly findings: readonly TriageFinding[]; readonly open: readonly RunbookName[] } {
  const found = [
    ...facts.instances.flatMap((instance) => ofInstance(instance, facts)),
    ...facts.logs.flatMap((log) => ofLog(log, facts)),
    ...ofNothing(facts),
    ...ofKeys(facts),
    ...ofHolds(facts),
    ...problems.map((problem) => ofStatus(problem, facts)),
    ...stored.map(ofStored),
  ];
  const findings = found
    .map((finding, index) => ({ finding, rank: rankOf(finding.runbook), index }))
    .sort((a, b) => a.rank - b.rank || a.index - b.index)
    .map(({ finding }) => finding);
  return { findings, open: [...new Set(findings.flatMap(({ runbook }) => runbook ?? []))] };
}

/** What has no runbook stands behind the mail's own troubles and before those of backups. */
function rankOf(runbook: RunbookName | null): number {
  if (runbook === null) return order.indexOf("05-identity-lost") - 0.5;
  const rank = order.indexOf(runbook);
  return rank < 0 ? order.length : rank;
}

function ofInstance(instance: InstanceFacts, facts: TriageFacts): TriageFinding[] {
  return [
    ...down(instance, facts),
    ...full(instance, facts),
    ...damaged(instance),
    ...(instance.traffic === null ? [] : flood(instance.name, instance.traffic)),
    ...(instance.traffic === null ? [] : storm(instance.name, instance.traffic)),
  ];
}

function down({ name, enabled, running, state }: InstanceFacts, { backupExpected, lastBackup, logs }: TriageFacts) {
  const total = state?.total ?? 0;
  // A standby has a Postfix that is to be stopped, and an empty queue.
  if (running !== false || (total === 0 && !(backupExpected && enabled))) return [];
  const before = lastBackup?.messages ?? 0;
  const deleted = total === 0 && before > 0 && lastBackup !== null;
  const evidence = [
    `${total} messages are in its queue`,
    ...(lastBackup === null ? [] : [`${before} were in the backup of ${lastBackup.time}`]),
    ...logs.flatMap(({ signs }) => signs.fatal.lines.slice(-1)),
  ];
  const problem = `Postfix ${name} does not run${deleted ? ", and its queue is empty" : ""}`;
  const remedy = deleted
    ? "don't start it before you know where the mail is"
    : "postfix check says what is wrong, postfix start starts it; if this host can't serve mail any more: 01-primary-lost, on the standby";
  return [critical("postfix-down", name, problem, evidence, remedy, deleted ? "03-mail-deleted" : null)];
}

function full({ name, disk }: InstanceFacts, { logs }: TriageFacts): TriageFinding[] {
  if (disk === null) return [];
  const said = logs.flatMap(({ signs }) => signs.room.lines.slice(-1));
  const remedy = "see what takes the room: df -h, df -i, du -x";
  const measured = [diskText(disk), ...said];
  const { reserveBytes, freeBytes, usedShare, usedInodeShare, directory } = disk;
  const refuses = reserveBytes !== null && freeBytes < reserveBytes;
  if (refuses || usedShare >= limits.diskShare) {
    const why = refuses
      ? `Postfix wants ${reserveBytes} bytes free and refuses mail`
      : `${percent(usedShare)} are used`;
    const problem = `${directory} has ${freeBytes} bytes left: ${why}`;
    return [(refuses ? critical : warning)("disk", name, problem, measured, remedy, "10-spool-disk-full")];
  }
  if (usedInodeShare === null || usedInodeShare < limits.diskShare) return [];
  const problem = `${directory}: ${percent(usedInodeShare)} of the inodes are used`;
  return [warning("inodes", name, problem, measured, remedy, "10-spool-disk-full")];
}

function diskText({ freeBytes, totalBytes, usedShare, freeInodes, usedInodeShare }: DiskState): string {
  const inodes = freeInodes === null ? "" : `; ${freeInodes} inodes free (${percent(usedInodeShare ?? 0)} used)`;
  return `${freeBytes} of ${totalBytes} bytes free (${percent(usedShare)} used)${inodes}`;
}

function damaged({ name, corrupt, traffic, queueDirectory }: InstanceFacts): TriageFinding[] {
  const invisible = traffic?.invisible ?? [];
  return [
    ...(corrupt.length === 0
      ? []
      : [
          critical(
            "corrupt",
            name,
            `${corrupt.length} damaged messages are in ${queueDirectory}/corrupt`,
            [few(corrupt)],
            "the queue manager put them there and delivers none of them",
            "02-queue-corruption",
          ),
        ]),
    ...(invisible.length === 0
      ? []
      : [
          critical(
            "invisible",
            name,
            `${invisible.length} queue files don't have the mode 0700: Postfix neither lists nor delivers them`,
            [few(invisible)],
            "look at each with postcat before you give it its mode back",
            "02-queue-corruption",
          ),
        ]),
  ];
}

function flood(name: string, { looked, logins, clients, addresses }: Traffic): TriageFinding[] {
  const [login] = logins;
  const [client] = clients;
  const sender = addresses[0] === undefined ? [] : [`most frequent sender: ${countText(addresses[0])}`];
  if (isMuch(login, looked, limits.login)) {
    const problem = `${countText(login)} messages of ${looked} looked at were handed in by one login`;
    const evidence = [`logins: ${countsText(logins)}`, ...sender];
    return [
      critical(
        "login-flood",
        name,
        problem,
        evidence,
        "lock the account before you look for the reason",
        "13-spam-flood",
      ),
    ];
  }
  if (!isMuch(client, looked, limits.client)) return [];
  const problem = `${countText(client)} messages of ${looked} looked at were handed in by one client`;
  const evidence = [`clients: ${countsText(clients)}`, ...sender];
  return [warning("client-flood", name, problem, evidence, "is that host meant to send so much?", "13-spam-flood")];
}

function isMuch(
  top: Count | undefined,
  looked: number,
  limit: { readonly share: number; readonly messages: number },
): top is Count {
  return top !== undefined && top.count >= limit.messages && top.count >= limit.share * looked;
}

function storm(name: string, { looked, notices, destinations }: Traffic): TriageFinding[] {
  const { share, messages } = limits.notices;
  if (notices < messages || notices < share * looked) return [];
  const problem = `${notices} messages of ${looked} looked at are from MAILER-DAEMON (${percent(notices / looked)})`;
  const evidence = [`destinations: ${countsText(destinations)}`];
  return [
    critical(
      "bounce-storm",
      name,
      problem,
      evidence,
      "stop what makes them before you clear them away",
      "12-bounce-storm",
    ),
  ];
}

function ofLog(log: LogSigns, { instances, lastBackup }: TriageFacts): TriageFinding[] {
  const { signs, rates, deleted } = log;
  const enough = Math.max(limits.deleted, (lastBackup?.messages ?? 0) / 2);
  const perMinute = limits.notices.perMinute;
  return [
    ...said("log-room", log, "room", "the log says that there is no room for mail", "10-spool-disk-full"),
    ...said("log-corrupt", log, "corrupt", "the log speaks of damaged queue files", "02-queue-corruption"),
    ...said("log-milter", log, "milter", "a mail filter (milter) does not answer", "13-spam-flood"),
    ...said("log-throttled", log, "throttled", "a service of Postfix dies as soon as it is started", null),
    // Its panic or fatal error is the evidence there.
    ...(signs.throttled.count > 0 || instances.some(({ running }) => running === false)
      ? []
      : said("log-fatal", log, "fatal", "services of Postfix died", null)),
    ...(deleted < enough
      ? []
      : said(
          "log-deleted",
          log,
          "deleted",
          `${deleted} messages were deleted, which is fine if somebody meant it`,
          "03-mail-deleted",
        )),
    ...(rates.notices < perMinute || rates.notices < rates.received / 2
      ? []
      : [
          critical(
            "notice-rate",
            null,
            `${rates.notices} notices of failed delivery are made a minute, of ${rates.received} messages that come in`,
            [`${log.source}, the last ${ago(log.rateSeconds)}`],
            "stop what makes them before you clear them away",
            "12-bounce-storm",
          ),
        ]),
    ...rateOf(log),
  ];
}

function rateOf({ logins, clients, rateSeconds, source }: LogSigns): TriageFinding[] {
  const [login] = logins;
  const [client] = clients;
  const where = `${source}, the last ${ago(rateSeconds)}`;
  if (login !== undefined && login.count >= limits.login.handedIn) {
    const problem = `one login has handed in ${login.count} messages in ${ago(rateSeconds)}: ${login.name}`;
    const evidence = [`${where}: ${countsText(logins)}`];
    return [
      critical(
        "login-rate",
        null,
        problem,
        evidence,
        "lock the account before you look for the reason",
        "13-spam-flood",
      ),
    ];
  }
  if (client === undefined || client.count < limits.client.handedIn) return [];
  const problem = `one client has handed in ${client.count} messages in ${ago(rateSeconds)}: ${client.name}`;
  return [
    warning(
      "client-rate",
      null,
      problem,
      [`${where}: ${countsText(clients)}`],
      "is that host meant to send so much?",
      "13-spam-flood",
    ),
  ];
}

function said(
  name: string,
  log: LogSigns,
  which: keyof LogSigns["signs"],
  problem: string,
  runbook: RunbookName | null,
): TriageFinding[] {
  const { count, lines } = log.signs[which];
  if (count === 0) return [];
  const remedy = runbook === null ? "postfix check; the line before the first of these says why" : "see the lines";
  const evidence = [`${count} lines of ${log.source} in the last ${ago(log.windowSeconds)}`, ...lines];
  return [warning(name, null, problem, evidence, remedy, runbook)];
}

/** A host of which no queue could be looked at has not been found to be well. */
function ofNothing({ instances, unseen, backupExpected }: TriageFacts): TriageFinding[] {
  if (instances.some(({ state }) => state !== null) || unseen.length === 0 || !backupExpected) return [];
  const remedy = "look as root, or name its directory: MAIL_CONFIG=/etc/postfix spoolsafe triage";
  return [critical("no-instance", null, "no queue of Postfix could be looked at", unseen, remedy, null)];
}

/** Exit codes of a job: no repository there, and no identity that opens it. */
const noRepository = 10;
const noIdentity = 12;

function ofKeys({ identity, jobs, repository }: TriageFacts): TriageFinding[] {
  const refused = jobs
    .filter(({ lastExit }) => lastExit === noIdentity)
    .map(({ job }) => `the last ${job} ended with exit 12`);
  const evidence = [...(identity === null ? [] : [identity]), ...refused];
  return [
    ...(evidence.length === 0
      ? []
      : [
          critical(
            "identity",
            null,
            "the identity that opens backups can't be used",
            evidence,
            "change and delete nothing",
            "05-identity-lost",
          ),
        ]),
    ...(repository === null || repository.problem === null
      ? []
      : [
          critical(
            "repository-unreachable",
            null,
            `the repository ${repository.url} can't be reached: ${repository.problem}`,
            [],
            "mail is not affected; backups are",
            "06-storage-unreachable",
          ),
        ]),
  ];
}

function ofHolds({ holds }: TriageFacts): TriageFinding[] {
  return holds
    .filter(({ kind }) => kind === "fence")
    .map(({ instance, messages, run }) =>
      warning(
        "hold-fence",
        instance,
        `${messages} messages are on hold because another host has taken them over`,
        [`claim ${run}`],
        "spoolsafe holds take-over lists them; never release them by hand: the other host delivers them",
        "14-failback",
      ),
    );
}

/** What `status` says; where that leads to triage, this is it, so the cause is named as far as it is known. */
function ofStatus({ severity, name, problem, remedy }: StatusProblem, facts: TriageFacts): TriageFinding {
  const runbook = runbookOf(name);
  return {
    ...{ severity, name, instance: null, problem, remedy, evidence: [] },
    runbook: runbook === "00-triage" ? backupRunbook(facts) : runbook,
  };
}

/** A primary that makes no backups any more may be lost, and only the standby is left to say so. */
function ofStored({ severity, name, problem, remedy }: StatusProblem): TriageFinding {
  const silent = name === "backup-age";
  return {
    ...{ severity, name, instance: null, problem, evidence: [] },
    remedy: silent
      ? "is that host alive? If its mail goes and only its backups don't: spoolsafe triage, there"
      : remedy,
    runbook: silent ? "01-primary-lost" : runbookOf(name),
  };
}

function backupRunbook({ jobs, repository }: TriageFacts): RunbookName | null {
  const exit = jobs.find(({ job }) => job === "backup")?.lastExit;
  return exit === noRepository || (repository !== null && repository.problem !== null)
    ? "06-storage-unreachable"
    : null;
}

function critical(
  name: string,
  instance: string | null,
  problem: string,
  evidence: readonly string[],
  remedy: string,
  runbook: RunbookName | null,
): TriageFinding {
  return { severity: "critical", name, instance, problem, evidence, remedy, runbook };
}

function warning(...[name, instance, problem, evidence, remedy, runbook]: Parameters<typeof critical>): TriageFinding {
  return { severity: "warning", name, instance, problem, evidence, remedy, runbook };
}

function percent(share: number): string {
  return `${Math.floor(share * 100)}%`;
}

function countText({ name, count }: Count): string {
  return `${count} (${name})`;
}

/** `12 a@x.test, 3 b@x.test`; `none`. */
export function countsText(counts: readonly Count[]): string {
  return counts.map(({ name, count }) => `${count} ${name}`).join(", ") || "none";
}

const fewNames = 5;

function few(names: readonly string[]): string {
  const more = names.length > fewNames ? ` and ${names.length - fewNames} more` : "";
  return `${names.slice(0, fewNames).join(", ")}${more}`;
}
