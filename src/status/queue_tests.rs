//! The laws of the queue, over random commands against a small API server that answers when the
//! test says so. Each test names the law of [`super::queue`] that it proves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::api::Failure;
use super::base::Base;
use super::handle::{Acked, StatusUpdate};
use super::job::{End, Job, Outcome};
use super::queue::{HOLD, News, Queue, RETRY_MAX};
use crate::model::{Mono, Pod, PodUid};

/// The pods that the tests are about; few, so that commands meet.
const PODS: u8 = 3;

/// One step of a run.
#[derive(Clone, Debug)]
enum Command {
    /// A worker has computed a status.
    Set { pod: u8, status: Shape, is_failing: bool },
    /// Another writer changes the object, and the watch shows it.
    Overwritten { pod: u8 },
    /// The watch shows what the API has.
    Observed { pod: u8 },
    /// The object is made anew under its name, and the watch shows it.
    MadeAnew { pod: u8 },
    /// The worker asks for the deletion.
    Delete { pod: u8 },
    /// The worker forgets the pod.
    Forget { pod: u8 },
    /// Time passes.
    Pass { millis: u64 },
    /// The writer begins what may begin.
    Begin,
    /// The write of a pod ends, if one is in flight.
    Finish { pod: u8, end: Answer },
    /// The API server is back after it was away.
    Back,
    /// Pods begin or cease to wait for their start.
    Backlog { is_on: bool },
}

/// A status, as far as the queue tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Pending,
    Running,
    Ready,
    Failed,
}

impl Shape {
    fn status(self, message: u64) -> api::PodStatus {
        let value = match self {
            Self::Pending => json!({"phase": "Pending"}),
            Self::Running => json!({"phase": "Running"}),
            Self::Ready => {
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
            }
            Self::Failed => json!({"phase": "Failed"}),
        };
        let mut status: api::PodStatus = serde_json::from_value(value).expect("a status");
        status.message = Some(message.to_string());
        status.start_time =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        status
    }
}

/// The outcome of a write at the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Accepted,
    /// The write arrives after another writer's, and a part of ours stays overwritten.
    Overwritten,
    /// The write arrives, and the answer is lost.
    Lost,
    Conflict,
    Refused,
    NotFound,
}

fn command() -> impl Strategy<Value = Command> {
    let shape = prop_oneof![
        Just(Shape::Pending),
        Just(Shape::Running),
        Just(Shape::Ready),
        Just(Shape::Failed)
    ];
    let answer = prop_oneof![
        6 => Just(Answer::Accepted),
        1 => Just(Answer::Overwritten),
        2 => Just(Answer::Lost),
        1 => Just(Answer::Conflict),
        1 => Just(Answer::Refused),
        1 => Just(Answer::NotFound)
    ];
    let pod = 0..PODS;
    prop_oneof![
        8 => (pod.clone(), shape, any::<bool>())
            .prop_map(|(pod, status, is_failing)| Command::Set { pod, status, is_failing }),
        2 => pod.clone().prop_map(|pod| Command::Overwritten { pod }),
        2 => pod.clone().prop_map(|pod| Command::Observed { pod }),
        1 => pod.clone().prop_map(|pod| Command::MadeAnew { pod }),
        1 => pod.clone().prop_map(|pod| Command::Delete { pod }),
        1 => pod.clone().prop_map(|pod| Command::Forget { pod }),
        5 => (0..2_000_u64).prop_map(|millis| Command::Pass { millis }),
        8 => Just(Command::Begin),
        8 => (pod, answer).prop_map(|(pod, end)| Command::Finish { pod, end }),
        1 => Just(Command::Back),
        1 => any::<bool>().prop_map(|is_on| Command::Backlog { is_on }),
    ]
}

/// One pod as the test knows it.
#[derive(Debug, Default)]
struct Known {
    /// The API's object; its UID changes when it is made anew.
    life: u64,
    status: api::PodStatus,
    is_deleting: bool,
    /// The newest version that was set.
    wanted: u64,
    /// The newest version that a write carried.
    begun: u64,
    /// True if the fate of the last write to this object is unknown.
    in_doubt: bool,
    is_gone: bool,
    is_forgotten: bool,
    acked: Acked,
}

impl Known {
    /// Forgets what the queue forgets with the pod.
    fn reset(&mut self) {
        self.in_doubt = false;
        self.is_gone = false;
        self.begun = 0;
        self.acked = Acked::default();
    }
}

/// The queue, the API server, and what is in flight between them.
struct Bench {
    queue: Queue,
    now: Mono,
    has_backlog: bool,
    pods: BTreeMap<u8, Known>,
    in_flight: BTreeMap<u8, Job>,
    resource_version: u64,
    versions: u64,
}

fn uid(pod: u8) -> PodUid {
    PodUid::new(format!("pod-{pod}"))
}

