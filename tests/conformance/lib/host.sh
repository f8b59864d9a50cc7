# shellcheck shell=bash
# The host on which the suite runs: namespaces of the cluster harness with containerd and a registry, without a control
# plane and without a kubelet; the suite starts those itself. `cluster down --name $NAME` removes it.

readonly SUITE_NODE=n1 REGISTRY_PORT=5001

suite_dir() { echo "$(node_data $SUITE_NODE)/suite"; } # the suite's working folder, the same path on the host

start_suite_host() { # CONTAINERD_LINE KUBELET
    local bin unit=$HERE/host/unit path
    remove_cluster # what a killed run left
    mkdir -p "$(run_dir)" "$(log_dir)" "$(suite_dir)/bin"
    echo $SUITE_NODE >"$(run_dir)/nodes"
    copy_seed "$(suite_seed_dir "$1")" "$(node_data $SUITE_NODE)/containerd"
    make_node_cgroup $SUITE_NODE
    favour_host
    start_host $SUITE_NODE "$HERE/host/setup" "$(cgroup_name $SUITE_NODE)" "$(node_ip $SUITE_NODE)" \
        "$CLUSTER_HOME/lib/node-setup.sh" $SUITE_NODE "$(host_dir $SUITE_NODE)" "$(node_data $SUITE_NODE)" "$(node_ip $SUITE_NODE)"
    install_cni $SUITE_NODE

    write_containerd_config "$1" >"$(node_path $SUITE_NODE /etc/containerd/config.toml)"
    echo "$1" >"$(host_dir $SUITE_NODE)/containerd-line"
    bin=$(set_dir "containerd-$1")
    start_daemon $SUITE_NODE containerd "$unit" system.slice/containerd.service \
        env "PATH=$bin:$(set_dir runc):$PATH" "$bin/containerd" --config /etc/containerd/config.toml
    start_daemon $SUITE_NODE registry "$unit" system.slice/registry.service \
        /usr/bin/python3 "$HERE/images/registry.py" serve "$(suite_images_archive)" $REGISTRY_PORT
    wait_for 30 "containerd" node_ctr $SUITE_NODE version || need_running $SUITE_NODE containerd
    wait_for 30 "the registry" in_host $SUITE_NODE curl -sf "http://127.0.0.1:$REGISTRY_PORT/v2/" || need_running $SUITE_NODE registry

    # The suite's folder is the one that its binary lies in.
    path=$(suite_dir)
    ln -s "$(set_dir k8s-e2e)/e2e_node.test" "$path/e2e_node.test"
    cp "$2" "$path/bin/kubelet"
    mkdir -p "$path/results"
    suite_kubelet_config >"$path/kubelet-base.yaml"
}

# Specs compare times of seconds: other work on the machine gets what the suite leaves.
favour_host() {
    local root file
    for root in $(cgroup_roots); do
        file=$root/$(cgroup_name $SUITE_NODE)
        if [[ -e $file/cpu.shares ]]; then echo 8192 >"$file/cpu.shares"; fi
        if [[ -e $file/cpu.weight ]]; then echo 800 >"$file/cpu.weight"; fi
    done
}

# What upstream's own runs use (test/e2e_node/jenkins/default-kubelet-config.yaml), for cgroup v1 and for a machine whose
# disk is shared with other work.
suite_kubelet_config() {
    cat <<'YAML'
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /
podCIDR: 10.100.0.0/24
volumeStatsAggPeriod: 10s
fileCheckFrequency: 10s
evictionPressureTransitionPeriod: 30s
evictionHard: {memory.available: 250Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
evictionMinimumReclaim: {nodefs.available: 1%, nodefs.inodesFree: 1%}
serializeImagePulls: false
failCgroupV1: false
failSwapOn: false
YAML
}

# run_suite PROCS LABELS FOCUS SKIP: 0 whatever the specs' results; the report is what counts
run_suite() {
    local dir flags
    dir=$(suite_dir)
    # --node-ip: without DNS upstream's kubelet looks its name up for 20 s before it registers.
    flags="--cluster-domain=cluster.local --runtime-cgroups=/system.slice/containerd.service --node-ip=$(node_ip $SUITE_NODE)"
    in_host $SUITE_NODE env "PATH=$HERE/stand-ins:$PATH" "$HERE/host/unit" suite.slice/suite.service \
        "$(set_dir k8s-e2e)/ginkgo" --procs "$1" --timeout 3h --label-filter "$2" ${3:+--focus "$3"} ${4:+--skip "$4"} --no-color --silence-skips \
        --output-dir "$dir/results" --json-report report.json --junit-report junit.xml --keep-going \
        "$dir/e2e_node.test" -- --k8s-bin-dir="$dir/bin" --node-name=$SUITE_NODE --report-dir="$dir/results" \
        --container-runtime-endpoint=unix:///run/containerd/containerd.sock --prepull-images=false \
        --kubelet-config-file="$dir/kubelet-base.yaml" --dns-domain=cluster.local --kubelet-flags="$flags" \
        >"$dir/results/suite.log" 2>&1 </dev/null 9>&- || true
    [[ -s $dir/results/report.json ]] || {
        tail -30 "$dir/results/suite.log" >&2
        die "the suite wrote no report; its whole output: $dir/results/suite.log"
    }
}
