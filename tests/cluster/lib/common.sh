# shellcheck shell=bash
# What every part of the harness shares: where things lie, how it speaks, waits and locks.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rkubelet
RUN_ROOT=/run/rkubelet-cluster                              # sockets, pids, keys: small
DATA_ROOT=${RKUBELET_CLUSTER_DATA:-/var/tmp/rkubelet-cluster} # images, volumes, logs: large
readonly CACHE RUN_ROOT DATA_ROOT

say() { printf '%s\n' "$*" >&2; }
step() { printf '\033[2m[%4ss]\033[0m %s\n' "$SECONDS" "$*" >&2; }
warn() { printf 'cluster: warning: %s\n' "$*" >&2; }
die() {
    printf 'cluster: %s\n' "$*" >&2
    exit 1
}

need_root() { [[ $EUID == 0 ]] || die "must run as root: namespaces, cgroups and mounts are made"; }

check_name() {
    [[ $1 =~ ^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$ ]] ||
        die "cluster name \"$1\": want at most 20 of a-z, 0-9 and -, neither first nor last a -"
}

run_dir() { echo "$RUN_ROOT/$NAME"; }
data_dir() { echo "$DATA_ROOT/$NAME"; }
log_dir() { echo "$DATA_ROOT/$NAME/logs"; }

# need_space DIR GIB
need_space() {
    local have
    mkdir -p "$1"
    have=$(df --output=avail -BG "$1" | tail -1 | tr -dc 0-9)
    ((have >= $2)) || die "$1 has ${have} GiB free, $2 are needed"
}

# wait_for SECONDS WHAT COMMAND…: runs COMMAND until it succeeds; returns 1 after SECONDS.
wait_for() {
    local limit=$1 what=$2 until
    shift 2
    until=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= until)); then
            say "cluster: $what: not within ${limit} s"
            return 1
        fi
        sleep 0.1
    done
}

# with_lock FILE COMMAND…: one at a time. The lock is fd 9, which spawn.sh closes in what it leaves running.
with_lock() {
    local file=$1
    shift
    mkdir -p "$(dirname "$file")"
    (
        if ! flock -n 9; then
            say "cluster: waiting for $file"
            flock 9
        fi
        "$@"
    ) 9>"$file"
}

# elapsed_since EPOCH_NS: seconds with one digit
elapsed_since() { awk -v a="$1" -v b="$(date +%s%N)" 'BEGIN { printf "%.1f", (b - a) / 1e9 }'; }
