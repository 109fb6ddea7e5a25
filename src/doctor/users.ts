import { scopes } from "../postfix/parameters.ts";
import type { Manifest } from "../snapshot/manifest.ts";
import { groupId, userId } from "../system/accounts.ts";
import { bad, type Finding, good } from "./finding.ts";
import type { Pair } from "./opened-snapshot.ts";
import { perInstance } from "./pairs.ts";

/** Accounts by name: those mail belongs to, and those Postfix runs as, here and by the saved configuration. */
export function examineUsers(manifest: Manifest, pairs: readonly Pair[]): readonly Finding[] {
  return perInstance(pairs, (pair) => {
    const found = [...ownersFindings(manifest, pair), ...postfixFindings(pair)];
    return found.length > 0 ? found : [good("users", "every owner of mail, mail_owner and setgid_group are here")];
  });
}

/** pickup(8) takes the owner of a maildrop file for its sender, so a restore leaves out what belongs to nobody here. */
function ownersFindings({ messages }: Manifest, { source }: Pair): Finding[] {
  const local = messages.filter(({ instance, queue }) => instance === source.name && queue === "maildrop");
  const counts = Map.groupBy(local, ({ owner }) => owner.user);
  return [...counts].flatMap(([user, { length }]) =>
    userId(user) !== undefined
      ? []
      : [
          bad(
            "users",
            `there is no user ${user} here, who owns ${length} message${length === 1 ? "" : "s"} of maildrop`,
            `make the user (useradd --system ${user}): a restore can't place this mail otherwise`,
          ),
        ],
  );
}

function postfixFindings({ saved, target, here }: Pair): Finding[] {
  const value = (name: string) => (saved === undefined ? "" : (scopes(saved)[0]?.value(name) ?? ""));
  const local = scopes(here)[0];
  const users = named([target.mailOwner, value("mail_owner")]);
  const groups = named([target.setgidGroup, local?.value("setgid_group") ?? "", value("setgid_group")]);
  const remedy = "install Postfix from its package, which makes it, or make it by hand";
  return [
    ...users
      .filter((name) => userId(name) === undefined)
      .map((name) => bad("users", `there is no user ${name} here (mail_owner)`, remedy)),
    ...groups
      .filter((name) => groupId(name) === undefined)
      .map((name) => bad("users", `there is no group ${name} here (setgid_group)`, remedy)),
  ];
}

function named(names: readonly string[]): string[] {
  return [...new Set(names)].filter((name) => name !== "");
}
