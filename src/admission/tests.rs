//! Tables of admission, check by check.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use super::sysctls::{PatternError, normalize};
use super::{AdmitInput, Admitted, Features, NodeView, Rejection, SysctlAllowlist, admit};
use crate::model::{Pod, Pressure};
use crate::resources::list::amounts;

const KERNEL: (u32, u32) = (6, 1);

/// What a table varies.
struct World {
    labels: BTreeMap<String, String>,
    taints: Vec<api::Taint>,
    allocatable: Value,
    others: Vec<Arc<Pod>>,
    adopted: bool,
    refused: Option<Rejection>,
    apparmor: bool,
    strict_groups: bool,
    features: Features,
    pressure: Pressure,
    unsafe_sysctls: Vec<String>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            taints: Vec::new(),
            allocatable: json!({"cpu": "10", "memory": "10Gi", "pods": "110", "ephemeral-storage": "10Gi"}),
            others: Vec::new(),
            adopted: false,
            refused: None,
            apparmor: true,
            strict_groups: true,
            features: Features { pod_level_resources: true, declared: Some(Vec::new()) },
            pressure: Pressure::default(),
            unsafe_sysctls: Vec::new(),
        }
    }
}

impl World {
    fn admit(&self, pod: &Pod) -> Result<Admitted, Rejection> {
        self.admit_while(pod, false)
    }

    fn admit_while(&self, pod: &Pod, shutting_down: bool) -> Result<Admitted, Rejection> {
        let allocatable =
            amounts(Some(&serde_json::from_value(self.allocatable.clone()).expect("a list")));
        let sysctls = SysctlAllowlist::new(KERNEL, &self.unsafe_sysctls).expect("patterns");
        admit(&AdmitInput {
            pod,
            node: NodeView {
                name: "node-1",
                labels: &self.labels,
                taints: &self.taints,
                supplemental_groups_policy: self.strict_groups,
            },
            allocatable: &allocatable,
            others: &self.others,
            adopted: self.adopted,
            refused: self.refused.as_ref(),
            sysctls: &sysctls,
            apparmor: self.apparmor,
            features: &self.features,
            pressure: self.pressure,
            shutting_down,
        })
    }
}

fn pod(spec: Value) -> Pod {
    named("web", spec)
}

fn named(name: &str, spec: Value) -> Pod {
    let mut pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"phase": "Pending"}}))
            .expect("a pod");
    let mut spec = spec;
    let fields = spec.as_object_mut().expect("an object");
    fields.entry("containers").or_insert_with(|| json!([{"name": "c"}]));
    pod.spec = Some(serde_json::from_value(spec).expect("a spec"));
    pod
}

fn asking(requests: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
}

fn critical(requests: Value) -> Pod {
    let mut pod = pod(asking(requests));
    pod.spec.as_mut().expect("a spec").priority = Some(2_000_000_000);
    pod
}

#[track_caller]
fn check(world: &World, pod: &Pod, expected: Option<(&str, &str)>) {
    let told = world.admit(pod).err().map(|rejection| (rejection.reason, rejection.message));
    assert_eq!(
        told.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())),
        expected
    );
}

#[test]
fn resources_that_are_left() {
    let others = vec![Arc::new(named("other", asking(json!({"cpu": "9500m", "memory": "1Gi"}))))];
    let world = World { others, ..World::default() };
    check(&world, &pod(json!({})), None);
    check(&world, &pod(asking(json!({"cpu": "500m"}))), None);
    check(
        &world,
        &pod(asking(json!({"cpu": "501m"}))),
        Some((
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 501, used: 9500, capacity: 10000",
        )),
    );
    check(
        &world,
        &pod(asking(json!({"memory": "10Gi"}))),
        Some((
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 10737418240, used: 1073741824, capacity: 10737418240",
        )),
    );
    check(
        &world,
        &pod(asking(json!({"ephemeral-storage": "11Gi"}))),
        Some((
            "OutOfephemeral-storage",
            "Node didn't have enough resource: ephemeral-storage, requested: 11811160064, used: 0, capacity: 10737418240",
        )),
    );
    check(
        &world,
        &pod(asking(json!({"hugepages-2Mi": "4Mi"}))),
        Some((
            "OutOfhugepages-2Mi",
            "Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 0, capacity: 0",
        )),
    );
}

