import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";
import { errnoOf } from "../errors.ts";
import { makePrivateDirectory, writeFileAtomic } from "../system/files.ts";

/*
 * What is known of the copies in further repositories: <state>/copies.json. The backup writes that each of them is one more
 * snapshot behind, whoever copies writes how far it got, and status reads it.
 */

const copySchema = z.object({
  url: z.string(),
  endpoint: z.string().nullable(),
  behind: z.int().min(0),
  lastSuccess: z.string().nullable(),
  error: z.string().nullable(),
  made: z.boolean().default(false),
});

const fileSchema = z.object({ format: z.literal(1), copies: z.array(copySchema) });

/** What names a further repository; the URL has no credentials. */
export interface CopyName {
  readonly url: string;
  /** Of S3 other than AWS. */
  readonly endpoint: string | null;
}

/** How a further repository stands. */
export interface CopyState extends CopyName {
  /** Snapshots that should be there and are not, when somebody looked last. */
  readonly behind: number;
  /** RFC 3339 in UTC: start of the last copy that ended with nothing left to do; null when none did. */
  readonly lastSuccess: string | null;
  /** Why the last one did not; null when it did. */
  readonly error: string | null;
  /** The copy has been there: where it is not any more, its disk is not mounted. */
  readonly made: boolean;
}

/** Every copy that is known; none where the file is not there or is not one. */
export function readCopies(stateDirectory: string): readonly CopyState[] {
  try {
    const parsed = fileSchema.safeParse(JSON.parse(readFileSync(fileOf(stateDirectory), "utf8")));
    return parsed.success ? parsed.data.copies : [];
  } catch (error) {
    if (errnoOf(error) === "ENOENT" || error instanceof SyntaxError) return [];
    throw error;
  }
}

/** How one stands; undefined when nothing was ever copied there. */
export function findCopy(copies: readonly CopyState[], name: CopyName): CopyState | undefined {
  return copies.find(({ url, endpoint }) => url === name.url && endpoint === name.endpoint);
}

/** Write how one stands; what is not said stays. */
export function recordCopy(stateDirectory: string, name: CopyName, change: Partial<CopyState>): void {
  const copies = readCopies(stateDirectory);
  const before = findCopy(copies, name) ?? { behind: 0, lastSuccess: null, error: null, made: false };
  const { url, endpoint } = name;
  write(stateDirectory, [
    ...copies.filter((one) => findCopy([one], name) === undefined),
    { ...before, ...change, url, endpoint },
  ]);
}

/** A snapshot was taken: it is in none of these yet. What is no longer configured is forgotten. */
export function recordUnsent(stateDirectory: string, names: readonly CopyName[]): void {
  const copies = readCopies(stateDirectory);
  write(
    stateDirectory,
    names.map(({ url, endpoint }) => {
      const before = findCopy(copies, { url, endpoint });
      return {
        lastSuccess: null,
        error: null,
        made: false,
        ...before,
        url,
        endpoint,
        behind: (before?.behind ?? 0) + 1,
      };
    }),
  );
}

function write(stateDirectory: string, copies: readonly CopyState[]): void {
  makePrivateDirectory(stateDirectory);
  writeFileAtomic(fileOf(stateDirectory), `${JSON.stringify({ format: 1, copies })}\n`);
}

function fileOf(stateDirectory: string): string {
  return join(stateDirectory, "copies.json");
}
