# shellcheck shell=bash
# The proxies that tests put between a kubelet and what it talks to: compiled from proxies/, started on a node on demand.
#
# Without --cri-proxy and --api-proxy nothing of this runs. With them the kubelet's endpoint is /run/containerd/proxy.sock and
# its API server is https://127.0.0.1:6443 on the node; everybody else goes on to talk to the real ones.

proxies_revision() {
    find "$CLUSTER_HOME/proxies" -type f ! -name '*_test.go' -print0 | LC_ALL=C sort -z | xargs -0 cat | sha256sum | cut -c1-12
}
proxies_dir() { echo "$CACHE/proxies-$(proxies_revision)"; }

need_proxies() {
    [[ -e $(proxies_dir) ]] && return
    command -v go >/dev/null || die "go is not in PATH: the proxies are compiled from their sources"
    with_lock "$CACHE/.lock-proxies" build_aside "$(proxies_dir)" "the proxies" compile_proxies
    find "$CACHE" -maxdepth 1 -name 'proxies-*' -mtime +7 ! -path "$(proxies_dir)" -exec rm -rf {} +
}

compile_proxies() {
    cd "$CLUSTER_HOME/proxies" || return
    GOFLAGS=-mod=readonly CGO_ENABLED=0 GOWORK=off go_build "$1" "" "" ./...
}

CRI_PROXY=/run/containerd/proxy.sock
API_PROXY=127.0.0.1:6443
readonly CRI_PROXY API_PROXY

# has_proxy NODE cri|api
has_proxy() { [[ -e $(host_dir "$1")/$2-proxy ]]; }
proxy_control() { echo "$(host_dir "$1")/run/$2-proxy.sock"; }

# start_proxies NODE: those that this node was given and that do not run
start_proxies() {
    if has_proxy "$1" cri && ! alive "$(host_dir "$1")/cri-proxy.pid"; then
        start_daemon "$1" cri-proxy "$(proxies_dir)/cri" $CRI_PROXY /run/containerd/containerd.sock /run/cri-proxy.sock
        wait_for 10 "the CRI proxy on $1" test -S "$(proxy_control "$1" cri)" || need_running "$1" cri-proxy
    fi
    if has_proxy "$1" api && [[ -e $(api_proxy_dir "$1") ]] && ! alive "$(host_dir "$1")/api-proxy.pid"; then
        start_daemon "$1" api-proxy "$(proxies_dir)/api" $API_PROXY "https://$API_IP:6443" /etc/kubernetes/api-proxy /run/api-proxy.sock
        wait_for 10 "the API proxy on $1" test -S "$(proxy_control "$1" api)" || need_running "$1" api-proxy
    fi
}

api_proxy_dir() { node_path "$1" /etc/kubernetes/api-proxy; }

# give_api_proxy NODE KUBECONFIG: what the proxy shows to both sides; the kubeconfig leads to it from now on
give_api_proxy() {
    local dir pki
    has_proxy "$1" api || return 0
    dir=$(api_proxy_dir "$1")
    pki=$(run_dir)/pki
    mkdir -p "$dir"
    make_cert "$pki/ca" "$dir/server" /CN=kube-apiserver "DNS:localhost,IP:${API_PROXY%:*}"
    make_cert "$pki/ca" "$dir/node" "/O=system:nodes/CN=system:node:$1"
    cp "$pki/ca.crt" "$dir/ca.crt"
    sed -i "s|https://$API_IP:6443|https://$API_PROXY|" "$2"
    start_proxies "$1"
}

cri_endpoint() { if has_proxy "$1" cri; then echo "unix://$CRI_PROXY"; else echo unix:///run/containerd/containerd.sock; fi; }
