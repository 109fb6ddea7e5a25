/*
 * Enough of bash's grammar (bash(1), SHELL GRAMMAR and QUOTING) to tell commands, words, quotes and expansions apart, for
 * blocks of a dozen lines. Whether a script is valid is bash's own business: of one that is not, this reads what it can.
 */

export interface Word {
  /** Without quotes and backslashes; expansions stand as written. */
  readonly text: string;
  /** Line of the script, from 0. */
  readonly line: number;
}

export interface Redirection {
  /** `>`, `>>`, `<`, `<<`, ... */
  readonly operator: string;
  readonly target: Word;
}

export interface Command {
  /** The program and its arguments; assignments before it, keywords and redirections are left out. Never empty. */
  readonly words: readonly Word[];
  readonly redirections: readonly Redirection[];
  readonly line: number;
  /** Within `( )`, or within a substitution: what it changes of the shell is gone afterwards. */
  readonly subshell: boolean;
  /** What stands before and after it: `|`, `||`, `&&`, `;`, `&`, or nothing. */
  readonly before: string;
  readonly after: string;
}

/** A variable that is read. */
export interface Use {
  readonly name: string;
  readonly line: number;
  /** It has a default (`${X:-y}`) or is asked whether it is set. */
  readonly optional: boolean;
}

export interface Shell {
  readonly commands: readonly Command[];
  readonly uses: readonly Use[];
  /** `$x`, `$(...)` and the like where bash splits what comes of them into words. */
  readonly unquoted: readonly { readonly text: string; readonly line: number }[];
  /** Assigned, read or counted through; and which of them are exported. */
  readonly sets: ReadonlySet<string>;
  readonly exports: ReadonlySet<string>;
  readonly functions: readonly { readonly name: string; readonly line: number }[];
  /** Lines with `<(...)` or `>(...)`. */
  readonly processSubstitutions: readonly number[];
}

/** Never throws. */
export function readShell(script: string): Shell {
  const reader = new Reader(script);
  reader.list("", false);
  return reader.shell;
}

const keywords = new Set("! { } if then elif else fi while until do done time esac coproc".split(" "));
const declaring = new Set(["export", "declare", "typeset", "local", "readonly"]);
const assignment = /^([A-Za-z_][A-Za-z0-9_]*)(\[[^\]]*\])?\+?=/;

/** How far bash splits and where: in plain words it does; in assignments, tests and here-strings it does not. */
type Splitting = "split" | "whole";

class Reader {
  readonly #text: string;
  #at = 0;
  #line = 0;
  #heredocs: { readonly delimiter: string; readonly quoted: boolean; readonly tabs: boolean }[] = [];
  readonly shell = {
    commands: [] as Command[],
    uses: [] as Use[],
    unquoted: [] as { text: string; line: number }[],
    sets: new Set<string>(),
    exports: new Set<string>(),
    functions: [] as { name: string; line: number }[],
    processSubstitutions: [] as number[],
  };

  constructor(text: string) {
    this.#text = text;
  }

  /** Commands up to `end`, which is consumed; the empty text is the end of the script. */
  list(end: string, subshell: boolean): void {
    let before = "";
    let cases = 0;
    while (this.#at < this.#text.length) {
      this.#blanks();
      if (this.#text.startsWith("((", this.#at)) {
        this.#arithmetic(2);
        continue;
      }
      if (end !== "" && cases === 0 && this.#text.startsWith(end, this.#at)) {
        this.#skip(end.length);
        return;
      }
      const operator = this.#operator();
      if (operator === "(") {
        this.list(")", true);
        before = "";
      } else if (operator.startsWith(";;") || operator === ";&") {
        if (cases > 0) this.#pattern();
        before = ";";
      } else if (operator !== "") before = operator;
      else {
        const first = this.shell.commands.length;
        const opened = this.#command(before, subshell);
        if (opened === "case") {
          cases += 1;
          this.#pattern();
        }
        if (opened === "esac") cases = Math.max(0, cases - 1);
        else if (this.shell.commands.length > first) before = "";
      }
    }
  }

