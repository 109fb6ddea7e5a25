import type { Runbook } from "./runbook.ts";
import type { RunWorld } from "./world.ts";

/**
 * What of our own environment a block gets, beside the variables of its runbook: what programs need to find their way, and
 * what spoolsafe and the AWS SDKs read. All else stays out, so that a run does not depend on whose terminal it began in,
 * and nothing of theirs is kept with it.
 */
const passedOn =
  /^(HOME|USER|LOGNAME|SHELL|TERM|COLUMNS|TZ|NO_COLOR|SUDO_USER|MAIL_CONFIG|SPOOLSAFE_(REPOSITORY|IDENTITY_FILE)|AWS_\w+|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY|SSL_CERT_(FILE|DIR)|NODE_EXTRA_CA_CERTS)$/;

/** Where blocks find programs, behind our own. */
export const systemPath = "/usr/sbin:/usr/bin:/sbin:/bin";

/** What the shell sets itself in every process. */
const shellOwn = ["_", "SHLVL", "PWD", "OLDPWD"];

export interface BlockPlace {
  readonly run: string;
  readonly runbook: Runbook;
  /** Name of the step's action, or of the block itself where it belongs to no step. */
  readonly step: string;
  readonly directory: string;
  /** With our `spoolsafe` in it; null where there is none. */
  readonly bin: string | null;
}

/**
 * The whole environment of a block.
 *
 * @param given values of the runbook's variables and secrets, from --set, the environment or a question
 * @param carried what the blocks before have exported
 */
export function blockEnvironment(
  world: RunWorld,
  place: BlockPlace,
  given: ReadonlyMap<string, string>,
  carried: ReadonlyMap<string, string>,
): Record<string, string> {
  const { environment, configFile, instance } = world;
  const own = Object.entries(environment).flatMap(([name, value]) =>
    passedOn.test(name) && value !== undefined ? [[name, value] as const] : [],
  );
  return {
    ...Object.fromEntries(own),
    ...(instance === null ? {} : { MAIL_CONFIG: instance.configDirectory }),
    ...Object.fromEntries(given),
    ...Object.fromEntries([...carried].filter(([name]) => !shellOwn.includes(name))),
    // A secret is never carried: it is given anew to every process that goes on with a run.
    ...Object.fromEntries([...given].filter(([name]) => place.runbook.secrets.includes(name))),
    ...(configFile === null ? {} : { SPOOLSAFE_CONFIG: configFile }),
    PATH: place.bin === null ? systemPath : `${place.bin}:${systemPath}`,
    LC_ALL: "C",
    SPOOLSAFE_RUNBOOK: place.runbook.name,
    SPOOLSAFE_RUN_ID: place.run,
    SPOOLSAFE_RUN_DIR: place.directory,
    SPOOLSAFE_STEP: place.step,
  };
}
