#!/bin/bash
# One-node Ceph 16 (monitor + OSD + S3 gateway, no mgr) on 127.0.0.1. Debian 12: ceph-mon ceph-osd radosgw. Idempotent.
# env: DIR (absolute, short)  PORT (S3; PORT+1 = monitor; not 6800-7300)  STORE=memstore|bluestore
# keys: test/testtest, and other, third, fourth, fifth likewise. Everything it writes is in DIR.
set -eu; : "${DIR:?}" "${PORT:?}"; STORE=${STORE:-memstore} H=$(dirname "$(readlink -f "$0")") A="-c $DIR/ceph.conf"
up() { curl -s -o /dev/null --max-time 2 "http://127.0.0.1:$PORT/"; }
alive() { [ -s "$DIR/pids" ] && for p in $(cat "$DIR/pids"); do grep -qzxF "$DIR/ceph.conf" "/proc/$p/cmdline" 2>/dev/null || return 1; done; }
# Until the new process has become the program, its command line is ours, and alive would take it for gone.
became() { for _ in $(seq 200); do grep -qzxF "$DIR/ceph.conf" "/proc/$1/cmdline" 2>/dev/null && return; sleep 0.05; done; }
bg() { setsid "$@" >>"log/$1.out" 2>&1 </dev/null 3>&- & echo $! >>pids; became $!; }
# A monitor that has just formed its quorum answers EPERM for a moment.
again() { for _ in $(seq 20); do timeout 30 "$@" && return; sleep 0.2; done; return 1; }
alive && up && exit 0
"$H/stop.sh"; up && { echo "port $PORT is in use" >&2; exit 1; }
mkdir -p "$DIR"; cd "$DIR"; NEW=; [ -e made ] || { NEW=1; rm -rf mon osd log; mkdir mon osd log; }
exec 3>&2; trap 'tail -n 5 log/*.out >&3; "$H/stop.sh"' ERR
if [ $NEW ]; then FSID=$(cat /proc/sys/kernel/random/uuid); cat >ceph.conf <<C
[global]
fsid = $FSID
mon_host = v1:127.0.0.1:$((PORT+1))
ms_bind_msgr2 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
keyring = /dev/null
run_dir = $DIR
admin_socket =
crash_dir = $DIR/log
log_file = $DIR/log/\$name.log
mon_cluster_log_file = $DIR/log/cluster.log
mon_data = $DIR/mon
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
paxos_propose_interval = 0.05
osd_data = $DIR/osd
osd_objectstore = $STORE
osd_fast_shutdown = $([ $STORE = memstore ] && echo false || echo true)
osd_memory_target = 939524096
osd_pool_default_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_crush_update_on_start = false
osd_class_update_on_start = false
bluestore_block_size = 10737418240
memstore_device_bytes = 4294967296
rgw_data = $DIR
rgw_frontends = beast endpoint=127.0.0.1:$PORT
rgw_dns_name = localhost
rgw_thread_pool_size = 64
C
  monmaptool --create --clobber --fsid $FSID --addv a "[v1:127.0.0.1:$((PORT+1))]" monmap >log/new.out
  ceph-mon $A -i a --mkfs --monmap monmap
fi
bg ceph-mon -f $A -i a
if [ $NEW ]; then
  again ceph $A osd new $FSID
  again ceph $A osd crush add osd.0 1 root=default host=localhost
  ceph-osd $A -i 0 --mkfs --osd-uuid $FSID
fi >>log/new.out 2>&1
bg ceph-osd -f $A -i 0
if [ $NEW ]; then
  for k in test other third fourth fifth; do timeout 120 radosgw-admin $A user create --uid $k --display-name $k --access-key $k --secret-key $k$k; done
  touch made
fi >>log/new.out 2>&1
bg radosgw -f $A -n client.rgw
for _ in $(seq 600); do alive; up && exit 0; sleep 0.1; done
false
