# shellcheck shell=bash
# Cgroups of the nodes: one root per node, /rkt-CLUSTER-NODE, in every v1 hierarchy or in the v2 tree. Nothing else is touched.
# Where v2 is mounted beside v1 the runtime makes the same path there, too: it is removed with the rest.

cgroup_name() { echo "rkt-$NAME-$1"; }

cgroup_roots() {
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        echo /sys/fs/cgroup
    else
        awk '$3 == "cgroup" { print $2 }' /proc/self/mounts
    fi
}

make_node_cgroup() {
    local root dir
    for root in $(cgroup_roots); do
        dir=$root/$(cgroup_name "$1")
        mkdir -p "$dir"
        # A new v1 cpuset is empty, and nothing can be moved into it, until it is given its parent's.
        if [[ -e $dir/cpuset.cpus && ! -e $dir/cgroup.controllers ]]; then
            cat "$root/cpuset.cpus" >"$dir/cpuset.cpus"
            cat "$root/cpuset.mems" >"$dir/cpuset.mems"
        fi
        if [[ -e $dir/cgroup.controllers ]]; then
            enable_controllers "$root"
            enable_controllers "$dir"
        fi
    done
}

# One at a time: a controller that cannot be enabled must not keep the others out.
enable_controllers() {
    local controller
    for controller in $(<"$1/cgroup.controllers"); do
        echo "+$controller" >"$1/cgroup.subtree_control" 2>/dev/null || true
    done
}

# list_cgroups NAME-PATTERN [NODE-PATTERN]: the nodes' cgroups and what is below them, deepest first
list_cgroups() {
    local root
    for root in $(awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/self/mounts); do
        find "$root" -mindepth 1 -depth -type d -regextype posix-extended \
            -regex "$root/rkt-$1-${2:-n[0-9]+}(/.*)?" 2>/dev/null || true
    done
}

# remove_cgroups NAME [NODE-PATTERN]: their processes are dead or dying when this is called
remove_cgroups() {
    local try left
    for try in {1..50}; do
        left=$(list_cgroups "$@")
        [[ $left ]] || return 0
        xargs -r rmdir 2>/dev/null <<<"$left" || true
        ((try == 1)) || sleep 0.1
    done
    left=$(list_cgroups "$@")
    [[ -z $left ]] || warn "cgroups that could not be removed:"$'\n'"$left"
}
