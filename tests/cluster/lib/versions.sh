# shellcheck shell=bash
# The one list of what is built and of which version. go.mod of each set pins the same version with its checksums.

K8S_VERSION=1.36.3
RUNC_VERSION=1.4.3
CNI_VERSION=1.9.1
COREDNS_VERSION=1.15.0
BUSYBOX_SUITE=trixie
BASE_SUITE=bookworm
declare -rA CONTAINERD_VERSIONS=([2.3]=2.3.7 [2.1]=2.1.9 [1.7]=1.7.35)
readonly K8S_VERSION RUNC_VERSION CNI_VERSION COREDNS_VERSION BUSYBOX_SUITE BASE_SUITE

ALL_SETS=(k8s k8s-node containerd-2.3 containerd-2.1 containerd-1.7 runc cni coredns)
readonly ALL_SETS

set_version() {
    case $1 in
    k8s | k8s-node | k8s-e2e) echo "$K8S_VERSION" ;;
    containerd-*) echo "${CONTAINERD_VERSIONS[${1#containerd-}]:?no such containerd: $1}" ;;
    runc) echo "$RUNC_VERSION" ;;
    cni) echo "$CNI_VERSION" ;;
    coredns) echo "$COREDNS_VERSION" ;;
    *) die "no such set: $1 (known: ${ALL_SETS[*]} k8s-e2e)" ;;
    esac
}

# set_dir SET: where its programs lie once built
set_dir() { echo "$CACHE/$1-$(set_version "$1")"; }

cmd_versions() {
    local set
    for set in "${ALL_SETS[@]}" k8s-e2e; do
        printf '%-16s %-8s %s%s\n' "$set" "$(set_version "$set")" "$(set_dir "$set")" "$([[ -e $(set_dir "$set") ]] || echo '  (not built)')"
    done
}
