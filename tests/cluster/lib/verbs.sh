# shellcheck shell=bash
# The verbs with which tests and people reach into a running cluster.

need_up() { [[ -e $(run_dir)/nodes ]] || die "cluster $NAME is not up (cluster up --name $NAME)"; }
need_node() {
    need_up
    [[ ${1:-} && " $(nodes) " == *" $1 "* ]] || die "cluster $NAME: no node \"${1:-}\" (nodes: $(nodes))"
}

cmd_env() {
    need_up
    if (($#)); then
        (
            # shellcheck source=/dev/null
            . "$(run_dir)/env"
            [[ -v $1 ]] || die "no such key: $1"
            echo "${!1}"
        )
    else
        cat "$(run_dir)/env"
    fi
}

# logs PART|PART@NODE [tail options]
cmd_logs() {
    local part=${1:?logs: which part?} file
    need_up
    shift
    file=$(log_dir)/$part.log
    [[ -e $file ]] || die "no log of \"$part\"; there are: $(find "$(log_dir)" -name '*.log' -printf '%f ')"
    if (($#)); then tail "$@" "$file"; else cat "$file"; fi
}

# save-logs DIR: for a machine that goes away after a failure
cmd_save_logs() {
    local dir=${1:?save-logs: into which folder?} what
    need_up
    mkdir -p "$dir"
    cp -r "$(log_dir)/." "$dir/"
    for what in nodes pods events; do
        kubectl_in get $what -A -o yaml --request-timeout 10s >"$dir/$what.yaml" 2>&1 || true
    done
}

cmd_kubectl() {
    need_up
    kubectl_in "$@"
}

cmd_exec() {
    need_up
    [[ ${1:-} == -- ]] && shift
    (($#)) || die "exec: which command?"
    KUBECONFIG=$(run_dir)/kubeconfig PATH=$(set_dir k8s):$PATH \
        nsenter --net="/proc/$(host_pid control-plane)/ns/net" -- "$@"
}

cmd_node_exec() {
    if [[ ${2:-} && $2 != -- ]]; then
        NAME=$1
        shift
    fi
    need_node "${1:-}"
    local node=$1
    shift
    [[ ${1:-} == -- ]] && shift
    (($#)) || die "node-exec: which command?"
    in_host "$node" "$@"
}

cmd_ctr() {
    need_node "${1:-}"
    node_ctr "$@"
}

cmd_reboot() {
    need_node "${1:-}"
    reboot_node "$1"
}

# cmd_node_daemon kubelet|containerd VERB NODE [KUBELET]: KUBELET is the one to start from now on
cmd_node_daemon() {
    local part=$1 verb=${2:-} node=${3:-} binary
    need_node "$node"
    if [[ ${4:-} && $part == kubelet && $verb =~ ^(start|restart)$ ]]; then
        binary=$(kubelet_binary "$4")
        echo "$binary" >"$(host_dir "$node")/kubelet-binary"
    elif [[ ${4:-} ]]; then
        die "$part $verb: unexpected \"$4\""
    fi
    daemon_verb "$node" "$part" "$verb" "start_$part" "$node"
}

# cmd_control_plane_daemon apiserver|etcd|… VERB
cmd_control_plane_daemon() {
    need_up
    # Told to end, the API server lingers and keeps its port, all the more without etcd.
    RESTART_SIGNAL=KILL daemon_verb control-plane "$1" "${2:-}" start_part "$1"
}

# daemon_verb HOST PART VERB START…
daemon_verb() {
    local host=$1 part=$2 verb=$3
    shift 3
    case $verb in
    start) "$@" ;;
    stop) stop_daemon "$host" "$part" TERM ;;
    kill) stop_daemon "$host" "$part" KILL ;;
    restart)
        stop_daemon "$host" "$part" "${RESTART_SIGNAL:-TERM}"
        "$@"
        ;;
    pause) signal_daemon "$host" "$part" STOP ;;
    cont) signal_daemon "$host" "$part" CONT ;;
    pid) read_pid "$(host_dir "$host")/$part.pid" || die "cluster $NAME: $part on $host does not run" ;;
    *) die "$part: want stop, kill, start, restart, pause, cont or pid" ;;
    esac
}
