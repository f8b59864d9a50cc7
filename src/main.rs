//! The binary: flags and configuration, logging, then the daemon. Exit code 0 after `--help`, `--version` and a
//! requested end, 1 when the configuration is refused or the kubelet cannot go on.

use std::io::Write;
use std::process::ExitCode;

use rkubelet::config::{self, Loaded};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let loaded = match config::load(&args) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error),
    };
    if loaded.flags.help {
        return print(&config::help());
    }
    if let Some(text) = config::version_text(loaded.flags.version) {
        return print(&format!("{text}\n"));
    }
    run(&loaded)
}

/// Starts the daemon. (Not wired yet.)
fn run(loaded: &Loaded) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    for notice in loaded.deprecated_flags.iter().chain(loaded.warnings.iter().map(|warning| &warning.text)) {
        // Nobody is left to tell when stderr is gone.
        writeln!(stderr, "{notice}").ok();
    }
    ExitCode::SUCCESS
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    writeln!(std::io::stderr().lock(), "rkubelet: {error}").ok();
    ExitCode::FAILURE
}
