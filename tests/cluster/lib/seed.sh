# shellcheck shell=bash
# Gives a new node its images without importing them again: they are imported once per containerd and image revision into
# a folder of the cache, of which each node gets a copy made of hard links (only the databases are truly copied).

seed_dir() { echo "$CACHE/seed-$(set_version "containerd-$1")-$(images_revision)"; }

# seed_images NODE CONTAINERD_LINE
seed_images() {
    local seed target database
    seed=$(seed_dir "$2")
    target=$(node_data "$1")/containerd
    [[ -e $seed ]] || with_lock "$CACHE/.lock-seed" make_seed "$2" "$seed"
    mkdir -p "$target"
    # Across file systems there are no hard links: then it is a copy.
    cp -al "$seed/." "$target/" 2>/dev/null || { rm -rf "$target" && cp -a "$seed" "$target"; }
    for database in io.containerd.metadata.v1.bolt/meta.db io.containerd.snapshotter.v1.overlayfs/metadata.db; do
        cp --remove-destination "$seed/$database" "$target/$database"
    done
}

make_seed() {
    local line=$1 seed=$2 started
    [[ -e $seed ]] && return
    started=$(date +%s%N)
    step "importing the images with containerd $line"
    rm -rf --one-file-system "$seed.tmp"
    mkdir -p "$seed.tmp"
    # In namespaces of its own: no mount, no process stays behind. /run/s: the socket's path must be short.
    if ! unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
        "$CLUSTER_HOME/lib/import-images.sh" "$(set_dir "containerd-$line")" "$seed.tmp" "$(images_archive)" \
        <(write_containerd_config "$line") >"$seed.log" 2>&1 9>&-; then
        tail -15 "$seed.log" >&2
        die "the images could not be imported; the whole output: $seed.log"
    fi
    rm -f "$seed.log"
    mv "$seed.tmp" "$seed"
    find "$CACHE" -maxdepth 1 -name "seed-$(set_version "containerd-$line")-*" ! -path "$seed" -exec rm -rf {} +
    step "imported in $(elapsed_since "$started") s"
}
