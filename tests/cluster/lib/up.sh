# shellcheck shell=bash
# `cluster up`: everything in its order, all nodes at the same time, and the env file for those who drive the cluster.

cmd_up() {
    local nodes=1 kubelet=ours containerd=2.3 config='' flags='' audit=Metadata gates='' images=1 wait=1 bootstrap='' signing=8760h late='' systemd='' bare='' proxies=()
    while (($#)); do
        case $1 in
        --nodes) nodes=$2 && shift ;;
        --kubelet) kubelet=$2 && shift ;;
        --containerd) containerd=$2 && shift ;;
        --kubelet-config) config=$(readlink -f "$2") && shift ;;
        --kubelet-flags) flags=$2 && shift ;;
        --audit-level) audit=$2 && shift ;;
        --feature-gates) gates=$2 && shift ;;
        --bootstrap) bootstrap=1 ;;
        --signing-duration) signing=$2 && shift ;;
        --cri-proxy) proxies+=(cri) ;;
        --api-proxy) proxies+=(api) ;;
        --late-start) late=$2 && shift ;;
        --systemd) systemd=1 ;;
        --bare) bare=1 && kubelet=none ;;
        --no-images) images= ;;
        --no-wait) wait= ;;
        *) die "up: no such option: $1" ;;
        esac
        shift
    done
    need_root
    [[ $nodes =~ ^[1-9][0-9]?$ ]] || die "--nodes $nodes: want a number from 1 to 99"
    [[ -v CONTAINERD_VERSIONS[$containerd] ]] || die "--containerd $containerd: want one of ${!CONTAINERD_VERSIONS[*]}"
    [[ $audit =~ ^(None|Metadata|Request|RequestResponse)$ ]] || die "--audit-level $audit: want None, Metadata, Request or RequestResponse"
    [[ $signing =~ ^[1-9][0-9]*[smh]$ ]] || die "--signing-duration $signing: want a time, such as 2m or 8760h"
    [[ $late =~ ^([0-9]{1,2}(\.[0-9])?)?$ ]] || die "--late-start $late: want seconds, such as 2 or 0.5"
    [[ -z $config || -r $config ]] || die "--kubelet-config $config: no such file"
    need_packages iproute2 iptables conntrack openssl procps ${systemd:+systemd dbus}
    need_sets k8s "containerd-$containerd" runc cni
    [[ -z $bare ]] || need_kubeadm_images
    kubelet=$(kubelet_binary "$kubelet")
    [[ $kubelet != none ]] || wait=
    ((${#proxies[@]} == 0)) || need_proxies
    need_pause_binary
    [[ -z $images ]] || need_images
    need_space "$DATA_ROOT" 2
    with_lock "$RUN_ROOT/.lock-$NAME" bring_up
}

bring_up() {
    local node proxy token='' all=() job jobs=()
    if [[ -e $(run_dir)/up ]] && alive "$(host_dir control-plane)/init.pid"; then
        die "cluster $NAME is up already (cluster down --name $NAME)"
    fi
    remove_cluster # what a killed run of this name left
    mkdir -p "$(run_dir)" "$(log_dir)"
    for ((node = 1; node <= nodes; node++)); do all+=("n$node"); done
    echo "${all[*]}" >"$(run_dir)/nodes"
    trap 'exit 1' TERM INT
    trap '(($? == 0)) || say "cluster $NAME: what runs was left for a look; cluster down --name $NAME removes it"' EXIT

    if [[ $bare ]]; then
        touch "$(run_dir)/bare"
        start_bridge
    else
        step "keys"
        make_pki
        step "etcd, API server, controller manager, scheduler"
        start_control_plane "$audit" "$gates" "$signing"
    fi
    [[ -z $bootstrap ]] || token=$(allow_bootstrap)
    step "nodes: containerd $containerd$([[ $images ]] || echo ", no images")"
    for node in "${all[@]}"; do
        (
            [[ -z $images ]] || seed_images "$node" "$containerd"
            for proxy in "${proxies[@]}"; do mkdir -p "$(host_dir "$node")" && touch "$(host_dir "$node")/$proxy-proxy"; done
            [[ ! $late =~ [1-9] ]] || { mkdir -p "$(host_dir "$node")" && echo "$late" >"$(host_dir "$node")/late-start"; }
            [[ -z $systemd ]] || { mkdir -p "$(host_dir "$node")" && touch "$(host_dir "$node")/systemd"; }
            start_node "$node" "$containerd"
            is_bare || configure_kubelet "$node" "$kubelet" "$config" "$flags" "$token"
            [[ $kubelet == none ]] || start_kubelet "$node"
        ) &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || exit 1; done
    is_bare || route_pods "${all[@]}"
    write_env "${all[@]}" >"$(run_dir)/env"
    if [[ $wait ]]; then
        step "kubelet: $kubelet"
        for node in "${all[@]}"; do wait_node_ready "$node" 60; done
        wait_for 30 "ServiceAccount default" kubectl_in get serviceaccount default || need_reason controller-manager
        for node in "${all[@]}"; do give_pod_cidr "$node"; done
    fi
    touch "$(run_dir)/up"
    step "cluster $NAME is up"
    echo "$(run_dir)/kubeconfig"
}

# The conflist has the range already; this is for whoever reads it from the API.
give_pod_cidr() {
    kubectl_in patch node "$1" --type merge -p "{\"spec\":{\"podCIDR\":\"$(pod_cidr "$1")\",\"podCIDRs\":[\"$(pod_cidr "$1")\"]}}" >/dev/null
}

# allow_bootstrap: a token and the rights with which a node asks for its certificate; prints the token
allow_bootstrap() {
    kubectl_in apply -f "$CLUSTER_HOME/config/bootstrap.yaml" >/dev/null
    echo abcdef.0123456789abcdef
}

write_env() {
    local node upper dir proxy
    echo "CLUSTER_NAME=$NAME"
    echo "KUBECONFIG=$(run_dir)/kubeconfig"
    echo "API_SERVER=https://$API_IP:6443"
    echo "CONTROL_PLANE_PID=$(host_pid control-plane)"
    echo "NETNS=/proc/$(host_pid control-plane)/ns/net"
    echo "AUDIT_LOG=$(log_dir)/audit.log"
    echo "LOG_DIR=$(log_dir)"
    echo "KUBECTL=$(set_dir k8s)/kubectl"
    echo "KUBEADM=$(set_dir k8s-node)/kubeadm"
    echo "KUBERNETES_VERSION=v$K8S_VERSION"
    echo "NODES='$*'"
    for node; do
        upper=NODE_${node^^}
        dir=$(host_dir "$node")
        echo "${upper}_IP=$(node_ip "$node")"
        echo "${upper}_POD_CIDR=$(pod_cidr "$node")"
        echo "${upper}_PID=$(host_pid "$node")"
        echo "${upper}_NETNS=/proc/$(host_pid "$node")/ns/net"
        echo "${upper}_ROOT=/proc/$(host_pid "$node")/root"
        echo "${upper}_CRI_SOCKET=$dir/run/containerd/containerd.sock"
        echo "${upper}_CNI_DIR=$(node_data "$node")/overlay/etc/cni/net.d"
        echo "${upper}_KUBELET_DIR=/proc/$(host_pid "$node")/root/var/lib/kubelet"
        echo "${upper}_KUBELET_PID_FILE=$dir/kubelet.pid"
        echo "${upper}_KUBELET_LOG=$(part_log "$node" kubelet)"
        echo "${upper}_CONTAINERD_PID_FILE=$dir/containerd.pid"
        echo "${upper}_CONTAINERD_LOG=$(part_log "$node" containerd)"
        for proxy in cri api; do
            has_proxy "$node" $proxy && echo "${upper}_${proxy^^}_PROXY=$(proxy_control "$node" $proxy)"
        done
        echo "${upper}_CGROUP=/$(cgroup_name "$node")"
        echo "${upper}_CGROUP_DRIVER=$(has_systemd "$node" && echo systemd || echo cgroupfs)"
    done
}
