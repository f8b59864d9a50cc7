# shellcheck shell=bash
# Debian packages that the harness needs on the machine; asked of apt only when one is missing.

# need_packages PACKAGE…
need_packages() {
    local package missing=()
    for package; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    need_root
    step "apt-get install ${missing[*]}"
    with_lock "$CACHE/.lock-apt" apt_install "${missing[@]}"
}

apt_install() {
    local log
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update -q && apt-get install -y -q --no-install-recommends "$@"; } >"$log" 2>&1 9>&-; then
        tail -5 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: $* (is the Debian mirror reachable?)"
    fi
    rm -f "$log"
}
