//! Decides the next steps for the volumes of one pod, the time of the next look, and the state to
//! publish. Pure.
//!
//! ```text
//!            set up              set up again (content, token, pod changed)
//!   Absent ─────────► Present ─────────┐
//!      ▲  └► Partial ────┘  ▲          │       Partial: a step failed, or it was found on disk after a restart
//!      │        │           └──────────┘
//!      └────────┴── torn down (no longer wanted, or the pod is gone); always before anything is set up
//! ```

use std::time::Duration;

use super::error::StuckReason;
use crate::model::{Mono, VolumesState};

/// The first wait after a failure; it doubles with each further one (upstream's values).
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait after a failure (upstream's value).
const LONGEST_WAIT: Duration = Duration::from_secs(122);
/// Work in progress for longer than this is mentioned in the pod's state.
const SLOW: Duration = Duration::from_secs(30);

/// The wanted state of a pod's volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Not known yet: found on disk after a restart. Nothing is done.
    Unclaimed,
    /// Set up and kept up to date.
    Present,
    /// Torn down.
    Gone,
}

/// One volume as the planner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The name in the pod's spec.
    pub name: String,
    /// True if a container uses the volume.
    pub wanted: bool,
    /// True if this is a persistent volume that was found on disk and may belong to a claim of the
    /// pod that has not been read yet. It is left alone until then.
    pub maybe_claimed: bool,
    /// The party that puts the volume in place.
    pub mounted_by: MountedBy,
    /// The state of the inputs.
    pub inputs: Inputs,
    /// True if every object that the volume needs is cached, so that set-up should succeed on the
    /// first try.
    pub inputs_complete: bool,
    /// The state on disk.
    pub actual: Actual,
    /// The work in progress, and the time when it began.
    pub doing: Option<(Doing, Mono)>,
    /// True if the files on disk may be out of date.
    pub dirty: bool,
    /// The time at which the volume must be set up again (a token's renewal).
    pub refresh_at: Option<Mono>,
    /// The last failure.
    pub problem: Option<Problem>,
}

impl AsRef<Volume> for Volume {
    fn as_ref(&self) -> &Volume {
        self
    }
}

/// The party that puts a volume in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountedBy {
    /// The kubelet.
    Kubelet,
    /// The container runtime, with each container.
    Runtime,
    /// No party, for this reason.
    Nobody(String),
}

/// The state of the objects that a volume consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Known. An object may be known not to exist.
    Known,
    /// Not known yet. The text names the missing object, e.g. `waiting for secret "s"`.
    Waiting(String),
}

/// The state of a volume on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actual {
    /// Nothing.
    Absent,
    /// Something, but perhaps not everything.
    Partial,
    /// Everything.
    Present,
}

/// The work that can be done on a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Set it up, or bring it up to date.
    SetUp,
    /// Tear it down.
    TearDown,
}

/// A failure to set a volume up or to tear it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Consecutive failures.
    pub count: u32,
    /// The error's text, with its sources.
    pub text: String,
    /// The kind of reason, for a metric.
    pub reason: StuckReason,
    /// The way in which users learn of the failure.
    pub event: Reporting,
    /// The time of the next attempt; `None` if it waits for a changed input.
    pub retry_at: Option<Mono>,
}

/// The ways in which users learn of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reporting {
    /// In an event of its own.
    OwnEvent(String),
    /// In the pod's summary, because the volume's source could not be resolved.
    InSummary,
}

/// The planner's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The work to begin, by index of the volume, in order.
    pub begin: Vec<(usize, Doing)>,
    /// The time to plan again even if nothing happens.
    pub wake_at: Option<Mono>,
    /// The state to publish.
    pub state: VolumesState,
}

/// Plans for one pod.
pub fn plan<V: AsRef<Volume>>(goal: Goal, volumes: &[V], now: Mono) -> Plan {
    let all: Vec<&Volume> = volumes.iter().map(AsRef::as_ref).collect();
    let volumes = all.as_slice();
    let mut plan = Plan::default();

    match goal {
        Goal::Unclaimed => {}
        Goal::Present => {
            tear_down_unwanted(volumes, now, &mut plan, |volume| {
                !volume.wanted && !volume.maybe_claimed
            });
            set_up_wanted(volumes, now, &mut plan);
            plan.state = pending_or_ready(volumes, now);
        }
        Goal::Gone => {
            tear_down_unwanted(volumes, now, &mut plan, |_| true);
            plan.state = leaving_or_absent(volumes, now);
        }
    }

    plan
}

