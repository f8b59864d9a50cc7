//! Tables of eviction: thresholds, ranks, words, limits, and the decisions that follow from
//! readings one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::decide::{Decider, Policy, Reclaim};
use super::limits::{self, Limit};
use super::message::describe;
use super::quantity::Quantity;
use super::rank::{Candidate, rank};
use super::signals::{Observation, Observations, Resource, Signal};
use super::thresholds::{self, Layout, Texts, Threshold, Value};
use crate::model::{Mono, Pod, PodKey, PodUid, Pressure, TerminationCause, Wall, pod};
use crate::stats::usage::{ContainerUsage, Fs, Memory, PodUsage, Resources, VolumeUsage};

fn at(second: u64) -> Mono {
    Mono(Duration::from_secs(second))
}

fn wall(second: u64) -> Wall {
    Wall::from_second(i64::try_from(second).expect("a small number")).expect("a time")
}

fn map(texts: &[(&str, &str)]) -> BTreeMap<String, String> {
    texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn parse(
    hard: &[(&str, &str)],
    soft: &[(&str, &str, &str)],
    reclaim: &[(&str, &str)],
) -> Vec<Threshold> {
    let hard = map(hard);
    let grace: BTreeMap<String, String> =
        soft.iter().map(|(name, _, grace)| ((*name).to_owned(), (*grace).to_owned())).collect();
    let soft: BTreeMap<String, String> =
        soft.iter().map(|(name, text, _)| ((*name).to_owned(), (*text).to_owned())).collect();
    let min_reclaim = map(reclaim);
    let texts = Texts { hard: &hard, soft: &soft, soft_grace: &grace, min_reclaim: &min_reclaim };
    thresholds::parse(texts, false).expect("thresholds")
}

/// A reading at `second`: bytes that are available of a capacity, by signal.
fn reading(second: u64, values: &[(Signal, u64, u64)]) -> Observations {
    let observe = |(signal, available, capacity): &(Signal, u64, u64)| {
        let available = Quantity::bytes(*available);
        let capacity = Quantity::bytes(*capacity);
        (*signal, Observation { available, capacity, at: wall(second) })
    };
    values.iter().map(observe).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "the tables read better")]
fn make_pod(name: &str, spec: Json) -> Arc<Pod> {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")},
        "spec": spec,
    });
    if object["spec"]["containers"].is_null() {
        object["spec"]["containers"] = json!([{"name": "main"}]);
    }
    Arc::new(serde_json::from_value(object).expect("a pod"))
}

/// A pod whose only container asks for something.
#[expect(clippy::needless_pass_by_value, reason = "the tables read better")]
fn asking(name: &str, priority: i32, requests: Json) -> Arc<Pod> {
    let containers = json!([{"name": "main", "resources": {"requests": requests}}]);
    make_pod(name, json!({"priority": priority, "containers": containers}))
}

fn fs(used: u64, inodes: u64) -> Fs {
    Fs { used: Some(used), inodes_used: Some(inodes), ..Fs::unknown(Wall::UNIX_EPOCH) }
}

fn memory(working_set: u64) -> Resources {
    let memory = Memory {
        at: Wall::UNIX_EPOCH,
        limit: None,
        usage: working_set,
        working_set,
        rss: 0,
        page_faults: 0,
        major_page_faults: 0,
        psi: None,
    };
    Resources { memory: Some(memory), ..Resources::default() }
}

fn container(name: &str, working_set: u64, rootfs: u64, logs: u64) -> ContainerUsage {
    ContainerUsage {
        name: name.to_owned(),
        id: "c1".into(),
        created: Wall::UNIX_EPOCH,
        resources: memory(working_set),
        rootfs: Some(fs(rootfs, rootfs)),
        logs: Some(fs(logs, logs)),
        processes: None,
    }
}

