import { about, sections } from "./schema.ts";

/** Dotted keys (`repository.url`, `host`) and the values that are to stand in the file. */
export type ConfigValues = Readonly<Record<string, string | number | boolean | readonly string[]>>;

/**
 * A configuration file with every option explained: those given are set, all others stand there as comments with
 * their default (or an example where there is none). Reading it back gives exactly the values given.
 */
export function configText(values: ConfigValues, title: readonly string[]): string {
  const parts = [title.map((line) => `# ${line}`).join("\n")];
  for (const [section, options] of Object.entries(sections)) {
    const lines = Object.entries(options).flatMap(([key, option]) => {
      const known = about.get(option);
      const value = values[section === "" ? key : `${section}.${key}`];
      const text = `${key} = ${literal(value ?? known?.shown)}`;
      const note = known?.hasDefault === false && value === undefined ? " (example)" : "";
      return [`# ${known?.help ?? ""}${note}`, value === undefined ? `# ${text}` : text];
    });
    const more = section === "repository" ? copyNote : [];
    parts.push([...(section === "" ? [] : [`[${section}]`]), ...lines, ...more].join("\n"));
  }
  return `${parts.join("\n\n")}\n`;
}

const copyNote = [
  "",
  "# Further repositories, on another disk or at another provider: a table [[copy]] for each, with the keys of [repository].",
  "# Every backup is copied there as well; `spoolsafe copy` sends what is missing.",
];

/** Strings, numbers, booleans and lists of them are written in TOML as in JSON. */
function literal(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  return JSON.stringify(value);
}
