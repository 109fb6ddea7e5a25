import { copyFileSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import { needs } from "../support/needs.ts";
import { type ListedMessage, PrivatePostfix, plainLetter } from "../support/postfix.ts";
import { describeRunbook, StartState } from "../support/runbook.ts";
import { Sink } from "../support/sink.ts";
import { Site } from "../support/site.ts";
import { allTried } from "../support/undelivered.ts";
import { until } from "../support/wait.ts";

/** What postmulti(1) makes new instances from, and postfix(1) gives them permissions by. */
const prototypes = ["main.cf.proto", "master.cf.proto", "postfix-files", "dynamicmaps.cf"];

/**
 * postmulti(1) works on /etc/postfix alone, whatever MAIL_CONFIG says (postmulti.c, main): the real one is run where that
 * is the configuration of this instance.
 */
function postmultiOf({ configDirectory }: PrivatePostfix): string {
  const inside = 'mount --bind "$0" /etc/postfix && unset MAIL_CONFIG && exec /usr/sbin/postmulti "$@"';
  return `exec unshare --mount --propagation private sh -c '${inside}' ${configDirectory} "$@"`;
}

describeRunbook("17-separate-queues", (scenes) => {
  test.skipIf(!needs("mount-namespace"))(
    "mail of a slow site gets a queue of its own, and all of it comes back",
    { timeout: 300_000 },
    async () => {
      await using site = await Site.make();
      const later = { rcpt: "450 4.2.0 try later" };
      await using sink = await Sink.start({ domains: { "slow.test": later, "other.test": later } });
      await using postfix = await PrivatePostfix.start({ sink });
      for (const name of prototypes) copyFileSync(join("/etc/postfix", name), join(postfix.configDirectory, name));
      for (const name of ["postfix-files.d", "dynamicmaps.cf.d"]) mkdirSync(join(postfix.configDirectory, name));
      const letters = await postfix.submit([
        ...Array.from({ length: 5 }, (_, n) => plainLetter({ recipients: [`a${n}@slow.test`] })),
        ...Array.from({ length: 2 }, (_, n) => plainLetter({ recipients: [`b${n}@other.test`] })),
        plainLetter({ recipients: ["c@slow.test", "c@other.test"] }),
      ]);
      await postfix.settled();
      await postfix.hold(letters.slice(0, 1).map(({ queueId }) => queueId));
      const start = await StartState.of(postfix, { letters, sink });
      const text = (name: string) => readFileSync(join(postfix.configDirectory, name), "utf8");
      const [main, master] = [text("main.cf"), text("master.cf")];

      const at = (name: string) => join(postfix.directory, "bulk", name);
      const second = async (...args: string[]) => (await postfix.run("postqueue", ["-c", at("etc"), ...args])).stdout;
      const listed = async (): Promise<ListedMessage[]> =>
        (await second("-j"))
          .split("\n")
          .filter((line) => line !== "")
          .map((line) => JSON.parse(line));
      const transports = Object.entries(sink.transports).map(([domain, hop]) => `{${domain}=${hop}}`);
      const settings = [
        `transport_maps = inline:{${transports.join(" ")}}`,
        ...["default_transport = smtp:[127.0.0.1]:9", "smtp_tls_security_level = none"],
        ...[`maillog_file = ${at("data")}/mail.log`, `maillog_file_prefixes = ${postfix.directory}`],
      ];
      const config = site.configure([postfix]);
      const run = await scenes.run({
        ...{ postfix, config, programs: { postmulti: postmultiOf(postfix) } },
        set: {
          ...{ KEYS: "slow.test", INSTANCE_CONFIG: at("etc"), INSTANCE_QUEUE: at("spool"), INSTANCE_DATA: at("data") },
          ...{ HANDOVER: `127.0.0.1:${await freePort()}`, HOME_SMTP: `127.0.0.1:${postfix.port}` },
        },
        answers: { settings: "as the first one" },
        holdsBefore: { settings: "what Postfix ships is right as it is" },
        beforeAction: async (step) => {
          if (step === "settings") await postfix.run("postconf", ["-c", at("etc"), "-e", ...settings]);
          if (step === "move") site.configure([postfix, { ...postfix, configDirectory: at("etc") } as PrivatePostfix]);
        },
      });
      expect(run.error).toBeUndefined();
      expect(run.report).toMatchObject({ done: 7, skipped: 0 });
      expect((await listed()).flatMap(({ recipients }) => recipients.map(({ address }) => address)).sort()).toEqual([
        ...["a1@slow.test", "a2@slow.test", "a3@slow.test", "a4@slow.test", "c@slow.test"],
      ]);
      expect(text("master.cf")).toBe(master);
      expect(start.doubled()).toEqual([]);

      await scenes.undo(run);
      await postfix.settled();
      await start.expectKept(run);
      expect(text("main.cf")).toBe(main);
      expect(readdirSync(postfix.configDirectory)).not.toContain("separate");
      sink.set("slow.test", {});
      sink.set("other.test", {});
      await allTried(postfix);
      await start.expectKept(run);
      expect(sink.deliveries).toHaveLength(8);
      await until(() => postfix.running(), { what: "the first instance, which nothing has stopped" });
    },
  );
});

/** A port nobody listens on now. */
async function freePort(): Promise<number> {
  return await new Promise((resolve) => {
    const server = createServer().listen({ port: 0, host: "127.0.0.1" }, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
