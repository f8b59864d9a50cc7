//! The planner: `plan(input) -> Plan`, pure. What to do next for one pod, in order, when to look
//! again, and what the pod waits for. It never does anything, never reads a clock and never asks
//! anybody.
//!
//! ```text
//!             ┌ deleted, gone, terminal, deadline, finished ─► Transition::Terminate
//!   Syncing ──┤ no usable sandbox ─► kill what runs ─► StopSandbox ─► CreateSandbox        (sandbox.rs)
//!             └ a usable sandbox ──► ephemeral ∥ init in order ─► main in order             (init.rs, start.rs, sync.rs)
//!                                └─ a rule asks for it ─► kill ─► remove all of them        (restart_all.rs)
//!   Terminating: main containers, then sidecars in reverse ─► StopSandbox ─► Terminated     (stop.rs)
//!   Terminated:  UnmountVolumes ─► CleanUp ─► (status accepted) ─► Finished; removal when the object is gone (finish.rs)
//! ```
//!
//! A plan looks at what is, never at what an earlier plan said. One that is carried out partly,
//! late or twice is therefore corrected by the next; nothing here counts on an action to succeed.
//!
//! What differs from upstream's kubelet, and why:
//! - Images are pulled ahead of their turn, silently, where the pull policy is `IfNotPresent`:
//!   while volumes are set up, the sandbox is made and init containers run. Everything that users
//!   see keeps upstream's order.
//! - A main container waits for those before it only while they are on their way (pull, create,
//!   start, postStart), as upstream's sequential loop does, but nothing else of the pod waits with
//!   it: probes, kills and sidecars go on.
//! - Failed creates, starts and sandboxes are tried again after 1, 2, 4, 8, 10, 10… s; upstream
//!   takes 10 to 15 s.
//! - A pod with `restartPolicy: Never` whose sandbox dies before any main container was created
//!   gets a new one; upstream leaves it Pending for ever.
//! - Where a restart rule has all of a pod started again, its containers are stopped at once;
//!   upstream stops one after the other.

pub mod backoff;
mod container_spec;
mod finish;
mod init;
mod input;
mod kill;
mod leftovers;
mod planner;
mod resize;
mod restart;
mod restart_all;
mod sandbox;
mod start;
mod stop;
mod sync;
pub mod types;
mod waiting;

pub use input::PlanInput;
pub use kill::kill_message;
pub use types::Plan;

use crate::model::Lifecycle;

/// What to do next for one pod.
///
/// Pure and total: the same input gives the same plan, and there is a plan for every input.
/// Upstream's counterparts are `computePodActions`, `SyncPod` and `SyncTerminatingPod`.
pub fn plan(input: &PlanInput<'_>) -> Plan {
    let mut planner = planner::Planner::new(input);
    match input.lifecycle {
        Lifecycle::Syncing => {
            planner.sync();
            planner.note_replaced();
        }
        Lifecycle::Terminating(terminating) => planner.stop(terminating),
        Lifecycle::Terminated(_) => planner.finish(),
    }
    planner.into_plan()
}
