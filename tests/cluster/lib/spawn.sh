# shellcheck shell=bash
# Starts, finds and signals the processes of a cluster.
#
# A "host" is a set of namespaces (network, PID, mount, UTS, IPC) held by a small init: the control plane is one, each node
# is one. Its init's death ends every process, mount, interface and rule in it, which is all that tearing down takes.
# Everything that is started carries RKUBELET_CLUSTER_PART=CLUSTER/PART in its environment: a killed run is found by it.

# alive PIDFILE: the process that the file names, if it still is the one that was started
alive() {
    local pid started fields
    read -r pid started 2>/dev/null <"$1" || return 1
    # In one look: a zombie may be gone before the next.
    read -r -a fields <<<"$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null)"
    # A first thread that has ended is a zombie while the others end: until the last has, the process keeps its ports.
    [[ $started && $started == "${fields[19]:-}" ]] && [[ ${fields[0]} != [ZX] || ${fields[17]:-0} -gt 1 ]]
}
process_start() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
read_pid() { alive "$1" && cut -d' ' -f1 "$1"; }

# has_systemd HOST: whether its init is systemd, which then runs what the test gives it
has_systemd() { [[ -e $(host_dir "$1")/systemd ]]; }

host_dir() { echo "$(run_dir)/$1"; }
host_pid() { read_pid "$(host_dir "$1")/init.pid" || die "cluster $NAME: $1 is not up"; }

# start_host HOST SETUP…: makes the namespaces, runs SETUP inside them, and leaves the init holding them
start_host() {
    local host=$1 dir tries init cgroup=() more=()
    shift
    dir=$(host_dir "$host")
    mkdir -p "$dir" "$(log_dir)"
    init=$(init_binary)
    if has_systemd "$host"; then
        init=/lib/systemd/systemd
        cgroup=("$CLUSTER_HOME/lib/in-cgroup.sh" "$(cgroup_name "$host")")
        more=(--cgroup)
    fi
    RKUBELET_CLUSTER_PART=$NAME/$host setsid "${cgroup[@]}" unshare --net --pid --mount --uts --ipc "${more[@]}" --fork \
        --kill-child --mount-proc --propagation private \
        "$CLUSTER_HOME/lib/host-init.sh" "$host" "$init" "$dir/report" "$@" \
        </dev/null >"$(log_dir)/$host.log" 2>&1 9>&- &
    local unshare=$!
    for tries in {1..100}; do
        grep -qs ready "$dir/report" && break
        kill -0 "$unshare" 2>/dev/null || break
        sleep 0.05
    done
    if ! grep -qs ready "$dir/report"; then
        tail -5 "$(log_dir)/$host.log" >&2
        die "cluster $NAME: the namespaces of $host could not be set up"
    fi
    write_pid "$(pgrep -P "$unshare")" "$dir/init.pid"
}

write_pid() { echo "$1 $(process_start "$1")" >"$2"; }

# in_host HOST COMMAND…: in all of its namespaces
in_host() {
    local pid
    pid=$(host_pid "$1")
    shift
    nsenter --target "$pid" --net --pid --mount --uts --ipc --cgroup -- "$@"
}

# start_daemon HOST PART COMMAND…: leaves it running apart from the caller, its output appended to its log
start_daemon() {
    local host=$1 part=$2 pid child='' file log started
    shift 2
    pid=$(host_pid "$host")
    file=$(host_dir "$host")/$part.pid
    log=$(part_log "$host" "$part")
    alive "$file" && die "cluster $NAME: $part runs already (pid $(read_pid "$file"))"
    RKUBELET_CLUSTER_PART=$NAME/$host/$part setsid nsenter --target "$pid" --net --pid --mount --uts --ipc --cgroup -- "$@" \
        </dev/null >>"$log" 2>&1 9>&- &
    local outer=$!
    started=$SECONDS
    until child=$(pgrep -P "$outer"); do
        kill -0 "$outer" 2>/dev/null && ((SECONDS - started < 5)) && sleep 0.02 && continue
        tail -5 "$log" >&2
        die "cluster $NAME: $part ended at once; its log: $log"
    done
    write_pid "$child" "$file"
    disown "$outer" 2>/dev/null || true
}

part_log() { if [[ $1 == control-plane ]]; then echo "$(log_dir)/$2.log"; else echo "$(log_dir)/$2@$1.log"; fi; }

# need_running HOST PART: says with its last lines that it died
need_running() {
    alive "$(host_dir "$1")/$2.pid" && return
    say "--- last lines of $2's log"
    tail -15 "$(part_log "$1" "$2")" >&2
    die "cluster $NAME: $2 on $1 has ended; its log: $(part_log "$1" "$2")"
}

# signal_daemon HOST PART SIGNAL
signal_daemon() {
    local pid
    pid=$(read_pid "$(host_dir "$1")/$2.pid") || die "cluster $NAME: $2 on $1 does not run"
    kill "-$3" "$pid"
}

# stop_daemon HOST PART [SIGNAL [SECONDS]]: and waits for its end; SIGKILL when it takes longer
stop_daemon() {
    local file pid until
    file=$(host_dir "$1")/$2.pid
    pid=$(read_pid "$file") || return 0
    kill "-${3:-TERM}" "$pid" 2>/dev/null || true
    kill -CONT "$pid" 2>/dev/null || true
    until=$((SECONDS + ${4:-10}))
    while alive "$file"; do
        ((SECONDS < until)) || kill -KILL "$pid" 2>/dev/null || true
        sleep 0.02
    done
    rm -f "$file"
}

init_binary() { echo "$CACHE/pause/pause"; }
