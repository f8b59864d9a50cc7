//! The binary: flags and configuration, logging, then the daemon. Exit code 0 after `--help`, `--version` and a
//! requested end, 1 when the configuration is refused or the kubelet cannot go on.

use std::io::Write;
use std::process::ExitCode;

use rkubelet::config::{self, FeatureGates, Gate, KUBERNETES_VERSION, KubeletConfiguration, Loaded};
use rkubelet::linux::malloc;
use rkubelet::telemetry::logging::{self, Format, LogConfig, LogHandle};

fn main() -> ExitCode {
    malloc::limit_arenas();
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let loaded = match config::load(&args) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&error),
    };
    if loaded.flags.help {
        return print(&config::help());
    }
    if let Some(text) = config::version_text(loaded.flags.version) {
        return print(&format!("{text}\n"));
    }
    for notice in &loaded.deprecated_flags {
        // Before the log begins, as upstream does. Nobody is left to tell when stderr is gone.
        writeln!(std::io::stderr().lock(), "{notice}").ok();
    }
    let log = match logging::init(log_config(&loaded.config, &loaded.gates)) {
        Ok(log) => log,
        Err(error) => return refuse(&error),
    };
    tracing::info!(kubeletVersion = KUBERNETES_VERSION, rkubelet = env!("CARGO_PKG_VERSION"), "Kubelet version");
    for warning in &loaded.warnings {
        tracing::warn!(about = warning.text, "Configuration");
    }
    run(loaded, &log)
}

/// Starts the daemon. (Not wired yet, so that it is an error to get here.)
fn run(loaded: Loaded, log: &LogHandle) -> ExitCode {
    tracing::error!(verbosity = log.verbosity(), "This build has no daemon yet");
    drop(loaded);
    ExitCode::FAILURE
}

fn log_config(config: &KubeletConfiguration, gates: &FeatureGates) -> LogConfig {
    let logging = &config.logging;
    let json = logging.format == "json";
    let split = if json { logging.options.json.split_stream } else { logging.options.text.split_stream };
    LogConfig {
        format: if json { Format::Json } else { Format::Text },
        verbosity: logging.verbosity,
        vmodule: logging.vmodule.iter().map(|item| (item.file_pattern.clone(), item.verbosity)).collect(),
        split_stream: split && gates.enabled(Gate::LOGGING_ALPHA_OPTIONS),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says why the kubelet does not start, in the form that upstream says it.
fn refuse(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    // When it is there already, it is used.
    logging::init(LogConfig::default()).ok();
    tracing::error!(error, "command failed");
    ExitCode::FAILURE
}
