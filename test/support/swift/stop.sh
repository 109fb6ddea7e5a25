#!/bin/bash
# Stops what start.sh started in DIR: only recorded pids whose command line still names DIR. Data stays; WIPE=1 removes DIR.
set -u; : "${DIR:?}"
is() { grep -qzF "$DIR/" "/proc/$1/cmdline" 2>/dev/null; }
for p in $(tac "$DIR/pids" 2>/dev/null); do
  is $p && kill $p; for i in $(seq 150); do is $p || break; [ $i = 100 ] && kill -9 $p; sleep 0.1; done
done
rm -f "$DIR/pids"; [ -z "${WIPE:-}" ] || rm -rf "$DIR"
