import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { type Promised, reckon } from "../../src/drill/promise.ts";
import type { Delivery } from "../../src/drill/sink.ts";

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

function promised(more: Partial<Promised> = {}): Promised {
  return {
    queueId: "7E48C16210F",
    sender: "a@a.test",
    recipients: ["b@b.test", "c@c.test"],
    content: sha256("Subject: x\n\nx\n"),
    submitted: null,
    ...more,
  };
}

function delivery(text: string, recipients: readonly string[], more: Partial<Delivery> = {}): Delivery {
  const end = text.indexOf("\n\n") + 2;
  return {
    ...{ sender: "a@a.test", recipients, header: text.slice(0, end), body: sha256(text.slice(end)) },
    ...{ content: sha256(text), contentUnended: sha256(text.replace(/\n$/, "")) },
    ...more,
  };
}

const text = "Subject: x\n\nx\n";

describe("what came out of the sink", () => {
  test("is what was promised, in one delivery or several", () => {
    for (const deliveries of [
      [delivery(text, ["c@c.test", "b@b.test"])],
      [delivery(text, ["c@c.test"]), delivery(text, ["b@b.test"])],
    ]) {
      expect(reckon([promised()], deliveries)).toEqual({
        ...{ messages: 1, recipients: 2, identical: 1, promised: { messages: 1, recipients: 2 } },
        ...{ deviating: [], notices: 0 },
      });
    }
  });

  test("keeps two promises of the same text to the same people only when it comes twice", () => {
    const twins = [promised(), promised({ queueId: "8A00016210E" })];
    const once = delivery(text, ["b@b.test", "c@c.test"]);
    expect(reckon(twins, [once, once])).toMatchObject({ identical: 2, deviating: [] });
    expect(reckon(twins, [once])).toMatchObject({
      identical: 1,
      deviating: [{ queueId: "8A00016210E", detail: "2 of 2 recipients got nothing" }],
    });
  });

  test.each([
    ["a recipient who got nothing", [delivery(text, ["b@b.test"])], "7E48C16210F", "1 of 2 recipients got nothing"],
    [
      "another text",
      [delivery(text, ["b@b.test"]), delivery(`${text}more\n`, ["c@c.test"])],
      "7E48C16210F",
      "1 of 2 recipients got another text than it has",
    ],
    [
      "a copy too many",
      [delivery(text, ["b@b.test", "c@c.test"]), delivery(text, ["b@b.test"])],
      "",
      "1 copies came out that were not promised, or twice",
    ],
    [
      "somebody who was to get none",
      [delivery(text, ["b@b.test", "c@c.test", "d@d.test"])],
      "",
      "1 copies came out that were not promised, or twice",
    ],
    [
      "another sender",
      [delivery(text, ["b@b.test", "c@c.test"], { sender: "x@a.test" })],
      "7E48C16210F",
      "2 of 2 recipients got nothing",
    ],
    [
      "an address in other letters",
      [delivery(text, ["b@b.test", "C@c.test"])],
      "7E48C16210F",
      "1 of 2 recipients got nothing",
    ],
  ])("deviates with %s", (_, deliveries, queueId, detail) => {
    expect(reckon([promised()], deliveries).deviating).toContainEqual({ queueId, detail });
  });

  test("may lack the newline at its end in the queue, and has it on the wire", () => {
    const unended = promised({ content: sha256("Subject: x\n\nx") });
    expect(reckon([unended], [delivery(text, unended.recipients)])).toMatchObject({ identical: 1, deviating: [] });
  });

  test("has notices the drill's own Postfix made, and nobody else's", () => {
    const notice = (host: string) =>
      delivery(`From: Mail Delivery System <MAILER-DAEMON>\nMessage-Id: <1@${host}>\n\nsorry\n`, ["a@a.test"], {
        sender: "",
      });
    expect(reckon([], [notice("drill.invalid")])).toMatchObject({ notices: 1, deviating: [] });
    expect(reckon([], [notice("mx.a.test")])).toMatchObject({ notices: 0, deviating: [{ queueId: "" }] });
  });

  test("is promised nobody where everybody has his copy", () => {
    expect(reckon([promised({ recipients: [] })], [])).toMatchObject({ promised: { messages: 0 }, deviating: [] });
  });
});

describe("what was submitted locally", () => {
  const submitted = promised({
    submitted: { header: ["Subject: x", "To: b\n more"], body: sha256("x\n") },
  });
  const received = "Received: by drill.invalid (Postfix)\n\tid 7E48C16210F\n";
  const header = "Subject: x\nTo: b\n more\n";
  const came = (text: string) => reckon([submitted], [delivery(text, submitted.recipients)]).identical;

  test.each([
    ["a Received in front", `${received}${header}\nx\n`, 1],
    ["Message-Id, Date and From behind", `${received}${header}Message-Id: <1@x>\nDate: now\nFrom: me\n\nx\n`, 1],
    ["nothing in front", `${header}\nx\n`, 0],
    ["something else behind", `${received}${header}X-Spam: yes\n\nx\n`, 0],
    ["a line that was changed", `${received}${header.replace("more", "less")}\nx\n`, 0],
    ["another text", `${received}${header}\ny\n`, 0],
  ])("with %s", (_, text, identical) => {
    expect(came(text)).toBe(identical);
  });
});