impl Bench {
    fn new() -> Self {
        Self {
            queue: Queue::default(),
            now: Mono::default(),
            has_backlog: false,
            pods: (0..PODS).map(|pod| (pod, Known::default())).collect(),
            in_flight: BTreeMap::new(),
            resource_version: 1,
            versions: 0,
        }
    }

    fn known(&mut self, pod: u8) -> &mut Known {
        self.pods.get_mut(&pod).expect("one of the pods")
    }

    /// The object as the API has it now.
    fn object(&self, pod: u8) -> Arc<Pod> {
        let known = &self.pods[&pod];
        let deleting = known.is_deleting.then_some("1970-01-01T00:00:00Z");
        let metadata: Value = json!({
            "name": format!("p-{pod}"), "namespace": "default",
            "uid": format!("object-{pod}-{}", known.life),
            "resourceVersion": self.resource_version.to_string(),
            "deletionTimestamp": deleting,
        });
        let mut object: Pod = serde_json::from_value(json!({"metadata": metadata})).expect("a pod");
        object.status = Some(known.status.clone());
        Arc::new(object)
    }

    /// The object after a change.
    fn changed(&mut self, pod: u8) -> Arc<Pod> {
        self.resource_version += 1;
        self.object(pod)
    }

    fn set(&mut self, pod: u8, shape: Shape, is_failing: bool) {
        self.versions += 1;
        let version = self.versions;
        let object = self.object(pod);
        let status = Arc::new(shape.status(version % 4));
        let known = self.known(pod);
        known.wanted = version;
        known.is_forgotten = false;
        let update = StatusUpdate { pod: object, status, is_failing };
        self.queue.set(&uid(pod), version, update, self.now);
    }

    fn apply(&mut self, command: &Command) {
        match command.clone() {
            Command::Set { pod, status, is_failing } => self.set(pod, status, is_failing),
            Command::Overwritten { pod } => {
                self.known(pod).status.message = Some("of another writer".to_owned());
                let object = self.changed(pod);
                self.queue.observed(&uid(pod), object, self.now);
            }
            Command::Observed { pod } => {
                let object = self.object(pod);
                self.queue.observed(&uid(pod), object, self.now);
            }
            Command::MadeAnew { pod } => {
                let known = self.known(pod);
                known.life += 1;
                known.status = api::PodStatus::default();
                known.is_deleting = false;
                known.in_doubt = false;
                known.is_gone = false;
                let object = self.changed(pod);
                self.queue.observed(&uid(pod), object, self.now);
            }
            Command::Delete { pod } => {
                self.known(pod).is_deleting = true;
                self.known(pod).is_forgotten = false;
                let object = self.changed(pod);
                self.queue.delete(&uid(pod), object, self.now);
            }
            Command::Forget { pod } => {
                self.queue.forget(&uid(pod));
                let is_in_flight = self.in_flight.contains_key(&pod);
                let known = self.known(pod);
                known.is_forgotten = true;
                if !is_in_flight {
                    known.reset();
                }
            }
            Command::Pass { millis } => self.pass(Duration::from_millis(millis)),
            Command::Begin => self.begin(),
            Command::Finish { pod, end } => self.finish(pod, end),
            Command::Back => self.queue.hasten(self.now),
            Command::Backlog { is_on } => self.has_backlog = is_on,
        }
        self.take_news();
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.queue.wake(self.now, self.has_backlog);
    }

    /// Begins what may begin. Laws 1, 2 and 3.
    fn begin(&mut self) {
        while let Some(job) = self.queue.begin() {
            let pod = (0..PODS).find(|pod| uid(*pod) == job.uid).expect("a known pod");
            let known = self.known(pod);
            assert!(!known.is_forgotten, "a pod that is forgotten is not written");

            if let Some(want) = &job.want {
                assert_eq!(want.version, known.wanted, "law 2: the newest is written");
                assert!(want.version >= known.begun, "law 2: never an older one after a newer");
                known.begun = want.version;
            }
            let is_this_object = job.base.uid() == format!("object-{pod}-{}", known.life);
            assert!(is_this_object, "the write is for the object that the watch showed");
            assert_eq!(job.read_first, known.in_doubt, "law 3");

            let twin = self.in_flight.insert(pod, job);
            assert!(twin.is_none(), "law 1: two writes in flight");
        }
    }

