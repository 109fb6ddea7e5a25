import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { programsOf } from "../../src/runbook/lint-commands.ts";
import { readShell } from "../../src/runbook/shell.ts";

const commands = (script: string) =>
  readShell(script)
    .commands.flatMap(programsOf)
    .map(({ words }) => words.map(({ text }) => text).join(" "));

describe("commands", () => {
  test.each<[string, string[]]>([
    ["a 'b c' \"d $e\" f\\ g", ["a b c d $e f g"]],
    ["a; b && c || d | e & f", ["a", "b", "c", "d", "e", "f"]],
    ["a \\\n  b", ["a b"]],
    ["a # b\nc", ["a", "c"]],
    ["if a; then b; elif c; then d; else e; fi", ["a", "b", "c", "d", "e"]],
    ["while ! a; do b; done < c", ["a", "b"]],
    ['x=$(a "$(b)") c', ["b", "a $(b)", "c"]],
    ["(a && b); { c; }", ["a", "b", "c"]],
    ["case $x in a|b) c ;; *) d ;; esac; e", ["c", "d", "e"]],
    ["cat << E\n$(a) b\nE\nc", ["cat", "a", "c"]],
    ["cat <<- 'E'\n\t$(a)\n\tE\nc", ["cat", "c"]],
    ["[[ -n $a && b == c ]] && d", ["d"]],
    ["(( a > 1 )) && b; c $((d + 1))", ["b", "c $((d + 1))"]],
    ["a > b 2>&1 < c &> d", ["a"]],
    ['A=1 B="$2" a', ["a"]],
    ["a <(b c)", ["b c", "a <(b c)"]],
    ["f() { a; }\nf", ["a", "f"]],
    ["timeout -k 5 10m a b", ["timeout -k 5 10m a b", "a b"]],
    ["xargs -r -n 1 a -i < b", ["xargs -r -n 1 a -i", "a -i"]],
    ["env A=1 a", ["env A=1 a", "a"]],
    ["xargs -I {} a {}", ["xargs -I {} a {}", "a {}"]],
    ["env -u X A=1 a", ["env -u X A=1 a", "a"]],
    ['flock -w 5 "$d" a', ["flock -w 5 $d a", "a"]],
    ["nice -n 10 ionice -c 3 a", ["nice -n 10 ionice -c 3 a", "ionice -c 3 a", "a"]],
    ["bash -euc 'a; b'", ["bash -euc a; b", "a", "b"]],
    ["command -v a", ["command -v a"]],
    ["a 'b\nc'\nd", ["a b\nc", "d"]],
  ])("%j", (script, expected) => {
    expect(commands(script)).toEqual(expected);
  });
});

test("lines are those of the script", () => {
  const { commands: found, uses } = readShell('a\n\nb "\n$x" \\\n  "$y"\nc');
  expect(found.map(({ line }) => line)).toEqual([0, 2, 5]);
  expect(uses.map(({ name, line }) => [name, line])).toEqual([
    ["x", 3],
    ["y", 4],
  ]);
});

test("what is set, exported and read", () => {
  const { sets, exports, uses } = readShell(
    `a=1; export b=2 c; read -r d e; for f in 1; do :; done; mapfile -t g; printf -v h %s 1; local i=1; echo "\${j:-1}$k"`,
  );
  expect([...sets].sort()).toEqual(["a", "b", "d", "e", "f", "g", "h", "i"]);
  expect([...exports].sort()).toEqual(["b", "c"]);
  expect(uses).toMatchObject([
    { name: "j", optional: true },
    { name: "k", optional: false },
  ]);
});

test("whatever is written, reading it ends", () => {
  const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
  const piece = fc.constantFrom(
    ..."$ ( ) { } ' \" ` \\ | & ; < > << <<< <( $( $(( $\u007b }} [[ ]] case in esac for do done if fi a=( # \n x EOF )) ;; & &>( =".split(
      " ",
    ),
    " ",
    "\n",
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
      expect(readShell(pieces.join(""))).toBeDefined();
      expect(readShell(pieces.join(" "))).toBeDefined();
    }),
    { seed, numRuns: 2000, interruptAfterTimeLimit: 20_000, markInterruptAsFailure: true },
  );
});
