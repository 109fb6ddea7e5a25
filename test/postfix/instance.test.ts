import { expect, test } from "vitest";
import { instanceName, parsePostmulti } from "../../src/postfix/instance.ts";

test("an instance is called by its name, else by its directory", () => {
  expect(instanceName("/etc/postfix", "")).toBe("etc_postfix");
  expect(instanceName("/etc/postfix/", "")).toBe("etc_postfix");
  expect(instanceName("/etc/postfix-out", "postfix-out")).toBe("postfix-out");
  expect(instanceName("/srv/mail/a/etc", "")).toBe("srv_mail_a_etc");
});

test("postmulti -l lists name, group, enabled and directory", () => {
  const text = [
    "-               -               y         /etc/postfix",
    "postfix-out     mta             y         /etc/postfix-out",
    "postfix-test    -               n         /srv/two words/etc",
    "",
  ].join("\n");
  expect(parsePostmulti(text)).toEqual(["/etc/postfix", "/etc/postfix-out", "/srv/two words/etc"]);
});
