import { chownSync, closeSync, mkdirSync, openSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { OperatorError } from "../errors.ts";
import { qmgrPid } from "../postfix/control.ts";
import { loadInstance, type PostfixInstance } from "../postfix/instance.ts";
import type { Clock } from "../system/clock.ts";
import type { DrillNetwork } from "./network.ts";
import { endProcesses } from "./sweep.ts";

/** What of the backed-up settings a drill's Postfix takes over: how its queue is laid out and named, nothing that delivers. */
export const takenOver = ["enable_long_queue_ids", "hash_queue_names", "hash_queue_depth"] as const;

export type TakenOver = Readonly<Partial<Record<(typeof takenOver)[number], string>>>;

/** A Postfix made for one drill, below a directory of its own. It has a sink, and no other way for mail to go. */
export class DrillPostfix {
  readonly directory: string;
  readonly configDirectory: string;
  /** Name of the only transport. Nobody can know it beforehand, so that no queue file can name it with another next hop. */
  readonly transport: string;
  readonly parameters: Readonly<Record<string, string>>;
  readonly #network: DrillNetwork;

  private constructor(directory: string, transport: string, settings: TakenOver, network: DrillNetwork) {
    this.directory = directory;
    this.configDirectory = join(directory, "etc");
    this.transport = transport;
    this.parameters = { ...ownParameters(directory, transport), ...settings };
    this.#network = network;
  }

  /**
   * Write its configuration and make its directories, all but those of the queue, which `postfix check` makes.
   *
   * @param directory empty; every user must be able to pass through it
   * @param transport letters and digits only
   */
  static make(directory: string, transport: string, settings: TakenOver, network: DrillNetwork): DrillPostfix {
    const postfix = new DrillPostfix(directory, transport, settings, network);
    for (const name of ["etc", "spool"]) mkdirSync(join(directory, name), { mode: 0o755 });
    for (const name of ["data", "log"]) mkdirSync(join(directory, name), { mode: 0o700 });
    const { configDirectory, parameters } = postfix;
    const main = Object.entries(parameters).map(([name, value]) => `${name} = ${value}\n`);
    writeFileSync(join(configDirectory, "main.cf"), main.join(""), { mode: 0o644 });
    writeFileSync(join(configDirectory, "master.cf"), `${masterLines(transport).join("\n")}\n`, { mode: 0o644 });
    // Postfix waits until a main.cf is two seconds old before it believes it (`util/dict.c`, dict_load_file_xt).
    utimesSync(join(configDirectory, "main.cf"), longAgo, longAgo);
    return postfix;
  }

  get logFile(): string {
    return join(this.directory, "log", "mail.log");
  }

  /** Where the sink listens. */
  get socket(): string {
    return join(this.directory, "spool", socketName);
  }

  /** Give its directories their owner; then it is one like any other. @throws OperatorError `config` without Postfix */
  async load(): Promise<PostfixInstance> {
    const instance = await loadInstance(this.configDirectory);
    for (const name of ["data", "log"]) chownSync(join(this.directory, name), instance.ownerUid, -1);
    // postsuper(1) drops to this user before it logs, and fails after its work if it can't.
    closeSync(openSync(this.logFile, "a", 0o600));
    chownSync(this.logFile, instance.ownerUid, -1);
    return instance;
  }

  /**
   * Start it, and wait until its queue manager works and its queue can be listed.
   *
   * @throws OperatorError `failed` with the end of its log when it does not come up
   */
  async start(instance: PostfixInstance, clock: Clock, signal?: AbortSignal): Promise<void> {
    const { configDirectory } = this;
    await this.#network.run("postfix", ["-c", configDirectory, "start"], { timeoutMs: 10 * 60_000 });
    const until = clock.monotonic() + readyMs;
    while (qmgrPid(instance) === undefined) {
      signal?.throwIfAborted();
      if (clock.monotonic() > until)
        throw new OperatorError("failed", "the queue manager of the drill does not come up");
      await clock.sleep(20);
    }
    await this.#network.run("postqueue", ["-c", configDirectory, "-j"], {
      discardOutput: true,
      timeoutMs: 10 * 60_000,
    });
  }

  /** Kill all of it: nothing it has is wanted any more. */
  async stop(clock: Clock): Promise<void> {
    await endProcesses(this.directory, clock);
  }
}

const longAgo = 1_000_000_000;
/** A minute is what a slow disk needs; a Postfix that is not up after five never will be. */
const readyMs = 5 * 60_000;