fn usage(name: &str, working_set: u64, rootfs: u64, logs: u64) -> PodUsage {
    PodUsage {
        uid: PodUid::new(format!("uid-{name}")),
        key: PodKey::new("d", name),
        created: Wall::UNIX_EPOCH,
        containers: vec![container("main", working_set, rootfs, logs)],
        resources: memory(working_set),
        network: None,
        volumes: Vec::new(),
        ephemeral_storage: Some(fs(rootfs + logs, 0)),
        processes: Some(working_set),
    }
}

fn ranked(pods: &[(Arc<Pod>, Option<PodUsage>)], signal: Signal, layout: Layout) -> Vec<String> {
    let mut candidates: Vec<Candidate<'_>> =
        pods.iter().map(|(pod, usage)| Candidate { pod, usage: usage.as_ref() }).collect();
    rank(&mut candidates, signal, layout);
    candidates.iter().map(|candidate| pod::key(candidate.pod).name.to_string()).collect()
}

#[test]
fn thresholds_are_read_as_upstream_reads_them() {
    let all = parse(
        &[("memory.available", "150Mi"), ("nodefs.available", "10%"), ("pid.available", "0%")],
        &[("memory.available", "300Mi", "30s")],
        &[("memory.available", "0"), ("nodefs.available", "5%")],
    );
    let names: Vec<(&str, bool)> =
        all.iter().map(|threshold| (threshold.signal.as_str(), threshold.is_hard())).collect();
    assert_eq!(
        names,
        [("memory.available", true), ("nodefs.available", true), ("memory.available", false)]
    );
    assert_eq!(all[1].value, Value::Fraction(0.1));
    assert_eq!(all[1].min_reclaim, Some(Value::Fraction(0.05)));
    assert_eq!(all[2].grace, Duration::from_secs(30));
}

#[test]
fn the_limit_of_all_pods_has_the_hard_threshold_on_memory() {
    let hard = map(&[("memory.available", "150Mi")]);
    let none = BTreeMap::new();
    let texts = Texts { hard: &hard, soft: &none, soft_grace: &none, min_reclaim: &none };
    let all = thresholds::parse(texts, true).expect("thresholds");
    assert_eq!(all[1].signal, Signal::AllocatableMemoryAvailable);
    assert_eq!(all[1].value, all[0].value);
}

#[test]
fn containerfs_follows_the_file_system_that_it_is_on() {
    let all = parse(
        &[
            ("nodefs.available", "10%"),
            ("imagefs.available", "20%"),
            ("containerfs.available", "30%"),
        ],
        &[],
        &[],
    );
    let value = |layout| {
        let all = thresholds::with_layout(&all, layout);
        let found: Vec<Value> = all
            .iter()
            .filter(|threshold| threshold.signal == Signal::ContainerFsAvailable)
            .map(|threshold| threshold.value)
            .collect();
        found
    };
    assert_eq!(value(Layout::Shared), [Value::Fraction(0.1)]);
    assert_eq!(value(Layout::ImageFs), [Value::Fraction(0.2)]);
    assert_eq!(value(Layout::SplitImageFs), [Value::Fraction(0.1)]);
}

#[test]
fn the_layout_is_that_of_devices() {
    let layout = |root, images, layers| Layout::of_devices(root, images, layers);
    assert_eq!(layout(1, 1, 1), Layout::Shared);
    assert_eq!(layout(1, 2, 2), Layout::ImageFs);
    assert_eq!(layout(1, 2, 1), Layout::SplitImageFs);
    // As upstream's HasDedicatedImageFs: one of the two apart from the root is enough.
    assert_eq!(layout(1, 1, 2), Layout::SplitImageFs);
    assert_eq!(layout(1, 2, 3), Layout::SplitImageFs);
}

