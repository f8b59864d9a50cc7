//! When the API server bound a pod, when it accepted the status that first says Ready, and how much
//! of the time between was the control plane's own: from its audit log.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use rkubelet_bed::audit;
use serde_json::Value;

/// Reads what is written to the log from its making on.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    offset: u64,
}

/// Milliseconds in the life of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    /// From bound to Ready accepted.
    pub(crate) since_bound: f64,
    /// What no kubelet can change: from the request that made the pod until it was bound, and the
    /// write of Ready from its arrival to its answer.
    pub(crate) control_plane: f64,
}

impl Audit {
    pub(crate) fn from_now(path: PathBuf) -> Self {
        Self { offset: audit::end(&path), path }
    }

    /// What it says of pods that became Ready, by the pod's name.
    pub(crate) fn accepted(&self) -> Result<HashMap<String, Accepted>> {
        let mut made = HashMap::new();
        let mut bound = HashMap::new();
        let mut out = HashMap::new();
        let words = ["\"resource\":\"pods\"", "\"ResponseComplete\""];
        for event in audit::accepted(&self.path, self.offset, &words)? {
            let event = event?;
            let moment = |key: &str| {
                event[key].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok())
            };
            let Some(came) = moment("requestReceivedTimestamp") else { continue };
            let Some(answered) = moment("stageTimestamp") else { continue };
            // Who makes a pod with a generated name finds it in the answer only; the bench gives
            // names.
            let Some(name) = event["objectRef"]["name"].as_str() else { continue };
            match (event["objectRef"]["subresource"].as_str(), event["verb"].as_str()) {
                (None, Some("create")) => {
                    made.insert(name.to_owned(), came);
                }
                (Some("binding"), Some("create")) => {
                    bound.insert(name.to_owned(), answered);
                }
                (Some("status"), Some("patch" | "update"))
                    if says_ready(&event["requestObject"]) =>
                {
                    let (Some(made), Some(bound)) = (made.get(name), bound.get(name)) else {
                        continue;
                    };
                    out.entry(name.to_owned()).or_insert(Accepted {
                        since_bound: millis(*bound, answered),
                        control_plane: millis(*made, *bound) + millis(came, answered),
                    });
                }
                (Some(_) | None, Some(_) | None) => {}
            }
        }
        Ok(out)
    }
}

fn millis(from: jiff::Timestamp, to: jiff::Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}

fn says_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}
