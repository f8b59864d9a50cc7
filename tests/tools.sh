#!/bin/sh
# Builds the tools that the checks need and the toolchain lacks, once per version, into a cache outside the tree, and
# prints the directory of their binaries. Usage: PATH="$(tests/tools.sh):$PATH" cargo deny check bans licenses sources
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

echo "$deny_root/bin"
