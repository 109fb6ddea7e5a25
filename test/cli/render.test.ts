import { EventEmitter } from "node:events";
import { describe, expect, test } from "vitest";
import { errorText, Render } from "../../src/cli/render.ts";
import { OperatorError } from "../../src/errors.ts";

/** What a stream got, and whether it is a terminal. */
class Screen extends EventEmitter {
  text = "";
  write(chunk: string | Uint8Array, done?: () => void): boolean {
    this.text += chunk.toString();
    done?.();
    return true;
  }
  stream(): NodeJS.WriteStream {
    return this as unknown as NodeJS.WriteStream;
  }
}

function setUp(options: { json?: boolean; quiet?: boolean; verbose?: boolean } = {}) {
  const [out, err] = [new Screen(), new Screen()];
  const render = new Render({ json: false, quiet: false, verbose: false, ...options }, out.stream(), err.stream());
  return { render, out, err };
}

describe("answers", () => {
  test("for people, text only", () => {
    const { render, out, err } = setUp();
    render.line({ type: "snapshot" });
    render.summary({ count: 1 });
    render.text("one");
    expect(out.text).toBe("one\n");
    expect(err.text).toBe("");
  });

  test("in JSON, lines only, the summary as its own type", () => {
    const { render, out } = setUp({ json: true });
    render.line({ type: "snapshot", id: "a", tags: [], none: null });
    render.text("one");
    render.summary({ count: 1 });
    expect(out.text).toBe('{"type":"snapshot","id":"a","tags":[],"none":null}\n{"type":"summary","count":1}\n');
  });
});

describe("news", () => {
  test.each([
    [{}, "note\nwarning: warn\n"],
    [{ quiet: true }, "warning: warn\n"],
    [{ verbose: true }, "note\ndetail\nwarning: warn\n"],
    [{ json: true }, "note\nwarning: warn\n"],
  ])("with %j", (options, text) => {
    const { render, err } = setUp(options);
    render.note("note");
    render.detail("detail");
    render.warn("warn");
    expect(err.text).toBe(text);
  });
});

describe("errors", () => {
  const error = new OperatorError("no-identity", "no identity opens this\nof two tried", {
    hints: ["first", "second"],
  });

  test("for people: fact, what goes with it, hints", () => {
    const { render, out, err } = setUp();
    expect(render.error(error)).toBe(12);
    expect(out.text).toBe("");
    expect(err.text).toBe("spoolsafe: no identity opens this\n  of two tried\n  first\n  second\n");
    expect(errorText(new OperatorError("failed", "fact"))).toBe("spoolsafe: fact");
  });

  test("in JSON: the last line", () => {
    const { render, out, err } = setUp({ json: true });
    expect(render.error(error)).toBe(12);
    expect(err.text).toBe("");
    expect(JSON.parse(out.text)).toEqual({
      type: "error",
      kind: "no-identity",
      message: "no identity opens this\nof two tried",
      hints: ["first", "second"],
      exit: 12,
    });
  });

  test("anything else is a defect, its stack under --verbose only", () => {
    const { render, err } = setUp();
    expect(render.error(new TypeError("x is not a function"))).toBe(1);
    expect(err.text).toContain(
      "spoolsafe: this is a defect of spoolsafe: TypeError: x is not a function\n  please report it",
    );
    expect(err.text).not.toContain("at ");
    const verbose = setUp({ verbose: true });
    verbose.render.error(new TypeError("x is not a function", { cause: new Error("deeper") }));
    expect(verbose.err.text).toMatch(/ at .*render\.test\.ts[\s\S]*caused by Error: deeper/);
  });
});

test("a closed pipe ends the output and nothing else; any other failure is thrown", () => {
  const { render, out } = setUp();
  render.surviveClosedPipes();
  out.emit("error", Object.assign(new Error("write EPIPE"), { code: "EPIPE" }));
  render.text("into the void");
  expect(out.text).toBe("");
  const other = setUp();
  other.render.surviveClosedPipes();
  expect(() => other.out.emit("error", Object.assign(new Error("disk full"), { code: "ENOSPC" }))).toThrow("disk full");
});
