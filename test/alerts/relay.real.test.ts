import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { AlertEvent } from "../../src/alerts/decide.ts";
import { sendMail } from "../../src/alerts/mail.ts";
import { errorOf } from "../support/keys.ts";
import { needs } from "../support/needs.ts";
import { PrivatePostfix } from "../support/postfix.ts";
import { destroyScratch, makeScratch } from "../support/scratch.ts";
import { Sink } from "../support/sink.ts";
import { until } from "../support/wait.ts";

const event: AlertEvent = {
  type: "alert",
  event: "raised",
  key: "backup-failed",
  kind: "failed",
  job: "backup",
  severity: "critical",
  host: "mx1.source.test",
  time: "2026-11-24T12:00:00.000Z",
  since: "2026-11-24T12:00:00.000Z",
  exit: 1,
  text: "mx1.source.test: backup failed (exit 1)",
};

/** A real relay that takes nothing but over STARTTLS, with a certificate nobody has signed, as relays inside a site have. */
describe.skipIf(!needs("root", "postfix", "openssl"))("a relay with a certificate of its own", () => {
  const scratch = makeScratch();
  let sink: Sink;
  let relay: PrivatePostfix;
  beforeAll(async () => {
    const [key, certificate] = [join(scratch, "key.pem"), join(scratch, "cert.pem")];
    const subject = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=relay.test"];
    const files = ["-keyout", key, "-out", certificate];
    execFileSync("openssl", ["req", "-x509", "-nodes", "-days", "2", ...subject, ...files], { stdio: "ignore" });
    sink = await Sink.start({ domains: { "ops.test": {} }, keepBytes: true });
    const main = {
      smtpd_tls_security_level: "encrypt",
      smtpd_tls_received_header: "yes",
      smtpd_tls_cert_file: certificate,
      smtpd_tls_key_file: key,
    };
    relay = await PrivatePostfix.start({ sink, main });
  });
  afterAll(async () => {
    await relay.destroy();
    await sink.close();
    destroyScratch(scratch);
  });

  const send = (credentials: string) => {
    const url = `smtp://${credentials}127.0.0.1:${relay.port}`;
    const one = { signal: new AbortController().signal, tryNumber: 0, timeoutMs: 10_000 };
    return sendMail({ url, from: "spoolsafe@mx1.source.test", to: ["ops@ops.test"] }, event, one);
  };

  test("gets the mail, encrypted", async () => {
    await send("");
    await until(() => sink.deliveries.length === 1);
    expect(sink.deliveries[0]?.recipient).toBe("ops@ops.test");
    expect(sink.deliveries[0]?.bytes?.toString()).toMatch(/using TLSv1\.[23] with cipher/);
  });

  test("gets no password: it could be anybody", async () => {
    const error = await errorOf(() => send("me:secret@"));
    expect(error.message).toMatch(/self.signed certificate/i);
  });
});