/// Returns the wait after the `count`th consecutive failure.
pub fn wait_after(count: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << count.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

/// Plans the tear-down of volumes that are no longer wanted.
fn tear_down_unwanted(
    volumes: &[&Volume],
    now: Mono,
    plan: &mut Plan,
    unwanted: impl Fn(&Volume) -> bool,
) {
    for (index, volume) in volumes.iter().enumerate() {
        if !unwanted(volume) || volume.actual == Actual::Absent {
            continue;
        }
        if may_begin(volume, now, plan) {
            plan.begin.push((index, Doing::TearDown));
        }
    }
}

/// Plans the set-up of wanted volumes that are absent, incomplete or out of date.
fn set_up_wanted(volumes: &[&Volume], now: Mono, plan: &mut Plan) {
    for (index, volume) in volumes.iter().enumerate() {
        if !volume.wanted || volume.mounted_by != MountedBy::Kubelet {
            continue;
        }

        // A volume of the same name that is not wanted (another kind, found on disk) has to be torn
        // down first.
        if volumes.iter().any(|other| {
            !other.wanted && other.name == volume.name && other.actual != Actual::Absent
        }) {
            continue;
        }

        let due = volume.refresh_at.is_some_and(|at| at <= now);
        if volume.actual == Actual::Present && !volume.dirty && !due {
            plan.wake_at = Mono::earliest(plan.wake_at, volume.refresh_at);
            continue;
        }

        if may_begin(volume, now, plan) && volume.inputs == Inputs::Known {
            plan.begin.push((index, Doing::SetUp));
        }
    }
}

/// Returns true if work on a volume may begin. If not, notes the time to plan again.
fn may_begin(volume: &Volume, now: Mono, plan: &mut Plan) -> bool {
    if let Some((_, since)) = volume.doing {
        let slow = since.after(SLOW);
        plan.wake_at = Mono::earliest(plan.wake_at, (slow > now).then_some(slow));
        return false;
    }
    match &volume.problem {
        None => true,
        Some(problem) => match problem.retry_at {
            Some(at) if at <= now => true,
            later => {
                plan.wake_at = Mono::earliest(plan.wake_at, later);
                false
            }
        },
    }
}

/// Returns the state of a pod that wants its volumes.
fn pending_or_ready(volumes: &[&Volume], now: Mono) -> VolumesState {
    let mut missing = Vec::new();
    let mut next_try = None;

    for volume in volumes.iter().copied().filter(|volume| is_missing(volume)) {
        missing.push((volume.name.clone(), why_missing(volume, now)));
        next_try =
            Mono::earliest(next_try, volume.problem.as_ref().and_then(|problem| problem.retry_at));
    }

    if missing.is_empty() {
        return VolumesState::Ready;
    }

    let comes = |volume: &Volume| {
        volume.mounted_by == MountedBy::Kubelet
            && volume.inputs_complete
            && volume.problem.is_none()
    };
    let on_their_way = volumes.iter().copied().filter(|volume| is_missing(volume)).all(comes);
    VolumesState::Pending { missing, next_try, on_their_way }
}

/// Returns true if a container has to wait for the volume.
pub fn is_missing(volume: &Volume) -> bool {
    volume.wanted
        && match volume.mounted_by {
            MountedBy::Kubelet => volume.actual != Actual::Present,
            MountedBy::Runtime => false,
            MountedBy::Nobody(_) => true,
        }
}

/// Returns the reason why a volume is missing, as users read it.
fn why_missing(volume: &Volume, now: Mono) -> String {
    if let MountedBy::Nobody(why) = &volume.mounted_by {
        return why.clone();
    }
    if let Some(problem) = &volume.problem {
        return problem.text.clone();
    }

    match (&volume.inputs, volume.doing) {
        (Inputs::Waiting(what), _) => what.clone(),
        (Inputs::Known, Some((_, since))) if now.since(since) >= SLOW => {
            format!("setting it up has not ended after {} seconds", SLOW.as_secs())
        }
        (Inputs::Known, _) => String::new(),
    }
}

/// Returns the state of a pod whose volumes are to be torn down.
fn leaving_or_absent(volumes: &[&Volume], now: Mono) -> VolumesState {
    let left = |volume: &&Volume| volume.actual != Actual::Absent || volume.doing.is_some();
    if !volumes.iter().copied().any(|volume| left(&volume)) {
        return VolumesState::Absent;
    }

    let text = |volume: &Volume| match (&volume.problem, volume.doing) {
        (Some(problem), _) => Some(format!("volume {:?}: {}", volume.name, problem.text)),
        (None, Some((_, since))) if now.since(since) >= SLOW => Some(format!(
            "volume {:?}: the work on it has not ended after {} seconds",
            volume.name,
            SLOW.as_secs()
        )),
        (None, _) => None,
    };

    VolumesState::TearingDown {
        last_error: volumes.iter().copied().filter(left).find_map(text).unwrap_or_default(),
    }
}

/// Returns the reason why a volume's source, or the party that mounts it, cannot be resolved.
pub fn why_unprocessed(volume: &Volume) -> Option<&str> {
    match (&volume.mounted_by, &volume.problem) {
        (MountedBy::Nobody(why), _) => Some(why),
        (MountedBy::Kubelet, Some(Problem { event: Reporting::InSummary, text, .. })) => Some(text),
        (MountedBy::Kubelet | MountedBy::Runtime, _) => None,
    }
}

/// Returns upstream's summary for a pod whose volumes are not in place: `missing` are all of them,
/// `unprocessed` those that no party can put in place.
pub fn summary<V: AsRef<Volume>>(volumes: &[V], cause: &str) -> String {
    let volumes: Vec<&Volume> = volumes.iter().map(AsRef::as_ref).collect();
    let names = |pick: &dyn Fn(&&Volume) -> bool| {
        let mut names: Vec<&str> =
            volumes.iter().copied().filter(pick).map(|volume| volume.name.as_str()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    let unprocessed = |volume: &&Volume| is_missing(volume) && why_unprocessed(volume).is_some();

    format!(
        "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[], failed to process \
         volumes=[{}]: {cause}",
        names(&|volume| is_missing(volume)),
        names(&unprocessed)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        Actual, Doing, Goal, Inputs, MountedBy, Problem, Reporting, Volume, plan, summary,
        wait_after,
    };
    use crate::model::{Mono, VolumesState};
    use crate::volumes::error::StuckReason;

    const NOW: Mono = Mono(Duration::from_secs(1000));

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn volume(name: &str, change: impl FnOnce(&mut Volume)) -> Volume {
        let mut volume = Volume {
            name: name.to_owned(),
            wanted: true,
            maybe_claimed: false,
            mounted_by: MountedBy::Kubelet,
            inputs: Inputs::Known,
            inputs_complete: true,
            actual: Actual::Absent,
            doing: None,
            dirty: false,
            refresh_at: None,
            problem: None,
        };
        change(&mut volume);
        volume
    }

    fn problem(retry_at: Option<Mono>) -> Problem {
        Problem {
            count: 1,
            text: "no space".to_owned(),
            reason: StuckReason::Io,
            event: Reporting::OwnEvent("no space".to_owned()),
            retry_at,
        }
    }

    #[track_caller]
    fn check(
        goal: Goal,
        volumes: &[Volume],
        begin: &[(usize, Doing)],
        wake_at: Option<Mono>,
    ) -> VolumesState {
        let plan = plan(goal, volumes, NOW);
        assert_eq!((plan.begin.as_slice(), plan.wake_at), (begin, wake_at));
        plan.state
    }

    #[test]
    fn sets_up_what_is_wanted_and_known() {
        let volumes = [
            volume("a", |_| {}),
            volume("b", |volume| {
                volume.inputs = Inputs::Waiting("waiting for configmap \"c\"".to_owned());
            }),
            volume("c", |volume| volume.actual = Actual::Present),
            volume("d", |volume| volume.wanted = false),
            volume("e", |volume| volume.mounted_by = MountedBy::Runtime),
            volume("f", |volume| volume.doing = Some((Doing::SetUp, NOW))),
        ];
        let state = check(Goal::Present, &volumes, &[(0, Doing::SetUp)], Some(at(1030)));
        let missing = [("a", ""), ("b", "waiting for configmap \"c\""), ("f", "")];
        let missing = missing.map(|(name, why)| (name.to_owned(), why.to_owned())).to_vec();
        assert_eq!(state, VolumesState::Pending { missing, next_try: None, on_their_way: true });
    }

    #[test]
    fn on_their_way_are_volumes_that_nothing_is_missing_for() {
        let state = |change: fn(&mut Volume)| {
            plan(Goal::Present, &[volume("a", |_| {}), volume("b", change)], NOW).state
        };
        let comes = |state| matches!(state, VolumesState::Pending { on_their_way: true, .. });
        assert!(comes(state(|_| {})));
        assert!(comes(state(|volume| volume.actual = Actual::Present)));
        assert!(!comes(state(|volume| volume.inputs_complete = false)));
        assert!(!comes(state(|volume| volume.problem = Some(problem(None)))));
        assert!(!comes(state(|volume| volume.mounted_by = MountedBy::Nobody("nfs".to_owned()))));
    }

    #[test]
    fn failures_wait_and_inputs_end_the_wait() {
        let failed = |retry_at| [volume("a", |volume| volume.problem = Some(problem(retry_at)))];
        let state = check(Goal::Present, &failed(Some(at(1010))), &[], Some(at(1010)));
        let missing = vec![("a".to_owned(), "no space".to_owned())];
        assert_eq!(
            state,
            VolumesState::Pending { missing, next_try: Some(at(1010)), on_their_way: false }
        );
        check(Goal::Present, &failed(Some(at(1000))), &[(0, Doing::SetUp)], None);
        check(Goal::Present, &failed(None), &[], None);
    }

    #[test]
    fn what_is_there_is_brought_up_to_date_and_stays_ready() {
        let present = |change: fn(&mut Volume)| {
            [volume("a", |volume| {
                volume.actual = Actual::Present;
                change(volume);
            })]
        };
        let ready = [
            check(
                Goal::Present,
                &present(|volume| volume.dirty = true),
                &[(0, Doing::SetUp)],
                None,
            ),
            check(
                Goal::Present,
                &present(|volume| volume.refresh_at = Some(NOW)),
                &[(0, Doing::SetUp)],
                None,
            ),
            check(
                Goal::Present,
                &present(|volume| volume.refresh_at = Some(at(1001))),
                &[],
                Some(at(1001)),
            ),
            check(Goal::Present, &present(|_| {}), &[], None),
        ];
        assert!(ready.iter().all(|state| *state == VolumesState::Ready));
    }

    #[test]
    fn removal_comes_first() {
        let volumes = [
            volume("a", |_| {}),
            volume("b", |_| {}),
            volume("a", |volume| {
                volume.wanted = false;
                volume.actual = Actual::Partial;
            }),
        ];
        check(Goal::Present, &volumes, &[(2, Doing::TearDown), (1, Doing::SetUp)], None);
    }

    #[test]
    fn a_pod_that_is_gone_takes_everything_with_it() {
        let mut volumes = [
            volume("a", |volume| volume.actual = Actual::Present),
            volume("b", |volume| volume.doing = Some((Doing::SetUp, at(900)))),
            volume("c", |_| {}),
        ];
        let state = check(Goal::Gone, &volumes, &[(0, Doing::TearDown)], None);
        let slow = "volume \"b\": the work on it has not ended after 30 seconds".to_owned();
        assert_eq!(state, VolumesState::TearingDown { last_error: slow });
        volumes[0].problem = Some(problem(Some(at(1001))));
        volumes[1].doing = None;
        let state = check(Goal::Gone, &volumes, &[], Some(at(1001)));
        assert_eq!(
            state,
            VolumesState::TearingDown { last_error: "volume \"a\": no space".to_owned() }
        );
        volumes[0].actual = Actual::Absent;
        assert_eq!(check(Goal::Gone, &volumes, &[], None), VolumesState::Absent);
    }

    #[test]
    fn nothing_is_done_before_somebody_asks() {
        let found = [volume("a", |volume| volume.actual = Actual::Partial)];
        assert_eq!(check(Goal::Unclaimed, &found, &[], None), VolumesState::Absent);
    }

    #[test]
    fn what_may_be_wanted_is_left_alone_until_the_pod_goes() {
        let held = [volume("pv", |volume| {
            volume.actual = Actual::Partial;
            volume.wanted = false;
            volume.maybe_claimed = true;
        })];
        check(Goal::Present, &held, &[], None);
        check(Goal::Gone, &held, &[(0, Doing::TearDown)], None);
    }

    #[test]
    fn the_summary_is_upstreams() {
        let volumes = [
            volume("z", |_| {}),
            volume("pvc", |volume| {
                volume.mounted_by = MountedBy::Nobody("not supported".to_owned());
            }),
            volume("there", |volume| volume.actual = Actual::Present),
            volume("claim", |volume| {
                volume.problem = Some(Problem { event: Reporting::InSummary, ..problem(None) });
            }),
        ];
        assert_eq!(
            summary(&volumes, "not supported"),
            "Unable to attach or mount volumes: unmounted volumes=[claim pvc z], unattached volumes=[], \
             failed to process volumes=[claim pvc]: not supported"
        );
    }

    #[test]
    fn waits_grow_to_upstreams_longest() {
        let waits = [1, 2, 3, 8, 9, 100].map(|count| wait_after(count).as_millis());
        assert_eq!(waits, [500, 1000, 2000, 64_000, 122_000, 122_000]);
    }
}