/// The table of upstream's `TestRankMemoryPressure`-like cases: each pod with priority, request and
/// use.
#[test]
fn memory_is_ranked_by_excess_then_priority_then_amount() {
    let pods = [
        (asking("below-high", 100, json!({"memory": "1Ki"})), Some(usage("a", 100, 0, 0))),
        (asking("below-low", 1, json!({"memory": "1Ki"})), Some(usage("b", 200, 0, 0))),
        (asking("above-high", 100, json!({"memory": "100"})), Some(usage("c", 900, 0, 0))),
        (asking("above-low", 1, json!({"memory": "100"})), Some(usage("d", 200, 0, 0))),
        (asking("above-low-more", 1, json!({"memory": "100"})), Some(usage("e", 300, 0, 0))),
        (asking("unknown", 100, json!({"memory": "1Gi"})), None),
    ];
    assert_eq!(
        ranked(&pods, Signal::MemoryAvailable, Layout::Shared),
        ["unknown", "above-low-more", "above-low", "above-high", "below-low", "below-high"]
    );
    assert_eq!(
        ranked(&pods, Signal::AllocatableMemoryAvailable, Layout::Shared),
        ["unknown", "above-low-more", "above-low", "above-high", "below-low", "below-high"]
    );
}

#[test]
fn process_ids_are_ranked_by_priority_first() {
    let pods = [
        (asking("high-many", 10, json!({})), Some(usage("a", 900, 0, 0))),
        (asking("low-few", 1, json!({})), Some(usage("b", 10, 0, 0))),
        (asking("low-many", 1, json!({})), Some(usage("c", 20, 0, 0))),
        (asking("low-unknown", 1, json!({})), None),
    ];
    assert_eq!(
        ranked(&pods, Signal::PidAvailable, Layout::Shared),
        ["low-unknown", "low-many", "low-few", "high-many"]
    );
}