  /** `&&`, `|`, `;`, a newline, `(` and stray `)`; empty when a word stands here. */
  #operator(): string {
    const found =
      /^(?:\|\||&&|;;&|;;|;&|\|&|[|;\n()]|&(?!>))/.exec(this.#text.slice(this.#at, this.#at + 3))?.[0] ?? "";
    this.#skip(found.length);
    if (found === "\n") this.#skipHeredocs();
    return found === "\n" || found === ")" ? ";" : found;
  }

  /** A simple command, or what a keyword begins. Returns `case` and `esac`, which change how a list is read. */
  #command(before: string, subshell: boolean): string {
    const words: Word[] = [];
    const redirections: Redirection[] = [];
    const line = this.#line;
    for (;;) {
      this.#blanks();
      if (
        this.#at >= this.#text.length ||
        /[|;\n()]/.test(this.#here()) ||
        /^&(?!>)/.test(this.#text.slice(this.#at, this.#at + 2))
      ) {
        if (this.#isFunction(words, line)) return "";
        break;
      }
      const operator = /^(?:\d*|\{\w+\}|&)(<<<|<<-|<<|<>|>>|>\||<&|>&|<|>)(?!\()/.exec(
        this.#text.slice(this.#at, this.#at + 24),
      );
      if (operator !== null) {
        this.#redirection(operator, redirections);
        continue;
      }
      if (words.length === 0 && this.#text.startsWith("((", this.#at)) break;
      const from = this.#at;
      const word = this.#word(this.#splittingOf(words));
      if (this.#at === from) this.#skip(1);
      if (words.length === 0) {
        if (word.text === "[[") return this.#until("]]");
        if (word.text === "case") return this.#caseHead();
        if (word.text === "esac") return "esac";
        if (keywords.has(word.text)) continue;
        if (this.#assigns(word, this.shell.sets)) continue;
      }
      words.push(word);
    }
    this.#remember(words);
    if (words.length > 0) {
      const after = /^\s*(\|\||&&|\||;|&)/.exec(this.#text.slice(this.#at))?.[1] ?? "";
      this.shell.commands.push({ words, redirections, line, subshell, before, after });
    }
    return "";
  }

  #isFunction(words: Word[], line: number): boolean {
    const [first, second] = words;
    const parentheses = /^\(\s*\)/.exec(this.#text.slice(this.#at))?.[0];
    const name = first?.text === "function" ? second?.text : parentheses === undefined ? undefined : first?.text;
    if (name === undefined || (parentheses === undefined && first?.text !== "function")) return false;
    this.shell.functions.push({ name, line });
    this.#skip(parentheses?.length ?? 0);
    return true;
  }

  #splittingOf(words: readonly Word[]): Splitting {
    const [first] = words;
    if (first === undefined) return "whole";
    if (first.text === "for" || first.text === "select") return "whole";
    return declaring.has(first.text) && assignment.test(this.#text.slice(this.#at)) ? "whole" : "split";
  }

  #redirection([found, operator = ""]: RegExpExecArray, redirections: Redirection[]): void {
    this.#skip(found.length);
    this.#blanks();
    const start = this.#at;
    const target = this.#word(operator.startsWith("<<") ? "whole" : "split");
    redirections.push({ operator, target });
    if (operator === "<<" || operator === "<<-") {
      const quoted = /['"\\]/.test(this.#text.slice(start, this.#at));
      this.#heredocs.push({ delimiter: target.text, quoted, tabs: operator === "<<-" });
    }
  }

  /** Of a here-document only the expansions are of interest. */
  #skipHeredocs(): void {
    for (const { delimiter, quoted, tabs } of this.#heredocs.splice(0))
      while (this.#at < this.#text.length) {
        const end = this.#text.indexOf("\n", this.#at);
        const line = this.#text.slice(this.#at, end < 0 ? this.#text.length : end);
        if ((tabs ? line.replace(/^\t+/, "") : line) === delimiter) {
          this.#skip(line.length + 1);
          break;
        }
        const stop = this.#at + line.length;
        while (this.#at < stop) {
          if (this.#here() === "\\") this.#skip(2);
          else if (quoted || !this.#expansion("whole")) this.#skip(1);
        }
        this.#skip(1);
      }
  }

  /** `[[ ... ]]`: nothing is split in it. */
  #until(end: string): string {
    while (this.#at < this.#text.length) {
      this.#blanks();
      if (this.#text.startsWith(end, this.#at)) {
        this.#skip(end.length);
        break;
      }
      const from = this.#at;
      this.#word("whole");
      if (this.#at === from) this.#skip(1);
    }
    return "";
  }

  #caseHead(): string {
    this.#blanks();
    this.#word("whole");
    this.#blanks();
    this.#word("whole");
    return "case";
  }

  /** `a | b)` of a case, unless it ends here. */
  #pattern(): void {
    this.#blanks();
    while (/^\s/.test(this.#here())) {
      this.#skip(1);
      this.#blanks();
    }
    if (/^esac\b/.test(this.#text.slice(this.#at, this.#at + 5))) return;
    while (this.#at < this.#text.length && this.#here() !== ")") this.#piece("whole");
    this.#skip(1);
  }

  /** One word, up to a blank or an operator outside of quotes. */
  #word(splitting: Splitting): Word {
    const line = this.#line;
    const whole: Splitting = assignment.test(this.#text.slice(this.#at)) && splitting === "whole" ? "whole" : splitting;
    let text = "";
    while (this.#at < this.#text.length && !/[\s|;&()<>]/.test(this.#here())) text += this.#piece(whole);
    if (/^[<>]\(/.test(this.#text.slice(this.#at, this.#at + 2)) && text === "") text = this.#processSubstitution();
    // An array: A=(one two)
    if (this.#here() === "(" && /^[A-Za-z_]\w*\+?=$/.test(text)) {
      this.#skip(1);
      while (this.#at < this.#text.length && this.#here() !== ")") {
        this.#blanks();
        const from = this.#at;
        this.#word("split");
        if (this.#at === from && this.#here() !== ")") this.#skip(1);
      }
      this.#skip(1);
    }
    return { text, line };
  }

  #piece(splitting: Splitting): string {
    const character = this.#here();
    const from = this.#at;
    if (character === "'") return this.#single();
    if (character === '"') return this.#double();
    if (this.#text.startsWith("$'", from)) {
      this.#skip(1);
      return this.#single();
    }
    if (this.#expansion(splitting)) return this.#text.slice(from, this.#at);
    if (character === "\\") {
      this.#skip(2);
      return this.#text[from + 1] === "\n" ? "" : (this.#text[from + 1] ?? "");
    }
    this.#skip(1);
    return character;
  }

  #single(): string {
    const end = this.#text.indexOf("'", this.#at + 1);
    const text = this.#text.slice(this.#at + 1, end < 0 ? this.#text.length : end);
    this.#skip(text.length + 2);
    return text;
  }

  #double(): string {
    let text = "";
    this.#skip(1);
    while (this.#at < this.#text.length && this.#here() !== '"') {
      const from = this.#at;
      if (this.#expansion("whole")) text += this.#text.slice(from, this.#at);
      else if (/^\\[$`"\\\n]/.test(this.#text.slice(from, from + 2))) {
        text += this.#text[from + 1] ?? "";
        this.#skip(2);
      } else {
        text += this.#here();
        this.#skip(1);
      }
    }
    this.#skip(1);
    return text;
  }

  /** `$x`, `${x}`, `$(...)`, `$((...))` or backquotes, if one stands here. */
  #expansion(splitting: Splitting): boolean {
    const from = this.#at;
    const line = this.#line;
    const rest = this.#text.slice(from, from + 64);
    const simple = /^\$([A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-])/.exec(rest);
    if (simple !== null) {
      this.#skip(simple[0].length);
      this.#use(simple[1] ?? "", line, false);
    } else if (rest.startsWith("$((")) this.#arithmetic(3);
    else if (rest.startsWith("$(")) {
      this.#skip(2);
      this.list(")", true);
    } else if (rest.startsWith("${")) this.#parameter();
    else if (rest.startsWith("`")) {
      const end = this.#text.indexOf("`", from + 1);
      this.#skip((end < 0 ? this.#text.length : end + 1) - from);
    } else return false;
    const text = this.#text.slice(from, this.#at);
    // Numbers have no blanks in them.
    if (splitting === "split" && !/^\$(?:[#?$!]|\{#|\(\()/.test(text)) this.shell.unquoted.push({ text, line });
    return true;
  }

  #parameter(): void {
    const line = this.#line;
    const [head = "${", name = "", operator = ""] =
      /^\$\{[#!]?([A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-])?(:?[-=?+])?/.exec(this.#text.slice(this.#at)) ?? [];
    this.#skip(head.length);
    if (name !== "") this.#use(name, line, /[-=+]/.test(operator));
    while (this.#at < this.#text.length && this.#here() !== "}") {
      if (this.#here() === "'") this.#single();
      else if (this.#here() === '"') this.#double();
      else if (this.#here() === "\\") this.#skip(2);
      else if (!this.#expansion("whole")) this.#skip(1);
    }
    this.#skip(1);
  }

  /** What stands between `((` or `$((` and its end. */
  #arithmetic(opening: number): void {
    this.#skip(opening);
    let depth = 2;
    while (this.#at < this.#text.length && depth > 0) {
      if (this.#here() === "(") depth += 1;
      if (this.#here() === ")") depth -= 1;
      if (!this.#expansion("whole")) this.#skip(1);
    }
  }

  #processSubstitution(): string {
    const from = this.#at;
    this.shell.processSubstitutions.push(this.#line);
    this.#skip(2);
    this.list(")", true);
    return this.#text.slice(from, this.#at);
  }

  #use(name: string, line: number, optional: boolean): void {
    if (/^[A-Za-z_]/.test(name)) this.shell.uses.push({ name, line, optional });
  }

  #assigns({ text }: Word, into: Set<string>): boolean {
    const [, name] = assignment.exec(text) ?? [];
    if (name !== undefined) into.add(name);
    return name !== undefined;
  }

  /** Variables that a command sets. */
  #remember(words: readonly Word[]): void {
    const [first, ...rest] = words;
    const names = rest.filter(({ text }) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(text)).map(({ text }) => text);
    const { sets, exports } = this.shell;
    if (declaring.has(first?.text ?? "")) {
      for (const word of rest) this.#assigns(word, sets);
      const exporting = first?.text === "export" || rest.some(({ text }) => /^-[a-z]*x/.test(text));
      for (const word of exporting ? rest : []) this.#assigns(word, exports);
      for (const name of names) (exporting ? exports : sets).add(name);
    }
    if (first?.text === "read" || first?.text === "mapfile" || first?.text === "readarray") {
      for (const name of names) sets.add(name);
    }
    if (first?.text === "for" || first?.text === "select") for (const name of names.slice(0, 1)) sets.add(name);
    const [option, name] = rest;
    if (first?.text === "printf" && option?.text === "-v" && name !== undefined) sets.add(name.text);
  }

  /** Blanks, continued lines and comments. */
  #blanks(): void {
    for (;;) {
      const blank = /^(?:[ \t]|\\\n)+/.exec(this.#text.slice(this.#at))?.[0] ?? "";
      this.#skip(blank.length);
      const before = this.#text[this.#at - 1] ?? "\n";
      const comment = /[\s;(|&]/.test(before) ? (/^#[^\n]*/.exec(this.#text.slice(this.#at))?.[0] ?? "") : "";
      this.#skip(comment.length);
      if (blank + comment === "") return;
    }
  }

  #here(): string {
    return this.#text[this.#at] ?? "";
  }

  #skip(length: number): void {
    for (const end = Math.min(this.#at + length, this.#text.length); this.#at < end; this.#at += 1) {
      if (this.#text[this.#at] === "\n") this.#line += 1;
    }
  }
}
