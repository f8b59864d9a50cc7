//! Metrics of the process, the build and the feature gates. Read from `/proc` at each scrape.

use procfs::WithCurrentSystemInfo;
use procfs::process::Process;

use super::Registry;
use super::text::{Collected, Kind};

/// What `kubernetes_build_info` says.
#[derive(Clone, Copy, Debug)]
pub struct BuildInfo {
    /// The release of Kubernetes, with its `v`.
    pub git_version: &'static str,
    /// Its first number.
    pub major: &'static str,
    /// Its second number.
    pub minor: &'static str,
    /// `linux/<architecture>` as Go names it.
    pub platform: &'static str,
}

/// Shows `process_*`.
pub fn register_process(registry: &Registry) {
    registry.on_collect(|out| {
        // Without /proc there is nothing to show; everything else is.
        if let Ok(process) = Process::myself() {
            collect(&process, out);
        }
    });
}

/// Shows when the process was started.
pub fn register_start_time(registry: &Registry) {
    registry.on_collect(|out| {
        let stat = Process::myself().and_then(|process| process.stat());
        if let Some(started) = stat.ok().and_then(|stat| started(&stat)) {
            let help = format!("[ALPHA] {}", START_TIME.1);
            out.family(START_TIME.0, &help, Kind::Gauge, &[], &[(&[], started)]);
        }
    });
}

/// The name of the metric of the process' start, and its help.
const START_TIME: (&str, &str) =
    ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.");

/// The seconds since the epoch at which the process was started.
#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn started(stat: &procfs::process::Stat) -> Option<f64> {
    let booted = procfs::boot_time_secs().ok()?;
    Some(booted as f64 + stat.starttime as f64 / procfs::ticks_per_second() as f64)
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn collect(process: &Process, out: &mut Collected) {
    let mut show = |name: &str, help: &str, kind: Kind, value: f64| {
        out.family(name, help, kind, &[], &[(&[], value)]);
    };
    if let Ok(stat) = process.stat() {
        let ticks = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        show(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            Kind::Counter,
            ticks,
        );
        let resident = stat.rss_bytes().get() as f64;
        show(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            Kind::Gauge,
            resident,
        );
        show(
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
            Kind::Gauge,
            stat.vsize as f64,
        );
        show("process_threads", "Number of threads.", Kind::Gauge, stat.num_threads as f64);
        if let Some(started) = started(&stat) {
            show(START_TIME.0, START_TIME.1, Kind::Gauge, started);
        }
    }
    if let Ok(open) = process.fd_count() {
        show("process_open_fds", "Number of open file descriptors.", Kind::Gauge, open as f64);
    }
    if let Ok(limits) = process.limits() {
        if let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit {
            let help = "Maximum number of open file descriptors.";
            show("process_max_fds", help, Kind::Gauge, most as f64);
        }
        let most = match limits.max_address_space.soft_limit {
            procfs::process::LimitValue::Value(most) => most,
            procfs::process::LimitValue::Unlimited => u64::MAX,
        };
        let help = "Maximum amount of virtual memory available in bytes.";
        show("process_virtual_memory_max_bytes", help, Kind::Gauge, most as f64);
    }
    if let Ok(devices) = process.dev_status() {
        let received: u64 = devices.values().map(|device| device.recv_bytes).sum();
        let help = "Number of bytes received by the process over the network.";
        show("process_network_receive_bytes_total", help, Kind::Counter, received as f64);
        let sent: u64 = devices.values().map(|device| device.sent_bytes).sum();
        let help = "Number of bytes sent by the process over the network.";
        show("process_network_transmit_bytes_total", help, Kind::Counter, sent as f64);
    }
}

/// Shows `kubernetes_build_info`.
pub fn register_build_info(registry: &Registry, build: &BuildInfo) {
    const LABELS: &[&str] = &[
        "build_date",
        "compiler",
        "git_commit",
        "git_tree_state",
        "git_version",
        "go_version",
        "major",
        "minor",
        "platform",
    ];
    let help = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree \
                state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it \
                is running.";
    let values =
        ["", "rustc", "", "", build.git_version, "", build.major, build.minor, build.platform];
    registry.gauges("kubernetes_build_info", help, LABELS).with(&values).set(1.0);
}

/// Shows `kubernetes_feature_enabled`: name, stage and whether it is on, per gate.
pub fn register_features(
    registry: &Registry,
    features: impl IntoIterator<Item = (&'static str, &'static str, bool)>,
) {
    // Constant for the life of the process: kept as text values only, not as series of a family.
    let features: Vec<([&'static str; 2], f64)> = features
        .into_iter()
        .map(|(name, stage, on)| ([name, stage], f64::from(u8::from(on))))
        .collect();
    let help =
        "[BETA] This metric records the data about the stage and enablement of a k8s feature.";
    registry.on_collect(move |out| {
        let samples: Vec<(&[&str], f64)> =
            features.iter().map(|(labels, on)| (labels.as_slice(), *on)).collect();
        out.family("kubernetes_feature_enabled", help, Kind::Gauge, &["name", "stage"], &samples);
    });
}
