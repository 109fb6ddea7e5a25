import { describe, expect, test } from "vitest";
import { changed, lineOf, lint, sampleText, withAction, withVerify } from "./sample.ts";

test("nothing is wrong with the sample", () => {
  expect(lint(sampleText)).toEqual([]);
});

/** What is wrong, the rule that says so, the text it makes, and what the line that is named has in it. */
type Bad = readonly [what: string, rule: string, text: string, at: string];

const words: Bad[] = [
  [
    "another number in the file's name than in the id",
    "id",
    changed("id: RB-50", "id: RB-51").replace("# RB-50", "# RB-51"),
    "shell: bash",
  ],
  ["a title without the id", "title", changed("# RB-50 A sample", "# A sample"), "# A sample"],
  ["two titles", "title", changed("## 1. Count", "# Another\n\n## 1. Count"), "# Another"],
  ["no Never", "leads", changed("**Never** `postsuper", "Not `postsuper"), "# RB-50"],
  [
    "When after Impact",
    "leads",
    changed("**When:** mail waits", "**Impact:** mail waits").replace("**Impact:** mail is", "**When:** mail is"),
    "**Impact:**",
  ],
  ["an empty When", "leads", changed("mail waits in a queue and nobody knows why.", ""), "**When:**"],
  ["no end", "if-this-fails", changed("## If this fails", "## And then"), "## And then"],
  ["an end that is not the end", "if-this-fails", `${sampleText}\n## More\n\ntext\n`, "## More"],
  ["a link to nothing", "unknown-name", changed("Nothing is changed.", "[See](99-none.md)."), "99-none.md"],
  ["a name of no runbook", "unknown-name", changed("Nothing is changed.", "See `99-none`."), "99-none"],
  ["an id of no runbook", "unknown-name", changed("Nothing is changed.", "See RB-99."), "RB-99"],
  ["a wide line", "long-line", changed("Nothing is changed.", "x".repeat(101)), "xxx"],
  [
    "blocks in another order",
    "order",
    changed('```sh {name=count-pre kind=pre timeout=10s}\ntest -d "$QUEUE_DIRECTORY"\n```\n\n', "").replace(
      "## 2.",
      "```sh {name=count-pre kind=pre timeout=10s}\ntest -d /\n```\n\n## 2.",
    ),
    "name=count-pre",
  ],
];

const fences: Bad[] = [
  ["a long block", "long-block", withAction(...Array.from({ length: 13 }, () => "echo a")), "```sh {name=count r"],
  [
    "an undo that runme runs",
    "run-all",
    changed(" timeout=30s excludeFromRunAll=true}", " timeout=30s}"),
    "name=close-undo",
  ],
  [
    "a manual step that runme runs",
    "run-all",
    changed("kind=manual excludeFromRunAll=true", "kind=manual"),
    "name=tell ",
  ],
  [
    "no risk",
    "risk",
    changed("{name=close risk=change confirm=yes timeout=30s}", "{name=close timeout=30s}"),
    "{name=close ",
  ],
  [
    "a destructive step that is not typed",
    "confirm",
    changed("risk=change confirm=yes", "risk=destructive confirm=yes"),
    "{name=close ",
  ],
  [
    "no timeout",
    "timeout",
    changed("{name=count risk=read timeout=1m}", "{name=count risk=read}"),
    "```sh {name=count r",
  ],
  ["retry without every", "timeout", changed("retry=3 every=2s", "retry=3"), "name=count-verify"],
  [
    "a block longer than all",
    "timeout",
    changed("{name=count risk=read timeout=1m}", "{name=count risk=read timeout=1h}"),
    "```sh {name=count r",
  ],
  ["a promise without an undo", "undo-promise", withAction('touch "$SPOOLSAFE_RUN_DIR/queue.jsonl"'), "## 1. Count"],
];

