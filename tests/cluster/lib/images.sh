# shellcheck shell=bash
# The images that pods of the harness run, built without any image registry and kept as one archive in the cache.
#
# The archive is $CACHE/images-REVISION/all.tar; REVISION is a hash of what describes them, so an edit builds them again.
# Root file systems that take long (busybox, the Debian base) have their own folders and survive such an edit.

IMAGE_REPO=registry.k8s.io
readonly IMAGE_REPO

images_revision() {
    cat "$CLUSTER_HOME"/images/* "$CLUSTER_HOME/lib/images.sh" "$CLUSTER_HOME/lib/versions.sh" | sha256sum | cut -c1-12
}
images_archive() { echo "$CACHE/images-$(images_revision)/all.tar"; }

cmd_images() {
    need_images
    images_archive
}

need_images() {
    [[ -e $(images_archive) ]] && return
    need_pause_binary
    need_sets k8s-node coredns
    need_packages debootstrap gcc libc6-dev make bzip2 dpkg-dev debian-archive-keyring python3-minimal
    with_lock "$CACHE/.lock-images" build_images
}

need_pause_binary() { [[ -x $(init_binary) ]] || with_lock "$CACHE/.lock-images" build_pause; }

build_pause() {
    local out
    [[ -x $(init_binary) ]] && return
    need_packages gcc libc6-dev
    out=$(dirname "$(init_binary)")
    mkdir -p "$out"
    gcc -Os -static -s -o "$out/pause.tmp" "$CLUSTER_HOME/images/pause.c" && mv "$out/pause.tmp" "$out/pause"
}

# build_aside DIR WHAT COMMAND…: COMMAND fills DIR.tmp, which then becomes DIR; its output is shown if it fails
build_aside() {
    local dir=$1 what=$2 started
    shift 2
    [[ -e $dir ]] && return
    started=$(date +%s%N)
    step "building $what"
    rm -rf --one-file-system "$dir.tmp"
    mkdir -p "$dir.tmp"
    "$@" "$dir.tmp" >"$dir.log" 2>&1 9>&- || {
        tail -15 "$dir.log" >&2
        die "building $what failed; its whole output: $dir.log"
    }
    rm -f "$dir.log"
    mv "$dir.tmp" "$dir"
    step "built $what in $(elapsed_since "$started") s"
}

build_images() {
    local dir
    dir=$(dirname "$(images_archive)")
    [[ -e $dir ]] && return
    need_root
    need_space "$CACHE" 4
    build_aside "$CACHE/busybox-$BUSYBOX_SUITE" "busybox ($BUSYBOX_SUITE)" make_busybox
    build_aside "$CACHE/base-$BASE_SUITE" "the Debian base ($BASE_SUITE)" make_base
    build_aside "$dir" "the image archive" make_archive
    find "$CACHE" -maxdepth 1 -name 'images-*' ! -path "$dir" -exec rm -rf {} +
}

make_busybox() {
    local work
    work=$(mktemp -d)
    "$CLUSTER_HOME/images/busybox.sh" "$BUSYBOX_SUITE" "$work" "$1/rootfs" && rm -rf "$work"
}

# One base for everything that needs a C library and tools: packed at once, since its files belong to several users.
make_base() {
    local packages=ca-certificates,curl,netcat-openbsd,bind9-dnsutils,iproute2,iptables,conntrack,kmod,nginx-light
    # It mounts and starts things: in namespaces of its own they end with it.
    unshare --mount --pid --fork --kill-child --mount-proc debootstrap --variant=minbase --include="$packages" \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        "$BASE_SUITE" "$1/rootfs" http://deb.debian.org/debian || return
    (
        cd "$1/rootfs" || exit
        rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/{doc,man,locale,info}/* var/log/* dev/* proc/* sys/*
        mkdir -p var/log/nginx
        ln -sf /dev/stdout var/log/nginx/access.log
        ln -sf /dev/stderr var/log/nginx/error.log
        find . -mindepth 1 -printf '%P\0' | LC_ALL=C sort -z |
            tar --null --no-recursion --numeric-owner --mtime=@0 --files-from=- -cf ../base.tar
    ) && rm -rf --one-file-system "$1/rootfs"
}

make_archive() {
    local out=$1 layers node
    layers=$(mktemp -d)
    node=$(set_dir k8s-node)
    mkdir -p "$layers"/{pause,agnhost/usr/local/bin,kube-proxy/usr/local/bin,coredns}
    cp "$(init_binary)" "$layers/pause/pause"
    cp "$node/agnhost" "$layers/agnhost/agnhost"
    cp "$CACHE/busybox-$BUSYBOX_SUITE/rootfs/bin/busybox" "$layers/agnhost/usr/local/bin/busybox"
    ln -s busybox "$layers/agnhost/usr/local/bin/nmeter" # lifecycle specs call it
    cp "$node/kube-proxy" "$layers/kube-proxy/usr/local/bin/"
    cp "$(set_dir coredns)/coredns" "$layers/coredns/coredns"
    chmod -R go+rX "$layers"
    image_spec "$layers" | /usr/bin/python3 "$CLUSTER_HOME/images/assemble.py" "$out/all.tar" && rm -rf "$layers"
}

image_spec() {
    local base=$CACHE/base-$BASE_SUITE/base.tar busybox=$CACHE/busybox-$BUSYBOX_SUITE/rootfs
    cat <<JSON
[{"ref": "$PAUSE_IMAGE", "layers": ["$1/pause"], "config": {"Entrypoint": ["/pause"], "User": "65535:65535"}},
 {"ref": "$IMAGE_REPO/e2e-test-images/busybox:1.37.0-1", "layers": ["$busybox"], "config": {"Cmd": ["sh"]}},
 {"ref": "$IMAGE_REPO/e2e-test-images/agnhost:2.63.0", "layers": ["$base", "$1/agnhost"],
  "config": {"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "ExposedPorts": {"80/tcp": {}, "8080/tcp": {}, "8081/tcp": {}, "9376/tcp": {}}}},
 {"ref": "$IMAGE_REPO/e2e-test-images/nginx:1.15-4", "layers": ["$base"],
  "config": {"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGTERM"}},
 {"ref": "$IMAGE_REPO/kube-proxy:v$K8S_VERSION", "layers": ["$base", "$1/kube-proxy"], "config": {"Entrypoint": ["/usr/local/bin/kube-proxy"]}},
 {"ref": "$IMAGE_REPO/coredns/coredns:v$COREDNS_VERSION", "layers": ["$1/coredns"], "config": {"Entrypoint": ["/coredns"], "WorkingDir": "/"}}]
JSON
}
