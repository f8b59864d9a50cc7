#!/usr/bin/env bash
# Makes a node's view of the file system, inside its mount namespace: every path that a kubelet, a runtime or a CNI plugin
# writes by default is the node's own, so that defaults work and the machine's are never touched.
# usage: node-setup.sh NODE RUN_DIR DATA_DIR IP [systemd]
set -euo pipefail
node=$1 run=$2 data=$3 ip=$4 init=${5:-}

# Small changes above the machine's own: /etc (CNI, kubernetes, hosts), /opt (CNI plugins), /var/lib (mount points).
for dir in etc opt var/lib; do
    mkdir -p "$data/overlay/$dir" "$data/overlay-work/$dir"
    mount -t overlay "node-$dir" "/$dir" -o "lowerdir=/$dir,upperdir=$data/overlay/$dir,workdir=$data/overlay-work/$dir"
done

# bind SOURCE TARGET
bind() {
    mkdir -p "$1" "$2"
    mount --bind "$1" "$2"
}
bind "$data/kubelet" /var/lib/kubelet
bind "$data/containerd" /var/lib/containerd
bind "$data/cni" /var/lib/cni
bind "$data/log" /var/log
mkdir -p /var/log/pods /var/log/containers
bind "$run/run" /run

mkdir -p /etc/cni/net.d /opt/cni/bin /etc/kubernetes/manifests /etc/kubernetes/pki /etc/containerd
[[ -e $data/machine-id ]] || rm -f /etc/cni/net.d/* # the machine's, before the node has its own
rm -f /etc/resolv.conf                              # the machine's may be a link
echo "nameserver 127.0.0.1" >/etc/resolv.conf # nothing answers: a node here has no way out
printf '127.0.0.1\tlocalhost\n%s\t%s\n' "$ip" "$node" >/etc/hosts
echo "$node" >/etc/hostname

# Its identity: the machine id lasts, the boot id is new with each start.
[[ -e $data/machine-id ]] || tr -d - </proc/sys/kernel/random/uuid >"$data/machine-id"
cp "$data/machine-id" /etc/machine-id
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
# A user namespace may mount a /proc only where one is whole already, and the node's own is not any more.
mkdir -p /run/proc
mount -t proc -o nosuid,nodev,noexec proc /run/proc

[[ $init != systemd ]] || "$(dirname "$0")/systemd-setup.sh" "$data"

mount --make-rshared /
