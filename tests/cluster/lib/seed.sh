# shellcheck shell=bash
# Gives a new node its images without importing them again: they are imported once per containerd and image revision into
# a folder of the cache, of which each node gets a copy made of hard links (only the databases are truly copied).

seed_dir() { echo "$CACHE/seed-$(set_version "containerd-$1")-$(images_revision)"; }

# seed_images NODE CONTAINERD_LINE
seed_images() {
    local seed
    seed=$(seed_dir "$2")
    [[ -e $seed ]] || with_lock "$CACHE/.lock-seed" make_seed "$2" "$seed"
    copy_seed "$seed" "$(node_data "$1")/containerd"
}

# copy_seed SEED TARGET
copy_seed() {
    local database
    mkdir -p "$2"
    # Across file systems there are no hard links: then it is a copy.
    cp -al "$1/." "$2/" 2>/dev/null || { rm -rf "$2" && cp -a "$1" "$2"; }
    for database in io.containerd.metadata.v1.bolt/meta.db io.containerd.snapshotter.v1.overlayfs/metadata.db; do
        cp --remove-destination "$1/$database" "$2/$database"
    done
}

make_seed() {
    local line=$1 seed=$2 started
    [[ -e $seed ]] && return
    started=$(date +%s%N)
    step "importing the images with containerd $line"
    import_seed "$line" "$seed" "$(images_archive)"
    find "$CACHE" -maxdepth 1 -name "seed-$(set_version "containerd-$line")-*" ! -path "$seed" -exec rm -rf {} +
    step "imported in $(elapsed_since "$started") s"
}

# import_seed CONTAINERD_LINE SEED ARCHIVE
import_seed() {
    local seed=$2
    rm -rf --one-file-system "$seed.tmp"
    mkdir -p "$seed.tmp"
    # In namespaces of its own: no mount, no process stays behind. /run/s: the socket's path must be short.
    if ! unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
        "$CLUSTER_HOME/lib/import-images.sh" "$(set_dir "containerd-$1")" "$seed.tmp" "$3" \
        <(write_containerd_config "$1") >"$seed.log" 2>&1 9>&-; then
        tail -15 "$seed.log" >&2
        die "the images could not be imported; the whole output: $seed.log"
    fi
    rm -f "$seed.log"
    mv "$seed.tmp" "$seed"
}
