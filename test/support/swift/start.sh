#!/bin/bash
# OpenStack Swift 2.30 + s3api on 127.0.0.1. Debian 12: swift-proxy swift-account swift-container swift-object. Idempotent.
# env: DIR (absolute, on a file system with user xattrs)  PORT (S3; PORT+1..3 = object, container, account)
# keys: test:test/testtest, other:other/otherother. Everything it writes is in DIR.
set -eu; : "${DIR:?}" "${PORT:?}"; H=$(dirname "$(readlink -f "$0")")
taken() { curl -sf -o /dev/null --max-time 2 "http://127.0.0.1:$PORT/info"; }
# A proxy that asks the servers behind it before they listen takes them for broken, and answers 503 for a minute.
up() { for i in 1 2 3; do curl -s -o /dev/null --max-time 2 "http://127.0.0.1:$((PORT+i))/" || return 1; done; taken; }
alive() { [ -s "$DIR/pids" ] && for p in $(cat "$DIR/pids"); do grep -qzF "$DIR/" "/proc/$p/cmdline" 2>/dev/null || return 1; done; }
# Until the new process has become the program, its command line is ours, and alive would take it for gone.
became() { for _ in $(seq 200); do grep -qzF "$DIR/" "/proc/$1/cmdline" 2>/dev/null && return; sleep 0.05; done; }
alive && up && exit 0
"$H/stop.sh"; taken && { echo "port $PORT is in use" >&2; exit 1; }
mkdir -p "$DIR/data/d"; cd "$DIR"
exec 3>&2; trap 'tail -n 5 *.log >&3; "$H/stop.sh"' ERR
printf '[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n' >swift.conf
[ -e account.ring.gz ] || /usr/bin/python3 - "$PORT" <<'P'
import sys; from swift.common.ring import RingBuilder
for n, s in enumerate(('object', 'container', 'account'), 1):
    b = RingBuilder(4, 1, 0)
    b.add_dev(dict(region=1, zone=1, ip='127.0.0.1', port=int(sys.argv[1]) + n, device='d', weight=1))
    b.rebalance(); b.get_ring().save(s + '.ring.gz')
P
n=0; for s in object container account; do n=$((n+1))
  cat >$s.conf <<C
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $((PORT+n))
swift_dir = $DIR
devices = $DIR/data
mount_check = false
disable_fallocate = true
workers = 0
user = $(id -un)
container_update_timeout = 30
[pipeline:main]
pipeline = $s-server
[app:$s-server]
use = egg:swift#$s
C
done
cat >proxy.conf <<C
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $PORT
swift_dir = $DIR
workers = 0
user = $(id -un)
[pipeline:main]
pipeline = catch_errors cache listing_formats bulk s3api tempauth slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_test = testtest .admin
user_other_other = otherother .admin
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:s3api]
use = egg:swift#s3api
storage_domain = localhost
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
$(for f in catch_errors listing_formats bulk slo dlo symlink; do echo "[filter:$f]"; echo "use = egg:swift#$f"; done)
C
: >pids; for s in object container account proxy; do setsid swift-$s-server "$DIR/$s.conf" -v >$s.log 2>&1 </dev/null 3>&- & echo $! >>pids; became $!; done
for _ in $(seq 600); do alive; up && exit 0; sleep 0.1; done
false
