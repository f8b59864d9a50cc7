#!/bin/sh
# Builds the tools that the checks need and the toolchain lacks, once per version, into a cache outside the tree.
#
#   tests/tools.sh            builds cargo-deny and prints the directory of its binary
#   tests/tools.sh deny       checks licences, banned crates and sources (deny.toml)
#   tests/tools.sh fuzz ARG…  runs `cargo fuzz ARG…`
#   tests/tools.sh deb DIR    packs target/release/rkubelet, which is built, as DIR/rkubelet_VERSION_ARCH.deb
set -eu

deny_version=0.20.2
fuzz_version=0.13.2
deb_version=3.8.0

cache="${XDG_CACHE_HOME:-$HOME/.cache}/rkubelet/tools"

# build NAME VERSION: prints the directory of the tool's binary, built if it is not there.
build() {
    root="$cache/$1-$2"
    if [ ! -x "$root/bin/$1" ]; then
        mkdir -p "$cache"
        echo "tools: building $1 $2 (once, some minutes)" >&2
        # Built beside its final place and renamed, so that a killed build never looks complete. CARGO_TARGET_DIR and
        # the jobs can be set from outside.
        building="$root.building.$$"
        trap 'rm -rf "$building"' EXIT INT TERM
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_TARGET_DIR="$building/target" \
            cargo install "$1" --locked --quiet --version "$2" --root "$building/root" ${TOOLS_JOBS:+-j "$TOOLS_JOBS"} >&2
        rm -rf "$building/target" "$root"
        mv "$building/root" "$root"
    fi
    echo "$root/bin"
}

case ${1:-} in
'') build cargo-deny "$deny_version" ;;
deny)
    bin=$(build cargo-deny "$deny_version")
    cd "$(dirname "$0")/.."
    exec "$bin/cargo-deny" --all-features check bans licenses sources
    ;;
fuzz)
    bin=$(build cargo-fuzz "$fuzz_version")
    cd "$(dirname "$0")/.."
    exec "$bin/cargo-fuzz" "$@"
    ;;
deb)
    bin=$(build cargo-deb "$deb_version")
    to=$(mkdir -p "$2" && cd "$2" && pwd)
    cd "$(dirname "$0")/.."
    exec "$bin/cargo-deb" --no-build --no-strip --quiet --output "$to/"
    ;;
*)
    echo "usage: tests/tools.sh [deny | fuzz ARG… | deb DIR]" >&2
    exit 2
    ;;
esac
