import { closeSync, constants, existsSync, fstatSync, openSync, readSync, statSync } from "node:fs";
import { errnoOf } from "../errors.ts";
import type { PostfixInstance } from "../postfix/instance.ts";
import { LineReader } from "../postfix/mail-log.ts";
import { run } from "../system/exec.ts";

/** Where an instance's mail log is: its own file, or the one syslog writes on Debian or Red Hat; null for none to be found. */
export async function mailLogOf({ configDirectory }: Pick<PostfixInstance, "configDirectory">): Promise<string | null> {
  const { stdout } = await run("postconf", ["-c", configDirectory, "-xh", "maillog_file"]);
  const own = stdout.toString("utf8").trim();
  return (own === "" ? ["/var/log/mail.log", "/var/log/maillog"] : [own]).find(isLog) ?? null;
}

function isLog(path: string): boolean {
  return existsSync(path) && statSync(path).isFile();
}

/**
 * Mail that was returned to its sender, told by what is appended to a mail log from now on: in the queue it can't be told from
 * mail that was delivered. A log that is rotated is followed; one that can't be read any more says nothing.
 */
export class ReturnedMail {
  readonly #path: string;
  readonly #reasons = new Map<string, string>();
  #inode: bigint;
  #offset: bigint;
  #rest = "";

  constructor(path: string) {
    this.#path = path;
    const { ino, size } = statSync(path, { bigint: true });
    this.#inode = ino;
    this.#offset = size;
  }

  /** Read what was appended. @returns why recipients were given up, by queue id; the last reason of each message */
  update(): ReadonlyMap<string, string> {
    let fd: number;
    try {
      fd = openSync(this.#path, constants.O_RDONLY | constants.O_NONBLOCK);
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return this.#reasons;
      throw error;
    }
    try {
      this.#readFrom(fd);
      return this.#reasons;
    } finally {
      closeSync(fd);
    }
  }

  #readFrom(fd: number): void {
    const { ino, size } = fstatSync(fd, { bigint: true });
    if (ino !== this.#inode || size < this.#offset) {
      this.#inode = ino;
      this.#offset = 0n;
      this.#rest = "";
    }
    const chunk = Buffer.allocUnsafe(1024 * 1024);
    for (;;) {
      const got = readSync(fd, chunk, 0, chunk.length, this.#offset);
      if (got === 0) return;
      this.#offset += BigInt(got);
      const lines = (this.#rest + chunk.toString("latin1", 0, got)).split("\n");
      this.#rest = lines.pop() ?? "";
      for (const line of lines) this.#take(line);
    }
  }

  /** smtp(8) and others say `status=bounced (why)`, qmgr(8) says `status=expired, returned to sender`. */
  #take(line: string): void {
    if (!/ status=(?:bounced|expired)\b/.test(line)) return;
    const record = new LineReader({ reference: Number.MAX_SAFE_INTEGER }).read(line);
    // The first one: what a server says follows, and may look like one.
    const [, status = "", why] = / status=(\w+)(?: \((.*)\)$)?/.exec(record?.text ?? "") ?? [];
    if (record?.queueId == null || !["bounced", "expired"].includes(status)) return;
    this.#reasons.set(record.queueId, why ?? "it is older than the queue keeps mail");
  }
}