#[test]
fn the_number_of_pods() {
    let world = World {
        allocatable: json!({"cpu": "1", "pods": "1"}),
        others: vec![Arc::new(pod(json!({})))],
        ..World::default()
    };
    check(
        &world,
        &pod(json!({})),
        Some((
            "OutOfpods",
            "Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1",
        )),
    );
}

#[test]
fn extended_resources_count_where_the_node_has_them() {
    let world =
        World { allocatable: json!({"pods": "9", "example.com/gpu": "2"}), ..World::default() };
    check(&world, &pod(asking(json!({"example.com/other": "5"}))), None);
    check(&world, &pod(asking(json!({"example.com/gpu": "2"}))), None);
    check(
        &world,
        &pod(asking(json!({"example.com/gpu": "3"}))),
        Some((
            "OutOfexample.com/gpu",
            "Node didn't have enough resource: example.com/gpu, requested: 3, used: 0, capacity: 2",
        )),
    );
}

#[test]
fn labels_and_names_of_the_node() {
    const AFFINITY: Option<(&str, &str)> = Some((
        "NodeAffinity",
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
    ));
    let labels = [("zone", "a"), ("size", "5")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let world = World { labels, ..World::default() };
    let required = |term: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
    let label = |key: &str, operator: &str, values: &[&str]| {
        required(
            json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}),
        )
    };
    check(&world, &pod(json!({"nodeSelector": {"zone": "a"}})), None);
    check(&world, &pod(json!({"nodeSelector": {"zone": "b"}})), AFFINITY);
    for (spec, expected) in [
        (label("zone", "In", &["a", "b"]), None),
        (label("zone", "In", &["b"]), AFFINITY),
        (label("zone", "NotIn", &["b"]), None),
        (label("zone", "NotIn", &["a"]), AFFINITY),
        (label("absent", "NotIn", &["a"]), None),
        (label("zone", "Exists", &[]), None),
        (label("absent", "Exists", &[]), AFFINITY),
        (label("absent", "DoesNotExist", &[]), None),
        (label("size", "Gt", &["4"]), None),
        (label("size", "Gt", &["5"]), AFFINITY),
        (label("size", "Lt", &["6"]), None),
        (label("zone", "Lt", &["6"]), AFFINITY),
        (label("zone", "Like", &["a"]), AFFINITY),
        (required(json!({})), AFFINITY),
        (
            required(
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}),
            ),
            None,
        ),
        (
            required(
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-2"]}]}),
            ),
            AFFINITY,
        ),
        (
            required(
                json!({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-2"]}]}),
            ),
            None,
        ),
    ] {
        check(&world, &pod(spec), expected);
    }
    check(&world, &pod(json!({"nodeName": "node-1"})), None);
    check(
        &world,
        &pod(json!({"nodeName": "node-2"})),
        Some((
            "NodeName",
            "Predicate NodeName failed: node(s) didn't match the requested node name",
        )),
    );
}

#[test]
fn only_a_mismatch_of_labels_asks_for_a_fresh_node() {
    let world = World::default();
    let stale = |pod: &Pod| world.admit(pod).expect_err("rejected").is_stale_node;
    assert!(stale(&pod(json!({"nodeSelector": {"zone": "b"}}))));
    assert!(!stale(&pod(json!({"nodeSelector": {"zone": "b"}, "nodeName": "node-2"}))));
    assert!(!stale(&pod(json!({"nodeName": "node-2"}))));
}

