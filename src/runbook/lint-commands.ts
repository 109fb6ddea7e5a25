import { type Command, readShell, type Word } from "./shell.ts";

/** Programs that run what follows them: their options with a value, and how many words stand before the program. */
const carriers: ReadonlyMap<string, { readonly valued: string; readonly words: number }> = new Map(
  Object.entries({
    xargs: { valued: "adEIiLnPs", words: 0 },
    timeout: { valued: "ks", words: 1 },
    env: { valued: "uCS", words: 0 },
    flock: { valued: "wE", words: 1 },
    nice: { valued: "n", words: 0 },
    ionice: { valued: "cnp", words: 0 },
    stdbuf: { valued: "ioe", words: 0 },
    nohup: { valued: "", words: 0 },
    command: { valued: "", words: 0 },
    exec: { valued: "a", words: 0 },
    setsid: { valued: "", words: 0 },
    time: { valued: "of", words: 0 },
  }),
);

/** The command itself and what it runs through `timeout`, `xargs`, `env`, `bash -c` and the like. */
export function programsOf(command: Command): Command[] {
  const [first, ...rest] = command.words;
  const name = first?.text ?? "";
  if (/^(bash|sh|dash)$/.test(name)) {
    const script = rest[rest.findIndex(({ text }) => /^-\w*c$/.test(text)) + 1];
    const inner =
      rest.some(({ text }) => /^-\w*c$/.test(text)) && script !== undefined ? readShell(script.text).commands : [];
    return [
      command,
      ...inner.flatMap((each) => programsOf({ ...each, line: each.line + (script?.line ?? command.line) })),
    ];
  }
  const carrier = carriers.get(name);
  const asked = name === "command" && rest.some(({ text }) => /^-[vV]$/.test(text));
  const words = carrier === undefined || asked ? [] : carried(rest, carrier);
  return words.length === 0 ? [command] : [command, ...programsOf({ ...command, before: "", words })];
}

/** What is left after the carrier's own options and words, and assignments. */
function carried(
  rest: readonly Word[],
  { valued, words }: { readonly valued: string; readonly words: number },
): Word[] {
  let own = words;
  for (let index = 0; index < rest.length; index += 1) {
    const text = rest[index]?.text ?? "";
    if (/^-[A-Za-z]$/.test(text) && valued.includes(text[1] ?? "")) index += 1;
    else if (text.startsWith("-") || /^[A-Za-z_]\w*=/.test(text)) continue;
    else if (own > 0) own -= 1;
    else return rest.slice(index);
  }
  return [];
}

/** Options as getopt(3) reads them; `valued` are the letters with a value. */
export function argumentsOf(
  { words }: Command,
  valued: string,
): { readonly options: ReadonlyMap<string, readonly string[]>; readonly operands: readonly string[] } {
  const options = new Map<string, string[]>();
  const operands: string[] = [];
  const texts = words.slice(1).map(({ text }) => text);
  const add = (letter: string, value: string) => options.set(letter, [...(options.get(letter) ?? []), value]);
  for (let index = 0; index < texts.length; index += 1) {
    const text = texts[index] ?? "";
    if (!/^-./.test(text)) operands.push(text);
    else {
      for (let at = 1; at < text.length; at += 1) {
        const letter = text[at] ?? "";
        if (!valued.includes(letter)) add(letter, "");
        else {
          if (at + 1 === text.length) index += 1;
          add(letter, at + 1 === text.length ? (texts[index] ?? "") : text.slice(at + 1));
          break;
        }
      }
    }
  }
  return { options, operands };
}

/** Words that are neither options nor their marks. */
export function cleanOperands(texts: readonly string[]): string[] {
  return texts.filter((text) => !text.startsWith("-"));
}

/** It works on an instance of the run's own (`-c` and a directory named SCRATCH, DRILL or of the run), where no mail can be lost. */
export function isScratch(command: Command): boolean {
  if (!/^(post|sendmail)/.test(nameOf(command))) return false;
  const words = command.words.map(({ text }) => text);
  return words.some((word, index) => words[index - 1] === "-c" && /SCRATCH|DRILL|SPOOLSAFE_RUN_(DIR|ID)/.test(word));
}

/** The queues that postsuper is to look in; none: all of them. */
export function namedQueues(command: Command): readonly string[] {
  return argumentsOf(command, "cdefhHr").operands;
}

/** Mail on hold goes. */
export function releases(command: Command): boolean {
  const words = command.words.map(({ text }) => text);
  const [name, first, second] = words.filter((text) => !text.startsWith("-"));
  if (name === "postsuper") return argumentsOf(command, "cdefhHr").options.has("H");
  return (
    name === "spoolsafe" &&
    (first === "release" || (first === "holds" && (second === "release" || words.includes("--release"))))
  );
}

/** All deferred mail is tried at once. */
export function isFlush(command: Command): boolean {
  const [name, first] = command.words.map(({ text }) => text);
  if (name === "postqueue") return argumentsOf(command, "cis").options.has("f");
  return (name === "postfix" && first === "flush") || (/^(sendmail|mailq)$/.test(name ?? "") && first === "-q");
}

