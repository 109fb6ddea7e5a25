/** Text of a page in which every character that could be taken for markup is escaped already. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

type Inserted = string | number | Markup | readonly Markup[] | null;

/**
 * Markup from a template: what is inserted is escaped, but for what is markup itself; null is nothing. So a page can't be made in
 * which a text was forgotten.
 */
export function markup(pieces: TemplateStringsArray, ...inserted: readonly Inserted[]): Markup {
  return new Markup(pieces.reduce((text, piece, at) => text + textOf(inserted[at - 1] ?? null) + piece));
}

function textOf(inserted: Inserted): string {
  if (inserted === null) return "";
  if (inserted instanceof Markup) return inserted.text;
  if (typeof inserted === "string" || typeof inserted === "number") return escaped(String(inserted));
  return inserted.map(({ text }) => text).join("");
}

const entities: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

function escaped(text: string): string {
  return harmless(text).replace(/[&<>"']/g, (character) => entities[character] ?? character);
}

/** Without what steers a terminal or turns the direction of text around it; line ends become spaces. */
export function harmless(text: string): string {
  return (
    text
      .replace(/[\r\n\t]+/g, " ")
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
      .replace(/[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, "\ufffd")
      .toWellFormed()
  );
}