#[test]
fn ports_of_the_node() {
    let with = |ports: Value| json!({"containers": [{"name": "c", "ports": ports}]});
    let port = |number: i32, protocol: &str, ip: &str| json!([{"containerPort": 1, "hostPort": number, "protocol": protocol, "hostIP": ip}]);
    let others = vec![
        Arc::new(named("a", with(port(80, "TCP", "")))),
        Arc::new(named("b", with(port(90, "UDP", "10.0.0.1")))),
        Arc::new(named(
            "c",
            json!({"initContainers": [
                {"name": "s", "restartPolicy": "Always", "ports": port(70, "TCP", "")},
                {"name": "i", "ports": port(60, "TCP", "")}]}),
        )),
    ];
    let world = World { others, ..World::default() };
    let taken = Some((
        "NodePorts",
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
    ));
    for (ports, expected) in [
        (port(80, "TCP", "10.0.0.1"), taken),
        (port(80, "UDP", ""), None),
        (port(0, "TCP", ""), None),
        (port(90, "UDP", "0.0.0.0"), taken),
        (port(90, "UDP", "10.0.0.1"), taken),
        (port(90, "UDP", "10.0.0.2"), None),
        (port(70, "TCP", ""), taken),
        (port(60, "TCP", ""), None),
    ] {
        check(&world, &pod(with(ports)), expected);
    }
}

#[test]
fn taints_that_end_pods() {
    let taint = |effect: &str| api::Taint {
        key: "k".into(),
        value: Some("v".into()),
        effect: effect.into(),
        ..api::Taint::default()
    };
    let refused = Some((
        "TaintToleration",
        "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
    ));
    let world = World { taints: vec![taint("NoExecute")], ..World::default() };
    let tolerating = |toleration: Value| pod(json!({"tolerations": [toleration]}));
    check(&World { taints: vec![taint("NoSchedule")], ..World::default() }, &pod(json!({})), None);
    check(&world, &pod(json!({})), refused);
    check(
        &world,
        &tolerating(json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"})),
        None,
    );
    check(&world, &tolerating(json!({"key": "k", "value": "v"})), None);
    check(&world, &tolerating(json!({"key": "k", "value": "w"})), refused);
    check(
        &world,
        &tolerating(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})),
        refused,
    );
    check(&world, &tolerating(json!({"operator": "Exists"})), None);
    let mut fixed = pod(json!({}));
    fixed.metadata.annotations =
        Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    check(&world, &fixed, None);
}

#[test]
fn pods_for_another_system() {
    let world = World::default();
    let mut labelled = pod(json!({}));
    labelled.metadata.labels = Some([("kubernetes.io/os".to_owned(), "windows".to_owned())].into());
    check(
        &world,
        &labelled,
        Some((
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )),
    );
    check(
        &world,
        &pod(json!({"os": {"name": "windows"}})),
        Some(("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")),
    );
    check(&world, &pod(json!({"os": {"name": "linux"}})), None);
}

#[test]
fn strict_groups_need_the_runtime() {
    let strict = pod(json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}));
    check(&World::default(), &strict, None);
    check(
        &World { strict_groups: false, ..World::default() },
        &strict,
        Some((
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        )),
    );
    let merge = pod(json!({"securityContext": {"supplementalGroupsPolicy": "Merge"}}));
    check(&World { strict_groups: false, ..World::default() }, &merge, None);
}

#[test]
fn apparmor_profiles() {
    let without = World { apparmor: false, ..World::default() };
    let refused =
        Some(("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"));
    let of = |kind: &str| json!({"appArmorProfile": {"type": kind}});
    let own = |kind: &str| pod(json!({"containers": [{"name": "c", "securityContext": of(kind)}]}));
    check(&without, &pod(json!({"securityContext": of("RuntimeDefault")})), refused);
    check(&without, &pod(json!({"securityContext": of("Unconfined")})), None);
    check(&without, &own("RuntimeDefault"), refused);
    check(&without, &own("Unconfined"), None);
    let mut annotated = pod(json!({}));
    let name = "container.apparmor.security.beta.kubernetes.io/c".to_owned();
    annotated.metadata.annotations = Some([(name, "runtime/default".to_owned())].into());
    check(&without, &annotated, refused);
    check(&World::default(), &annotated, None);
    check(
        &World::default(),
        &own("Localhost"),
        Some(("AppArmor", "Cannot enforce AppArmor: invalid empty AppArmor profile name")),
    );
    let mut running = own("RuntimeDefault");
    running.status.as_mut().expect("a status").phase = Some("Running".into());
    check(&without, &running, None);
}

