import { Argument, Command, InvalidArgumentError, Option } from "@commander-js/extra-typings";
import { messageQueues } from "../postfix/queue.ts";
import { drillScenarios } from "../snapshot/drill.ts";
import type { Context } from "./context.ts";
import type { GlobalOptions } from "./globals.ts";
import { version } from "./version.ts";

/*
 * The command table. A command is one entry here (name, flags, help, examples) and one module in commands/ that exports
 *
 *     export interface XOptions { readonly flag?: true | undefined; ... }      what the flags of its entry give
 *     export async function run(context: Context, ...arguments, options: XOptions): Promise<number>
 *
 * The number is the exit code: 0 done, 1 the answer is no, 3 done but incomplete. Every other end is a thrown
 * OperatorError. A module is imported when its command runs and not before, so that --help and --version are quick.
 * What it needs of the world (configuration, repository, keys, signal, output) comes from the context.
 */

/** Makes the context for a command and does its work; how is main's business. */
export type Perform = (globals: GlobalOptions, work: (context: Context) => Promise<number>) => Promise<void>;

/** Errors of parsing are thrown as CommanderError and printed by nobody here. */
export function buildProgram(perform: Perform) {
  const program = new Command("spoolsafe")
    .description("Backup and disaster recovery for Postfix mail queues.")
    .version(`spoolsafe ${version}`, "-V, --version", "show the version")
    .exitOverride()
    .configureOutput({ outputError: () => {} })
    .configureHelp({ showGlobalOptions: true, sortOptions: false })
    .helpOption("-h, --help", "show help")
    .option("--config <file>", "configuration (default: /etc/spoolsafe/spoolsafe.toml)")
    .option("--repository <url>", "file:///directory or s3://bucket/prefix")
    .option("--host <name>", "the host whose snapshots are meant")
    .option("--instance <name>", "the Postfix instance, where a snapshot has several")
    .option("--identity-file <file>", "age identities that open snapshots")
    .option("--json", "answer in JSON lines on standard output")
    .option("--quiet", "no news on standard error")
    .option("--verbose", "more news, and the stack of an unexpected error")
    .option("--yes", "answer every question with yes")
    .addHelpText(
      "after",
      "\nExit codes: 0 done, 1 failed or the answer is no, 2 usage or configuration, 3 incomplete, 10 no repository,\n" +
        "11 locked, 12 no identity opens this, 13 verification failed, 130 interrupted.",
    );
  const start = (work: (context: Context) => Promise<number>) => perform(program.opts(), work);

  program.commandsGroup("Set up:");
  program
    .command("init")
    .description("Make repository, keys and configuration: makes what is missing, replaces nothing.")
    .addOption(
      new Option("--role <role>", "what this host is for")
        .choices(["primary", "standby"] as const)
        .default("primary" as const),
    )
    .addOption(new Option("--recipient <age1...>", "seal to this age recipient").argParser(collect))
    .addOption(
      new Option("--identity-out <file>", "make an age identity and write it to this file").conflicts("recipient"),
    )
    .option("--post-quantum", "with --identity-out: a post-quantum identity (age 1.3 or newer reads it)")
    .addHelpText(
      "after",
      examples(
        "spoolsafe init --repository file:///var/backups/spoolsafe --recipient age1...",
        "spoolsafe init --repository s3://bucket/mx1 --identity-out /media/usb/spoolsafe-identity.txt",
        "spoolsafe init --role standby --repository s3://bucket/mx1 --identity-out /etc/spoolsafe/identity.txt",
      ),
    )
    .action((options) => start(async (context) => (await import("./commands/init.ts")).run(context, options)));
  program
    .command("doctor")
    .description("Is this host ready? Shows every finding with its remedy; exit 1 if not.")
    .addOption(
      new Option("--role <role>", "judge as this role")
        .choices(["primary", "standby"] as const)
        .default("primary" as const),
    )
    .option("--probe", "also write, read and remove a small object in the repository")
    .option("--probe-port25 <host>", "also see whether a mail server, host[:port], answers this host")
    .addHelpText(
      "after",
      examples(
        "spoolsafe doctor",
        "spoolsafe doctor --role standby --json",
        "spoolsafe doctor --role standby --probe --probe-port25 mx.example.net",
      ),
    )
    .action((options) => start(async (context) => (await import("./commands/doctor.ts")).run(context, options)));
  const key = program
    .command("key")
    .description("Age recipients and identities, the signing key, the keys this host believes.")
    .addHelpText(
      "after",
      examples(
        "spoolsafe key show",
        "spoolsafe key new --out /media/usb/identity.txt",
        "spoolsafe key test --identity-file /media/usb/identity.txt",
        "spoolsafe key add age1...",
        "spoolsafe key add mx1-trusted.pub",
      ),
    );
  key
    .command("show")
    .description("Show age recipients, signing key, trusted keys, and what a configured identity opens.")
    .action(() => start(async (context) => (await import("./commands/key.ts")).show(context)));
  key
    .command("new")
    .description("Make an age identity; its recipient is printed.")
    .option("--out <file>", "write the identity here (mode 0600) and not to standard output")
    .option("--post-quantum", "a post-quantum identity (age 1.3 or newer reads it)")
    .action((options) => start(async (context) => (await import("./commands/key.ts")).create(context, options)));
  key
    .command("test")
    .description("Does this identity open the newest snapshot? Exit 12 if not.")
    .action(() => start(async (context) => (await import("./commands/key.ts")).test(context)));
  key
    .command("add")
    .description("Add an age recipient, or the public signing keys in a PEM file.")
    .argument("<recipient-or-file>", "age1..., or a file with public keys in PEM")
    .action((what) => start(async (context) => (await import("./commands/key.ts")).add(context, what)));
  key
    .command("remove")
    .description("Remove an age recipient, or a trusted public key.")
    .argument("<recipient-or-key>", "age1..., a PEM file, or the beginning of a fingerprint")
    .action((what) => start(async (context) => (await import("./commands/key.ts")).remove(context, what)));

  program.commandsGroup("Protect:");
  program
    .command("backup")
    .description("Take a snapshot of every queue, with its configuration.")
    .addOption(
      new Option("--mode <mode>", "how a running instance is captured").choices(["hold", "freeze", "live"] as const),
    )
    .addOption(new Option("--tag <tag>", "a word to keep with the snapshot; may be given again").argParser(collect))
    .option("--dry-run", "say what would be done, touch nothing")
    .addHelpText("after", examples("spoolsafe backup", "spoolsafe backup --mode freeze --tag before-move"))
    .action((options) => start(async (context) => (await import("./commands/backup.ts")).run(context, options)));
  const schedule = program
    .command("schedule")
    .description("Run the jobs of [schedule] when they are due.")
    .addHelpText("after", examples("spoolsafe schedule next", "spoolsafe schedule run", "spoolsafe schedule install"));
  schedule
    .command("run")
    .description("Run them, until SIGTERM; what was missed while it was not running is made up once.")
    .action(() => start(async (context) => (await import("./commands/schedule-run.ts")).run(context)));
  schedule
    .command("next")
    .description("Show what is due when, in the schedule's time zone.")
    .action(() => start(async (context) => (await import("./commands/schedule-next.ts")).run(context)));
  schedule
    .command("install")
    .description("Write systemd units: the schedule, and for the boot of a mail server. Replaces nothing but its own.")
    .option("--timers", "a timer for each job, and no daemon")
    .option("--directory <dir>", "where units go (default: /etc/systemd/system)")
    .addHelpText("after", examples("spoolsafe schedule install", "spoolsafe schedule install --timers"))
    .action((options) =>
      start(async (context) => (await import("./commands/schedule-install.ts")).run(context, options)),
    );
  program
    .command("prune")
    .description("Remove snapshots that retention does not keep, and what nothing needs any more. Needs no identity.")
    .option("--dry-run", "show why each snapshot stays or goes, touch nothing")
    .addHelpText(
      "after",
      examples("spoolsafe prune --dry-run", "spoolsafe prune", "spoolsafe prune --host mx1.example.org --dry-run"),
    )
    .action((options) => start(async (context) => (await import("./commands/prune.ts")).run(context, options)));
  program
    .command("copy")
    .description(
      "Copy snapshots to further repositories: what is missing there, verified on arrival. Needs no identity.",
    )
    .argument("[snap]", `${snapHelp}, with those before it; default: all`)
    .option("--all", "every snapshot, as without a snapshot")
    .option("--to <url>", "file:///directory or s3://bucket/prefix; default: every [[copy]] of the configuration")
    .addHelpText(
      "after",
      examples(
        "spoolsafe copy",
        "spoolsafe copy --to file:///media/usb/spoolsafe",
        "spoolsafe copy latest --to s3://other/mx1",
      ),
    )
    .action((snap, options) =>
      start(async (context) => (await import("./commands/copy.ts")).run(context, snap, options)),
    );

  program.commandsGroup("Look:");
  program
    .command("snapshots")
    .description("List snapshots, oldest first. Needs no identity.")
    .addHelpText("after", examples("spoolsafe snapshots", "spoolsafe snapshots --host mx1.example.org --json"))
    .action(() => start(async (context) => (await import("./commands/snapshots.ts")).run(context)));
  program
    .command("ls")
    .description("List the messages of a snapshot. Needs an identity.")
    .argument("<snap>", snapHelp)
    .addHelpText("after", examples("spoolsafe ls latest", "spoolsafe ls @2026-11-24T03:00 --json"))
    .action((snap) => start(async (context) => (await import("./commands/ls.ts")).run(context, snap)));
  program
    .command("show")
    .description("Show one message of a snapshot: envelope, recipients, logs. Needs an identity.")
    .argument("<snap>", snapHelp)
    .argument("<queue-id>")
    .option("--eml", "the text of the message as it is, and nothing else")
    .addHelpText(
      "after",
      examples("spoolsafe show latest 4Z5j73J8pzBvYj", "spoolsafe show latest 7E48C16210F --eml > 7E48C16210F.eml"),
    )
    .action((snap, id, options) =>
      start(async (context) => (await import("./commands/show.ts")).run(context, snap, id, options)),
    );

  program
    .command("find")
    .description("Find messages in a snapshot, or in all: in which are they? Needs an identity.")
    .argument("<snap-or-condition...>", `a snapshot (not with --all), then KEY=VALUE...: all must match`)
    .option("--all", "look through every snapshot; says in which a message is first and last")
    .addHelpText(
      "after",
      "\nKeys: queue, sender, recipient, domain, id, message-id (lists with commas, * for anything), older-than,\n" +
        "newer-than (2d, 26h, 30m), larger-than, smaller-than (bytes).\n" +
        examples(
          "spoolsafe find latest sender=*@a.test older-than=2d",
          "spoolsafe find @2026-11-24T03:00 domain=b.test,c.test queue=deferred,hold",
          "spoolsafe find --all message-id=20261124.1@a.test",
        ),
    )
    .action((words, options) =>
      start(async (context) => (await import("./commands/find.ts")).run(context, words, options)),
    );
  program
    .command("diff")
    .description("What is different in snapshot B: messages, and names of configuration files. Needs an identity.")
    .argument("<snap-a>", snapHelp)
    .argument("<snap-b>", "the one to compare with it; of another host by its id")
    .addHelpText("after", examples("spoolsafe diff latest~1 latest", "spoolsafe diff @2026-11-24T03:00 latest --json"))
    .action((a, b) => start(async (context) => (await import("./commands/diff.ts")).run(context, a, b)));
  program
    .command("qshape")
    .description("Domains by age when the snapshot was taken, as Postfix's qshape prints them. Needs an identity.")
    .argument("<snap>", snapHelp)
    .addArgument(new Argument("[queue...]", "default: incoming and active").choices(messageQueues))
    .option("-s, --senders", "messages by the domain of their sender, not recipients by theirs")
    .addOption(new Option("-b, --buckets <n>", "columns of age; default: 10").argParser(count))
    .addOption(new Option("-t, --bucket-time <minutes>", "limit of the first column; default: 5").argParser(count))
    .option("-l, --linear", "columns of equal width, not each twice the one before")
    .addHelpText("after", examples("spoolsafe qshape latest", "spoolsafe qshape latest deferred hold -s -b 8"))
    .action((snap, queues, options) =>
      start(async (context) => (await import("./commands/qshape.ts")).run(context, snap, queues, options)),
    );
  program
    .command("stats")
    .description("Snapshots, messages, bytes and growth, per host and in total. Needs no identity.")
    .addHelpText("after", examples("spoolsafe stats", "spoolsafe stats --host mx1.example.org --json"))
    .action(() => start(async (context) => (await import("./commands/stats.ts")).run(context)));

  program
    .command("status")
    .description("Is everything well? Ages of backup, verify and drill, our holds, the queues. Exit 1 with problems.")
    .argument("[word]", "with --format munin, what the plugin was called with: autoconf, config, fetch, ...")
    .addOption(
      new Option("--format <format>", "for whom; nagios alone ends with 0, 1, 2 or 3").choices([
        "text",
        "json",
        "nagios",
        "munin",
        "zabbix",
        "prometheus",
      ] as const),
    )
    .option("--max-age <age>", "what the newest backup may be old: 26h, or 20h,26h to be warned before")
    .option("--all-hosts", "the newest backup of every host in the repository")
    .option("--remote", "ask the repository for the newest backup, from any host; needs no identity")
    .option("--write", "with --format prometheus: replace the file that [status] textfile names")
    .addHelpText(
      "after",
      examples(
        "spoolsafe status",
        "spoolsafe status --format nagios --max-age 20h,26h",
        "spoolsafe status --all-hosts --json",
        "spoolsafe status --format prometheus --write",
      ),
    )
    .action((word, options) =>
      start(async (context) => (await import("./commands/status.ts")).run(context, word, options)),
    );

  program.commandsGroup("Prove:");
  program
    .command("verify")
    .description("Check snapshots: sealed (no key needed) or deep (every message read). Exit 13 if anything is wrong.")
    .argument("[snap]", `${snapHelp}; default: latest, of each host where none is this one`)
    .addOption(new Option("--all", "every snapshot, with --host of that host"))
    .addOption(
      new Option("--level <level>", "how deep; default: deep with an identity, else sealed").choices([
        "sealed",
        "deep",
      ] as const),
    )
    .addOption(new Option("--sample <percent>", "read only so many of the packs, such as 10%").argParser(percent))
    .addHelpText(
      "after",
      examples(
        "spoolsafe verify",
        "spoolsafe verify --all --level sealed",
        "spoolsafe verify latest --level deep --sample 10%",
      ),
    )
    .action((snap, options) =>
      start(async (context) => (await import("./commands/verify.ts")).run(context, snap, options)),
    );

  const drill = program
    .command("drill")
    .description(
      "Rehearse a recovery: restore a snapshot into a throw-away Postfix nothing can leave, prove it, measure it. Exit 1 if not.",
    )
    .argument("[snap]", "id, unique prefix, latest, latest~N or @TIME", "latest")
    .option("--deliver", "also let all mail go into the drill's own sink, and compare what comes out")
    .option("--report <file>", "also write the report there, as one HTML page")
    .option("--work-directory <dir>", "make the throw-away Postfix below this directory", "/var/tmp")
    .addOption(
      new Option("--scenario <name>", "rehearse a failure instead; exit 0 if it ends as documented")
        .choices(drillScenarios)
        .conflicts("deliver"),
    )
    .addHelpText(
      "after",
      examples(
        "spoolsafe drill",
        "spoolsafe drill latest --deliver --report drill.html",
        "spoolsafe drill 44e8753a --deliver --work-directory /srv",
        "spoolsafe drill --scenario damaged-pack",
        "spoolsafe drill list",
        "spoolsafe drill show latest --format html > drill.html",
        "spoolsafe drill verify --all",
        "spoolsafe drill verify ./report.html",
      ),
    )
    .action((snap, options) =>
      start(async (context) => (await import("./commands/drill.ts")).run(context, snap, options)),
    );
  drill
    .command("list")
    .description("List the reports of drills, oldest first. Needs no identity.")
    .action(() => start(async (context) => (await import("./commands/drill-list.ts")).run(context)));
  drill
    .command("show")
    .description("Show the report of a drill, drawn from what was signed.")
    .argument("[drill]", "its id, a unique prefix of one, or latest", "latest")
    .addOption(
      new Option("--format <format>", "json: the signed record itself")
        .choices(["text", "md", "html", "json"] as const)
        .default("text" as const),
    )
    .action((name, options) =>
      start(async (context) => (await import("./commands/drill-show.ts")).run(context, name, options)),
    );
  drill
    .command("verify")
    .description("Check signatures and chains of reports, and that the pages show what was signed. Exit 13 if not.")
    .argument("[drill-or-file]", "the id of a drill, latest, or a file: report.json or report.html; default: all")
    .option("--all", "every report, as without a name")
    .action((name, options) =>
      start(async (context) => (await import("./commands/drill-verify.ts")).run(context, name, options)),
    );

  program.commandsGroup("Recover:");
  program
    .command("restore")
    .description("Bring a snapshot back: as plain files, or into a Postfix instance.")
    .argument("<snap>", snapHelp)
    .option("--to <dir>", "plain files below this directory; no Postfix needed")
    .option("--into <config-dir>", "queue files into the instance with this configuration: stopped, its queue empty")
    .option(
      "--merge",
      "into an instance that already has mail, running or not; everything on hold unless told otherwise",
    )
    .option("--requeue", "through maildrop, as new mail with a new age: for mail that would expire")
    .addOption(
      new Option("--land <where>", "back to where it was, or everything on hold until `release`").choices([
        "original",
        "hold",
      ] as const),
    )
    .addOption(
      new Option(
        "--only <key=value>",
        "queue, sender, recipient, domain, id, older-than, ...: all must match",
      ).argParser(collect),
    )
    .option("--shard <k/n>", "one of n equal shares, every message in exactly one; needs a snapshot's id")
    .option("--delivered-log <file...>", "surviving mail logs: what they prove delivered is not sent again")
    .option("--log-zone <zone>", "time zone of those logs, such as Europe/Paris; default: as the snapshot has it")
    .option("--restore-deleted", "also what the logs say an administrator deleted")
    .option("--again", "also what earlier restores placed here: what was delivered since is delivered again")
    .option("--with-config", "the configuration too: shows a diff, keeps what it replaces")
    .option("--config-only", "only the configuration")
    .option("--without-claim", "claim nothing: when it is certain that no other host restores this mail")
    .option("--dry-run", "print the plan, touch nothing")
    .option("--plan <file>", "write the plan, for somebody to sign off; touch nothing else")
    .option("--apply <file>", "do exactly that plan; refused when the target has changed")
    .addHelpText(
      "after",
      examples(
        "spoolsafe restore latest --to /srv/mx1",
        "spoolsafe restore latest --into /etc/postfix --dry-run",
        "spoolsafe restore latest --into /etc/postfix --merge --delivered-log /srv/mx1/mail.log*",
        "spoolsafe restore 44e8753a5caf --into /etc/postfix --merge --shard 1/3",
        "spoolsafe restore latest --into /etc/postfix --merge --only recipient=*@a.test --only older-than=2d",
        "spoolsafe restore 44e8753a5caf --into /etc/postfix --merge --plan /root/plan.json",
        "spoolsafe restore 44e8753a5caf --into /etc/postfix --apply /root/plan.json",
      ) + conditionsHelp,
    )
    .action((snap, options) =>
      start(async (context) => (await import("./commands/restore.ts")).run(context, snap, options)),
    );
  program
    .command("release")
    .description("Let the mail go that a restore put on hold: not what an administrator held, nor what is in doubt.")
    .argument("<run>", "the restore's run, or the beginning of its name")
    .addOption(
      new Option(
        "--rate <n/min>",
        "so many messages a minute, oldest first, domains in turn; waits while most come back",
      ).argParser(perMinute),
    )
    .option("--in-doubt", "also what may have been delivered already: some may get it twice")
    .option("--without-claims", "ask for no claims: when it is certain that no other host took the mail over")
    .addHelpText(
      "after",
      examples(
        "spoolsafe release 20261124T020000-5f3a9c01",
        "spoolsafe release 20261124T02 --rate 500/min",
        "spoolsafe release 20261124T02 --in-doubt",
      ),
    )
    .action((name, options) =>
      start(async (context) => (await import("./commands/release.ts")).run(context, name, options)),
    );
  program
    .command("undo")
    .description("Take back what a restore put on hold and nobody has touched since, or the configuration it replaced.")
    .argument("<run>", "the restore's run, or the beginning of its name")
    .option("--dry-run", "say what would be removed, touch nothing")
    .addHelpText("after", examples("spoolsafe undo 20261124T02 --dry-run", "spoolsafe undo 20261124T020000-5f3a9c01"))
    .action((name, options) =>
      start(async (context) => (await import("./commands/undo.ts")).run(context, name, options)),
    );
  const holds = program
    .command("holds")
    .description("Mail that is on hold because of us.")
    .addHelpText(
      "after",
      examples("spoolsafe holds list", "spoolsafe holds release", "spoolsafe holds fence", "spoolsafe holds take-over"),
    );
  holds
    .command("list")
    .description("List it: kind, instance, queue id, since when.")
    .action(() => start(async (context) => (await import("./commands/holds.ts")).list(context)));
  holds
    .command("release")
    .description("Release what a backup that died had put on hold, and nothing else.")
    .action(() => start(async (context) => (await import("./commands/holds.ts")).release(context)));
  holds
    .command("fence")
    .description(
      "Put on hold what another host has taken over. For the unit before Postfix, which must not start if this fails.",
    )
    .action(() => start(async (context) => (await import("./commands/holds-fence.ts")).run(context)));
  holds
    .command("take-over")
    .description(
      "List what other hosts have taken over of this host's mail and what of it is on hold here, or take it back.",
    )
    .argument("[claim]", "id or unique prefix; needed where there are several")
    .option("--release", "release exactly what this claim put on hold; the claim must be withdrawn")
    .option(
      "--anyway <host>",
      "with --release: although the claim of this host stands, and its fence no longer goes by it",
    )
    .addOption(
      new Option(
        "--withdraw",
        "take back a claim of this host itself, of which nothing is left to deliver here",
      ).conflicts(["release", "anyway"]),
    )
    .addHelpText(
      "after",
      examples(
        "spoolsafe holds take-over",
        "spoolsafe holds take-over 4f2a91c0 --release",
        "spoolsafe holds take-over 4f2a91c0 --release --anyway mx2.example.org",
      ),
    )
    .action((claim, options) =>
      start(async (context) => (await import("./commands/holds-take-over.ts")).run(context, claim, options)),
    );
  program
    .command("triage")
    .description("What is wrong here, and which runbook to open? Measures, changes nothing. Exit 1 with findings.")
    .addHelpText("after", examples("spoolsafe triage", "spoolsafe triage --json", "spoolsafe triage --instance mx2"))
    .action(() => start(async (context) => (await import("./commands/triage.ts")).run(context)));

  const runbook = program
    .command("runbook")
    .description("Written procedures that check every step: what to do, also without this program.")
    .addHelpText(
      "after",
      "\nID is a number, an id or a name (09, RB-09, 09-stuck-hold), or the path of a file.\n" +
        examples(
          "spoolsafe runbook list --for mail on hold",
          "spoolsafe runbook show 09",
          "spoolsafe runbook show --all --to /root/runbooks",
        ),
    );
  runbook
    .command("list")
    .description("List runbooks: those of the program, and the site's own in /etc/spoolsafe/runbooks.")
    .option("--for <words...>", "a symptom, an alert or a role: those that speak of it, best first")
    .action((options) => start(async (context) => (await import("./commands/runbook-list.ts")).run(context, options)));
  runbook
    .command("show")
    .description("Print a runbook, or write it as a file.")
    .argument("[id]", "not with --all")
    .option("--all", "every runbook and their index; needs --to")
    .option("--to <dir>", "write there; replaces nothing")
    .action((id, options) =>
      start(async (context) => (await import("./commands/runbook-show.ts")).run(context, id, options)),
    );
  runbook
    .command("lint")
    .description("What is wrong or unwise in runbooks, with file and line; exit 1 if anything is. Executes nothing.")
    .argument("[id...]", "default: all")
    .action((ids) => start(async (context) => (await import("./commands/runbook-lint.ts")).run(context, ids)));
  runbook
    .command("plan")
    .description("Show what a run would do, with which values; exit 1 where lint finds something. Executes nothing.")
    .argument("<id>", "09, RB-09, 09-stuck-hold, or a file")
    .addOption(new Option("--set <name=value>", "give a variable a value; may be given again").argParser(collect))
    .action((id, options) =>
      start(async (context) => (await import("./commands/runbook-plan.ts")).run(context, id, options)),
    );
  runbook
    .command("check")
    .description(
      "What a run would meet now: conditions and verifies are executed, nothing is changed; exit 1 if refused.",
    )
    .argument("<id>", "09, RB-09, 09-stuck-hold, or a file")
    .addOption(new Option("--set <name=value>", "give a variable a value; may be given again").argParser(collect))
    .action((id, options) =>
      start(async (context) => (await import("./commands/runbook-check.ts")).run(context, id, options)),
    );
  runbook
    .command("run")
    .description(
      "Run it step by step: each is asked for by its risk, journalled before it is begun, done when verified.",
    )
    .argument("<id>", "09, RB-09, 09-stuck-hold, or a file")
    .addOption(new Option("--set <name=value>", "give a variable a value; may be given again").argParser(collect))
    .option("--answers <file>", 'answers by step in TOML: release = "yes", "skip: why", or the name of this host')
    .option("--from <step>", "begin at this step, by name or number; those before are skipped")
    .addHelpText(
      "after",
      examples(
        "spoolsafe runbook run 09",
        "spoolsafe runbook run 01 --set SNAPSHOT=latest",
        "spoolsafe runbook run 07 --yes --answers /root/answers.toml",
      ),
    )
    .action((id, options) =>
      start(async (context) => (await import("./commands/runbook-run.ts")).run(context, id, options)),
    );
  runbook
    .command("resume")
    .description("Go on with a run that was stopped or killed: what was begun is verified before it is run again.")
    .argument("<run>", "its name, or the beginning of it")
    .option("--answers <file>", "as for run")
    .addHelpText("after", examples("spoolsafe runbook resume 20261124T020000-5f3a9c01"))
    .action((name, options) =>
      start(async (context) => (await import("./commands/runbook-resume.ts")).run(context, name, options)),
    );
  runbook
    .command("undo")
    .description("Take back what a run did, newest step first; each is asked for.")
    .argument("<run>", "its name, or the beginning of it")
    .option("--answers <file>", "as for run, by the name of the undo block")
    .action((name, options) =>
      start(async (context) => (await import("./commands/runbook-undo.ts")).run(context, name, options)),
    );
  runbook
    .command("note")
    .description("Write a note into the report of a run, from any terminal.")
    .argument("<run>", "its name, or the beginning of it")
    .argument("<text...>")
    .addHelpText("after", examples("spoolsafe runbook note 20261124T02 called the hosting company, ticket 4711"))
    .action((name, text) =>
      start(async (context) => (await import("./commands/runbook-note.ts")).run(context, name, text)),
    );
  runbook
    .command("report")
    .description(
      "What a run did, for the post-mortem; without RUN, the runs of this host. Exit 13 if its journal was changed.",
    )
    .argument("[run]", "its name, or the beginning of it")
    .addOption(new Option("--format <format>", "Markdown or JSON lines").choices(["md", "json"] as const))
    .option("--unmasked", "with mail addresses as they are")
    .action((name, options) =>
      start(async (context) => (await import("./commands/runbook-report.ts")).run(context, name, options)),
    );
  runbook
    .command("paper")
    .description("A sheet to print, with values filled in, for a machine where this program does not run.")
    .argument("<id>", "09, RB-09, 09-stuck-hold, or a file")
    .addOption(new Option("--set <name=value>", "give a variable a value; may be given again").argParser(collect))
    .action((id, options) =>
      start(async (context) => (await import("./commands/runbook-paper.ts")).run(context, id, options)),
    );
  program.commandsGroup("More:");
  program
    .command("completion")
    .description("Print a script that completes commands and options with the tab key.")
    .addArgument(new Argument("<shell>").choices(["bash", "zsh", "fish"] as const))
    .addHelpText(
      "after",
      examples(
        "spoolsafe completion bash > /etc/bash_completion.d/spoolsafe",
        "spoolsafe completion zsh > /usr/local/share/zsh/site-functions/_spoolsafe",
        "spoolsafe completion fish > /etc/fish/completions/spoolsafe.fish",
      ),
    )
    .action((shell) =>
      start(async (context) => (await import("./commands/completion.ts")).run(context, shell, program)),
    );
  program.helpCommand("help [command]", "show help for a command");
  return program;
}