const grammar: Bad[] = [
  [
    "an unknown attribute",
    "attributes",
    changed("{name=count risk=read timeout=1m}", "{name=count risk=read timeout=1m tty=1}"),
    "```sh {name=count r",
  ],
  ["a quoted value", "attributes", changed("name=tell kind", 'name="tell" kind'), 'name="tell"'],
  ["two blanks", "attributes", changed("{name=tell kind", "{name=tell  kind"), "{name=tell  "],
  [
    "JSON",
    "attributes",
    changed("{name=tell kind=manual excludeFromRunAll=true}", '{"name":"tell"}'),
    '{"name":"tell"}',
  ],
  ["a value that is none", "attributes", changed("retry=3", "retry=many"), "retry=many"],
  [
    "an attribute of another kind",
    "attributes",
    changed("name=tell-verify kind=verify", "name=tell-verify kind=verify risk=read"),
    "name=tell-verify",
  ],
  [
    "no blank before the braces",
    "attributes",
    changed("sh {name=tell-verify", "sh{name=tell-verify"),
    "name=tell-verify",
  ],
  ["a block without a name", "attributes", changed("Nothing is changed.", "```sh\necho\n```"), "```sh"],
  ["another language", "language", changed("Nothing is changed.", "```bash\necho\n```"), "```bash"],
  [
    "a name twice",
    "duplicate-name",
    changed("name=tell-verify", "name=count-verify"),
    "```sh {name=count-verify kind=verify}",
  ],
  [
    "an expectation of nothing",
    "unknown-name",
    changed("expect=close-verify", "expect=close-verif"),
    "expect=close-verif}",
  ],
  [
    "an expectation of another step",
    "unknown-name",
    changed("expect=close-verify", "expect=tell-verify"),
    "expect=tell-verify",
  ],
  ["a bad regular expression", "expectation", changed("(deferred|hold) (re*)", "(deferred (re*)"), "(deferred (re*)"],
  [
    "an empty block",
    "empty-block",
    changed("# Call the number on the sheet; say which queue grows.\n", ""),
    "name=tell ",
  ],
  [
    "no verify",
    "missing-verify",
    changed('```sh {name=tell-verify kind=verify}\ntest -s "$SPOOLSAFE_RUN_DIR/queue.jsonl"\n```\n', ""),
    "## 3.",
  ],
  [
    "a block in a list",
    "fence",
    changed("Nothing is changed.", "- first\n\n  ```sh {name=inner}\n  echo\n  ```"),
    "name=inner",
  ],
  [
    "an indented fence",
    "fence",
    changed("```sh {name=tell-verify kind", "  ```sh {name=tell-verify kind"),
    "name=tell-verify",
  ],
  ["a carriage return", "characters", changed("Nothing is changed.", "Nothing is changed.\r"), "Nothing"],
  [
    "a character nobody sees",
    "characters",
    changed("postfix reload\n```\n\n```sh {name=close-verify", "postfix\u00a0reload\n```\n\n```sh {name=close-verify"),
    "postfix\u00a0reload",
  ],
  [
    "a variable in another form",
    "vars",
    changed(`export MAIL_CONFIG="\${MAIL_CONFIG:-/etc/postfix}"`, "export MAIL_CONFIG=/etc/postfix"),
    "MAIL_CONFIG=/etc",
  ],
  [
    "front matter with an unknown key",
    "front-matter",
    changed("severity: sev2", "severity: sev2\n  owner: me"),
    "owner: me",
  ],
];

const shell: Bad[] = [
  ["syntax", "syntax", withAction("if true; then echo a"), "echo a"],
  ["an unquoted variable", "unquoted", withAction("test -e $QUEUE_DIRECTORY"), "test -e"],
  ["an unquoted substitution", "unquoted", withAction("", "test -e $(mktemp)"), "mktemp"],
  ["a variable nobody exports", "unknown-name", withAction('test -e "$SNAPSHOT"'), "$SNAPSHOT"],
  [
    "a variable that stays in its block",
    "unknown-name",
    withAction("N=1", 'echo "$N"').replace('test -s "$SPOOLSAFE_RUN_DIR/queue.jsonl"', 'test "$N" = 1'),
    'test "$N" = 1',
  ],
  ["a command nobody requires", "unknown-name", withAction("swaks --quit-after RCPT"), "swaks"],
  ["a command within another", "unknown-name", withAction("timeout 5 swaks --quit-after RCPT"), "swaks"],
  [
    "a function of another block",
    "shell-state",
    withAction("f() { echo; }").replace('test -s "$SPOOLSAFE_RUN_DIR/queue.jsonl"', "f"),
    "f",
  ],
  ["cd", "shell-state", withAction("cd /tmp"), "cd /tmp"],
  ["alias", "shell-state", withAction("alias q=postqueue"), "alias q"],
  ["a prompt", "prompt", withAction("echo a", "$ postqueue -p"), "$ postqueue"],
  ["a template", "template", withAction("echo '{{ .inputs.X }}'"), "inputs.X"],
  ["sudo", "sudo", withAction("sudo -n true").replace("[jq,", "[sudo, jq,"), "sudo -n"],
  ["kill -9", "kill-9", withAction("kill -9 1234"), "kill -9"],
  ["kill -s KILL", "kill-9", withAction("kill -s KILL 1234"), "kill -s"],
  ["rm -rf of a path", "rm-rf", withAction("rm -rf /var/spool/postfix/deferred"), "rm -rf"],
  ["rm -r of the run and more", "rm-rf", withAction('rm -r "$SPOOLSAFE_RUN_DIR/a" /tmp/b'), "rm -r"],
  ["|| true", "or-true", withAction("postfix check || true"), "|| true"],
  ["|| :", "or-true", withAction("postfix check || :"), "|| :"],
  ["a process substitution", "process-substitution", withAction("sort <(postqueue -j)"), "sort <("],
  ["grep -c at the end of a check", "grep-count", withVerify("postqueue -p | grep -c deferred"), "grep -c"],
  [
    "grep -c within a check",
    "grep-count",
    withVerify("n=$(postqueue -p | grep -vc deferred)", 'test "$n" = 0'),
    "grep -vc",
  ],
];

