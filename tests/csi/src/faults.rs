//! What goes wrong, and when: `FOLDER/faults`, a JSON list that is read at each call.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// One fault. Counted are the calls since the driver began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// The call, e.g. `NodeStageVolume`.
    pub call: String,
    /// Only calls about this volume; empty: any.
    pub volume: String,
    /// Only the call of this number, from 1; 0: every one.
    pub at: u32,
    /// How long the call waits before it does anything.
    pub slow_millis: u64,
    /// True if the call never ends.
    pub hangs: bool,
    /// The gRPC code that the call fails with instead of its work; 0: it works.
    pub code: i32,
    /// True if the call does its work before it fails.
    pub works: bool,
    /// The message of the failure.
    pub message: String,
}

/// Replaces the faults of the driver whose folder this is.
pub fn write(folder: &Path, faults: &[Fault]) -> std::io::Result<()> {
    let temporary = folder.join(".faults");
    std::fs::write(&temporary, serde_json::to_vec(faults)?)?;
    std::fs::rename(temporary, folder.join("faults"))
}

/// The fault of this call, if any.
pub(crate) fn of(folder: &Path, call: &str, volume: &str, number: u32) -> Option<Fault> {
    let text = std::fs::read(folder.join("faults")).ok()?;
    let faults: Vec<Fault> = serde_json::from_slice(&text).ok()?;
    faults.into_iter().find(|fault| {
        fault.call == call
            && (fault.volume.is_empty() || fault.volume == volume)
            && (fault.at == 0 || fault.at == number)
    })
}
