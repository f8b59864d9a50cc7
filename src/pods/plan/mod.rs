//! The planner: `plan(input) -> Plan`, pure. It says what to do next for one pod, in order, when to
//! plan again, and what the pod waits for. `pods::memory` calls it with every event. It never does
//! anything, never reads a clock and never asks anybody.
//!
//! A [`view`] answers the questions that several stages ask of the input. The stages return actions
//! or add them to a [`draft`], which keeps the rules that every action obeys.
//!
//! ```text
//!             ┌ deleted, gone, terminal, deadline, finished ─► Transition::Terminate
//!   Syncing ──┤ no usable sandbox ─► kill what runs ─► StopSandbox ─► CreateSandbox        (sandbox.rs)
//!             └ a usable sandbox ──► ephemeral ∥ init in order ─► main in order             (sync.rs, init.rs, start.rs)
//!                                └─ a rule asks for it ─► kill ─► remove all of them        (restart_all.rs)
//!   Terminating: main containers, then sidecars in reverse ─► StopSandbox ─► Terminated     (stop.rs, teardown.rs)
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
mod crash;
mod draft;
mod finish;
mod init;
mod input;
mod kill;
mod leftovers;
mod prepare;
mod resize;
mod restart;
mod restart_all;
mod running;
mod sandbox;
mod shown;
mod start;
mod stop;
mod sync;
mod teardown;
pub mod types;
mod view;
mod waiting;

pub use input::PlanInput;
pub use kill::kill_message;
pub use types::Plan;

use self::draft::Draft;
use self::view::View;
use crate::model::Lifecycle;

/// Plans the next step for one pod.
///
/// Pure and total: the same input gives the same plan, and there is a plan for every input.
/// Upstream's counterparts are `computePodActions`, `SyncPod` and `SyncTerminatingPod`.
pub fn plan(input: &PlanInput<'_>) -> Plan {
    let view = View::new(input);
    let mut draft = Draft::new(&view);
    match input.lifecycle {
        Lifecycle::Syncing => sync::sync(&mut draft),
        Lifecycle::Terminating(terminating) => stop::stop(&mut draft, terminating),
        Lifecycle::Terminated(_) => finish::finish(&mut draft),
    }

    let resizing = resize::resizing(&draft);
    let mut plan = draft.into_plan();
    plan.resizing = resizing;
    waiting::explain(&view, &mut plan);
    shown::note_running(&view, &mut plan);
    if *input.lifecycle == Lifecycle::Syncing {
        plan.replaced = shown::replaced(&view);
    }
    plan
}
