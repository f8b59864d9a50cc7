# shellcheck shell=bash
# `cluster demo`: a cluster of one node and an application on it, each step checked, with what is needed to understand a
# failure printed when one occurs. The manifests are in demo/.

cmd_demo() {
    NAME=demo
    need_root
    need_packages curl
    with_lock "$RUN_ROOT/.lock-$NAME" remove_cluster # an earlier demo
    cmd_up "$@" >/dev/null
    trap 'demo_diagnostics $?' EXIT
    demo_step "kube-proxy runs on the node" demo_kube_proxy
    demo_step "CoreDNS answers on the node" demo_coredns
    demo_step "an application starts: init container, ConfigMap, Secret, its token used, hooks, three probes" demo_application
    demo_step "a client pod starts" demo_client
    demo_step "the client reaches the application by its DNS name" demo_page one
    demo_step "the Service spreads over both pods" demo_spread
    demo_step "kubectl logs" demo_logs
    demo_step "kubectl exec" demo_exec
    demo_step "kubectl port-forward" demo_port_forward
    demo_step "a rollout replaces the pods without a failed request" demo_rollout
    demo_step "a ConfigMap edit reaches its pods' volume" demo_config_edit
    demo_step "a container that dies is restarted" demo_restart
    demo_step "deletion runs preStop and leaves nothing on the node" demo_delete
    trap - EXIT
    say "demo: all steps passed. The cluster still runs: cluster --name demo kubectl …; cluster demo-down removes it."
}

cmd_demo_down() {
    NAME=demo
    cmd_down
}

demo_step() {
    local what=$1 started output
    shift
    started=$(date +%s%N)
    # In a subshell that keeps -e, which `if` or `||` around it would switch off.
    set +e
    output=$(set -e && "$@" 2>&1)
    local status=$?
    set -e
    if ((status)); then
        printf 'FAIL  %s\n' "$what"
        sed 's/^/      /' <<<"$output"
        exit 1
    fi
    printf 'ok    %-98s %5s s\n' "$what" "$(elapsed_since "$started")"
}

demo_diagnostics() {
    (($1)) || return 0
    {
        echo "--- pods"
        kubectl_in get pods -A -o wide
        echo "--- those that are not ready"
        kubectl_in get pods -A --no-headers | awk '{ split($3, r, "/"); if (r[1] != r[2]) print $1, $2 }' |
            while read -r namespace pod; do kubectl_in describe pod -n "$namespace" "$pod" </dev/null; done
        echo "--- events"
        kubectl_in get events -A --sort-by .lastTimestamp | tail -30
        echo "--- kubelet"
        tail -40 "$(part_log n1 kubelet)"
    } >&2 || true
    say "demo: failed. The cluster still runs for a look: cluster --name demo kubectl …; cluster demo-down removes it."
}

# expect WHAT PATTERN: the text on stdin must match the regular expression
expect() {
    local text
    text=$(cat)
    grep -qE -- "$2" <<<"$text" || { echo "$1: want $2, got:" && echo "$text" && return 1; }
}

demo_kube_proxy() {
    kubectl_in apply -f "$CLUSTER_HOME/demo/kube-proxy.yaml"
    kubectl_in rollout status -n kube-system daemonset/kube-proxy --timeout 60s
    wait_for 10 "the rules of the Service kubernetes" demo_service_rules
}
demo_service_rules() { in_host n1 iptables-save -t nat | grep "default/kubernetes:https"; }

demo_coredns() {
    kubectl_in apply -f "$CLUSTER_HOME/demo/coredns.yaml"
    kubectl_in rollout status -n kube-system deployment/coredns --timeout 60s
}

demo_application() {
    kubectl_in apply -f "$CLUSTER_HOME/demo/web.yaml"
    kubectl_in rollout status -n demo deployment/web --timeout 90s
}

demo_client() {
    kubectl_in apply -f "$CLUSTER_HOME/demo/client.yaml"
    kubectl_in wait -n demo --for condition=Ready pod/client --timeout 60s
}

web_pod() { kubectl_in get pods -n demo -l app=web -o 'jsonpath={.items[0].metadata.name}'; }
from_client() { kubectl_in exec -n demo client -- "$@"; }
demo_fetch() { from_client wget -q -T 5 -O - "http://web.demo.svc.cluster.local/${1:-}"; }

