import type { SignedDrill } from "../snapshot/record.ts";
import { digestOf } from "../system/digest.ts";

/** The record's two lines as they are stored. */
export function recordBytes({ line, key, signature }: Pick<SignedDrill, "line" | "key" | "signature">): Buffer {
  return Buffer.concat([line, Buffer.from(`${JSON.stringify({ key, signature })}\n`)]);
}

export interface Evidence {
  /** What `sha256sum report.json` prints. */
  readonly sha256: string;
  /** SHA-256 of the public key that signed: to be compared with what is known of the host from elsewhere. */
  readonly fingerprint: string;
  /** Where the record lies in the repository. */
  readonly key: string;
  /** Shell commands, as they are to be typed where report.json is. The last prints "Signature Verified Successfully". */
  readonly commands: readonly string[];
}

/** @param key of the record in the repository */
export function evidenceOf(signed: SignedDrill, key: string): Evidence {
  const { publicKey } = signed.drill;
  return {
    sha256: digestOf(recordBytes(signed)).digest,
    fingerprint: signed.key,
    key,
    commands: [
      `printf -- '-----BEGIN PUBLIC KEY-----\\n%s\\n-----END PUBLIC KEY-----\\n' '${publicKey}' > drill.pub`,
      "openssl pkey -pubin -in drill.pub -outform DER | sha256sum",
      "head -n 1 report.json > drill.body",
      `tail -n 1 report.json | sed 's/.*"signature":"\\([^"]*\\)".*/\\1/' | base64 -d > drill.sig`,
      "openssl pkeyutl -verify -pubin -inkey drill.pub -rawin -in drill.body -sigfile drill.sig",
    ],
  };
}

/** Takes report.json out of the page. */
export const unpackCommand =
  "sed -n '/^BEGIN RECORD$/,/^END RECORD$/p' report.html | sed '1d;$d' | base64 -d > report.json";

/** The record in base64 between its two lines, as the lines a page holds. */
export function embedded(signed: SignedDrill): readonly string[] {
  const lines =
    recordBytes(signed)
      .toString("base64")
      .match(/.{1,76}/g) ?? [];
  return ["BEGIN RECORD", ...lines, "END RECORD"];
}

/** The record of a page, undefined where there is none. */
export function embeddedIn(page: string): Buffer | undefined {
  const [, text] = /^BEGIN RECORD\n([A-Za-z0-9+/=\n]*)\nEND RECORD$/m.exec(page) ?? [];
  return text === undefined ? undefined : Buffer.from(text, "base64");
}
