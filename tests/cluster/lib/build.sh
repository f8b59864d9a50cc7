# shellcheck shell=bash
# Compiles the Go sets of modules/ into the cache, once per version: built aside, renamed when whole.

readonly K8S=k8s.io/kubernetes CONTAINERD=github.com/containerd/containerd

cmd_build() {
    local set sets=("$@")
    ((${#sets[@]})) || sets=(k8s k8s-node containerd-2.3 runc cni)
    [[ ${sets[*]} == all ]] && sets=("${ALL_SETS[@]}") && need_proxies
    need_sets "${sets[@]}"
    for set in "${sets[@]}"; do say "$set $(set_version "$set"): $(set_dir "$set")"; done
}

# need_sets SET…: builds those that are absent
need_sets() {
    local set
    for set; do
        [[ -e $(set_dir "$set") ]] || with_lock "$CACHE/.lock-build" build_set "$set"
    done
}

build_set() {
    local set=$1 dir module=$1 started tmp
    dir=$(set_dir "$set")
    [[ -e $dir ]] && return # another call built it while this one waited
    need_space "$CACHE" 4
    command -v go >/dev/null || die "go is not in PATH: the stock components are compiled from their modules"
    [[ $set == runc ]] && need_packages gcc libc6-dev libseccomp-dev pkg-config
    [[ $set == k8s-* ]] && module=k8s
    started=$(date +%s%N)
    step "building $set $(set_version "$set")"
    tmp=$dir.tmp
    rm -rf "$tmp"
    mkdir -p "$tmp"
    (
        cd "$CLUSTER_HOME/modules/$module"
        exec 9>&-
        export GOFLAGS=-mod=readonly CGO_ENABLED=0 GOWORK=off GOTOOLCHAIN=auto
        "compile_${set//[-.]/_}" "$tmp"
    ) >"$tmp.log" 2>&1 || {
        tail -15 "$tmp.log" >&2
        die "building $set failed; its whole output: $tmp.log (no go proxy? \"go env GOPROXY\" says $(go env GOPROXY))"
    }
    rm -f "$tmp.log"
    mv "$tmp" "$dir"
    step "built $set $(set_version "$set") in $(elapsed_since "$started") s"
}

# go_build DIR LDFLAGS TAGS PACKAGE…
go_build() {
    local out=$1 ldflags=$2 tags=$3
    shift 3
    go build -trimpath -buildvcs=false -ldflags "-s -w $ldflags" -tags "$tags" -o "$out/" "$@"
}

# Without these the programs call themselves v0.0.0, and version checks between them fail.
k8s_ldflags() {
    local package
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        echo "-X $package.gitVersion=v$K8S_VERSION -X $package.gitMajor=1 -X $package.gitMinor=36" \
            "-X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
    done | tr '\n' ' '
}

compile_k8s() {
    go_build "$1" "$(k8s_ldflags)" "" \
        $K8S/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubectl,kubelet} go.etcd.io/etcd/server/v3 &&
        mv "$1/server" "$1/etcd"
}
compile_k8s_node() { go_build "$1" "$(k8s_ldflags)" "" $K8S/cmd/{kubeadm,kube-proxy} $K8S/test/images/agnhost; }
compile_k8s_e2e() {
    go_build "$1" "$(k8s_ldflags)" "" github.com/onsi/ginkgo/v2/ginkgo $K8S/test/images/sample-device-plugin &&
        go test -c -trimpath -ldflags "-s -w $(k8s_ldflags)" -o "$1/e2e_node.test" $K8S/test/e2e_node
}
compile_containerd() { # DIR MODULE VERSION
    go_build "$1" "-X $2/version.Version=v$3" no_btrfs,no_devmapper,no_zfs "$2"/cmd/{containerd,ctr,containerd-shim-runc-v2}
}
compile_containerd_2_3() { compile_containerd "$1" $CONTAINERD/v2 "${CONTAINERD_VERSIONS[2.3]}"; }
compile_containerd_2_1() { compile_containerd "$1" $CONTAINERD/v2 "${CONTAINERD_VERSIONS[2.1]}"; }
compile_containerd_1_7() { compile_containerd "$1" $CONTAINERD "${CONTAINERD_VERSIONS[1.7]}"; }
compile_runc() {
    CGO_ENABLED=1 go_build "$1" "-X main.version=$RUNC_VERSION" seccomp github.com/opencontainers/runc
}
compile_cni() {
    local plugins=github.com/containernetworking/plugins
    go_build "$1" "-X $plugins/pkg/utils/buildversion.BuildVersion=v$CNI_VERSION" "" \
        $plugins/plugins/{ipam/host-local,main/bridge,main/loopback,meta/bandwidth,meta/firewall,meta/portmap}
}
compile_coredns() { go_build "$1" "" "" github.com/coredns/coredns; }
