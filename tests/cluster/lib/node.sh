# shellcheck shell=bash
# One node: its host, its wire to the others, containerd with its configuration, and the CNI conflist.

readonly PAUSE_IMAGE=registry.k8s.io/pause:3.10.2

nodes() { cat "$(run_dir)/nodes" 2>/dev/null || true; }
node_data() { echo "$(data_dir)/$1"; }
node_path() { echo "/proc/$(host_pid "$1")/root$2"; } # a path on the node, as the machine sees it

start_node() { # NODE CONTAINERD_LINE
    boot_node "$1"
    install_cni "$1"
    echo "$2" >"$(host_dir "$1")/containerd-line"
    write_containerd_config "$2" "$(has_systemd "$1" && echo true || echo false)" >"$(node_path "$1" /etc/containerd/config.toml)"
    start_containerd "$1"
    start_proxies "$1"
    ! is_bare || import_kubeadm_images "$1"
}

# boot_node NODE: namespaces, file systems and wire; nothing runs yet
boot_node() {
    make_node_cgroup "$1"
    start_host "$1" "$CLUSTER_HOME/lib/node-setup.sh" "$1" "$(host_dir "$1")" "$(node_data "$1")" "$(node_ip "$1")" \
        "$(has_systemd "$1" && echo systemd)"
    has_systemd "$1" && wait_systemd "$1"
    wire_node "$1" "$(node_ip "$1")"
}

# Degraded is what a machine is of which some unit could not start.
wait_systemd() {
    wait_for 30 "systemd on $1" in_host "$1" sh -c 'case $(systemctl is-system-running) in running | degraded) ;; *) false ;; esac' ||
        die "cluster $NAME: systemd on $1 does not come up; its log: $(log_dir)/$1.log"
}

# reboot_node NODE: as by the reset button. What a disk would keep stays, /run and the boot id do not.
reboot_node() {
    kill_processes "$NAME/$1"
    remove_cgroups "$NAME" "$1"
    rm -rf --one-file-system "$(host_dir "$1")/run" "$(host_dir "$1")"/{report,*.pid}
    boot_node "$1"
    # shellcheck disable=SC2046 # a list
    route_pods $(nodes)
    start_containerd "$1"
    start_proxies "$1"
    start_kubelet "$1"
    # shellcheck disable=SC2046
    write_env $(nodes) >"$(run_dir)/env"
}

# wire_node NODE IP: eth0 on the node, a port of the bridge in the control plane's host
wire_node() {
    local plane host
    plane=$(host_pid control-plane)
    host=$(host_pid "$1")
    nsenter --net="/proc/$plane/ns/net" -- ip link add "$1" type veth peer name eth0 netns "$host"
    nsenter --net="/proc/$plane/ns/net" -- ip link set "$1" master nodes up
    nsenter --net="/proc/$plane/ns/net" -- ip route add "$(pod_cidr "$1")" via "$2" 2>/dev/null || true
    in_host "$1" sh -c "ip addr add $2/24 dev eth0 && ip link set eth0 up && ip route add default via $API_IP
        echo 1 >/proc/sys/net/ipv4/ip_forward
        # Answers between pods on one bridge must pass iptables too, else a Service's address is not translated back.
        [ -e /proc/sys/net/bridge ] || modprobe br_netfilter
        echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables"
}

# route_pods NODE…: from each node to the pods of the others
route_pods() {
    local from to
    for from; do
        for to; do
            [[ $from == "$to" ]] || in_host "$from" ip route replace "$(pod_cidr "$to")" via "$(node_ip "$to")"
        done
    done
}

install_cni() {
    local bin
    bin=$(node_path "$1" /opt/cni/bin)
    cp "$(set_dir cni)"/* "$bin/"
    # In a bare cluster the network comes as pods.
    ! is_bare || return 0
    sed "s|10\.244\.0\.0/24|$(pod_cidr "$1")|" "$REPO_ROOT/cni-conf/10-rkubelet.conflist" \
        >"$(node_path "$1" /etc/cni/net.d/10-rkubelet.conflist)"
}

start_containerd() {
    local bin runc late=()
    bin=$(set_dir "containerd-$(cat "$(host_dir "$1")/containerd-line")")
    runc=$(set_dir runc)
    if [[ -e $(host_dir "$1")/late-start ]]; then
        late=("LATE_START=$(cat "$(host_dir "$1")/late-start")" "LATE_RUNC=$runc/runc")
        runc=$CLUSTER_HOME/late
    fi
    start_daemon "$1" containerd env "${late[@]}" "PATH=$bin:$runc:$PATH" "$bin/containerd" --config /etc/containerd/config.toml
    wait_for 30 "containerd on $1" node_ctr "$1" version || {
        need_running "$1" containerd
        die "cluster $NAME: containerd on $1 does not answer; its log: $(part_log "$1" containerd)"
    }
}

node_ctr() {
    local node=$1
    shift
    in_host "$node" "$(set_dir "containerd-$(cat "$(host_dir "$node")/containerd-line")")/ctr" \
        --address /run/containerd/containerd.sock --namespace k8s.io "$@"
}

# Without CAP_SYS_RESOURCE a lower oom_score_adj is refused, and no pod would start.
restrict_oom() {
    local effective
    effective=$((16#$(awk '/^CapEff/ { print $2 }' /proc/self/status)))
    ((effective >> 24 & 1)) && echo false || echo true
}

# write_containerd_config LINE [SYSTEMD_CGROUP]
write_containerd_config() {
    local images="'io.containerd.cri.v1.images'" runtime="'io.containerd.cri.v1.runtime'" systemd=${2:-false}
    if [[ $1 == 1.7 ]]; then
        cat <<TOML
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE_IMAGE"
restrict_oom_score_adj = $(restrict_oom)
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
options = { SystemdCgroup = $systemd }
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test-handler]
runtime_type = "io.containerd.runc.v2"
options = { SystemdCgroup = $systemd }
TOML
        return
    fi
    cat <<TOML
version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
[plugins.$images.pinned_images]
sandbox = '$PAUSE_IMAGE'
[plugins.$images.registry]
config_path = '/etc/containerd/certs.d'
[plugins.$runtime]
restrict_oom_score_adj = $(restrict_oom)
[plugins.$runtime.cni]
bin_dirs = ['/opt/cni/bin']
conf_dir = '/etc/cni/net.d'
[plugins.$runtime.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
options = { SystemdCgroup = $systemd }
[plugins.$runtime.containerd.runtimes.test-handler]
runtime_type = 'io.containerd.runc.v2'
options = { SystemdCgroup = $systemd }
TOML
}
