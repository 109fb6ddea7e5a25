import { mkdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { errnoOf, OperatorError } from "../../errors.ts";
import { type FoundRunbook, listRunbooks } from "../../runbook/catalogue.ts";
import { indexOf } from "../../runbook/search.ts";
import { writeFileAtomic } from "../../system/files.ts";
import type { Context } from "../context.ts";
import { chooseRunbook, foundJson, remarks, runbookPlaces } from "../runbooks.ts";

export interface RunbookShowOptions {
  readonly all?: true | undefined;
  readonly to?: string | undefined;
}

/** `spoolsafe runbook show ID`: the Markdown as it is, or with `--to DIR` as a file; `--all --to DIR` writes every one. */
export async function run(context: Context, call: string | undefined, options: RunbookShowOptions): Promise<number> {
  const { all = false, to } = options;
  if (all === (call !== undefined) || (all && to === undefined)) {
    throw new OperatorError("usage", "name one runbook, or give --all --to DIR", {
      hints: ["`spoolsafe runbook list` shows the runbooks there are"],
    });
  }
  const places = runbookPlaces(context);
  const found = call === undefined ? listRunbooks(places) : [chooseRunbook(context, call)];
  if (to === undefined) return print(context, found);
  const index = all ? indexOf(places) : null;
  const files = found.map(({ name, text }) => ({ name: `${name}.md`, text }));
  return write(context, resolve(context.cwd, to), [
    ...files,
    ...(index === null ? [] : [{ name: "README.md", text: index }]),
  ]);
}

function print({ render }: Context, found: readonly FoundRunbook[]): number {
  for (const each of found) {
    render.line({ type: "runbook", ...foundJson(each), text: each.text });
    render.text(each.text.trimEnd());
    const told = remarks(each);
    if (told.length > 0) render.note(`${each.path}: ${told.join("; ")}`);
  }
  render.summary({ count: found.length });
  return 0;
}

interface TextFile {
  readonly name: string;
  readonly text: string;
}

/** @throws OperatorError `refused`, before anything is written, when one is there with another text */
function write({ render }: Context, directory: string, files: readonly TextFile[]): number {
  const taken = files.filter(({ name, text }) => (textIfThere(join(directory, name)) ?? text) !== text);
  if (taken.length > 0) {
    throw new OperatorError(
      "refused",
      `${directory} has ${taken.map(({ name }) => name).join(", ")} with another text`,
      {
        hints: ["name another directory, or move those away"],
      },
    );
  }
  mkdirSync(directory, { recursive: true });
  for (const { name, text } of files) {
    const path = join(directory, name);
    writeFileAtomic(path, text, 0o644);
    render.line({ type: "file", path });
  }
  render.summary({ count: files.length, directory });
  render.text(files.map(({ name }) => join(directory, name)).join("\n"));
  return 0;
}

function textIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw new OperatorError("failed", `${path} can't be read (${errnoOf(error) ?? "unknown"})`, { cause: error });
  }
}