const snapHelp = "id, unique prefix, latest, latest~N, or @TIME";

const conditionsHelp = `

Keys of --only (any of several values: commas; anything: *):
  queue=deferred,hold  sender=*@a.test  recipient=b@c.test  domain=c.test  id=7E48C16210F  message-id=1@a.test
  older-than=2d  newer-than=26h  larger-than=1000000  smaller-than=5000 (bytes); sender=<> is the null sender`;

function examples(...lines: readonly string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ ${line}`).join("\n")}`;
}

/** "10%" or "10" as 10. */
function percent(value: string): number {
  const number = /^\d+(\.\d+)?%?$/.test(value) ? Number.parseFloat(value) : 0;
  if (number <= 0 || number > 100) throw new InvalidArgumentError("It must be more than 0% and at most 100%.");
  return number;
}

function count(value: string): number {
  if (!/^[1-9]\d{0,3}$/.test(value)) throw new InvalidArgumentError("It must be a whole number from 1 to 9999.");
  return Number(value);
}

/** "500/min" or "500" as 500. */
function perMinute(value: string): number {
  const [, number = ""] = /^(\d+)(?:\/min)?$/.exec(value) ?? [];
  if (!(Number(number) >= 1)) throw new InvalidArgumentError("It must be a number of messages a minute, as 500/min.");
  return Number(number);
}

/** For a flag that may be given more than once. */
function collect(value: string, before: readonly string[] | undefined): readonly string[] {
  return [...(before ?? []), value];
}
