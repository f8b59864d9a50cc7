//! The vocabulary of the project: identities, observations of the runtime, lifecycle, reasons,
//! time.
//!
//! Everything here is data and pure functions of that data. It is fed by every subsystem and never
//! does I/O, never reads a clock, never spawns. A type lives here only when two subsystems that may
//! not import each other need it.

pub mod addresses;
pub mod backlog;
pub mod event;
pub mod expansion;
pub mod ids;
pub mod lifecycle;
pub mod node_facts;
pub mod node_selector;
pub mod observed;
pub mod phase;
pub mod pod;
pub mod pressure;
pub mod quantity;
pub mod quote;
pub mod reason;
pub mod resize;
pub mod restart;
pub mod time;
pub mod timeline;
pub mod waiting;

pub use backlog::StartBacklog;
pub use event::EventType;
pub use ids::{ContainerId, PodKey, PodUid, SandboxId};
pub use lifecycle::{Lifecycle, Terminating, TerminationCause};
pub use node_facts::NodeFacts;
pub use observed::{ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, SandboxState};
pub use phase::Phase;
pub use pod::{ContainerKind, Pod};
pub use pressure::Pressure;
pub use resize::ResizeVerdict;
pub use restart::{RestartPolicy, RestartRules};
pub use time::{Mono, Now, Wall};
pub use waiting::{Blocked, ContainerVerdict, ProbeVerdicts, Stage, VolumesState, Waiting};

/// Formats an error with its whole chain of sources as one line, as users read it where upstream
/// wraps errors.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