const mail: Bad[] = [
  ["-d ALL", "all", withAction("postsuper -d ALL").replace("[jq,", "[postsuper, jq,"), "postsuper -d"],
  [
    "-h ALL deferred",
    "all",
    withAction("postsuper -h ALL deferred").replace("[jq,", "[postsuper, jq,"),
    "postsuper -h",
  ],
  [
    "-d ALL through xargs",
    "all",
    withAction("echo ALL | xargs postsuper -d ALL").replace("[jq,", "[postsuper, jq,"),
    "xargs",
  ],
  [
    "-d ALL in another shell",
    "all",
    withAction("bash -c 'postsuper -d ALL'").replace("[jq,", "[postsuper, jq,"),
    "bash -c",
  ],
  [
    "-H without a barrier",
    "release",
    withAction('postsuper -H - < "$SPOOLSAFE_RUN_DIR/ids"').replace("[jq,", "[postsuper, jq,"),
    "postsuper -H -",
  ],
  [
    "-H of what was held anywhere",
    "release",
    withAction('postsuper -h - < "$SPOOLSAFE_RUN_DIR/ids"', 'postsuper -H - < "$SPOOLSAFE_RUN_DIR/ids"').replace(
      "[jq,",
      "[postsuper, jq,",
    ),
    "postsuper -H -",
  ],
  [
    "a barrier before the hold",
    "release",
    withAction(
      "postfix reload",
      'postsuper -h - < "$SPOOLSAFE_RUN_DIR/ids"',
      'postsuper -H - < "$SPOOLSAFE_RUN_DIR/ids"',
    ).replace("[jq,", "[postsuper, jq,"),
    "postsuper -H -",
  ],
  [
    "-r without a barrier",
    "release",
    withAction('postsuper -r - < "$SPOOLSAFE_RUN_DIR/ids"').replace("[jq,", "[postsuper, jq,"),
    "postsuper -r",
  ],
  ["a flush after our release", "flush", withAction("spoolsafe holds release", "postqueue -f"), "postqueue -f"],
  [
    "a flush by postfix after a restore's release",
    "flush",
    withAction("spoolsafe release 2026", "postfix flush"),
    "postfix flush",
  ],
  ["postconf -e without an undo", "undo", withAction("postconf -e maximal_queue_lifetime=10d"), "maximal_queue"],
  ["a setting without -e", "undo", withAction("postconf maximal_queue_lifetime=10d"), "maximal_queue"],
  [
    "master.cf, and changes don't say so",
    "changes",
    changed("postconf -e master_service_disable=inet", "postconf -F smtp/inet/chroot=n"),
    "postconf -F",
  ],
  [
    "main.cf, and changes don't say so",
    "changes",
    changed("changes: [main.cf]", "changes: [master.cf]").replace("postconf -X master_service_disable\n", ""),
    "postconf -e",
  ],
  ["a check that writes", "not-read-only", withVerify("postqueue -j > /tmp/queue"), "/tmp/queue"],
  ["a check that flushes", "not-read-only", withVerify("postqueue -f"), "postqueue -f"],
  ["a check that backs up", "not-read-only", withVerify("spoolsafe backup"), "spoolsafe backup"],
  [
    "a check that backs up another host",
    "not-read-only",
    withVerify("spoolsafe --config /etc/x.toml prune"),
    "spoolsafe --config",
  ],
  ["a check that reloads", "not-read-only", withVerify("postfix reload"), "postfix reload"],
  [
    "an action of risk=read that stops",
    "not-read-only",
    changed('postqueue -j > "$SPOOLSAFE_RUN_DIR/queue.jsonl"', "postfix stop"),
    "postfix stop",
  ],
  ["a check that configures", "not-read-only", withVerify("postconf -e default_transport=retry"), "default_transport"],
];

describe("each of these is found by its rule, in its line, and nothing else is", () => {
  test.each([...words, ...fences, ...grammar, ...shell, ...mail])("%s: %s", (_, rule, text, at) => {
    const withoutPromise = lint(text).filter((each) => each.rule !== "undo-promise" || rule === "undo-promise");
    expect(withoutPromise.map((finding) => finding.rule)).toEqual([rule]);
    expect(withoutPromise[0]?.line).toBe(lineOf(text, at));
  });
});

