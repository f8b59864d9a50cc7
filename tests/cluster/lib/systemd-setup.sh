#!/usr/bin/env bash
# What a node needs besides for systemd as its init: cgroups of its own, a /usr to install into, and nothing of the
# machine's that systemd could change. Runs in the node's mount and cgroup namespaces, after all else of node-setup.sh.
# usage: systemd-setup.sh DATA_DIR
set -euo pipefail
data=$1

# Of /tmp too: systemd empties it, and these files may lie there.
for dir in usr tmp; do
    mkdir -p "$data/overlay/$dir" "$data/overlay-work/$dir"
    chmod --reference="/$dir" "$data/overlay/$dir"
    mount -t overlay "node-$dir" "/$dir" -o "lowerdir=/$dir,upperdir=$data/overlay/$dir,workdir=$data/overlay-work/$dir"
done

# Mounted again: seen from a cgroup namespace the machine's mounts begin above its root.
hierarchies=$(awk '$3 == "cgroup" || $3 == "cgroup2" { print $3, $2, $4 }' /proc/self/mounts)
mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
while read -r type path options; do
    mkdir -p "$path"
    case $type,$options in
    cgroup2,*) mount -t cgroup2 cgroup2 "$path" ;;
    *name=systemd*) mount -t cgroup -o none,name=systemd cgroup "$path" ;;
    *) mount -t cgroup -o "${path##*/}" cgroup "$path" ;;
    esac
done <<<"$hierarchies"

# systemd puts links into /dev: it is its own, with the machine's devices.
mkdir -p /run/dev
mount -t tmpfs -o mode=755 node-dev /run/dev
mkdir /run/dev/{pts,shm,mqueue,hugepages}
find /dev -maxdepth 1 \( -type b -o -type c -o -type l \) -exec cp -a {} /run/dev/ \;
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts /run/dev/pts
mount -t tmpfs -o mode=1777 shm /run/dev/shm
mount --move /run/dev /dev

# Nothing that the machine's administrator enabled, and nothing that changes the kernel, which is the machine's.
units=/etc/systemd/system
rm -rf "$units"/*.wants "$units"/*.requires
for unit in systemd-{sysctl,modules-load,binfmt,udevd,remount-fs,random-seed,logind,timesyncd,update-utmp}.service \
    systemd-tmpfiles-{setup,setup-dev,clean}.service systemd-tmpfiles-clean.timer getty.target \
    proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-{kernel-debug,kernel-tracing,kernel-config}.mount \
    sys-fs-fuse-connections.mount; do
    ln -sf /dev/null "$units/$unit"
done
