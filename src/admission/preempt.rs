//! Which pods make room for a critical one: as few as possible, best-effort ones before burstable
//! before guaranteed.

use std::sync::Arc;

use super::resources_fit::{freed, may_preempt};
use super::{Misfit, Rejection};
use crate::model::Pod;
use crate::resources::list::{CPU, MEMORY};
use crate::resources::qos::{self, QosClass};

/// The reason of pods that were pushed out: of the event and of the status.
pub const PREEMPTING: &str = "Preempting";
/// The message that goes with it.
pub const PREEMPTION_MESSAGE: &str = "Preempted in order to admit critical pod";

/// What is missing of a resource.
#[derive(Clone, Debug)]
struct Lack {
    name: String,
    amount: i64,
}

/// Chooses the pods, or says that no choice would do.
pub(super) fn make_room(
    pod: &Pod,
    others: &[Arc<Pod>],
    misfits: &[Misfit],
) -> Result<Vec<Arc<Pod>>, Rejection> {
    let lacks: Vec<Lack> = misfits
        .iter()
        .filter_map(|misfit| match misfit {
            Misfit::Resource { name, requested, used, capacity } => {
                Some(Lack { name: name.clone(), amount: requested - (capacity - used) })
            }
            Misfit::Predicate { .. } => None,
        })
        .collect();
    let of = |class: QosClass| -> Vec<Arc<Pod>> {
        others
            .iter()
            .filter(|other| may_preempt(pod, other) && qos::of(other) == class)
            .cloned()
            .collect()
    };
    let (best_effort, burstable, guaranteed) =
        (of(QosClass::BestEffort), of(QosClass::Burstable), of(QosClass::Guaranteed));
    let all = [best_effort.as_slice(), &burstable, &guaranteed].concat();
    let unmet = less(&lacks, &all);
    if !unmet.is_empty() {
        return Err(reject(&format!(
            "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: {}",
            text(&unmet)
        )));
    }
    // Guaranteed pods go only for what all others together would not free, and so on down.
    let cheap = [best_effort.as_slice(), &burstable].concat();
    let guaranteed_out = closest(guaranteed, less(&lacks, &cheap));
    let burstable_out =
        closest(burstable, less(&lacks, &[best_effort.as_slice(), &guaranteed_out].concat()));
    let best_effort_out =
        closest(best_effort, less(&lacks, &[burstable_out.as_slice(), &guaranteed_out].concat()));
    Ok([best_effort_out, burstable_out, guaranteed_out].concat())
}

fn reject(why: &str) -> Rejection {
    Rejection::new(
        "UnexpectedAdmissionError",
        format!("Unexpected error while attempting to recover from admission failure: {why}"),
    )
}

/// Takes the pod that leaves the least, again and again, until nothing is missing.
fn closest(mut pods: Vec<Arc<Pod>>, mut lacks: Vec<Lack>) -> Vec<Arc<Pod>> {
    let mut chosen = Vec::new();
    while !lacks.is_empty() {
        let best = (0..pods.len()).min_by(|a, b| {
            let by_distance = distance(&lacks, &pods[*a]).total_cmp(&distance(&lacks, &pods[*b]));
            by_distance.then_with(|| size(&pods[*a]).cmp(&size(&pods[*b])))
        });
        // It was made sure before that all of them together are enough.
        let Some(best) = best else { break };
        let pod = pods.swap_remove(best);
        lacks = less(&lacks, std::slice::from_ref(&pod));
        chosen.push(pod);
    }
    chosen
}

/// What would still be missing without these pods.
fn less(lacks: &[Lack], pods: &[Arc<Pod>]) -> Vec<Lack> {
    lacks
        .iter()
        .filter_map(|lack| {
            let freed = pods.iter().map(|pod| freed(pod, &lack.name)).fold(0, i64::saturating_add);
            let amount = lack.amount.saturating_sub(freed);
            (amount > 0).then(|| Lack { name: lack.name.clone(), amount })
        })
        .collect()
}

/// How far a pod is from freeing all that is missing; each resource counts the same.
#[expect(clippy::cast_precision_loss, reason = "upstream compares in floating point")]
fn distance(lacks: &[Lack], pod: &Pod) -> f64 {
    lacks
        .iter()
        .map(|lack| {
            let left = lack.amount.saturating_sub(freed(pod, &lack.name)).max(0) as f64;
            (left / lack.amount as f64).powi(2)
        })
        .sum()
}

fn size(pod: &Pod) -> (i64, i64) {
    (freed(pod, MEMORY), freed(pod, CPU))
}

fn text(lacks: &[Lack]) -> String {
    let items: Vec<String> =
        lacks.iter().map(|lack| format!("(res: {}, q: {}), ", lack.name, lack.amount)).collect();
    format!("[{}]", items.concat())
}
