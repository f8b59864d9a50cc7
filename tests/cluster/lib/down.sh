# shellcheck shell=bash
# Taking clusters away, also those whose run was killed; and finding what would be left of one.

cmd_down() {
    need_root
    case ${1:-} in
    --all)
        for NAME in $(known_clusters); do with_lock "$RUN_ROOT/.lock-$NAME" remove_cluster; done
        rm -f "$RUN_ROOT"/.lock-*
        rmdir "$RUN_ROOT" "$DATA_ROOT" 2>/dev/null || true
        ;;
    "") with_lock "$RUN_ROOT/.lock-$NAME" remove_cluster ;;
    *) die "down: no such option: $1" ;;
    esac
}

# known_clusters: by folder, by process and by cgroup, so that a half-made or half-removed one is found as well
known_clusters() {
    {
        find "$RUN_ROOT" "$DATA_ROOT" -mindepth 1 -maxdepth 1 ! -name '.*' -printf '%f\n' 2>/dev/null || true
        cluster_processes '.*' | awk '{ sub("/.*", "", $2); print $2 }'
        list_cgroups '.*' | sed -n 's|.*/rkt-\(.*\)-n[0-9]*$|\1|p'
    } | grep . | sort -u
}

# cluster_processes NAME-PATTERN: "PID CLUSTER/PART" of each process that the harness started
cluster_processes() {
    local dir part
    for dir in /proc/[0-9]*; do
        part=$(tr '\0' '\n' <"$dir/environ" 2>/dev/null | sed -n 's/^RKUBELET_CLUSTER_PART=//p') || continue
        [[ $part && $part =~ ^$1(/|$) ]] && echo "${dir#/proc/} $part"
    done 2>/dev/null
    true
}

# remove_cluster: the death of the inits takes processes, mounts, networks and rules; then cgroups and folders
remove_cluster() {
    kill_processes "$NAME"
    remove_cgroups "$NAME"
    rm -rf --one-file-system "$(run_dir)" "$(data_dir)"
}

# kill_processes NAME[/HOST]: what the harness started there, and with an init everything in its namespaces
kill_processes() {
    local pids try
    for try in {1..100}; do
        pids=$(cluster_processes "$1" | cut -d' ' -f1)
        [[ $pids ]] || return 0
        # shellcheck disable=SC2086 # a list
        kill -KILL $pids 2>/dev/null || true
        ((try == 1)) || sleep 0.1
    done
    warn "cluster $NAME: processes that do not end: $pids"
}

# cmd_leaks [CLUSTER]: meant for after `down`; a cluster that runs is listed as well
cmd_leaks() {
    local found
    found=$(list_leaks "${1:-[^/]*}" || true)
    [[ -z $found ]] || { echo "$found" && exit 1; }
}

list_leaks() { # CLUSTER-PATTERN
    set +e
    cluster_processes "$1" | sed 's/^/process /'
    list_cgroups "$1" | sed 's/^/cgroup /'
    find "$RUN_ROOT" "$DATA_ROOT" -mindepth 1 -maxdepth 1 -regex ".*/$1" ! -name '.lock-*' 2>/dev/null | sed 's/^/folder /'
    # These have no cluster's name: a cluster makes them in its own namespaces, the machine must have none.
    awk '{ print $5 }' /proc/self/mountinfo | grep -E "^($RUN_ROOT|$DATA_ROOT)/" | sed 's/^/mount /'
    ip -o link 2>/dev/null | grep -oE ' (cni0|n[0-9]+|nodes|veth[0-9a-f]{8})[@:]' | sed 's/^ /interface /'
    iptables-save 2>/dev/null | grep -E 'CNI-|KUBE-' | sed 's/^/iptables /'
}

cmd_list() { known_clusters; }

cmd_status() {
    local node part name
    for name in $(known_clusters); do
        NAME=$name
        echo "cluster $NAME$([[ -e $(run_dir)/up ]] || echo " (not whole: cluster down --name $NAME)")"
        for part in etcd apiserver controller-manager scheduler; do status_line control-plane $part; done
        for node in $(nodes); do
            for part in containerd kubelet; do status_line "$node" $part; done
            ! has_proxy "$node" cri || status_line "$node" cri-proxy
            ! has_proxy "$node" api || status_line "$node" api-proxy
        done
    done
}

status_line() {
    local pid
    if pid=$(read_pid "$(host_dir "$1")/$2.pid"); then
        printf '  %-14s %-20s pid %-8s %s\n' "$1" "$2" "$pid" "$(awk '/^VmRSS/ { printf "%d MiB", $2 / 1024 }' "/proc/$pid/status")"
    else
        printf '  %-14s %-20s down\n' "$1" "$2"
    fi
}
