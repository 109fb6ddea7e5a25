#!/bin/sh
# Make a fresh clone ready: npm packages, Debian packages, dist/. Does what is missing and nothing else.
#
#   setup.sh                 npm packages, dist/, and what Spoolsafe itself is used with: postfix age zstd, and jq for the runbooks
#   setup.sh --tests         and what only the tests need: two object stores, openssl, zsh, fish, promtool, munin-run, visudo,
#                            a browser, shellcheck, a Debian to build the image in
#   setup.sh --no-packages   npm packages and dist/ only
#
# Debian packages need root and apt-get. Without those it says what is missing and how to install it, and goes on: tests
# that need it skip, by name.
set -eu

cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin"
export PATH

# program:package; postfix and its tools are one package.
wanted="postfix:postfix age:age zstd:zstd flock:util-linux jq:jq"
test_wanted="unshare:util-linux systemd-analyze:systemd openssl:openssl ps:procps ceph-mon:ceph-mon ceph-osd:ceph-osd radosgw:radosgw
  swift-proxy-server:swift-proxy swift-account-server:swift-account swift-container-server:swift-container
  swift-object-server:swift-object zsh:zsh fish:fish promtool:prometheus munin-run:munin-node visudo:sudo
  chromium:chromium shellcheck:shellcheck mmdebstrap:mmdebstrap"
policy=/usr/sbin/policy-rc.d
policy_mark="# Made by Spoolsafe's scripts/setup.sh for the time of an installation; remove it if no installation runs."

main() {
  case "${1-}" in
    --no-packages) wanted="" ;;
    --tests) wanted="$wanted $test_wanted" ;;
    "") ;;
    *) say "usage: setup.sh [--tests | --no-packages]"; exit 2 ;;
  esac
  npm_packages
  debian_packages
  build
}

say() {
  printf 'setup: %s\n' "$*" >&2
}

# The lock file's checksum is kept in node_modules, so that only another lock file, not another time, means work.
npm_packages() {
  lock=$(cksum < package-lock.json)
  if [ "$(cat node_modules/.spoolsafe-lock 2> /dev/null)" != "$lock" ] && ! installed_by_npm; then
    command -v npm > /dev/null || { say "npm is missing: install Node with npm (Debian: apt-get install npm)"; exit 1; }
    say "npm ci"
    npm ci --no-audit --no-fund --no-update-notifier > /dev/null
  fi
  [ -w node_modules ] && printf '%s\n' "$lock" > node_modules/.spoolsafe-lock
  if [ ! -x node_modules/.bin/node ] && ! new_enough; then
    say "npm installed no Node for this machine, and the system's is too old: install Node 24.11 or newer"
    exit 1
  fi
}

# npm itself installed from this lock file, or a newer one: it writes its own copy of it last.
installed_by_npm() {
  [ ! -e node_modules/.spoolsafe-lock ] && [ -e node_modules/.package-lock.json ] &&
    [ -z "$(find package-lock.json -newer node_modules/.package-lock.json)" ]
}

new_enough() {
  node -e 'const [major, minor] = process.versions.node.split("."); process.exit(major > 24 || (major == 24 && minor >= 11) ? 0 : 1)'
}

debian_packages() {
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    say_missing
    return 0
  fi
  # Two clones may set themselves up at once: the one must not take away the other's policy.
  exec 9> /run/spoolsafe-setup.lock
  flock 9 || true
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  forbid_starts
  say "apt-get install" $missing
  if { lists_present && install; } || { update && install; }; then
    missing=$(missing_packages)
  fi
  allow_starts
  exec 9>&-
  [ -z "$missing" ] || say_missing
}

missing_packages() {
  for pair in $wanted; do
    command -v "${pair%%:*}" > /dev/null || printf '%s\n' "${pair#*:}"
  done | sort -u | tr '\n' ' '
}

say_missing() {
  say "missing Debian packages: $missing"
  say "install them as root: apt-get install --no-install-recommends $missing"
  say "going on without; the tests that need them skip and say so"
}

lists_present() {
  ls /var/lib/apt/lists/*Packages* > /dev/null 2>&1
}

update() {
  apt_get update -q
}

install() {
  case " $missing " in
    # Debian's default would listen on every interface after the next boot.
    *" postfix "*) echo "postfix postfix/main_mailer_type select Local only" | debconf-set-selections ;;
  esac
  apt_get install -q -y --no-install-recommends $missing || return 1
  # Wanted for their tools alone: from the next boot on they would listen on every interface.
  for service in prometheus munin-node; do
    case " $missing " in
      *" $service "*) systemctl disable "$service" > "$log" 2>&1 || true ;;
    esac
  done
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get -o DPkg::Lock::Timeout=300 "$@" 9>&- < /dev/null > "$log" 2>&1 || {
    tail -n 5 "$log" >&2
    return 1
  }
}

# While packages are installed no service of theirs may start: a mail server on port 25 least of all.
forbid_starts() {
  log=$(mktemp)
  trap allow_starts EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  [ ! -e "$policy" ] || return 0
  printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" > "$policy"
  chmod 755 "$policy"
}

# Takes away only a policy of our own; that is also one left by a setup that was killed, since we hold the lock.
allow_starts() {
  trap - EXIT
  rm -f "$log"
  if grep -qF "$policy_mark" "$policy" 2> /dev/null; then rm -f "$policy"; fi
}

build() {
  if [ -e dist/app.js ] && [ -z "$(find src scripts/build.mjs package.json package-lock.json -newer dist/app.js)" ]; then
    return 0
  fi
  say "npm run build"
  node scripts/build.mjs
}

main "$@"
