# shellcheck shell=bash
# Cgroups of the nodes: one root per node, /rkt-CLUSTER-NODE, in every v1 hierarchy or in the v2 tree. Nothing else is touched.

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
            sed 's/\(^\| \)/\1+/g' "$root/cgroup.controllers" >"$root/cgroup.subtree_control"
            sed 's/\(^\| \)/\1+/g' "$dir/cgroup.controllers" >"$dir/cgroup.subtree_control"
        fi
    done
}

# list_cgroups PREFIX: the cgroups of the harness whose name starts so, deepest first
list_cgroups() {
    local root
    for root in $(cgroup_roots); do
        find "$root" -mindepth 1 -depth -type d -path "$root/$1*" 2>/dev/null || true
    done
}

# remove_cgroups PREFIX: their processes are dead or dying when this is called
remove_cgroups() {
    local try left
    for try in {1..50}; do
        left=$(list_cgroups "$1")
        [[ $left ]] || return 0
        xargs -r rmdir 2>/dev/null <<<"$left" || true
        ((try == 1)) || sleep 0.1
    done
    left=$(list_cgroups "$1")
    [[ -z $left ]] || warn "cgroups that could not be removed:"$'\n'"$left"
}