describe("nothing is said of", () => {
  const scratch = (text: string) => text.replace("[jq,", "[postsuper, jq,");
  test.each([
    [
      "quotes, assignments, tests, loops and here-strings",
      withAction(
        "n=$(postqueue -p)",
        "x=$n",
        '[[ $x == y ]] || echo "$x"',
        'for q in $x; do echo "$q"; done',
        "cat <<< $x",
      ),
    ],
    ["numbers", withAction("echo a", `echo $? $# \${#QUEUE_DIRECTORY} $((1 + 2))`)],
    [
      "exports that later blocks use",
      withAction("export N=1").replace('test -s "$SPOOLSAFE_RUN_DIR/queue.jsonl"', 'test "$N" = 1'),
    ],
    ["a check that asks a map", withVerify("postmap -q a texthash:/tmp/map").replace("[jq,", "[postmap, jq,")],
    ["variables with a default", withAction(`echo "\${SNAPSHOT:-latest}"`)],
    ["secrets", withAction('test -n "$SAMPLE_PASSPHRASE"')],
    ["a subshell's cd", withAction("(cd /tmp && ls)")],
    ["a function in its block", withAction('f() { echo "$1"; }', "f a")],
    [
      "ALL on an instance of the run's own",
      scratch(withAction('postsuper -c "$SPOOLSAFE_RUN_DIR/etc" -r ALL incoming active deferred')),
    ],
    [
      "a release of what was held out of deferred",
      scratch(
        withAction('postsuper -h - deferred < "$SPOOLSAFE_RUN_DIR/ids"', 'postsuper -H - < "$SPOOLSAFE_RUN_DIR/ids"'),
      ),
    ],
    [
      "a release behind the barrier",
      scratch(
        withAction(
          'postsuper -h - < "$SPOOLSAFE_RUN_DIR/ids"',
          "postfix reload",
          'postsuper -H - < "$SPOOLSAFE_RUN_DIR/ids"',
        ),
      ),
    ],
    ["a requeue out of deferred", scratch(withAction('postsuper -r - deferred < "$SPOOLSAFE_RUN_DIR/ids"'))],
    ["a flush before anything is released", withAction("postqueue -f")],
    ["-i after a release", withAction("spoolsafe holds release", 'xargs -n 1 postqueue -i < "$SPOOLSAFE_RUN_DIR/ids"')],
    ["rm -rf below the run's directory", withAction('rm -rf "$SPOOLSAFE_RUN_DIR/etc" "/var/tmp/$SPOOLSAFE_RUN_ID"')],
    ["kill without -9", withAction("kill -TERM 1234")],
    ["grep -c in an action", withAction("postqueue -p | grep -c deferred")],
    [
      "a check that writes into the run's directory",
      withVerify('postqueue -j > "$SPOOLSAFE_RUN_DIR/after.jsonl" 2> /dev/null', "postfix status"),
    ],
    [
      "a check that only asks",
      withVerify(
        "spoolsafe restore latest --into /etc/postfix --dry-run",
        "spoolsafe holds list",
        "postconf -h myhostname",
        "postfix check",
        "spoolsafe --host mx1 status",
        'spoolsafe restore latest --to "$SPOOLSAFE_RUN_DIR/mail"',
      ),
    ],
    [
      "case, comments and here-documents",
      withAction(
        'case "$QUEUE_DIRECTORY" in',
        "  /var/*) echo a ;;",
        "  (*) echo b ;;",
        "esac # not $THIS",
        "cat << 'EOF'",
        "$NEITHER",
        "EOF",
      ),
    ],
    ["a wide row of a table", changed("Nothing is changed.", `| ${"x".repeat(110)} |`)],
    [
      "links that lead somewhere",
      changed("Nothing is changed.", "[This](50-sample.md#1-count), [that](https://a.test/), RB-51, `51-other`."),
    ],
    ["an illustration", changed("Nothing is changed.", "```text\n-Queue ID- $NOTHING\n```")],
    ["a section that is only read", changed("## If this fails", "## Afterwards\n\nWrite it down.\n\n## If this fails")],
  ])("%s", (_, text) => {
    expect(lint(text).filter((each) => each.rule !== "undo-promise")).toEqual([]);
  });
});

test("everything wrong is said at once, in the order of the file", () => {
  const text = changed("severity: sev2", "severity: sev9", withAction("sudo -n true", "rm -rf /tmp/x"));
  const found = lint(text).map(({ rule }) => rule);
  expect(found).toEqual(["front-matter", "sudo", "rm-rf"]);
});
