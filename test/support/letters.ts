import { Random } from "./random.ts";
import type { Letter } from "./smtp.ts";

/** The shapes of mail the generator knows. */
export const letterKinds = [
  "plain",
  "multipart",
  "encoded-header",
  "raw-utf8",
  "long-lines",
  "dot-lines",
  "empty-body",
  "large",
] as const;
export type LetterKind = (typeof letterKinds)[number];

export interface LetterOptions {
  readonly sender?: string;
  readonly recipients: readonly string[];
  /** Default: mostly plain and multipart, some of each other kind but `large`. */
  readonly kind?: LetterKind;
  readonly mailParameters?: string;
  readonly rcptParameters?: string;
}

/** Median bytes of a text; mail in queues is about that long. */
const medianSize = 5000;

/** A realistic message. One seed always gives the same texts in the same order. */
export function randomLetter(random: Random, options: LetterOptions): Letter {
  const kind = options.kind ?? random.pick(usualKinds);
  const sender = options.sender ?? `${random.pick(names)}@src.test`;
  const messageId = `<${random.bytes(9).toString("hex")}@letters.test>`;
  const { header, body } = content(random, kind);
  const common = [
    `From: ${random.pick(names)} <${sender === "" ? "mailer-daemon@src.test" : sender}>`,
    `To: ${options.recipients.map((address) => `<${address}>`).join(",\n\t")}`,
    `Message-ID: ${messageId}`,
    `Date: ${new Date(1_795_000_000_000 + random.below(1e9)).toUTCString().replace("GMT", "+0000")}`,
  ];
  const text = [...common, ...header].join("\n") + (body === undefined ? "\n" : `\n\n${body}`);
  const parameters = [options.mailParameters, kind === "raw-utf8" ? "BODY=8BITMIME" : undefined].filter(Boolean);
  return {
    messageId,
    sender,
    recipients: options.recipients,
    text: Buffer.from(text, "utf8"),
    ...(parameters.length === 0 ? {} : { mailParameters: parameters.join(" ") }),
    ...(options.rcptParameters === undefined ? {} : { rcptParameters: options.rcptParameters }),
  };
}

const usualKinds: readonly LetterKind[] = [
  ...Array<LetterKind>(10).fill("plain"),
  ...Array<LetterKind>(5).fill("multipart"),
  "encoded-header",
  "raw-utf8",
  "long-lines",
  "dot-lines",
  "empty-body",
];

interface Content {
  readonly header: readonly string[];
  /** Undefined: not even the empty line between header and body. */
  readonly body: string | undefined;
}

function content(random: Random, kind: LetterKind): Content {
  const size = Math.min(Math.max(random.size(medianSize), 200), 200_000);
  switch (kind) {
    case "plain":
      return { header: [`Subject: ${words(random, 5)}`], body: prose(random, size) };
    case "multipart":
      return multipart(random, size);
    case "encoded-header":
      return { header: [`Subject: =?utf-8?B?${utf8Words(random).toString("base64")}?=`], body: prose(random, size) };
    case "raw-utf8":
      return {
        header: [`Subject: ${utf8Words(random).toString()}`],
        body: `Größe, naïve, žluťoučký\n${prose(random, size)}`,
      };
    case "long-lines":
      return { header: ["Subject: long lines"], body: `${words(random, 400)}\n${words(random, 900)}\nshort\n` };
    case "dot-lines":
      return { header: ["Subject: dots"], body: `.\n..\n.a line\n${prose(random, size)}.\n\n.` };
    case "empty-body":
      return { header: ["Subject: nothing to say"], body: random.below(2) === 0 ? "" : undefined };
    case "large":
      return multipart(random, 300_000);
  }
}

function multipart(random: Random, size: number): Content {
  const boundary = `=_${random.bytes(8).toString("hex")}`;
  const attachment = random
    .bytes(Math.ceil(size * 0.7))
    .toString("base64")
    .replace(/.{76}/g, "$&\n");
  const lines = [
    "This is a multi-part message in MIME format.",
    `--${boundary}\nContent-Type: text/plain; charset=us-ascii\n\n${prose(random, Math.min(size / 10, 2000))}`,
    `--${boundary}\nContent-Type: application/octet-stream; name="file.bin"\nContent-Transfer-Encoding: base64\n`,
    attachment,
    `--${boundary}--\n`,
  ];
  const type = `Content-Type: multipart/mixed;\n\tboundary="${boundary}"`;
  return { header: [`Subject: ${words(random, 3)}`, "MIME-Version: 1.0", type], body: lines.join("\n") };
}

const names = ["alice", "bernard", "chantal", "dmitri", "elif", "fatima", "georg", "hana", "ines", "jakub"];
const vocabulary =
  "the queue was full when we came back and nobody had looked at invoice order delivery report please find attached our offer of last week regards meeting postponed until further notice server backup restored numbers below differ by percent total amount due".split(
    " ",
  );

const sentences = Array.from({ length: 1000 }, (_, at) => words(new Random(at), 6 + (at % 6)));

function words(random: Random, count: number): string {
  return Array.from({ length: count }, () => random.pick(vocabulary)).join(" ");
}

function utf8Words(random: Random): Buffer {
  return Buffer.from(`Réunion du ${random.below(31)} déjà confirmée – Ελληνικά 漢字`);
}

/** Lines of words, with a number in each so that no two texts are alike, of about so many bytes. */
function prose(random: Random, size: number): string {
  const lines: string[] = [];
  for (let length = 0; length < size; ) {
    const line = `${random.pick(sentences)} ${random.below(1e6)}`;
    lines.push(line);
    length += line.length + 1;
  }
  return `${lines.join("\n")}\n`;
}
