#!/usr/bin/env bash
# Imports an archive into a containerd root that nobody else uses, inside namespaces that end with this script.
# usage: import-images.sh CONTAINERD_BIN ROOT ARCHIVE CONFIG
set -euo pipefail
bin=$1 root=$2 archive=$3
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/state
sed -e "s|/var/lib/containerd|$root|" -e "s|/run/containerd|/mnt/state|" "$4" >/mnt/config.toml
PATH=$bin:$PATH "$bin/containerd" --config /mnt/config.toml --address /mnt/s &
daemon=$!
ctr=("$bin/ctr" --address /mnt/s --namespace k8s.io)
# until_true COMMAND…: for at most 10 s
until_true() {
    local try
    for ((try = 0; try < 100; try++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "not within 10 s: $*" && return 1
}
all_noted() { (($("${ctr[@]}" images ls -q | grep -c '^sha256:') >= wanted)); }

until_true "${ctr[@]}" version
"${ctr[@]}" images import "$archive"
# The CRI plugin notes each image under its id as well: wait for that, else a node would find it unknown.
wanted=$("${ctr[@]}" images ls -q | grep -vc '^sha256:')
until_true all_noted
kill "$daemon"
wait "$daemon" || true
find "$root" -mindepth 1 -maxdepth 1 ! -name 'io.containerd.content.v1.content' ! -name 'io.containerd.metadata.v1.bolt' \
    ! -name 'io.containerd.snapshotter.v1.overlayfs' -exec rm -rf {} +