demo_page() {
    local page
    page=$(demo_fetch) &&
        expect "the page" "^hello from a ConfigMap$" <<<"$page" &&
        expect "the page" "^a-word-from-a-Secret$" <<<"$page" &&
        expect "the page" "^version $1 on n1$" <<<"$page" &&
        expect "the API server's answer to the pod's token" '"name": "page"' <<<"$page" &&
        demo_fetch hook | expect "what postStart wrote" "^postStart ran$"
}

demo_spread() {
    local pods pod try
    pods=$(kubectl_in get pods -n demo -l app=web -o name)
    for try in {1..24}; do demo_fetch >/dev/null; done
    for pod in $pods; do kubectl_in logs -n demo "$pod" -c web | expect "$pod's access log" "GET / .*Wget"; done
}

demo_logs() {
    kubectl_in logs -n demo deployment/web -c page | expect "the init container's log" "^version one on n1$"
    kubectl_in logs -n demo deployment/web -c web --tail 1 | expect "the last line of the web server's log" "GET /"
}

demo_exec() {
    local status=0
    from_client sh -c 'echo out; hostname' | expect "exec's output" "^client$"
    echo "through stdin" | kubectl_in exec -i -n demo client -- cat | expect "exec's stdin" "^through stdin$"
    from_client sh -c 'exit 7' || status=$?
    ((status == 7)) || { echo "exec's exit code: want 7, got $status" && return 1; }
}

demo_port_forward() {
    local pod forward status=0
    pod=$(web_pod)
    nsenter --net="/proc/$(host_pid control-plane)/ns/net" -- "$(set_dir k8s)/kubectl" \
        --kubeconfig "$(run_dir)/kubeconfig" port-forward -n demo "$pod" 18080:80 >/dev/null &
    forward=$!
    nsenter --net="/proc/$(host_pid control-plane)/ns/net" -- \
        curl -fsS --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:18080/hook | expect "port-forward" "postStart ran" || status=$?
    kill "$forward"
    return $status
}

demo_rollout() {
    local asker failed
    failed=$(mktemp)
    (while sleep 0.1; do demo_fetch hook >/dev/null 2>&1 || echo failed >>"$failed"; done) &
    asker=$!
    kubectl_in patch deployment -n demo web -p '{"spec": {"template": {"spec": {
        "initContainers": [{"name": "page", "env": [{"name": "VERSION", "value": "two"}]}],
        "containers": [{"name": "web", "env": [{"name": "VERSION", "value": "two"}]}]}}}}'
    kubectl_in rollout status -n demo deployment/web --timeout 90s
    kill "$asker"
    [[ ! -s $failed ]] || { echo "$(wc -l <"$failed") requests failed during the rollout" && return 1; }
    rm -f "$failed"
    wait_for 30 "the new page" demo_page two # pods that end still answer until kube-proxy knows
}

demo_config_edit() {
    kubectl_in patch configmap -n demo page --type merge -p '{"data": {"greeting": "hello again"}}'
    wait_for 120 "the edit in the pod" demo_edit_arrived
}
demo_edit_arrived() { kubectl_in exec -n demo deployment/web -c web -- cat /config/greeting | grep -qx "hello again"; }

demo_restart() {
    kubectl_in exec -n demo deployment/web -c web -- sh -c 'kill -TERM 1' || true
    wait_for 30 "the restart" demo_restarted
    kubectl_in rollout status -n demo deployment/web --timeout 60s
    wait_for 30 "the page" demo_page two
}
demo_restarted() { kubectl_in get pods -n demo -l app=web -o jsonpath='{.items[*].status.containerStatuses[0].restartCount}' | grep -q "[1-9]"; }

demo_delete() {
    local pod log
    pod=$(web_pod)
    log=$(mktemp)
    kubectl_in logs -n demo -f "$pod" -c web >"$log" &
    kubectl_in delete namespace demo --timeout 90s
    expect "the log of a pod that is gone" "^preStop ran$" <"$log"
    rm -f "$log"
    # Upstream's kubelet removes what is left of a pod once a minute.
    wait_for 90 "containers and logs of the namespace are gone from the node" demo_node_is_clean || {
        node_ctr n1 containers ls 'labels."io.kubernetes.pod.namespace"==demo'
        in_host n1 ls /var/log/pods
        return 1
    }
}
demo_node_is_clean() {
    [[ -z $(node_ctr n1 containers ls -q 'labels."io.kubernetes.pod.namespace"==demo') ]] &&
        [[ -z $(in_host n1 find /var/log/pods -maxdepth 1 -name 'demo_*') ]]
}
