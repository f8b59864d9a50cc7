#!/usr/bin/env bash
# Runs first inside a host's new namespaces: does its set-up, reports, and becomes the init that holds them.
# usage: host-init.sh HOST INIT REPORT SETUP…   (writes "ready" to the file REPORT when all is done)
set -euo pipefail
host=$1 init=$2
exec 8>"$3" # opened now: the set-up may hide its folder
shift 3
hostname "$host" 2>/dev/null || true
ip link set lo up
"$@"
echo ready >&8
exec 8>&-
if [[ $init == */systemd ]]; then
    # All that it may write has mounts of its own. Not before the report, which is open on the machine's.
    mount -o remount,bind,ro /
    exec env container=rkubelet-cluster "$init" --system --unit=multi-user.target
fi
exec -a "rkubelet-cluster-$host" "$init"
