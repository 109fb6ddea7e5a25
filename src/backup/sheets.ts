import { digestOf } from "../system/digest.ts";
import type { ConfigurationFile } from "./file-collection.ts";

/** A text to keep with every snapshot for whoever has nothing but the repository: what a takeover needs on paper. */
export interface PrintedSheet {
  /** Such as 01-primary-lost.txt. */
  readonly name: string;
  readonly text: string;
  /** Seconds since 1970 when it last changed. As long as text and time are the same, a backup stores nothing of it. */
  readonly mtime: number;
}

/** They belong to the host, and to root. */
export function sheetFiles(sheets: readonly PrintedSheet[]): ConfigurationFile[] {
  return sheets.map(({ name, text, mtime }) => {
    const bytes = Buffer.from(text);
    const owner = { user: "root", group: "root", uid: 0, gid: 0 };
    const { digest } = digestOf(bytes);
    const what = { instance: null, area: "runbook", path: name, type: "file" } as const;
    return { ...what, mode: 0o644, owner, mtime, bytes, digest, target: null };
  });
}
