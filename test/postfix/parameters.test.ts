// biome-ignore-all lint/suspicious/noTemplateCurlyInString: Postfix writes ${name} as well
import { expect, test } from "vitest";
import {
  expand,
  type PostfixParameters,
  parseParameters,
  parseServices,
  scopes,
  splitWords,
} from "../../src/postfix/parameters.ts";

const known: Record<string, string> = { dir: "/etc/mail", empty: "", level: "3.6" };
const value = (name: string) => known[name] ?? "";

test.each([
  ["$dir/a", "/etc/mail/a"],
  ["${dir}x $(dir)y", "/etc/mailx /etc/maily"],
  ["${dir?yes}", "yes"],
  ["${empty?yes}", ""],
  ["${dir:no}", ""],
  ["${empty:no}", "no"],
  ["${nobody:no}", "no"],
  ["${dir?{yes}:{no}} ${empty?{yes}:{no}}", "yes no"],
  ["${empty:{$dir/deep}}", "/etc/mail/deep"],
  ["${dir?{${empty:{inner}}}}", "inner"],
  ["x${dir?{ spaces }}x", "x spaces x"],
  ["${{$dir } == {/etc/mail} ? {same} : {other}}", "other"],
  ["${{$dir} == {/etc/mail} ? {same} : {other}}", "same"],
  ["${{$dir} != {/etc/mail} ? {other} : {same}}", "same"],
  ["${{10} > {9} ? {number} : {text}}", "number"],
  ["${{$level} <level {3.10} ? {older} : {newer}}", "older"],
  ["$$dir", "$dir"],
  ["costs $ 5", "costs $ 5"],
  ["${unclosed", "${unclosed"],
])("%s expands to %s", (text, result) => {
  expect(expand(text, value)).toBe(result);
});

test("lines of postconf become names and values, empty ones too", () => {
  expect([...parseParameters("a = b = c\nempty = \nbare =\n\nnot a parameter\n")]).toEqual([
    ["a", "b = c"],
    ["empty", ""],
    ["bare", ""],
  ]);
});

test("words keep what is in braces together", () => {
  expect(splitWords("hash:/a, { b, c } unionmap:{hash:/d, {e f}}")).toEqual([
    "hash:/a",
    "{ b, c }",
    "unionmap:{hash:/d, {e f}}",
  ]);
  expect(splitWords("  ,, ")).toEqual([]);
});

test("a service has its program, arguments and own settings", () => {
  const [smtp, filter] = parseServices(
    [
      "127.0.0.1:10025 inet n - y - - smtpd -o {mynetworks=10.0.0.0/8, 127.0.0.0/8}",
      "filter unix - n n - 2 pipe flags=F user=nobody argv=/opt/filter {two words} ${sender}",
      "",
    ].join("\n"),
    "127.0.0.1:10025/inet/mynetworks = 10.0.0.0/8, 127.0.0.0/8\n",
  );
  expect(smtp).toMatchObject({ name: "127.0.0.1:10025", type: "inet", command: "smtpd" });
  expect([...(smtp?.overrides ?? [])]).toEqual([["mynetworks", "10.0.0.0/8, 127.0.0.0/8"]]);
  expect(filter?.args).toEqual(["flags=F", "user=nobody", "argv=/opt/filter", "two words", "${sender}"]);
});

test("a service sees main.cf through its own settings, also where they are only mentioned", () => {
  const [main, smtp, ...others] = scopes(
    parameters({ dir: "/main", maps: "hash:$dir/a", other: "hash:/b" }, { dir: "/service", extra: "$maps" }),
  );
  expect(main?.value("maps")).toBe("hash:/main/a");
  expect(smtp?.label).toBe("smtp/inet");
  expect(smtp?.value("extra")).toBe("hash:/service/a");
  expect([...(smtp?.names ?? [])].sort()).toEqual(["dir", "extra", "maps"]);
  expect(others).toEqual([]);
});

test("a parameter that mentions itself is empty and ends", () => {
  const [main] = scopes(parameters({ a: "x$b", b: "y$a" }, {}));
  expect(main?.value("a")).toBe("xy");
});

function parameters(main: Record<string, string>, overrides: Record<string, string>): PostfixParameters {
  return {
    configDirectory: "/etc/postfix",
    explicit: new Map(Object.entries(main)),
    defaults: new Map(),
    services: [
      { name: "smtp", type: "inet", command: "smtpd", args: [], overrides: new Map(Object.entries(overrides)) },
      { name: "qmgr", type: "unix", command: "qmgr", args: [], overrides: new Map() },
    ],
    mapTypes: [],
    reports: new Map(),
  };
}
