#!/usr/bin/env bash
# Builds busybox from Debian's source, static and with every applet, into a root file system.
# usage: busybox.sh SUITE WORK ROOTFS
set -euo pipefail
suite=$1 work=$2 rootfs=$3
mkdir -p "$work/lists/partial" "$rootfs"
cd "$work"

# A source list of our own: the machine's lists stay as they are.
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" >sources.list
apt=(apt-get -q -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists"
    -o APT::Sandbox::User=root -o pkgCacheFile= -o srcpkgCacheFile=)
"${apt[@]}" update
"${apt[@]}" source --download-only busybox
mkdir source
tar xf busybox_*.orig.tar.* -C source --strip-components 1
cd source
make defconfig >/dev/null
# tc needs kernel headers that are gone.
sed -i -e 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/' -e 's/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
yes '' | make oldconfig >/dev/null || true
make -j"$(nproc)"
make CONFIG_PREFIX="$rootfs" install
cd "$rootfs"
mkdir -p etc tmp root home dev proc sys var/run usr/share
chmod 1777 tmp
printf 'root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >etc/passwd
printf 'root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n' >etc/group
