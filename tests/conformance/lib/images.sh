# shellcheck shell=bash
# The images of the suite: those of the cluster harness and what it lacks, in an archive and a containerd root of their own.
#
# $CACHE/suite-images-REVISION/all.tar; REVISION covers the harness's images too, whose layers these share.

suite_images_revision() {
    {
        images_revision
        cat "$HERE"/images/* "$HERE/lib/images.sh"
    } | sha256sum | cut -c1-12
}
suite_images_archive() { echo "$CACHE/suite-images-$(suite_images_revision)/all.tar"; }
suite_seed_dir() { echo "$CACHE/suite-seed-$(set_version "containerd-$1")-$(suite_images_revision)"; }

need_suite_images() { # CONTAINERD_LINE
    need_images # for its parts
    need_sets k8s-e2e
    with_lock "$CACHE/.lock-suite-images" build_suite_images
    [[ -e $(suite_seed_dir "$1") ]] || with_lock "$CACHE/.lock-suite-images" make_suite_seed "$1"
}

build_suite_images() {
    local dir
    dir=$(dirname "$(suite_images_archive)")
    [[ -e $dir ]] && return
    build_aside "$dir" "the suite's image archive" make_suite_archive
    find "$CACHE" -maxdepth 1 -name 'suite-images-*' ! -path "$dir" -exec rm -rf {} +
}

make_suite_archive() {
    local out=$1 layers tests node base=$CACHE/base-$BASE_SUITE/base.tar
    layers=$(mktemp -d)
    node=$(set_dir k8s-node)
    tests=$(cd "$CLUSTER_HOME/modules/k8s" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/test/images || return

    # What the harness's archive has, in the same places: equal content has an equal digest.
    mkdir -p "$layers"/{pause,agnhost/usr/local/bin}
    cp "$(init_binary)" "$layers/pause/pause"
    cp "$node/agnhost" "$layers/agnhost/agnhost"
    cp "$CACHE/busybox-$BUSYBOX_SUITE/rootfs/bin/busybox" "$layers/agnhost/usr/local/bin/busybox"
    ln -s busybox "$layers/agnhost/usr/local/bin/nmeter"

    # Upstream's busybox has every applet in /bin, and specs call some of them there.
    mkdir -p "$layers/busybox-more/bin"
    "$CACHE/busybox-$BUSYBOX_SUITE/rootfs/bin/busybox" --list | while read -r applet; do
        [[ $applet == busybox ]] || ln -sf busybox "$layers/busybox-more/bin/$applet"
    done

    # agnhost as upstream's Dockerfile makes it: a second name, a user with a group of the image's own, and a registry.
    mkdir -p "$layers"/agnhost-more/{uploads,etc,var/registry}
    ln -s agnhost "$layers/agnhost-more/agnhost-2"
    cp "$tests"/agnhost/porter/localhost.{crt,key} "$layers/agnhost-more/"
    tar -xOf "$base" etc/passwd >"$layers/agnhost-more/etc/passwd"
    tar -xOf "$base" etc/group >"$layers/agnhost-more/etc/group"
    echo 'user-defined-in-image:x:1000:1000:Linux User,,,:/home'"/user-defined-in-image:/bin/sh" >>"$layers/agnhost-more/etc/passwd"
    printf '%s\n' 'user-defined-in-image:x:1000:' 'group-defined-in-image:x:50000:user-defined-in-image' >>"$layers/agnhost-more/etc/group"
    echo '[{"ref": "localhost:5000/pause:testing", "layers": ["'"$layers"'/pause"], "config": {"Entrypoint": ["/pause"], "User": "65535:65535"}}]' |
        /usr/bin/python3 "$CLUSTER_HOME/images/assemble.py" "$layers/private.tar" &&
        /usr/bin/python3 "$HERE/images/registry.py" layout "$layers/private.tar" "$layers/agnhost-more/var/registry" || return

    mkdir -p "$layers"/{nonewprivs/usr/local/bin,kitten/etc,sample-device-plugin}
    (
        cd "$CLUSTER_HOME/modules/k8s" &&
            CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -o "$layers/nonewprivs/usr/local/bin/nnp" "$tests/nonewprivs/nnp.go"
    ) || return
    cp "$tests"/kitten/html/* "$layers/kitten/"
    echo 'NAME="Alpine Linux"' >"$layers/kitten/etc/os-release" # a spec looks for this name
    cp "$(set_dir k8s-e2e)/sample-device-plugin" "$layers/sample-device-plugin/sampledeviceplugin"
    chmod -R go+rX "$layers"
    chmod 6755 "$layers/nonewprivs/usr/local/bin/nnp"
    { image_spec "$layers" && suite_image_spec "$layers" "$base"; } | /usr/bin/python3 "$HERE/images/merge_specs.py" |
        /usr/bin/python3 "$CLUSTER_HOME/images/assemble.py" "$out/all.tar" && rm -rf "$layers"
}

# Tags are those of test/utils/image/manifest.go. An entry replaces the harness's of the same reference.
suite_image_spec() { # LAYERS BASE
    local repo=$IMAGE_REPO/e2e-test-images agnhost='"layers": ["'$2'", "'$1'/agnhost", "'$1'/agnhost-more"],
  "config": {"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "ExposedPorts": {"80/tcp": {}, "8080/tcp": {}, "8081/tcp": {}, "9376/tcp": {}, "5000/tcp": {}}}'
    cat <<JSON
[{"ref": "$repo/busybox:1.37.0-1", "layers": ["$CACHE/busybox-$BUSYBOX_SUITE/rootfs", "$1/busybox-more"], "config": {"Cmd": ["sh"]}},
 {"ref": "$repo/agnhost:2.63.0", $agnhost},
 {"ref": "$repo/agnhost:2.55", $agnhost},
 {"ref": "$repo/nonewprivs:1.4", "layers": ["$2", "$1/nonewprivs"], "config": {"Cmd": ["nnp"]}},
 {"ref": "$repo/nonroot:1.5", "layers": ["$2"], "config": {"User": "1234", "Cmd": ["sh"]}},
 {"ref": "$repo/glibc-dns-testing:2.0.0", "layers": ["$2"], "config": {"Cmd": ["sh"]}},
 {"ref": "$repo/kitten:1.8", "layers": ["$2", "$1/agnhost", "$1/kitten"], "config": {"Entrypoint": ["/agnhost"], "Cmd": ["test-webserver"]}},
 {"ref": "$repo/sample-device-plugin:1.7", "layers": ["$2", "$1/sample-device-plugin"],
  "config": {"Entrypoint": ["/sampledeviceplugin", "-alsologtostderr"]}},
 {"ref": "$IMAGE_REPO/kube-proxy:v$K8S_VERSION", "drop": true},
 {"ref": "$IMAGE_REPO/coredns/coredns:v$COREDNS_VERSION", "drop": true}]
JSON
}

make_suite_seed() { # CONTAINERD_LINE
    local seed started
    seed=$(suite_seed_dir "$1")
    [[ -e $seed ]] && return
    started=$(date +%s%N)
    step "importing the suite's images with containerd $1"
    import_seed "$1" "$seed" "$(suite_images_archive)"
    find "$CACHE" -maxdepth 1 -name "suite-seed-$(set_version "containerd-$1")-*" ! -path "$seed" -exec rm -rf {} +
    step "imported in $(elapsed_since "$started") s"
}