#[test]
fn sysctls_of_pods() {
    let setting =
        |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
    let world = World {
        unsafe_sysctls: vec!["kernel.msg*".into(), "net.core.somaxconn".into()],
        ..World::default()
    };
    check(&world, &pod(setting("kernel.shm_rmid_forced")), None);
    check(&world, &pod(setting("net/ipv4/tcp_syncookies")), None);
    check(&world, &pod(setting("kernel.msgmax")), None);
    check(&world, &pod(setting("net.core.somaxconn")), None);
    check(
        &world,
        &pod(setting("kernel.sem")),
        Some(("SysctlForbidden", "forbidden sysctl: \"kernel.sem\" not allowlisted")),
    );
    let mut shared = setting("net.ipv4.tcp_syncookies");
    shared["hostNetwork"] = json!(true);
    check(
        &world,
        &pod(shared),
        Some((
            "SysctlForbidden",
            "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host Net enabled",
        )),
    );
    let mut shared = setting("kernel.msgmni");
    shared["hostIPC"] = json!(true);
    check(
        &world,
        &pod(shared),
        Some((
            "SysctlForbidden",
            "forbidden sysctl: \"kernel.msgmni\" not allowed with host IPC enabled",
        )),
    );
}

#[test]
fn patterns_of_sysctls() {
    let of = |pattern: &str| SysctlAllowlist::new(KERNEL, &[pattern.to_owned()]);
    for pattern in ["kernel.msg*", "net.*", "net/ipv4/conf/all/x", "fs.mqueue.msg_max"] {
        assert!(of(pattern).is_ok(), "{pattern}");
    }
    for pattern in ["", "net..x", "Net.x", "net.*.x", "net.x-", "_x"] {
        assert!(matches!(of(pattern), Err(PatternError::Malformed { .. })), "{pattern}");
    }
    for pattern in ["kernel.hostname", "vm.*", "*"] {
        assert!(matches!(of(pattern), Err(PatternError::NotNamespaced { .. })), "{pattern}");
    }
    let old = SysctlAllowlist::new((4, 4), &[]).expect("patterns");
    let keepalive = pod(
        json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_keepalive_time", "value": "1"}]}}),
    );
    assert!(old.check(&keepalive).is_err());
    assert_eq!(normalize("net/ipv4/conf/eth0.1/x"), "net.ipv4.conf.eth0/1.x");
}

#[test]
fn a_shutdown_keeps_new_pods_away() {
    let pod = pod(json!({"containers": [{"name": "c"}]}));
    let rejected = World::default().admit_while(&pod, true).expect_err("a shutdown");
    assert_eq!(
        rejected,
        Rejection::new("NodeShutdown", "Pod was rejected as the node is shutting down.")
    );
    // What runs already is the shutdown's own to stop.
    let running = World { adopted: true, ..World::default() };
    assert_eq!(running.admit_while(&pod, true).map(|taken| taken.overlooked), Ok(Some(rejected)));
}

#[test]
fn pressure_keeps_pods_away() {
    let short = Pressure { memory: true, ..Pressure::default() };
    let memory = World { pressure: short, ..World::default() };
    let both = World { pressure: Pressure { disk: true, ..short }, ..World::default() };
    check(
        &memory,
        &pod(json!({})),
        Some(("Evicted", "The node had condition: [MemoryPressure]. ")),
    );
    check(&memory, &pod(asking(json!({"cpu": "1"}))), None);
    check(
        &memory,
        &pod(
            json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]}),
        ),
        None,
    );
    check(
        &both,
        &pod(asking(json!({"cpu": "1"}))),
        Some(("Evicted", "The node had condition: [MemoryPressure DiskPressure]. ")),
    );
    check(&both, &critical(json!({})), None);
}

#[test]
fn pods_that_run_already_stay() {
    let world = World { adopted: true, ..World::default() };
    let admitted = world.admit(&pod(json!({"nodeSelector": {"zone": "b"}}))).expect("it stays");
    assert_eq!(
        admitted.overlooked.map(|rejection| rejection.reason).as_deref(),
        Some("NodeAffinity")
    );
    assert_eq!(world.admit(&pod(json!({}))), Ok(Admitted::default()));
}

