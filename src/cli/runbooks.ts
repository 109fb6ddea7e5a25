import { dirname, join } from "node:path";
import {
  type FoundRunbook,
  findRunbook,
  packagedRunbooks,
  type RunbookPlaces,
  trustFault,
} from "../runbook/catalogue.ts";
import type { Context } from "./context.ts";

/**
 * Where runbooks are: with the program, and in `runbooks` beside the configuration, /etc/spoolsafe/runbooks. The
 * configuration itself is not read: a runbook must open on a host where that is broken.
 */
export function runbookPlaces({ configFile }: Context): RunbookPlaces {
  return { packaged: packagedRunbooks(), site: join(dirname(configFile), "runbooks") };
}

/** As `09`, `RB-09`, `09-stuck-hold`, or the path of a file. @throws OperatorError `usage` when there is none */
export function chooseRunbook(context: Context, call: string): FoundRunbook {
  return findRunbook(runbookPlaces(context), call, context.cwd);
}

/** What of a runbook is to be known before anybody trusts it; empty for one that came with the program. */
export function remarks(found: FoundRunbook): string[] {
  const { origin, replaces, modified, reading } = found;
  const fault = trustFault(found);
  return [
    ...(origin === "site" ? ["the site's own"] : []),
    ...(replaces === null ? [] : [`in place of the packaged ${replaces}`]),
    ...(modified === true ? ["differs from the packaged one"] : []),
    ...(reading.runbook === null ? [`can't be run: ${reading.mistakes.length} mistakes, see lint`] : []),
    ...(fault === null ? [] : [`is not run: ${fault.fact}`]),
  ];
}

/** What of a found runbook every JSON line about one has. */
export function foundJson(found: FoundRunbook) {
  const { name, path, origin, replaces, modified, reading } = found;
  return {
    id: reading.front?.id ?? null,
    ...{ name, path, origin, replaces, modified },
    trusted: trustFault(found) === null,
    mistakes: reading.mistakes.length,
  };
}
