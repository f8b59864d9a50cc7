//! The binary: flags and configuration, logging, then the daemon. Exit code 0 after `--help`,
//! `--version` and a requested end, 1 when the configuration is refused or the kubelet cannot go
//! on.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use rkubelet::internals::config::{
    self, ConfigWarning, FeatureGates, Gate, KUBERNETES_VERSION, KubeletConfiguration, Loaded,
};
use rkubelet::internals::linux::malloc;
use rkubelet::internals::telemetry::logging::{self, Format, LogConfig, LogHandle};
use rkubelet::internals::tools::{self, ToolError};
use tokio_util::sync::CancellationToken;

/// Threads that run tasks: two keep one slow decode from stalling probes; more only cost memory.
const WORKERS: usize = 2;

/// Threads for calls that block (files, cgroups).
const BLOCKING_THREADS: usize = 16;

fn main() -> ExitCode {
    malloc::limit_arenas();
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if let Some(output) = tools::run(&args) {
        return answer(output);
    }
    let loaded = match config::load(&args) {
        Ok(loaded) => loaded,
        Err(refused) => {
            // The configuration of the log is not known: its defaults.
            notify_of(&refused.deprecated_flags);
            logging::init(LogConfig::default()).ok();
            warn(&refused.warnings);
            return refuse(&refused.error);
        }
    };
    if loaded.flags.help {
        return print(&config::help());
    }
    if let Some(text) = config::version_text(loaded.flags.version) {
        return print(&format!("{text}\n"));
    }
    notify_of(&loaded.deprecated_flags);
    let log = match logging::init(log_config(&loaded.config, &loaded.gates)) {
        Ok(log) => log,
        Err(error) => return refuse(&error),
    };
    tracing::info!(
        kubeletVersion = KUBERNETES_VERSION,
        rkubelet = env!("CARGO_PKG_VERSION"),
        "Kubelet version"
    );
    warn(&loaded.warnings);
    run(loaded, &log)
}

/// Prints the notices about deprecated flags, before the log begins, as upstream does.
fn notify_of(deprecated_flags: &[String]) {
    for notice in deprecated_flags {
        // No other way to say it is left when stderr is gone.
        writeln!(std::io::stderr().lock(), "{notice}").ok();
    }
}

fn warn(warnings: &[ConfigWarning]) {
    for warning in warnings {
        tracing::warn!(about = warning.text, "Configuration");
    }
}

/// Runs the daemon until SIGTERM or SIGINT.
fn run(loaded: Loaded, log: &LogHandle) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("rkubelet")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error),
    };
    tracing::debug!(verbosity = log.verbosity(), "log set up");
    let shutdown = CancellationToken::new();
    let outcome = runtime.block_on(async {
        let daemon = rkubelet::run(loaded, shutdown.clone());
        tokio::pin!(daemon);
        // Cancel-safe: the daemon is pinned outside and goes on after the signal until it has
        // drained.
        tokio::select! {
            outcome = &mut daemon => outcome,
            () = asked_to_end() => {
                tracing::info!("asked to end; containers keep running");
                shutdown.cancel();
                daemon.await
            }
        }
    });
    // Blocking calls that still hang must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "command failed");
            ExitCode::FAILURE
        }
    }
}

/// Ends when SIGTERM or SIGINT arrives.
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn log_config(config: &KubeletConfiguration, gates: &FeatureGates) -> LogConfig {
    let logging = &config.logging;
    let json = logging.format == "json";
    let split =
        if json { logging.options.json.split_stream } else { logging.options.text.split_stream };
    LogConfig {
        format: if json { Format::Json } else { Format::Text },
        verbosity: logging.verbosity,
        vmodule: logging
            .vmodule
            .iter()
            .map(|item| (item.file_pattern.clone(), item.verbosity))
            .collect(),
        split_stream: split && gates.enabled(Gate::LOGGING_ALPHA_OPTIONS),
    }
}

/// Prints what a tool has found, or why it failed.
fn answer(output: Result<String, ToolError>) -> ExitCode {
    match output {
        Ok(text) => print(&text),
        Err(error) => {
            // No other way to say it is left when stderr is gone.
            writeln!(std::io::stderr().lock(), "{error}").ok();
            ExitCode::FAILURE
        }
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
