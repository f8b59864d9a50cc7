//! `rkubelet pods`: what each pod of this node is at.

use std::path::Path;

use super::{ToolError, client, table};
use crate::server::PodReport;

/// Lists the pods. Blocks.
pub(super) fn run(root_dir: &Path, json: bool) -> Result<String, ToolError> {
    let pods: Vec<PodReport> = client::ask_for(root_dir, "/pods")?;
    if json {
        return Ok(pretty(&pods)?);
    }
    Ok(text(&pods))
}

/// Writes a value as indented JSON.
pub(super) fn pretty(value: &impl serde::Serialize) -> Result<String, client::AskError> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

fn text(pods: &[PodReport]) -> String {
    if pods.is_empty() {
        return "No pods on this node.\n".to_owned();
    }
    let head =
        ["NAMESPACE", "NAME", "READY", "PHASE", "RESTARTS", "AT", "SINCE", "NEXT TRY", "WAITS FOR"];
    table::columns(&head, &pods.iter().map(row).collect::<Vec<_>>())
}

fn row(pod: &PodReport) -> Vec<String> {
    let mut row = vec![
        pod.namespace.clone(),
        pod.name.clone(),
        format!("{}/{}", pod.ready, pod.containers),
        pod.phase.clone(),
        pod.restarts.to_string(),
    ];
    let Some(blocked) = &pod.blocked else {
        let at = if pod.state == "syncing" { "" } else { &pod.state };
        row.push(at.to_owned());
        return row;
    };

    let next = blocked.next_try_in_seconds.map_or_else(String::new, |seconds| {
        if seconds > 0.0 { format!("in {}", table::age(seconds)) } else { "now".to_owned() }
    });
    let error = blocked.last_error.as_ref().filter(|error| !blocked.on.contains(error.as_str()));
    let on = error.map_or_else(|| blocked.on.clone(), |error| format!("{}: {error}", blocked.on));
    row.extend([blocked.stage.clone(), table::age(blocked.seconds), next, one_line(&on)]);
    row
}

/// Replaces line breaks: a row is one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::text;
    use crate::model::Wall;
    use crate::server::{BlockedReport, PodReport};

    pub(in crate::tools) fn pod(name: &str) -> PodReport {
        PodReport {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: "u".to_owned(),
            is_static: false,
            phase: "Running".to_owned(),
            ready: 1,
            containers: 1,
            restarts: 0,
            state: "syncing".to_owned(),
            blocked: None,
        }
    }

    #[test]
    fn a_pod_that_waits_says_on_what() {
        let mut stuck = pod("stuck");
        stuck.phase = "Pending".to_owned();
        stuck.ready = 0;
        stuck.blocked = Some(BlockedReport {
            stage: "image".to_owned(),
            on: "image \"no/such:1\"".to_owned(),
            since: Wall::UNIX_EPOCH,
            seconds: 42.4,
            last_error: Some("not\nfound".to_owned()),
            next_try_in_seconds: Some(18.0),
        });
        let mut going = pod("going");
        going.state = "terminating".to_owned();

        let expected = "\
NAMESPACE   NAME    READY   PHASE     RESTARTS   AT            SINCE   NEXT TRY   WAITS FOR
default     going   1/1     Running   0          terminating
default     stuck   0/1     Pending   0          image         42s     in 18s     image \"no/such:1\": not found
";
        assert_eq!(text(&[going, stuck]), expected);
        assert_eq!(text(&[]), "No pods on this node.\n");
    }
}
