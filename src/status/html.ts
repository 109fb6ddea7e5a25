/** Text that is HTML already. Only `html` makes it, so what is in it was written by us or escaped. */
export class Html {
  readonly text: string;

  constructor(parts: TemplateStringsArray, values: readonly HtmlValue[]) {
    this.text = parts.reduce((text, part, index) => text + textOf(values[index - 1]) + part);
  }
}

/** Null shows nothing; a list shows its parts one after another. */
export type HtmlValue = Html | string | number | null | readonly HtmlValue[];

/**
 * A template whose values are escaped, for the text of an element or for an attribute in double quotes. Names of hosts, tags
 * and errors come from other machines: whatever is in them, it is shown as text.
 */
export function html(parts: TemplateStringsArray, ...values: readonly HtmlValue[]): Html {
  return new Html(parts, values);
}

function textOf(value: HtmlValue | undefined): string {
  if (value === null || value === undefined) return "";
  if (value instanceof Html) return value.text;
  return typeof value === "string" || typeof value === "number" ? escaped(String(value)) : value.map(textOf).join("");
}

const entities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** Control characters, and those that turn the direction of text around, are shown as a question mark. */
function escaped(text: string): string {
  return (
    text
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
      .replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "?")
      .replace(/[&<>"']/g, (character) => entities[character] ?? "")
  );
}
