#!/bin/sh
# Builds the tools that the checks need and the toolchain lacks, once per version, into a cache outside the tree, and
# prints the directory of their binaries.
#
#   tests/tools.sh          only that
#   tests/tools.sh deny     checks licences, banned crates and sources (deny.toml)
set -eu

deny_version=0.20.2

cache="${XDG_CACHE_HOME:-$HOME/.cache}/rkubelet/tools"
deny_root="$cache/cargo-deny-$deny_version"

if [ ! -x "$deny_root/bin/cargo-deny" ]; then
    mkdir -p "$cache"
    echo "tools: building cargo-deny $deny_version (once, some minutes)" >&2
    # Built beside its final place and renamed, so that a killed build never looks complete. CARGO_TARGET_DIR and the
    # jobs can be set from outside.
    building="$deny_root.building.$$"
    trap 'rm -rf "$building"' EXIT INT TERM
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_TARGET_DIR="$building/target" \
        cargo install cargo-deny --locked --quiet --version "$deny_version" --root "$building/root" ${TOOLS_JOBS:+-j "$TOOLS_JOBS"} >&2
    rm -rf "$building/target" "$deny_root"
    mv "$building/root" "$deny_root"
fi

case ${1:-} in
'') echo "$deny_root/bin" ;;
deny)
    cd "$(dirname "$0")/.."
    exec "$deny_root/bin/cargo-deny" --all-features check bans licenses sources
    ;;
*)
    echo "usage: tests/tools.sh [deny]" >&2
    exit 2
    ;;
esac