#[test]
fn a_pod_without_its_devices_is_refused_unless_it_runs() {
    let refused = Rejection::new("UnexpectedAdmissionError", "Allocate failed");
    let reason = |adopted, spec: Value| {
        let world = World { adopted, refused: Some(refused.clone()), ..World::default() };
        world.admit(&pod(spec)).map(drop).map_err(|rejection| rejection.reason)
    };
    let lacking = Err("UnexpectedAdmissionError".to_owned());
    assert_eq!(reason(false, json!({})), lacking);
    assert_eq!(reason(true, json!({})), Ok(()));
    // Devices are asked for before the checks of the scheduler, and after those of sysctls.
    assert_eq!(reason(false, json!({"nodeSelector": {"zone": "b"}})), lacking);
    let sysctls = json!({"securityContext": {"sysctls": [{"name": "net.x", "value": "1"}]}});
    assert_eq!(reason(false, sysctls), Err("SysctlForbidden".to_owned()));
}

#[track_caller]
fn check_preempted(world: &World, pod: &Pod, expected: &[&str]) {
    let admitted = world.admit(pod).expect("admitted");
    let names: Vec<_> =
        admitted.preempt.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
    assert_eq!(names, expected);
}

#[test]
fn critical_pods_push_others_out() {
    let full = |cpu: &str| {
        json!({"containers": [{"name": "c", "resources": {
        "requests": {"cpu": cpu, "memory": "1Mi"}, "limits": {"cpu": cpu, "memory": "1Mi"}}}]})
    };
    let others = vec![
        Arc::new(named("best-effort", json!({}))),
        Arc::new(named("small", asking(json!({"cpu": "1"})))),
        Arc::new(named("large", asking(json!({"cpu": "4"})))),
        Arc::new(named("guaranteed", full("4"))),
    ];
    let world = World { others, ..World::default() };
    check_preempted(&world, &critical(json!({"cpu": "1"})), &[]);
    check_preempted(&world, &critical(json!({"cpu": "2"})), &["small"]);
    check_preempted(&world, &critical(json!({"cpu": "4"})), &["large"]);
    check_preempted(&world, &critical(json!({"cpu": "7"})), &["large", "guaranteed"]);
    let error = world.admit(&critical(json!({"cpu": "11"}))).expect_err("there is not that much");
    assert_eq!(
        (error.reason.as_str(), error.message.as_str()),
        (
            "UnexpectedAdmissionError",
            "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of \
             pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]",
        )
    );
}

#[test]
fn critical_pods_are_sent_away_for_other_reasons() {
    let mut pod = critical(json!({"cpu": "11"}));
    pod.spec.as_mut().expect("a spec").node_name = Some("node-2".into());
    check(
        &World::default(),
        &pod,
        Some((
            "NodeName",
            "Predicate NodeName failed: node(s) didn't match the requested node name",
        )),
    );
}

#[test]
fn refuses_what_the_node_does_not_declare() {
    let pod = |spec: Value| serde_json::from_value::<Pod>(json!({"spec": spec})).expect("a pod");
    let refused = |world: &World, spec: Value| {
        let rejection = world.admit(&pod(spec)).expect_err("refused");
        (rejection.reason, rejection.message)
    };
    let rule =
        json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}});
    let restarting = json!({
        "hostNetwork": true, "hostUsers": false, "containers": [{"name": "c", "restartPolicyRules": [rule]}],
    });
    let world = World::default();
    let message = "Pod requires node features that are not available: RestartAllContainersOnContainerExits, \
                   UserNamespacesHostNetworkSupport";
    assert_eq!(
        refused(&world, restarting.clone()),
        ("PodFeatureUnsupported".into(), message.into())
    );
    let declared = vec!["RestartAllContainersOnContainerExits", "UserNamespacesHostNetworkSupport"];
    let able = World {
        features: Features { pod_level_resources: true, declared: Some(declared) },
        ..World::default()
    };
    able.admit(&pod(restarting.clone())).expect("taken");
    let old = World {
        features: Features { pod_level_resources: false, declared: None },
        ..World::default()
    };
    old.admit(&pod(restarting)).expect("nothing is declared: nothing is asked");
    let whole = json!({"resources": {"limits": {"cpu": "1"}}, "containers": []});
    let message = "PodLevelResources feature gate is disabled".to_owned();
    assert_eq!(refused(&old, whole.clone()), ("PodLevelResourcesNotSupported".into(), message));
    world.admit(&pod(whole)).expect("taken");
}