/** A new queue manager takes over, which has nothing in memory. */
export function isBarrier(command: Command): boolean {
  const [name, ...rest] = command.words.map(({ text }) => text);
  if (name === "postfix") return rest.some((word) => /^(reload|stop|start|abort)$/.test(word));
  return name === "systemctl" && rest.some((word) => /^(restart|stop|start|reload)$/.test(word));
}

/** The file that a postconf or postmulti changes; null where it only shows, or works on a scratch instance. */
export function configurationFile(command: Command): "main.cf" | "master.cf" | null {
  if (nameOf(command) === "postmulti") return postmultiEdits(command) ? "main.cf" : null;
  if (nameOf(command) !== "postconf" || isScratch(command)) return null;
  const { options, operands } = argumentsOf(command, "cC");
  const edits = ["e", "X", "#"].some((letter) => options.has(letter)) || operands.some((word) => word.includes("="));
  if (!edits) return null;
  return ["M", "F", "P"].some((letter) => options.has(letter)) ? "master.cf" : "main.cf";
}

function postmultiEdits(command: Command): boolean {
  return argumentsOf(command, "eGIgi").options.has("e");
}

/** It gives a value, and so does more than take back what the runbook itself has set. */
export function setsConfiguration(command: Command): boolean {
  if (configurationFile(command) === null) return false;
  if (nameOf(command) === "postmulti") return !/^(destroy|deport|disable)$/.test(editOf(command));
  const { options } = argumentsOf(command, "cC");
  return !options.has("X") && !options.has("#");
}

function editOf(command: Command): string {
  return argumentsOf(command, "eGIgi").options.get("e")?.[0] ?? "";
}

const spoolsafeReads =
  /^(doctor|snapshots|ls|show|find|diff|qshape|stats|status|verify|triage|completion|help|key (show|test)|schedule next|holds list|holds take-over|runbook (list|show|lint|plan|check|report|paper)|drill (list|show|verify))$/;

/** What this command changes, in words; null where it changes nothing beyond the run's own directory. */
export function mutation(command: Command): string | null {
  const name = nameOf(command);
  const texts = command.words.slice(1).map(({ text }) => text);
  const written = command.redirections.find(
    ({ operator, target }) => /^(>|>>|>\||<>|&>)$/.test(operator) && !isOurs(target.text),
  );
  if (written !== undefined) return `it writes ${written.target.text}`;
  if (isScratch(command)) return null;
  if (name === "spoolsafe") return spoolsafeMutation(texts);
  if (name === "postsuper") return "postsuper changes the queue";
  if (configurationFile(command) !== null) return `${name} changes the configuration`;
  if (name === "postqueue" && texts.some((text) => /^-[fis]/.test(text))) return "postqueue starts deliveries";
  const asks = /^(postmap|postalias)$/.test(name) && texts.some((text) => /^-[qs]/.test(text));
  if (!asks && /^(postmap|postalias|newaliases|postkick|postdrop|sendmail|swaks)$/.test(name))
    return `${name} changes something`;
  if (name === "postfix" && !/^(status|check)$/.test(cleanOperands(texts).at(-1) ?? ""))
    return "postfix changes what runs";
  if (name === "systemctl" && !texts.some((text) => /^(is-|show$|status$|list-|cat$)/.test(text)))
    return "systemctl changes what runs";
  if (/^(rm|rmdir|mv|cp|install|ln|touch|mkdir|truncate|chmod|chown|tee|dd|shred)$/.test(name)) {
    const target = cleanOperands(texts).at(-1) ?? "";
    return isOurs(target) ? null : `${name} changes ${target}`;
  }
  return null;
}

function spoolsafeMutation(texts: readonly string[]): string | null {
  if (texts.includes("--dry-run")) return null;
  const globals = /^--(config|repository|host|instance|identity-file)$/;
  const own = texts.filter((text, index) => !globals.test(text) && !globals.test(texts[index - 1] ?? ""));
  const [first = "", second = ""] = cleanOperands(own);
  if (first === "restore" && texts.some((text, index) => /^--(to|plan)$/.test(texts[index - 1] ?? "") && isOurs(text)))
    return null;
  const changes = texts.find((text) => /^--(release|withdraw|write)$/.test(text));
  if (changes === undefined && (spoolsafeReads.test(first) || spoolsafeReads.test(`${first} ${second}`))) return null;
  return `spoolsafe ${[first, second].join(" ").trim()} changes something`;
}

function isOurs(path: string): boolean {
  return /SPOOLSAFE_RUN_(DIR|ID)|^\/dev\/(null|stdout|stderr|tty|shm\b)|^&?\d*-?$|mktemp/.test(path);
}

function nameOf({ words }: Command): string {
  const first: Word | undefined = words[0];
  return first?.text ?? "";
}
