//! Records events about a pod's volumes: each failure once, and upstream's summary at upstream's
//! moment.
//!
//! Fed by the task after each plan. It never begins or delays a job.

use std::time::Duration;

use tracing::info;

use crate::apiserver::events::Recorder;
use crate::model::reason::event::FAILED_MOUNT;
use crate::model::{EventType, Mono, Pod, VolumesState, pod};
use crate::volumes::entry::Entry;
use crate::volumes::plan::{self, Goal, Inputs, MountedBy, Reporting};
use crate::volumes::source::ObjectSource;

/// Interval of the summary about missing volumes: upstream gives up waiting after this time.
const SUMMARY: Duration = Duration::from_secs(123);
/// The end of upstream's summary.
const SUMMARY_CAUSE: &str = "context deadline exceeded";
/// Delay before a refusal by the API server is reported: the node authorizer learns of a pod a
/// little after the kubelet.
const REFUSED: Duration = Duration::from_secs(5);

/// Records an event for each new failure, and the summary when it is due.
pub(super) fn record_events<O: ObjectSource>(
    entry: &mut Entry<O>,
    state: &VolumesState,
    recorder: &Recorder,
    now: Mono,
) {
    let Some(pod) = entry.pod.clone() else { return };
    // A pod that is being deleted gets no events about volumes that it will not need.
    if entry.goal != Goal::Present || pod.metadata.deletion_timestamp.is_some() {
        return;
    }

    let again = entry.summary_at.is_some_and(|at| at <= now);
    if again {
        entry.reported.clear();
    }

    record_failures(entry, &pod, recorder, now);
    record_unprocessed(entry, &pod, recorder);

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

fn record_failures<O: ObjectSource>(
    entry: &mut Entry<O>,
    pod: &Pod,
    recorder: &Recorder,
    now: Mono,
) {
    let volumes = entry.volumes.iter().map(|volume| &volume.plan);
    let ours = |volume: &&plan::Volume| volume.wanted && volume.mounted_by == MountedBy::Kubelet;
    for volume in volumes.filter(ours) {
        let refused_at = entry.refused_since.get(&volume.name).map(|since| since.after(REFUSED));
        let text = match (&volume.problem, &volume.inputs, refused_at) {
            (Some(problem), _, _) => match &problem.event {
                Reporting::OwnEvent(text) => text.clone(),
                Reporting::InSummary => continue,
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
        if entry.reported.get(&volume.name) != Some(&text) {
            entry.reported.insert(volume.name.clone(), text.clone());
            record(recorder, pod, text);
        }
    }
}

/// Records upstream's summary at once for volumes whose set-up cannot even begin.
fn record_unprocessed<O: ObjectSource>(entry: &mut Entry<O>, pod: &Pod, recorder: &Recorder) {
    let cause = unprocessed(entry).collect::<Vec<_>>().join("; ");
    if !cause.is_empty() && entry.reported.get("") != Some(&cause) {
        record(recorder, pod, plan::summary(&entry.volumes, &cause));
        entry.reported.insert(String::new(), cause);
    }
}

fn unprocessed<O: ObjectSource>(entry: &Entry<O>) -> impl Iterator<Item = &str> {
    let volumes = entry.volumes.iter().map(|volume| &volume.plan);
    volumes.filter(|volume| plan::is_missing(volume)).filter_map(plan::why_unprocessed)
}

fn record(recorder: &Recorder, pod: &Pod, message: String) {
    info!(pod = %pod::key(pod), message, "a pod waits for its volumes");
    recorder.pod(pod, None, EventType::Warning, FAILED_MOUNT, message);
}
