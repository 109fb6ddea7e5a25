import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadInstance } from "../../src/postfix/instance.ts";
import { bufferSource, readQueueFile } from "../../src/postfix/queue-file.ts";
import { hashDirectories } from "../../src/postfix/queue-id.ts";
import { listQueue, locate, type SpoolFile } from "../../src/postfix/spool.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix, plainLetter, until } from "../support/postfix.ts";
import { Sink } from "../support/sink.ts";
import type { Letter } from "../support/smtp.ts";

/** Letters of the kinds that lie differently in the queue. */
function letters(): Letter[] {
  const plain = (recipients: readonly string[], extra: Partial<Letter> = {}, size = 500): Letter => ({
    ...plainLetter({ recipients, size }),
    ...extra,
  });
  const long = plainLetter({ recipients: ["long@nowhere.test"] });
  return [
    plain(["one@nowhere.test"]),
    plain(["done@good.test", "todo@nowhere.test", "too@good.test"]),
    plain(["x@nowhere.test"], { sender: "" }),
    plain(["dsn@nowhere.test"], { mailParameters: "RET=HDRS ENVID=e1", rcptParameters: "NOTIFY=SUCCESS,FAILURE" }),
    plain(["grüße@nowhere.test"], { sender: "ä@src.test", mailParameters: "SMTPUTF8 BODY=8BITMIME" }),
    plain(["big@nowhere.test"], {}, 300_000),
    { ...long, text: Buffer.concat([long.text, Buffer.from(`${"y".repeat(9000)}\n.dot\n\n\n`)]) },
    plain(Array.from({ length: 300 }, (_, index) => `r${index}@nowhere.test`)),
  ];
}

describe.skipIf(!needs("root", "postfix"))("queue files as a running Postfix writes them", () => {
  describe.each([{ longIds: false }, { longIds: true, hashQueueNames: "deferred defer", hashQueueDepth: 2 }])(
    "%j",
    (options) => {
      let sink: Sink;
      let postfix: PrivatePostfix;
      let files: SpoolFile[];

      beforeAll(async () => {
        sink = await Sink.start({ domains: { "good.test": {} } });
        postfix = await PrivatePostfix.start({ ...options, sink });
        await postfix.submit(letters());
        await until(() => postfix.counts().deferred === 8 && postfix.counts().active === 0, { what: "eight deferred" });
        files = listQueue(postfix.queueDirectory, "deferred");
      });
      afterAll(async () => {
        postfix?.destroy();
        await sink?.close();
      });

      test("say what postqueue, postcat and the log say", async () => {
        const listed = new Map((await postfix.list()).map((message) => [message.queue_id, message]));
        expect(files).toHaveLength(8);
        for (const { id, path } of files) {
          const facts = readQueueFile(bufferSource(readFileSync(path)));
          const message = listed.get(id);
          expect(facts.sender).toBe(message?.sender === "MAILER-DAEMON" ? "" : message?.sender);
          expect(Math.floor(facts.arrival)).toBe(message?.arrival_time);
          const waiting = facts.recipients.filter(({ done }) => !done).map(({ address }) => address);
          // postqueue goes by the defer log first, which has an order of its own.
          expect(waiting.sort()).toEqual(message?.recipients.map(({ address }) => address).sort());
          expect(facts.content).toBe(textDigest(postfix, path));
          expect(postfix.log()).toContain(`${id}: message-id=${facts.messageId}\n`);
          expect(postfix.log()).toContain(`${id}: from=<${facts.sender}>, size=${facts.size}, nrcpt=`);
        }
      });

      test("tell who has his copy", () => {
        const marks = files.flatMap(({ path }) => readQueueFile(bufferSource(readFileSync(path))).recipients);
        const done = marks.filter(({ address }) => address.endsWith("@good.test"));
        expect(done.map(({ address }) => address)).toEqual(["done@good.test", "too@good.test"]);
        expect(done.every((recipient) => recipient.done)).toBe(true);
        expect(marks.filter((recipient) => recipient.done)).toHaveLength(2);
      });

      test("lie where their ids say", async () => {
        const instance = await loadInstance(postfix.configDirectory);
        for (const file of files) {
          const place = [postfix.queueDirectory, "deferred", ...hashDirectories(file.id, instance.hashDepth), file.id];
          expect(file.path).toBe(place.join("/"));
          expect(locate(instance, file.id)).toEqual([file]);
        }
      });
    },
  );

  test("in maildrop, as sendmail left it, the text is what was handed in", async () => {
    await using postfix = await PrivatePostfix.create();
    const letter = plainLetter({ recipients: ["a@nowhere.test", "b@nowhere.test"] });
    await postfix.sendmail(letter);
    const [file] = listQueue(postfix.queueDirectory, "maildrop");
    const facts = readQueueFile(bufferSource(readFileSync(file?.path ?? "")));
    expect(facts).toMatchObject({ sender: letter.sender, messageId: letter.messageId, size: letter.text.length });
    expect(facts.recipients.map(({ address }) => address)).toEqual(letter.recipients);
    expect(facts.content).toBe(createHash("sha256").update(letter.text).digest("hex"));
  });
});

function textDigest(postfix: PrivatePostfix, path: string): string {
  const text = execFileSync("postcat", ["-c", postfix.configDirectory, "-hb", path], {
    env: postfix.env(),
    maxBuffer: 1e9,
  });
  return createHash("sha256").update(text).digest("hex");
}
