import Table from "cli-table3";
import ms from "ms";
import prettyBytes from "pretty-bytes";

const bare = {
  top: "",
  "top-mid": "",
  "top-left": "",
  "top-right": "",
  bottom: "",
  "bottom-mid": "",
  "bottom-left": "",
  "bottom-right": "",
  left: "",
  "left-mid": "",
  mid: "",
  "mid-mid": "",
  right: "",
  "right-mid": "",
  middle: "  ",
};

/** Columns without borders below a header row; numbers stand at the right. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const colAligns = head.map((_, column) => {
    return rows.length > 0 && rows.every((row) => typeof row[column] === "number")
      ? ("right" as const)
      : ("left" as const);
  });
  const lines = new Table({
    chars: bare,
    style: { "padding-left": 0, "padding-right": 0, head: [], border: [], compact: true },
    head: [...head],
    colAligns,
  });
  for (const row of rows) lines.push(row.map(printable));
  return lines.toString().replace(/ +$/gm, "");
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
