//! The simulation of a node: the daemon's own composition on a runtime, an API server, mounts and a
//! clock in memory, with faults, crashes and restarts that follow from a seed. After each step the
//! laws are checked; at the end the world heals and must come to rest, then everything is deleted
//! and nothing may be left.
//!
//! Each seed is played in a process of its own, so that hash maps and `select!` are the same again.
//! `make sim SEEDS=…` plays many; `SIM_SEED=… cargo test --test it sim::plays_one_seed -- --ignored
//! --nocapture` plays one and shows what happened. A seed that failed is kept in `FAILED_ONCE`.

#![allow(
    clippy::print_stdout,
    clippy::panic,
    reason = "what a test says goes there, and how it fails"
)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a step that is not named is carried out, or told, as it is"
)]
#![allow(
    clippy::unchecked_time_subtraction,
    reason = "both are times of one clock that only goes on"
)]

mod faults;
mod laws;
mod play;
mod pods;
mod random;
mod rest;
mod scenario;

use std::fmt::Write as _;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rkubelet::internals::linux::{blocking, seeded};

use scenario::Scenario;

/// Seeds that found something, and what.
const FAILED_ONCE: [(u64, &str); 6] = [
    (1, "without a Node object every pod was refused: nobody said how many the node takes"),
    (21, "asked to end before the runtime had answered, it ended with an error"),
    (24, "a sandbox made anew, then a crash: its init containers were taken for done"),
    (
        26,
        "told to stop while CreateContainer had not answered, it started the container all the same",
    ),
    (27, "a crash after the last container was removed: the pod's logs stayed for ever"),
    (
        41,
        "a static pod was removed while its older generation still stopped: its mirror stayed for ever",
    ),
];

/// How many seeds are played unless `SEEDS` says otherwise: about a second each of one processor.
const SEEDS: u64 = 200;

/// How long one may take, of the machine's time.
const HUNG: Duration = Duration::from_secs(40);

#[test]
fn seeds_obey_the_laws_and_a_healed_world_comes_to_rest() {
    let seeds = variable("SEEDS").unwrap_or(SEEDS);
    let first = variable("SIM_FIRST").unwrap_or(1);
    let seeds: Vec<u64> = (first..first + seeds).chain(FAILED_ONCE.map(|(seed, _)| seed)).collect();
    play_all(&seeds);
}

#[test]
fn the_same_seed_plays_the_same() {
    for seed in [2, 7] {
        let [first, second] = [run_one(seed), run_one(seed)];
        assert!(!first.stdout.is_empty());
        assert_eq!(text(&first), text(&second), "seed {seed}");
    }
}

/// Plays the seed `SIM_SEED`, for the tests above.
#[test]
#[ignore = "the tests above start it, in a process of its own"]
fn plays_one_seed() {
    let seed = variable("SIM_SEED").expect("SIM_SEED is the seed to play");
    // A thread that has drawn no random number yet.
    let player = std::thread::Builder::new().stack_size(16 << 20).spawn(move || one(seed));
    let story = player.expect("a thread").join().expect("the player has not panicked");
    println!("{story}");
    assert!(!story.contains("VIOLATION"), "seed {seed} breaks a law");
}

fn one(seed: u64) -> String {
    seeded::seed_this_thread(seed);
    blocking::inline_on_this_thread();
    if variable("SIM_LOG").is_some() {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).without_time().init();
    }
    let scenario = Scenario::new(seed);
    // UIDs of static pods follow from the path: it is the same each time, and whoever is second
    // waits.
    let home = std::env::temp_dir()
        .join(format!("rkubelet-sim-{}", nix::unistd::getuid()))
        .join(seed.to_string());
    std::fs::create_dir_all(home.parent().expect("a parent")).expect("a folder");
    let lock = std::fs::File::create(home.with_extension("lock")).expect("a lock");
    lock.lock().expect("locked");
    std::fs::remove_dir_all(&home).ok();
    let trace = play::play(&scenario, &home);
    std::fs::remove_dir_all(&home).ok();
    let mut story = scenario.to_string();
    for line in &trace {
        let _ = writeln!(story, "{line}");
    }
    story
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn text(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    // The harness's own lines tell the time.
    text.lines().filter(|line| !line.starts_with("test result")).collect::<Vec<_>>().join("\n")
}

fn run_one(seed: u64) -> Output {
    Command::new("timeout")
        .arg(HUNG.as_secs().to_string())
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "--nocapture", "sim::plays_one_seed"])
        .env("SIM_SEED", seed.to_string())
        .output()
        .expect("this program again")
}

fn play_all(seeds: &[u64]) {
    let begun = Instant::now();
    let (next, failures) = (AtomicU64::new(0), parking_lot::Mutex::new(Vec::new()));
    let work = || {
        while let Some(seed) =
            seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX))
        {
            let output = run_one(*seed);
            if !output.status.success() {
                failures.lock().push((*seed, output));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner();
    println!("{} seeds in {:?}, {} failed", seeds.len(), begun.elapsed(), failures.len());
    for (seed, output) in &failures {
        let story = text(output);
        let first = story.lines().find(|line| line.contains("VIOLATION")).unwrap_or("no verdict");
        println!("seed {seed}: {first}");
    }
    if let Some((seed, output)) = failures.first() {
        println!("{}\n{}", text(output), String::from_utf8_lossy(&output.stderr));
        let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
        panic!("seed {seed} failed, its story is above; all that failed: {seeds:?}");
    }
}