/** Below the queue directory, where Postfix's processes work. */
const socketName = "private/drill-sink";

/** A main.cf that is complete: whatever could lead mail out, or change it on its way, is set here and not left to be built in. */
function ownParameters(directory: string, transport: string): Record<string, string> {
  const sink = `${transport}:unix:${socketName}`;
  return {
    compatibility_level: "3.6",
    queue_directory: join(directory, "spool"),
    data_directory: join(directory, "data"),
    maillog_file: join(directory, "log", "mail.log"),
    maillog_file_prefixes: directory,
    syslog_name: "spoolsafe-drill",
    multi_instance_directories: "",
    multi_instance_enable: "no",
    multi_instance_name: "",
    // Nobody can reach it, and all addresses are somebody else's.
    inet_interfaces: "127.0.0.1",
    inet_protocols: "ipv4",
    mynetworks: "127.0.0.0/8",
    proxy_interfaces: "",
    myhostname: "drill.invalid",
    mydomain: "invalid",
    myorigin: "drill.invalid",
    mydestination: "",
    relay_domains: "",
    virtual_alias_domains: "",
    virtual_mailbox_domains: "",
    // Every way there is leads to the sink.
    default_transport: sink,
    relay_transport: sink,
    local_transport: sink,
    virtual_transport: sink,
    error_notice_recipient: "postmaster",
    relayhost: "",
    transport_maps: "",
    sender_dependent_relayhost_maps: "",
    sender_dependent_default_transport_maps: "",
    content_filter: "",
    default_filter_nexthop: "",
    lmtp_fallback_relay: "",
    smtp_fallback_relay: "",
    address_verify_map: "",
    fast_flush_domains: "",
    authorized_flush_users: "static:anyone",
    // Nobody is written to beside the recipients, nor the text or the addresses changed.
    notify_classes: "",
    always_bcc: "",
    sender_bcc_maps: "",
    recipient_bcc_maps: "",
    canonical_maps: "",
    sender_canonical_maps: "",
    recipient_canonical_maps: "",
    virtual_alias_maps: "",
    masquerade_domains: "",
    smtp_generic_maps: "",
    lmtp_generic_maps: "",
    header_checks: "",
    mime_header_checks: "",
    nested_header_checks: "",
    body_checks: "",
    milter_header_checks: "",
    lmtp_header_checks: "",
    lmtp_mime_header_checks: "",
    lmtp_nested_header_checks: "",
    lmtp_body_checks: "",
    lmtp_reply_filter: "",
    lmtp_delivery_status_filter: "",
    default_delivery_status_filter: "",
    non_smtpd_milters: "",
    smtpd_milters: "",
    message_drop_headers: "",
    always_add_missing_headers: "no",
    append_at_myorigin: "no",
    append_dot_mydomain: "no",
    swap_bangpath: "no",
    allow_percent_hack: "no",
    allow_min_user: "yes",
    resolve_numeric_domain: "yes",
    disable_mime_input_processing: "yes",
    disable_mime_output_conversion: "yes",
    lmtp_line_length_limit: "0",
    message_size_limit: "0",
    mailbox_size_limit: "0",
    header_size_limit: "104857600",
    alias_maps: "",
    alias_database: "",
    // A drill is no moment to give mail up, warn of it or slow down.
    maximal_queue_lifetime: "100d",
    bounce_queue_lifetime: "100d",
    delay_warning_time: "0",
    defer_transports: "",
    in_flow_delay: "0",
    queue_minfree: "0",
    // The agent speaks to the sink and asks no directory, no key and no password of anybody.
    lmtp_tls_security_level: "none",
    lmtp_sasl_auth_enable: "no",
    lmtp_dns_support_level: "disabled",
    lmtp_connection_cache_on_demand: "no",
    lmtp_connection_cache_destinations: "",
    lmtp_bind_address: "",
    default_destination_concurrency_limit: "20",
    initial_destination_concurrency: "20",
    default_destination_rate_delay: "0",
    default_transport_rate_delay: "0",
    default_process_limit: "20",
  };
}

/** Services that qmgr, cleanup and postqueue can't do without, and the one agent. None of them listens on a network. */
export function masterLines(transport: string): string[] {
  return [
    "pickup unix n - n 60 1 pickup",
    "cleanup unix n - n - 0 cleanup",
    "qmgr unix n - n 300 1 qmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "flush unix n - n 1000? 0 flush",
    "showq unix n - n - - showq",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    `${transport} unix - - n - - lmtp`,
    "postlog unix-dgram n - n - 1 postlogd",
  ];
}
