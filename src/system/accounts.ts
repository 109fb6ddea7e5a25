import { execFileSync } from "node:child_process";
import { OperatorError } from "../errors.ts";

/** The account's name, or the number as text when no account has it. Files of such owners exist after a package is gone. */
export function userName(uid: number): string {
  return nameOf("passwd", uid);
}

/** The group's name, or the number as text when no group has it. */
export function groupName(gid: number): string {
  return nameOf("group", gid);
}

/** The number of a user's name; undefined when this host has no such account. A numeric text is a name like any other. */
export function userId(name: string): number | undefined {
  return idOf("passwd", name);
}

/** The number of a group's name; undefined when this host has no such group. */
export function groupId(name: string): number | undefined {
  return idOf("group", name);
}

type Database = "passwd" | "group";

interface Accounts {
  /** Undefined for a number or name that was asked for and that nobody has. */
  readonly names: Map<number, string | undefined>;
  readonly ids: Map<string, number | undefined>;
  /** `performance.now()` of the reading. */
  readonly read: number;
}

const known = new Map<Database, Accounts>();
// A daemon that runs for months must see an account made meanwhile; a run must not start getent for every file.
const believedMs = 60_000;

function nameOf(database: Database, id: number): string {
  const { names, ids } = accounts(database);
  if (!names.has(id)) {
    const found = parse(getent(database, String(id))).find((entry) => entry.id === id);
    names.set(id, found?.name);
    if (found !== undefined && !ids.has(found.name)) ids.set(found.name, id);
  }
  return names.get(id) ?? String(id);
}

function idOf(database: Database, name: string): number | undefined {
  const { ids } = accounts(database);
  // getent takes a numeric text for a number, so the entry it finds must bear the name that was asked for.
  if (!ids.has(name)) ids.set(name, parse(getent(database, name)).find((entry) => entry.name === name)?.id);
  return ids.get(name);
}

function accounts(database: Database): Accounts {
  const before = known.get(database);
  if (before !== undefined && performance.now() - before.read < believedMs) return before;
  const fresh: Accounts = { names: new Map(), ids: new Map(), read: performance.now() };
  for (const { name, id } of parse(getent(database))) {
    // The first line wins, as in getpwuid(3) and getpwnam(3) with the files source.
    if (!fresh.names.has(id)) fresh.names.set(id, name);
    if (!fresh.ids.has(name)) fresh.ids.set(name, id);
  }
  known.set(database, fresh);
  return fresh;
}

function parse(text: string): { name: string; id: number }[] {
  return text.split("\n").flatMap((line) => {
    const [name = "", , id = ""] = line.split(":");
    return name !== "" && /^\d+$/.test(id) ? [{ name, id: Number(id) }] : [];
  });
}

/**
 * `getent` asks every source of nsswitch.conf. The whole listing may leave out what LDAP or SSSD has (they don't enumerate
 * by default), so an unknown key is asked for once by itself.
 */
function getent(database: Database, key?: string): string {
  try {
    return execFileSync("getent", key === undefined ? [database] : [database, "--", key], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
      maxBuffer: 64 * 1024 * 1024,
      timeout: 30_000,
    });
  } catch (cause) {
    if (key !== undefined && isExit(cause, keyNotFound)) return "";
    throw new OperatorError("program-failed", `getent ${database} could not be read`, {
      hints: ["getent is part of libc-bin; run it by hand to see which source of /etc/nsswitch.conf fails"],
      cause,
    });
  }
}

const keyNotFound = 2;

function isExit(error: unknown, status: number): boolean {
  return error instanceof Error && "status" in error && error.status === status;
}
