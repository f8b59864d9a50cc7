# shellcheck shell=bash
# The control plane of one cluster: etcd, API server, controller manager and scheduler in one host.
#
# Addresses are the same in every cluster, since each has its own networks: the bridge of the control plane's host is
# 10.200.0.1, node I is 10.200.0.(10+I) with pods in 10.244.I.0/24, services are in 10.96.0.0/16.

API_IP=10.200.0.1
SERVICE_CIDR=10.96.0.0/16
SERVICE_API_IP=10.96.0.1
DNS_IP=10.96.0.10
readonly API_IP SERVICE_CIDR SERVICE_API_IP DNS_IP
node_ip() { echo "10.200.0.$((10 + ${1#n}))"; }
pod_cidr() { echo "10.244.${1#n}.0/24"; }

# kubectl_in [ARGS…]: as cluster-admin; nothing else of the caller's changes, so that files named in ARGS are found
kubectl_in() {
    nsenter --net="/proc/$(host_pid control-plane)/ns/net" -- \
        "$(set_dir k8s)/kubectl" --kubeconfig "$(run_dir)/kubeconfig" "$@"
}

# start_bridge: the host of the control plane, with nothing but the bridge of the nodes
start_bridge() {
    start_host control-plane bash -c '
        ip link add nodes type bridge
        ip addr add "$1/24" dev nodes
        ip link set nodes up' - "$API_IP"
}

start_control_plane() { # AUDIT_LEVEL FEATURE_GATES SIGNING_DURATION
    start_bridge
    write_audit_policy "$1" >"$(run_dir)/audit-policy.yaml"
    echo "$2" >"$(run_dir)/feature-gates"
    echo "$3" >"$(run_dir)/signing-duration"
    start_part etcd
    start_part apiserver
    wait_for 60 "the API server's /readyz" apiserver_ready || need_reason apiserver
    start_part controller-manager
    start_part scheduler
}

apiserver_ready() { kubectl_in get --raw /readyz --request-timeout=2s; }

# need_reason PART: ends with what the component said last, dead or alive
need_reason() {
    need_running control-plane "$1"
    tail -15 "$(part_log control-plane "$1")" >&2
    die "cluster $NAME: $1 runs but is not ready; its log: $(part_log control-plane "$1")"
}

write_audit_policy() {
    cat <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, nonResourceURLs: ["*"]}
- level: None
  users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]
  verbs: [get, list, watch]
- {level: $1}
YAML
}

# start_part etcd|apiserver|controller-manager|scheduler: with the arguments of its cluster, also when started again
start_part() {
    local bin pki gates
    bin=$(set_dir k8s)
    pki=$(run_dir)/pki
    gates=$(cat "$(run_dir)/feature-gates")
    "args_${1//-/_}"
    [[ $gates && $1 != etcd ]] && args+=("--feature-gates=$gates")
    start_daemon control-plane "$1" "${args[@]}"
}

args_etcd() {
    args=("$bin/etcd" --name default --data-dir "$(data_dir)/etcd" --unsafe-no-fsync
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380
        --initial-cluster default=http://127.0.0.1:2380 --log-level warn)
}

args_apiserver() {
    args=("$bin/kube-apiserver" --advertise-address "$API_IP" --secure-port 6443 --allow-privileged
        --etcd-servers http://127.0.0.1:2379 --profiling=false
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --enable-bootstrap-token-auth
        --client-ca-file "$pki/ca.crt" --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key"
        --kubelet-client-certificate "$pki/apiserver-kubelet-client.crt"
        --kubelet-client-key "$pki/apiserver-kubelet-client.key" --kubelet-preferred-address-types InternalIP
        --requestheader-client-ca-file "$pki/front-proxy-ca.crt" --requestheader-allowed-names front-proxy-client
        --requestheader-extra-headers-prefix X-Remote-Extra- --requestheader-group-headers X-Remote-Group
        --requestheader-username-headers X-Remote-User
        --proxy-client-cert-file "$pki/front-proxy-client.crt" --proxy-client-key-file "$pki/front-proxy-client.key"
        --service-account-issuer https://kubernetes.default.svc.cluster.local
        --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key"
        --service-cluster-ip-range "$SERVICE_CIDR"
        --audit-policy-file "$(run_dir)/audit-policy.yaml" --audit-log-path "$(log_dir)/audit.log" --audit-log-maxsize 4096)
}

args_controller_manager() {
    args=("$bin/kube-controller-manager" --leader-elect=false --bind-address 127.0.0.1 --profiling=false
        --kubeconfig "$pki/controller-manager.conf" --authentication-kubeconfig "$pki/controller-manager.conf"
        --authorization-kubeconfig "$pki/controller-manager.conf" --use-service-account-credentials
        --controllers '*,bootstrapsigner,tokencleaner' --service-cluster-ip-range "$SERVICE_CIDR"
        --client-ca-file "$pki/ca.crt" --root-ca-file "$pki/ca.crt" --requestheader-client-ca-file "$pki/front-proxy-ca.crt"
        --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"
        --cluster-signing-duration "$(<"$(run_dir)/signing-duration")"
        --service-account-private-key-file "$pki/sa.key")
}

args_scheduler() {
    args=("$bin/kube-scheduler" --leader-elect=false --bind-address 127.0.0.1 --profiling=false
        --kubeconfig "$pki/scheduler.conf" --authentication-kubeconfig "$pki/scheduler.conf"
        --authorization-kubeconfig "$pki/scheduler.conf")
}
