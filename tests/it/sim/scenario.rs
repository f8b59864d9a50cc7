//! What happens in a simulation, made from a seed: the workload, what goes wrong, and when.

use std::fmt;
use std::time::Duration;

use super::pods::{CONFIG_MAPS, PodPlan};
use super::random::Random;

/// How long things happen; from then on the world heals.
const STORM: u64 = 60_000;

/// Something that happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Create(PodPlan),
    Manifest(PodPlan),
    /// The image of its first main container.
    Edit {
        pod: String,
        image: &'static str,
    },
    Delete {
        pod: String,
    },
    ForceDelete {
        pod: String,
    },
    RemoveManifest {
        pod: String,
    },
    /// A container ends.
    Exit {
        pod: String,
        which: u64,
        code: i32,
    },
    KillSandbox {
        pod: String,
    },
    ConfigMap {
        name: &'static str,
        value: u64,
    },
    /// Whether its probes of that kind succeed.
    Probe {
        pod: String,
        kind: &'static str,
        well: bool,
    },
    DropWatches {
        forget: bool,
    },
    StallWatches {
        on: bool,
    },
    ApiDown {
        on: bool,
    },
    DropStreams,
    EventsLost {
        on: bool,
    },
    LateEvents,
    NetworkReady {
        on: bool,
    },
    /// The process is killed, so many turns of its scheduler from now, and comes back later.
    Crash {
        turns: u64,
        down: Duration,
    },
    /// It is killed at the n-th call from now that changes something, before or after that has
    /// happened.
    CrashAt {
        calls: u64,
        after: bool,
        down: Duration,
    },
    /// It is asked to end, and comes back later.
    Restart {
        down: Duration,
    },
}

/// How often calls are disturbed, in percent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) runtime: u64,
    pub(super) api: u64,
    pub(super) events: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) seed: u64,
    pub(super) runtime_version: &'static str,
    pub(super) faults: Faults,
    pub(super) steps: Vec<(Duration, Step)>,
}

impl Scenario {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut level = || *random.pick(&[0, 0, 2, 6, 15]);
        let faults = Faults { runtime: level(), api: level(), events: level() * 2 };
        let runtime_version = if random.percent(20) { "1.7.35" } else { "2.3.7" };
        let mut steps = Vec::new();
        for number in 0..=random.below(5) {
            pod(&mut random, &format!("p{number}"), &mut steps);
        }
        if random.percent(40) {
            static_pod(&mut random, &mut steps);
        }
        for _ in 0..random.below(10) {
            disturb(&mut random, &mut steps);
        }
        if random.percent(60) {
            for _ in 0..=random.below(3) {
                let at = random.between(0, STORM);
                let down = random.between(0, 8_000);
                let step = match random.below(5) {
                    0 => Step::Restart { down },
                    1 | 2 => Step::Crash { turns: random.below(60), down },
                    _ => Step::CrashAt { calls: random.below(12), after: random.percent(50), down },
                };
                steps.push((at, step));
            }
        }
        steps.sort_by_key(|(at, _)| *at);
        Self { seed, runtime_version, faults, steps }
    }
}

/// The life of a name: a pod, its troubles, its end, and maybe another pod of the same name.
fn pod(random: &mut Random, name: &str, steps: &mut Vec<(Duration, Step)>) {
    let mut at = random.below(STORM / 2);
    for generation in 0..=random.index(2) {
        let pod = || name.to_owned();
        steps.push((
            Duration::from_millis(at),
            Step::Create(PodPlan::random(random, name, generation, false)),
        ));
        let lives = random.below(25_000);
        for _ in 0..random.below(4) {
            let when = Duration::from_millis(at + random.below(lives + 1));
            let step = match random.below(10) {
                0..=3 => Step::Exit {
                    pod: pod(),
                    which: random.below(8),
                    code: *random.pick(&[0, 1, 137]),
                },
                4 => Step::KillSandbox { pod: pod() },
                5 => Step::Edit { pod: pod(), image: random.pick::<&str>(&["i3:1", "i4:1"]) },
                6 | 7 => {
                    let kind = *random.pick(&["readiness", "liveness", "startup"]);
                    steps.push((
                        when + random.between(500, 20_000),
                        Step::Probe { pod: pod(), kind, well: true },
                    ));
                    Step::Probe { pod: pod(), kind, well: false }
                }
                _ => Step::Exit { pod: pod(), which: random.below(8), code: 2 },
            };
            steps.push((when, step));
        }
        at += lives;
        if random.percent(35) {
            return;
        }
        let end = if random.percent(15) {
            Step::ForceDelete { pod: pod() }
        } else {
            Step::Delete { pod: pod() }
        };
        steps.push((Duration::from_millis(at), end));
        at += random.below(20_000);
    }
}

fn static_pod(random: &mut Random, steps: &mut Vec<(Duration, Step)>) {
    let mut at = random.below(STORM / 2);
    for generation in 0..=random.index(3) {
        let plan = PodPlan::random(random, "static", generation, true);
        steps.push((Duration::from_millis(at), Step::Manifest(plan)));
        at += random.below(15_000);
        if random.percent(50) {
            steps.push((
                Duration::from_millis(at),
                Step::RemoveManifest { pod: "static".to_owned() },
            ));
            at += random.below(10_000);
        }
    }
}

/// Something goes wrong for a while.
fn disturb(random: &mut Random, steps: &mut Vec<(Duration, Step)>) {
    let at = random.between(0, STORM);
    let end = at + random.between(200, 15_000);
    let mut spell = |on: Step, off: Step| steps.extend([(at, on), (end, off)]);
    match random.below(9) {
        0 | 1 => steps.push((at, Step::DropWatches { forget: random.percent(50) })),
        2 => spell(Step::StallWatches { on: true }, Step::StallWatches { on: false }),
        3 => spell(Step::ApiDown { on: true }, Step::ApiDown { on: false }),
        4 => steps.push((at, Step::DropStreams)),
        5 => spell(Step::EventsLost { on: true }, Step::EventsLost { on: false }),
        6 => steps.push((at, Step::LateEvents)),
        7 => spell(Step::NetworkReady { on: false }, Step::NetworkReady { on: true }),
        _ => steps.push((
            at,
            Step::ConfigMap { name: random.pick::<&str>(&CONFIG_MAPS), value: random.below(1000) },
        )),
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, runtime_version, faults, steps } = self;
        writeln!(f, "seed {seed}: containerd {runtime_version}, {faults:?}")?;
        for (at, step) in steps {
            match step {
                Step::Create(plan) | Step::Manifest(plan) => {
                    writeln!(f, "  {at:>9.3?} create {plan}")?;
                }
                other => writeln!(f, "  {at:>9.3?} {other:?}")?,
            }
        }
        Ok(())
    }
}