#[test]
fn a_disk_is_ranked_by_what_lies_on_it() {
    let local = make_pod("local", json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
    let mut local_usage = usage("local", 0, 0, 0);
    local_usage.volumes.push(VolumeUsage {
        name: "v".to_owned(),
        fs: fs(500, 500),
        claim: None,
        ephemeral: true,
        abnormal: None,
    });
    let pods = [
        (asking("rootfs", 0, json!({})), Some(usage("a", 0, 300, 0))),
        (asking("logs", 0, json!({})), Some(usage("b", 0, 0, 400))),
        (local, Some(local_usage)),
        (asking("asks", 0, json!({"ephemeral-storage": "1Ki"})), Some(usage("c", 0, 1000, 0))),
    ];
    for signal in [Signal::NodeFsAvailable, Signal::ImageFsAvailable] {
        assert_eq!(ranked(&pods, signal, Layout::Shared), ["local", "logs", "rootfs", "asks"]);
    }
    assert_eq!(
        ranked(&pods, Signal::NodeFsAvailable, Layout::ImageFs),
        ["local", "logs", "rootfs", "asks"]
    );
    assert_eq!(ranked(&pods, Signal::ImageFsAvailable, Layout::ImageFs)[0], "rootfs");
    assert_eq!(ranked(&pods, Signal::NodeFsInodesFree, Layout::Shared)[0], "local");
}

#[test]
fn pod_level_requests_and_the_overhead_count() {
    let whole = make_pod(
        "whole",
        json!({"resources": {"requests": {"memory": "500"}},
            "containers": [{"name": "main", "resources": {"requests": {"memory": "1"}}}]}),
    );
    let overhead = make_pod(
        "overhead",
        json!({"overhead": {"memory": "400"},
            "containers": [{"name": "main", "resources": {"requests": {"memory": "100"}}}]}),
    );
    let pods = [
        (whole, Some(usage("a", 501, 0, 0))),
        (overhead, Some(usage("b", 500, 0, 0))),
        (asking("plain", 0, json!({})), Some(usage("c", 1, 0, 0))),
    ];
    assert_eq!(
        ranked(&pods, Signal::MemoryAvailable, Layout::Shared),
        ["whole", "plain", "overhead"]
    );
}

proptest! {
    /// Whatever the pods: none is lost, one that exceeds its request is never behind one that does
    /// not, and among those the lower priority goes first.
    #[test]
    fn the_order_keeps_its_laws(
        pods in prop::collection::vec((0..4_i32, 0..50_u64, prop::option::of(0..100_u64)), 0..12),
    ) {
        let pods: Vec<(Arc<Pod>, Option<PodUsage>)> = pods
            .iter()
            .enumerate()
            .map(|(index, (priority, request, used))| {
                let name = format!("p{index}");
                let requests = json!({"memory": request.to_string()});
                (asking(&name, *priority, requests), used.map(|used| usage(&name, used, 0, 0)))
            })
            .collect();
        let place = |name: &String| {
            let index: usize = name[1..].parse().expect("a number");
            let (pod, usage) = &pods[index];
            let spec = pod.spec.as_ref().expect("a spec");
            let request = spec.containers[0].resources.as_ref().expect("resources");
            let request = &request.requests.as_ref().expect("requests")["memory"].0;
            let request: u64 = request.parse().expect("a number");
            let Some(usage) = usage else { return (false, false, None) };
            let used = usage.resources.memory.as_ref().expect("memory").working_set;
            (true, used <= request, spec.priority)
        };
        let order = ranked(&pods, Signal::MemoryAvailable, Layout::Shared);
        prop_assert_eq!(order.len(), pods.len());
        let places: Vec<_> = order.iter().map(place).collect();
        prop_assert!(places.iter().filter(|place| place.0).is_sorted());
        prop_assert!(places.iter().map(|place| place.0).is_sorted());
    }
}

#[test]
fn the_words_are_upstreams() {
    let threshold = parse(&[("memory.available", "2Gi")], &[], &[]);
    let seen = reading(1, &[(Signal::MemoryAvailable, 1024 * 1_234_567, 8 << 30)]);
    let pod = make_pod(
        "web",
        json!({"containers": [
            {"name": "a", "resources": {"requests": {"memory": "10Mi"}}},
            {"name": "b"},
            {"name": "c", "resources": {"requests": {"memory": "1Gi"}}}]}),
    );
    let mut used = usage("web", 0, 0, 0);
    used.containers =
        vec![container("a", 20 << 20, 0, 0), container("b", 4096, 0, 0), container("c", 1, 0, 0)];
    let candidate = Candidate { pod: &pod, usage: Some(&used) };
    let words = describe(Resource::Memory, &candidate, &threshold, &seen);
    assert_eq!(
        words.message,
        "The node was low on resource: memory. Threshold quantity: 2Gi, available: 1234567Ki. \
         Container a was using 20Mi, request is 10Mi, has larger consumption of memory. \
         Container b was using 4Ki, request is 0, has larger consumption of memory. "
    );
    let annotations: Vec<(&str, &str)> =
        words.annotations.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(
        annotations,
        [
            ("offending_containers", "a,b"),
            ("offending_containers_usage", "20Mi,4Ki"),
            ("starved_resource", "memory"),
        ]
    );

    let unknown = Candidate { pod: &pod, usage: None };
    let words = describe(Resource::Pids, &unknown, &threshold, &seen);
    assert_eq!(words.message, "The node was low on resource: pids. ");
    assert!(words.annotations.is_empty());
}

#[test]
fn a_pod_that_asks_as_a_whole_is_named() {
    let pod = make_pod("web", json!({"resources": {"requests": {"memory": "10Mi"}}}));
    let used = usage("web", 20 << 20, 0, 0);
    let candidate = Candidate { pod: &pod, usage: Some(&used) };
    let words = describe(Resource::Memory, &candidate, &[], &Observations::new());
    assert!(
        words.message.contains(
            "Pod web was using 20Mi, request is 10Mi, has larger consumption of memory. "
        ),
        "{}",
        words.message
    );
    assert_eq!(words.annotations["offending_pod"], "web");
    assert_eq!(words.annotations["offending_pod_usage"], "20Mi");
}

#[track_caller]
fn check_limit(spec: Json, used: &PodUsage, layout: Layout, expected: Option<(Limit, &str)>) {
    let pod = make_pod("web", spec);
    let candidate = Candidate { pod: &pod, usage: Some(used) };
    let found = limits::exceeded(&candidate, layout);
    let expected = expected.map(|(limit, message)| (limit, message.to_owned()));
    assert_eq!(found, expected);
    assert!(expected.is_none() || limits::has_any(&pod));
}

#[test]
fn limits_of_local_storage_in_upstreams_order() {
    let mut used = usage("web", 0, 3 << 20, 2 << 20);
    used.volumes.push(VolumeUsage {
        name: "data".to_owned(),
        fs: fs((1 << 20) + 1, 0),
        claim: None,
        ephemeral: true,
        abnormal: None,
    });
    let volumes = json!([{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}]);
    let limited = |limit: &str| json!([{"name": "main", "resources": {"limits": {"ephemeral-storage": limit}}}]);
    check_limit(
        json!({"volumes": volumes, "containers": limited("1Mi")}),
        &used,
        Layout::Shared,
        Some((Limit::EmptyDir, "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ")),
    );
    check_limit(
        json!({"containers": limited("1Mi")}),
        &used,
        Layout::Shared,
        Some((
            Limit::Pod,
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
        )),
    );
    // The pod as a whole has more than one of its containers.
    let two = json!([
        {"name": "main", "resources": {"limits": {"ephemeral-storage": "4Mi"}}},
        {"name": "other", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}]);
    let message = "Container main exceeded its local ephemeral storage limit \"4Mi\". ";
    let spec = json!({"containers": two});
    check_limit(spec.clone(), &used, Layout::Shared, Some((Limit::Container, message)));
    check_limit(spec, &used, Layout::ImageFs, None);
    check_limit(json!({"containers": limited("1Gi")}), &used, Layout::Shared, None);
}

const CAPACITY: u64 = 1000;

fn decider(thresholds: Vec<Threshold>) -> Decider {
    let transition = Duration::from_secs(300);
    let max_pod_grace = Duration::from_secs(60);
    Decider::new(Policy { thresholds, transition, max_pod_grace, limits_local_storage: true })
}

/// One look at memory: is there pressure, and is something due?
fn look(decider: &mut Decider, second: u64, available: u64) -> (bool, bool) {
    let seen = reading(second, &[(Signal::MemoryAvailable, available, CAPACITY)]);
    let look = decider.look(&seen, at(second));
    decider.next_look(seen, at(second));
    (look.pressure.memory, !look.due.is_empty())
}

#[test]
fn a_hard_threshold_acts_at_once_and_the_condition_stays_for_the_transition_period() {
    let mut decider = decider(parse(&[("memory.available", "100")], &[], &[]));
    assert_eq!(look(&mut decider, 0, 100), (false, false));
    assert_eq!(look(&mut decider, 10, 99), (true, true));
    assert_eq!(look(&mut decider, 20, 100), (true, false));
    assert_eq!(look(&mut decider, 309, 100), (true, false));
    assert_eq!(look(&mut decider, 310, 100), (false, false));
}

#[test]
fn a_soft_threshold_acts_after_its_grace_period() {
    let mut decider = decider(parse(&[], &[("memory.available", "100", "30s")], &[]));
    assert_eq!(look(&mut decider, 0, 99), (true, false));
    assert_eq!(look(&mut decider, 29, 99), (true, false));
    assert_eq!(look(&mut decider, 30, 99), (true, true));
    // Met anew: the grace period begins anew.
    assert_eq!(look(&mut decider, 40, 100), (true, false));
    assert_eq!(look(&mut decider, 50, 99), (true, false));
}

#[test]
fn the_minimum_reclaim_has_to_be_reached() {
    let reclaim = [("memory.available", "50")];
    let mut decider = decider(parse(&[("memory.available", "100")], &[], &reclaim));
    assert_eq!(look(&mut decider, 0, 120), (false, false));
    assert_eq!(look(&mut decider, 10, 99), (true, true));
    assert_eq!(look(&mut decider, 20, 149), (true, true));
    assert_eq!(look(&mut decider, 30, 150), (true, false));
    assert_eq!(look(&mut decider, 40, 120), (true, false));
}

#[test]
fn an_old_reading_asks_for_nothing() {
    let mut decider = decider(parse(&[("memory.available", "100")], &[], &[]));
    let seen = reading(5, &[(Signal::MemoryAvailable, 1, CAPACITY)]);
    assert!(!decider.look(&seen, at(5)).due.is_empty());
    decider.next_look(seen.clone(), at(5));
    let again = decider.look(&seen, at(15));
    assert!(again.due.is_empty() && again.pressure.memory);
}

#[test]
fn what_runs_out_fast_is_looked_at_sooner() {
    let mut decider = decider(parse(&[("memory.available", "100")], &[], &[]));
    let seen =
        |second, available| reading(second, &[(Signal::MemoryAvailable, available, CAPACITY)]);
    assert_eq!(decider.next_look(seen(0, 900), at(0)), at(10));
    assert_eq!(decider.next_look(seen(10, 900), at(10)), at(20), "in peace");
    // 200 in ten seconds, 600 are left: thirty seconds, and never later than usual.
    assert_eq!(decider.next_look(seen(20, 700), at(20)), at(30));
    // 400 in ten seconds, 200 are left: five seconds.
    assert_eq!(decider.next_look(seen(30, 300), at(30)).since(at(30)), Duration::from_millis(2500));
}

#[test]
fn one_victim_at_a_time() {
    let mut decider =
        decider(parse(&[("nodefs.available", "100")], &[("memory.available", "100", "0s")], &[]));
    let pods = [asking("a", 0, json!({})), asking("b", 1, json!({}))];
    let used: Vec<PodUsage> = vec![usage("a", 10, 0, 0), usage("b", 10, 0, 0)];
    let candidates: Vec<Candidate<'_>> =
        pods.iter().zip(&used).map(|(pod, usage)| Candidate { pod, usage: Some(usage) }).collect();
    let seen = reading(0, &[(Signal::NodeFsAvailable, 1, CAPACITY)]);
    let due = decider.look(&seen, at(0)).due;
    let aim = decider.aim(&due, at(0)).expect("an aim");
    assert_eq!(aim.reclaim, [Reclaim::DeadContainers, Reclaim::UnusedImages]);
    let first = decider.victim(&aim, &due, &seen, &candidates).expect("a victim");
    assert_eq!(pod::key(&first.pod).name.to_string(), "a");
    assert_eq!((first.signal, first.grace), ("nodefs.available", Duration::from_secs(1)));
    decider.evicted(&first, at(0));
    assert_eq!(decider.aim(&due, at(5)), None, "it stops");
    assert_eq!(decider.overdue(at(9)).len(), 0);
    assert_eq!(decider.overdue(at(10)).len(), 1, "the runtime is late");
    assert_eq!(decider.overdue(at(11)).len(), 0, "said once");
    assert!(decider.aim(&due, at(40)).is_some(), "it does not stop: another one goes");
    let second = decider.victim(&aim, &due, &seen, &candidates).expect("a victim");
    assert_eq!(pod::key(&second.pod).name.to_string(), "b");
    decider.stopped(&pod::uid(&first.pod));
    assert!(decider.aim(&due, at(5)).is_some());
}

#[test]
fn the_grace_of_a_soft_threshold_is_the_pods_own_up_to_the_most() {
    let mut decider = decider(parse(&[], &[("memory.available", "100", "1s")], &[]));
    let seen = reading(0, &[(Signal::MemoryAvailable, 1, CAPACITY)]);
    decider.look(&seen, at(0));
    let due = decider.look(&seen, at(1)).due;
    let aim = decider.aim(&due, at(1)).expect("an aim");
    for (own, expected) in [(Some(5), 5), (Some(600), 60), (None, 60)] {
        let pod = make_pod("a", json!({"terminationGracePeriodSeconds": own}));
        let candidates = [Candidate { pod: &pod, usage: None }];
        let victim = decider.victim(&aim, &due, &seen, &candidates).expect("a victim");
        assert_eq!(victim.grace, Duration::from_secs(expected));
    }
}

#[test]
fn a_hard_threshold_does_not_wait_for_a_victim_with_time() {
    let mut decider =
        decider(parse(&[("memory.available", "50")], &[("memory.available", "100", "1s")], &[]));
    let pod = asking("a", 0, json!({}));
    let seen = reading(0, &[(Signal::MemoryAvailable, 90, CAPACITY)]);
    decider.look(&seen, at(0));
    let due = decider.look(&seen, at(1)).due;
    let aim = decider.aim(&due, at(1)).expect("an aim");
    let candidates = [Candidate { pod: &pod, usage: None }];
    let victim = decider.victim(&aim, &due, &seen, &candidates).expect("a victim");
    decider.evicted(&victim, at(1));
    assert_eq!(decider.aim(&due, at(2)), None);
    let seen = reading(3, &[(Signal::MemoryAvailable, 10, CAPACITY)]);
    let due = decider.look(&seen, at(3)).due;
    assert!(due[0].is_hard());
    assert!(decider.aim(&due, at(3)).is_some());
}

#[test]
fn a_critical_pod_stays() {
    let mut decider = decider(parse(&[("memory.available", "100")], &[], &[]));
    let critical = asking("critical", 2_000_000_000, json!({}));
    let seen = reading(0, &[(Signal::MemoryAvailable, 1, CAPACITY)]);
    let due = decider.look(&seen, at(0)).due;
    let aim = decider.aim(&due, at(0)).expect("an aim");
    let candidates = [Candidate { pod: &critical, usage: None }];
    assert_eq!(decider.victim(&aim, &due, &seen, &candidates), None);
}

#[test]
fn memory_is_first_and_nothing_of_the_node_helps() {
    let all = [("imagefs.available", "100"), ("memory.available", "100")];
    let mut decider = decider(parse(&all, &[], &[]));
    let seen = reading(
        0,
        &[(Signal::ImageFsAvailable, 1, CAPACITY), (Signal::MemoryAvailable, 1, CAPACITY)],
    );
    let look = decider.look(&seen, at(0));
    assert_eq!(look.pressure, Pressure { memory: true, disk: true, pid: false });
    let aim = decider.aim(&look.due, at(0)).expect("an aim");
    assert_eq!((aim.threshold.signal, aim.reclaim.len()), (Signal::MemoryAvailable, 0));
}

#[test]
fn what_is_reclaimed_counts_with_the_minimum() {
    let reclaim = [("nodefs.available", "50")];
    let decider = decider(parse(&[("nodefs.available", "100")], &[], &reclaim));
    let seen = |available| reading(0, &[(Signal::NodeFsAvailable, available, CAPACITY)]);
    assert!(!decider.is_relieved(&seen(149)));
    assert!(decider.is_relieved(&seen(150)));
}

#[test]
fn a_pod_over_its_limit_is_no_disruption_of_the_node() {
    let mut decider = decider(Vec::new());
    let pod = make_pod(
        "web",
        json!({"containers": [{"name": "main",
            "resources": {"limits": {"ephemeral-storage": "1"}}}]}),
    );
    let used = usage("web", 0, 10, 0);
    let candidates = [Candidate { pod: &pod, usage: Some(&used) }];
    let over = decider.over_limit(&candidates);
    assert!(matches!(over[0].cause, TerminationCause::OverLimit { .. }), "{over:?}");
    assert_eq!(over[0].signal, "ephemeralpodfs.limit");
    decider.evicted(&over[0], at(0));
    assert!(decider.over_limit(&candidates).is_empty(), "it was told to go");
}
