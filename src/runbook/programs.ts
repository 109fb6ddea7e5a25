/** What bash brings along (bash(1), SHELL BUILTIN COMMANDS), and its keywords where a command may stand. */
export const builtins: ReadonlySet<string> = new Set(
  (
    ". : [ alias bg bind break builtin caller cd command compgen complete continue declare dirs disown echo enable eval exec exit " +
    "export false fc fg getopts hash help history jobs kill let local logout mapfile popd printf pushd pwd read readarray " +
    "readonly return set shift shopt source suspend test times trap true type typeset ulimit umask unalias unset wait for " +
    "select function [["
  ).split(" "),
);

/** What every Linux has (coreutils, grep, sed, awk, findutils, diffutils, util-linux's flock), and spoolsafe itself. */
export const everywhere: ReadonlySet<string> = new Set(
  (
    "awk b2sum base32 base64 basename bash cat chgrp chmod chown cksum cmp comm cp csplit cut date dd df diff dirname du " +
    "egrep env expand expr fgrep find flock fmt fold grep head hostname id install join link ln logname ls md5sum mkdir mkfifo " +
    "mknod mktemp mv nice nl nohup nproc numfmt od paste pr printenv pwd readlink realpath rm rmdir sed seq setsid sh " +
    "sha256sum sha512sum shred shuf sleep sort split spoolsafe stat stdbuf sum sync tac tail tee test timeout touch tr " +
    "truncate tsort tty uname uniq unlink wc who whoami xargs yes"
  ).split(" "),
);

/** Variables a block has without an export: of bash, of every login, and what the runner gives. */
export const ofTheShell: readonly string[] = (
  "HOME PATH LC_ALL PWD OLDPWD UID EUID PPID BASHPID BASH BASH_VERSION BASH_SOURCE HOSTNAME HOSTTYPE IFS LINENO PIPESTATUS RANDOM " +
  "SECONDS EPOCHSECONDS REPLY OPTARG OPTIND SHLVL FUNCNAME " +
  "SPOOLSAFE_STEP SPOOLSAFE_RUN_ID SPOOLSAFE_RUN_DIR SPOOLSAFE_RUNBOOK SPOOLSAFE_CONFIG MAIL_CONFIG"
).split(" ");