    fn finish(&mut self, pod: u8, answer: Answer) {
        let Some(job) = self.in_flight.remove(&pod) else { return };
        let target = job.base.target();
        let is_this_object = target.uid == format!("object-{pod}-{}", self.pods[&pod].life);
        let answer = if is_this_object { answer } else { Answer::NotFound };

        let unknown = || Failure::Unknown { target: target.clone(), source: None };
        let response = |code| {
            let status = kube::core::Status::failure("scripted", "Scripted").with_code(code);
            kube::Error::Api(status.boxed())
        };
        let is_deleted = job.delete && job.base.is_deletable();
        let (arrives, end) = match answer {
            Answer::Accepted if is_deleted => (true, End::Gone),
            Answer::Accepted => (true, End::Done),
            Answer::Overwritten if is_deleted => (true, End::Gone),
            Answer::Overwritten => (true, End::Overwritten),
            Answer::Lost => (true, End::Failed(unknown())),
            Answer::Conflict => {
                let (target, source) = (target.clone(), response(409));
                (false, End::Failed(Failure::Conflict { target, source }))
            }
            Answer::Refused => {
                let (target, source) = (target.clone(), response(403));
                (false, End::Failed(Failure::Refused { target, source }))
            }
            Answer::NotFound => (false, End::Gone),
        };

        if let Some(want) = job.want.as_ref().filter(|_| arrives) {
            self.known(pod).status = (*want.status).clone();
            if answer == Answer::Overwritten {
                self.known(pod).status.message = Some("another writer's".to_owned());
            }
        }
        let object = if arrives { self.changed(pod) } else { self.object(pod) };
        let is_accepted = matches!(answer, Answer::Accepted | Answer::Overwritten);
        let outcome = Outcome {
            uid: job.uid,
            target_uid: target.uid,
            base: is_accepted.then(|| Base::answered((*object).clone())),
            accepted: job.want.map(|want| want.version).filter(|_| is_accepted),
            end,
        };
        let known = self.known(pod);
        if known.is_forgotten {
            known.reset();
        } else if is_this_object {
            match answer {
                Answer::Accepted | Answer::Overwritten if is_deleted => known.is_gone = true,
                Answer::Accepted | Answer::Overwritten => known.in_doubt = false,
                Answer::Lost | Answer::Conflict => known.in_doubt = true,
                Answer::Refused => {}
                Answer::NotFound => known.is_gone = true,
            }
        }
        self.queue.finish(outcome, self.now);
    }

    fn take_news(&mut self) {
        for news in self.queue.news() {
            match news {
                News::Acked(uid, acked) => {
                    let pod = (0..PODS).find(|pod| self::uid(*pod) == uid).expect("known");
                    let known = self.known(pod);
                    let is_other = acked == Acked::default();
                    assert!(
                        is_other || acked.version >= known.acked.version,
                        "law 2: what was accepted stays accepted"
                    );
                    assert!(acked.version <= known.wanted, "only what was set is accepted");
                    known.acked = acked;
                }
                News::Forgotten(_) => {}
            }
        }
    }

    /// Lets every write succeed until nothing is left to do.
    fn settle(&mut self) {
        self.has_backlog = false;
        for _ in 0..100 {
            self.begin();
            let in_flight: BTreeSet<u8> = self.in_flight.keys().copied().collect();
            for pod in in_flight {
                self.finish(pod, Answer::Accepted);
                self.take_news();
            }
            self.pass(RETRY_MAX);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Laws 1, 2, 3 (asserted by the bench at each step) and 5.
    #[test]
    fn the_newest_status_arrives_by_one_write_at_a_time(
        commands in prop::collection::vec(command(), 1..80),
    ) {
        let mut bench = Bench::new();
        for command in &commands {
            bench.apply(command);
        }
        bench.settle();

        prop_assert!(bench.queue.next_due().is_none(), "nothing is left to do");
        for (pod, known) in &bench.pods {
            if known.is_forgotten || known.wanted == 0 {
                continue;
            }
            if known.is_gone {
                prop_assert!(known.acked.is_gone, "law 5: pod {} is known to be gone", pod);
            } else {
                prop_assert_eq!(known.acked.version, known.wanted, "law 5: of pod {}", pod);
            }
        }
    }

    /// Law 4.
    #[test]
    fn what_is_urgent_is_not_held(
        commands in prop::collection::vec(command(), 0..40),
        shape in prop_oneof![Just(Shape::Ready), Just(Shape::Failed)],
    ) {
        let mut bench = Bench::new();
        for command in &commands {
            bench.apply(command);
        }
        bench.settle();
        // A pod that the API shows as neither ready nor ended.
        bench.apply(&Command::MadeAnew { pod: 0 });
        bench.apply(&Command::Set { pod: 0, status: Shape::Running, is_failing: false });
        bench.settle();
        bench.apply(&Command::Backlog { is_on: true });

        bench.set(0, shape, false);
        bench.begin();
        prop_assert!(bench.in_flight.contains_key(&0), "it is written at once");
    }

    /// The other half of law 4.
    #[test]
    fn what_is_not_urgent_is_held_so_that_updates_coalesce(
        gaps in prop::collection::vec(0..100_u64, 1..5),
    ) {
        let mut bench = Bench::new();
        bench.apply(&Command::Set { pod: 0, status: Shape::Running, is_failing: false });
        bench.settle();

        for gap in gaps {
            bench.set(0, Shape::Running, false);
            bench.begin();
            prop_assert!(bench.in_flight.is_empty(), "it is held");
            bench.pass(Duration::from_millis(gap));
        }
        bench.pass(HOLD);
        bench.begin();
        prop_assert_eq!(bench.in_flight.len(), 1, "one write carries all");
    }
}
