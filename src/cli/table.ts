import ms from "ms";
import prettyBytes from "pretty-bytes";

/**
 * Columns without borders below a header row; columns of numbers stand at the right. Made for a queue of 100,000
 * messages: a line takes microseconds.
 */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const lines = [head, ...rows.map((row) => row.map(printable))];
  const widths = head.map((_, column) =>
    lines.reduce((most, line) => Math.max(most, displayWidth(line[column] ?? "")), 0),
  );
  const right = head.map((_, column) => rows.length > 0 && rows.every((row) => typeof row[column] === "number"));
  return lines
    .map((line) => line.map((cell, column) => padded(cell, widths[column] ?? 0, right[column] === true)))
    .map((cells) => cells.join("  ").trimEnd())
    .join("\n");
}

function padded(cell: string, width: number, right: boolean): string {
  const space = " ".repeat(Math.max(0, width - displayWidth(cell)));
  return right ? space + cell : cell + space;
}

const graphemes = new Intl.Segmenter();
const wide =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Emoji_Presentation}\u{ff01}-\u{ff60}]/u;

/** Columns a text takes on a terminal: internationalised addresses may have characters two columns wide. */
export function displayWidth(text: string): number {
  if (/^[ -~]*$/.test(text)) return text.length;
  return [...graphemes.segment(text)].reduce((sum, { segment }) => sum + (wide.test(segment) ? 2 : 1), 0);
}

/** Control characters of an address or a file name must not steer a terminal. */
export function printable(value: string | number): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return String(value).replace(/[\x00-\x1f\x7f-\x9f]/g, "?");
}

/** "4.2 kB", "17 MB". */
export function size(bytes: number): string {
  return prettyBytes(bytes);
}

/** "3h", "2d": how long something took or is ago. */
export function span(milliseconds: number): string {
  return ms(Math.max(0, Math.round(milliseconds)));
}

/** Local time without fractions, `2026-11-24 02:00:00`, as the people at the terminal count it. */
export function localTime(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":")}`;
}
