//! When the API server bound a pod, and when it accepted the status that first says Ready: from its audit log.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Reads what is written to the log from its making on.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    offset: u64,
}

impl Audit {
    pub(crate) fn from_now(path: PathBuf) -> Self {
        let offset = std::fs::metadata(&path).map_or(0, |file| file.len());
        Self { path, offset }
    }

    /// Milliseconds from bound to Ready accepted, by the pod's name.
    pub(crate) fn bound_to_ready(&self) -> Result<HashMap<String, f64>> {
        let mut file = File::open(&self.path).with_context(|| self.path.display().to_string())?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bound: HashMap<String, jiff::Timestamp> = HashMap::new();
        let mut out = HashMap::new();
        for line in BufReader::new(file).lines() {
            let line = line?;
            if !line.contains("\"resource\":\"pods\"") || !line.contains("\"ResponseComplete\"") {
                continue;
            }
            // The last line may be half written.
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            let accepted = event["responseStatus"]["code"].as_u64().is_some_and(|code| (200..300).contains(&code));
            let when = event["stageTimestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            let (true, Some(name), Some(when)) = (accepted, event["objectRef"]["name"].as_str(), when) else {
                continue;
            };
            match (event["objectRef"]["subresource"].as_str(), event["verb"].as_str()) {
                (Some("binding"), Some("create")) => {
                    bound.insert(name.to_owned(), when);
                }
                (Some("status"), Some("patch" | "update")) if says_ready(&event["requestObject"]) => {
                    let took = bound.get(name).map(|bound| when.duration_since(*bound).as_secs_f64() * 1000.0);
                    if let Some(took) = took {
                        out.entry(name.to_owned()).or_insert(took);
                    }
                }
                (Some(_) | None, Some(_) | None) => {}
            }
        }
        Ok(out)
    }
}

fn says_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .is_some_and(|all| all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
}
