# shellcheck shell=bash
# The kubelet of a node, ours or upstream's: the same flags, the same configuration file, the same credentials.

# kubelet_binary ours|upstream|none|PATH
kubelet_binary() {
    local path
    case $1 in
    none) echo none && return ;;
    ours) path=${RKUBELET_BIN:-$REPO_ROOT/target/release/rkubelet} ;;
    upstream) path=$(set_dir k8s)/kubelet ;;
    *) path=$(readlink -f "$1") ;;
    esac
    [[ -x $path ]] || die "kubelet \"$1\": $path is no executable$([[ $1 == ours ]] && echo " (cargo build --release, or set RKUBELET_BIN)")"
    echo "$path"
}

# configure_kubelet NODE BINARY OVERRIDES FLAGS BOOTSTRAP
configure_kubelet() {
    local node=$1 etc
    etc=$(node_path "$node" /etc/kubernetes)
    cp "$(run_dir)/pki/ca.crt" "$etc/pki/ca.crt"
    if [[ $5 ]]; then
        make_bootstrap_kubeconfig "$etc/bootstrap-kubelet.conf" "$5"
        give_api_proxy "$node" "$etc/bootstrap-kubelet.conf"
    else
        make_node_credentials "$node" "$etc/kubelet.conf"
        give_api_proxy "$node" "$etc/kubelet.conf"
    fi
    echo "$2" >"$(host_dir "$node")/kubelet-binary"
    echo "$4" >"$(host_dir "$node")/kubelet-flags"
    kubelet_config "$node" "$3" >"$(node_path "$node" /var/lib/kubelet/config.yaml)"
}

# kubelet_config NODE [OVERRIDES]: what kubeadm writes, for this machine (and cgroupfs, unless systemd is the node's init); OVERRIDES is merged over it
kubelet_config() {
    local base gates merged driver=cgroupfs cgroup_root
    cgroup_root=/$(cgroup_name "$1")
    # There the node has a cgroup namespace: its root is the node's cgroup.
    ! has_systemd "$1" || { driver=systemd && cgroup_root=/; }
    base=$(mktemp)
    gates=$(sed 's/=/: /g; s/,/, /g' "$(run_dir)/feature-gates")
    cat >"$base" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true, cacheTTL: 0s}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: $driver
cgroupRoot: $cgroup_root
clusterDNS: [$DNS_IP]
clusterDomain: cluster.local
containerRuntimeEndpoint: $(cri_endpoint "$1")
# The machine's disk is shared with other work: nothing may be evicted or removed for that.
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
failCgroupV1: false
failSwapOn: false
featureGates: {$gates}
healthzBindAddress: 127.0.0.1
healthzPort: 10248
resolvConf: /etc/resolv.conf
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
volumePluginDir: /var/lib/kubelet/volumeplugins
YAML
    if [[ $2 ]]; then
        need_packages python3-yaml
        merged=$(/usr/bin/python3 "$CLUSTER_HOME/lib/merge_yaml.py" "$base" "$2") || die "$2 cannot be merged"
        echo "$merged"
    else
        cat "$base"
    fi
    rm -f "$base"
}

start_kubelet() {
    local node=$1 dir flags
    dir=$(host_dir "$node")
    [[ $(<"$dir/kubelet-binary") != none ]] || die "cluster $NAME: no kubelet was chosen: kubelet start $node ours|upstream|PATH"
    read -ra flags <"$dir/kubelet-flags" || true
    [[ -e $(node_path "$node" /etc/kubernetes/bootstrap-kubelet.conf) ]] &&
        flags=(--bootstrap-kubeconfig /etc/kubernetes/bootstrap-kubelet.conf "${flags[@]}")
    start_daemon "$node" kubelet "$(cat "$dir/kubelet-binary")" \
        --kubeconfig /etc/kubernetes/kubelet.conf --config /var/lib/kubelet/config.yaml \
        --node-ip "$(node_ip "$node")" --hostname-override "$node" "${flags[@]}"
}

# wait_node_ready NODE SECONDS
wait_node_ready() {
    local until=$((SECONDS + $2))
    until node_is_ready "$1"; do
        alive "$(host_dir "$1")/kubelet.pid" || need_running "$1" kubelet
        need_running "$1" containerd
        if ((SECONDS >= until)); then
            kubectl_in get node "$1" -o jsonpath='{range .status.conditions[*]}{.type}={.status}: {.message}{"\n"}{end}' >&2 || true
            tail -15 "$(part_log "$1" kubelet)" >&2
            die "cluster $NAME: node $1 is not Ready after $2 s; its kubelet's log: $(part_log "$1" kubelet)"
        fi
        sleep 0.2
    done
}

# Ready, and no longer kept from pods by the taint that a new node gets
node_is_ready() {
    local seen
    seen=$(kubectl_in get node "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status} {.spec.taints[*].key}' 2>/dev/null) || return 1
    [[ $seen == True* && $seen != *node.kubernetes.io/* ]]
}
