//! What users are told of a pod's volumes: each failure once, upstream's summary at upstream's
//! moment. Decides nothing else.

use std::time::Duration;

use tracing::info;

use super::super::entry::Entry;
use super::super::plan::{self, Care, Goal, Inputs, Told};
use super::super::source::ObjectSource;
use crate::apiserver::events::Recorder;
use crate::model::reason::event::FAILED_MOUNT;
use crate::model::{EventType, Mono, Pod, VolumesState, pod};

/// After how long upstream gives up waiting and says so: how often missing volumes are summed up.
const SUMMARY: Duration = Duration::from_secs(123);
/// What upstream's summary ends in.
const SUMMARY_CAUSE: &str = "context deadline exceeded";
/// How long the API server may refuse an object before that is told: the node authorizer learns of
/// a pod a little after us.
const REFUSED: Duration = Duration::from_secs(5);

/// Records events for what is new: each volume's failure once, upstream's summary at upstream's
/// moment.
pub(super) fn tell<O: ObjectSource>(
    entry: &mut Entry<O>,
    state: &VolumesState,
    recorder: &Recorder,
    now: Mono,
) {
    let Some(pod) = entry.pod.clone() else { return };
    // A pod that goes away gets no events about volumes that it will not need.
    if entry.goal != Goal::Present || pod.metadata.deletion_timestamp.is_some() {
        return;
    }
    let again = entry.summary_at.is_some_and(|at| at <= now);
    if again {
        entry.told.clear();
    }
    tell_failures(entry, &pod, recorder, now);
    tell_unprocessed(entry, &pod, recorder);
    match state {
        VolumesState::Pending { .. } => {
            if again && unprocessed(entry).next().is_none() {
                record(recorder, &pod, plan::summary(&entry.volumes, SUMMARY_CAUSE));
            }
            let next = entry.summary_at.filter(|at| *at > now).unwrap_or(now.after(SUMMARY));
            entry.summary_at = Some(next);
            entry.wake_at = Some(entry.wake_at.map_or(next, |at| at.min(next)));
        }
        VolumesState::Ready | VolumesState::Absent | VolumesState::TearingDown { .. } => {
            entry.summary_at = None;
        }
    }
}

fn tell_failures<O: ObjectSource>(entry: &mut Entry<O>, pod: &Pod, recorder: &Recorder, now: Mono) {
    for volume in entry.volumes.iter().filter(|volume| volume.wanted && volume.care == Care::Ours) {
        let refused_at = entry.refused_since.get(&volume.name).map(|since| since.after(REFUSED));
        let text = match (&volume.problem, &volume.inputs, refused_at) {
            (Some(problem), _, _) => match &problem.event {
                Told::Alone(text) => text.clone(),
                Told::InSummary => continue,
            },
            (None, Inputs::Waiting(text), Some(at)) if at <= now => {
                // The blank before the colon is upstream's.
                format!("MountVolume.SetUp failed for volume {:?} : {text}", volume.name)
            }
            (None, Inputs::Waiting(_), Some(at)) => {
                entry.wake_at = Some(entry.wake_at.map_or(at, |known| known.min(at)));
                continue;
            }
            (None, Inputs::Waiting(_) | Inputs::Known, _) => continue,
        };
        if entry.told.get(&volume.name) != Some(&text) {
            entry.told.insert(volume.name.clone(), text.clone());
            record(recorder, pod, text);
        }
    }
}

/// Upstream's summary at once, for what it cannot even begin with.
fn tell_unprocessed<O: ObjectSource>(entry: &mut Entry<O>, pod: &Pod, recorder: &Recorder) {
    let cause = unprocessed(entry).collect::<Vec<_>>().join("; ");
    if !cause.is_empty() && entry.told.get("") != Some(&cause) {
        record(recorder, pod, plan::summary(&entry.volumes, &cause));
        entry.told.insert(String::new(), cause);
    }
}

fn unprocessed<O: ObjectSource>(entry: &Entry<O>) -> impl Iterator<Item = &str> {
    entry.volumes.iter().filter(|volume| plan::is_missing(volume)).filter_map(plan::why_unprocessed)
}

fn record(recorder: &Recorder, pod: &Pod, message: String) {
    info!(pod = %pod::key(pod), message, "A pod waits for its volumes");
    recorder.pod(pod, None, EventType::Warning, FAILED_MOUNT, message);
}
