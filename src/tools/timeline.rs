//! `rkubelet timeline`: the steps of a pod's life on this node, with their durations.

use std::fmt::Write as _;
use std::path::Path;

use super::pods::{one_line, pretty};
use super::{ToolError, client, table};
use crate::server::{StepReport, StepResult, TimelineReport};

/// Shows the steps of `pod`, e.g. `default/web` or `web`. Blocks.
pub(super) fn run(root_dir: &Path, pod: &str, json: bool) -> Result<String, ToolError> {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    let page = format!("/timeline/{namespace}/{name}");
    let timeline: TimelineReport = client::ask_for(root_dir, &page)?;
    if json {
        return Ok(pretty(&timeline)?);
    }
    Ok(text(&timeline))
}

fn text(timeline: &TimelineReport) -> String {
    let pod = &timeline.pod;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "pod {}/{}: {}, {}/{} ready, {} restarts",
        pod.namespace, pod.name, pod.phase, pod.ready, pod.containers, pod.restarts
    );
    if let Some(created) = timeline.created {
        let _ = writeln!(text, "created    {created}");
    }
    let Some(first) = timeline.steps.first() else {
        text.push_str(
            "No steps in the life of this process: the pod was started by an earlier one.\n",
        );
        return text;
    };
    let _ = writeln!(text, "first step {}", first.at);
    if timeline.dropped > 0 {
        let _ = writeln!(text, "{} older steps are not kept", timeline.dropped);
    }
    text.push('\n');

    let begin = first.at;
    let row = |step: &StepReport| {
        let after = step.at.duration_since(begin).as_secs_f64();
        let took = match (step.seconds, step.result) {
            (None, _) => String::new(),
            (Some(seconds), StepResult::Running) => format!("{seconds:.3}s …"),
            (Some(seconds), _) => format!("{seconds:.3}s"),
        };
        vec![format!("+{after:.3}s"), took, what(step), outcome(step)]
    };
    let rows: Vec<Vec<String>> = timeline.steps.iter().map(row).collect();
    text.push_str(&table::columns(&["AT", "TOOK", "STEP", "RESULT"], &rows));
    text
}

fn what(step: &StepReport) -> String {
    if step.container.is_empty() {
        step.what.clone()
    } else {
        format!("{} {}", step.what, step.container)
    }
}

fn outcome(step: &StepReport) -> String {
    match step.result {
        StepResult::Running => "running".to_owned(),
        StepResult::Done | StepResult::Moment => String::new(),
        StepResult::Cancelled => "given up".to_owned(),
        StepResult::Failed => {
            let problem = step.problem.as_deref().unwrap_or_default();
            format!("failed: {}", one_line(problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::text;
    use crate::model::Wall;
    use crate::server::{StepReport, StepResult, TimelineReport};
    use crate::tools::pods::tests::pod;

    fn step(at: i64, what: &str, container: &str, result: StepResult) -> StepReport {
        StepReport {
            at: Wall::from_millisecond(at).expect("a time"),
            what: what.to_owned(),
            container: container.to_owned(),
            result,
            seconds: (result != StepResult::Moment).then_some(0.25),
            problem: (result == StepResult::Failed).then(|| "no such image".to_owned()),
        }
    }

    #[test]
    fn steps_are_relative_to_the_first() {
        let timeline = TimelineReport {
            pod: pod("web"),
            created: Some(Wall::UNIX_EPOCH),
            steps: vec![
                step(1000, "create sandbox", "", StepResult::Done),
                step(1250, "have image", "app", StepResult::Failed),
                step(3500, "have image", "app", StepResult::Running),
                step(3600, "phase Running", "", StepResult::Moment),
            ],
            dropped: 0,
        };
        let expected = "\
pod default/web: Running, 1/1 ready, 0 restarts
created    1970-01-01T00:00:00Z
first step 1970-01-01T00:00:01Z

AT        TOOK       STEP             RESULT
+0.000s   0.250s     create sandbox
+0.250s   0.250s     have image app   failed: no such image
+2.500s   0.250s …   have image app   running
+2.600s              phase Running
";
        assert_eq!(text(&timeline), expected);
    }
}
