//! The task that reads `/dev/kmsg` and reports what was killed.

use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use super::Deps;
use super::parse::{self, Parser, Victim};
use crate::dispatch::PodView;
use crate::linux::kmsg::Kmsg;
use crate::model::reason::event;
use crate::model::{ContainerId, EventType, pod};

/// How long a container may take to end after its first process was killed. One that runs on has
/// lost another process.
const ENDS: Duration = Duration::from_secs(2);

/// How many containers are watched at a time; further ones are not reported.
const WATCHED: usize = 64;

/// Reads until the log ends.
pub(super) async fn run(deps: Deps) {
    let mut log = match Kmsg::open_at_end() {
        Ok(log) => log,
        Err(error) => {
            info!(%error, "the kernel's log cannot be read: processes that it kills are not reported");
            return std::future::pending().await;
        }
    };
    let mut parser = Parser::default();
    let mut watched: JoinSet<()> = JoinSet::new();
    loop {
        // Both arms are cancel-safe.
        let record = tokio::select! {
            record = log.next(parse::RECORD) => record,
            Some(_) = watched.join_next() => continue,
        };
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                warn!(%error, "the kernel's log can no longer be read");
                return std::future::pending().await;
            }
        };
        let victim = parse::message(&record).and_then(|message| parser.take(&message));
        if let Some(victim) = victim {
            report(&deps, victim, &mut watched);
        }
    }
}

fn report(deps: &Deps, victim: Victim, watched: &mut JoinSet<()>) {
    let Victim { process, pid, cgroup, is_global } = &victim;
    info!(process, pid, cgroup, is_global, "the kernel has killed a process for want of memory");
    if *is_global {
        let message = system_message(process, *pid);
        let reason = event::SYSTEM_OOM;
        deps.recorder.node(&deps.node_name, EventType::Warning, reason, message);
    }
    let Some(id) = container(cgroup) else { return };
    if watched.len() < WATCHED {
        let deps = deps.clone();
        watched.spawn(async move { report_container(&deps, &id, &victim).await });
    }
}

/// Returns upstream's message about the machine.
fn system_message(process: &str, pid: u32) -> String {
    if process.is_empty() || pid == 0 {
        "System OOM encountered".to_owned()
    } else {
        format!("System OOM encountered, victim process: {process}, pid: {pid}")
    }
}

/// Returns the container that a cgroup is of, by the names that runtimes give them:
/// `/kubepods/pod1/ID`, `/…/cri-containerd-ID.scope`.
fn container(cgroup: &str) -> Option<ContainerId> {
    let name = cgroup.split('/').find_map(|part| {
        let id = part.strip_suffix(".scope").unwrap_or(part);
        let id = id.rsplit('-').next().unwrap_or(id);
        (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    });
    name.map(ContainerId::from)
}

/// Reports a container that runs on though it has lost a process.
async fn report_container(deps: &Deps, id: &ContainerId, victim: &Victim) {
    let has_it = |view: &PodView| view.observed.containers.iter().any(|found| found.id == *id);
    let Some(view) = deps.pods.views().into_iter().find(has_it) else { return };
    let Some(mut views) = deps.pods.watch(&view.uid) else { return };
    let has_ended = |view: &PodView| {
        let mut same = view.observed.containers.iter().filter(|found| found.id == *id);
        same.all(|found| !found.state.is_running())
    };
    if tokio::time::timeout(ENDS, views.wait_for(has_ended)).await.is_ok() {
        return;
    }

    let Some(found) = view.observed.containers.iter().find(|found| found.id == *id) else { return };
    let kind = pod::find_container(&view.pod, &found.name).map(|(kind, _)| kind);
    let message = format!(
        "The kernel killed process {} (pid {}) of container {} for want of memory; the container keeps running",
        victim.process, victim.pid, found.name
    );
    let container = kind.map(|kind| (kind, found.name.as_str()));
    let reason = event::OOM_KILLING;
    deps.recorder.pod(&view.pod, container, EventType::Warning, reason, message);
}

#[cfg(test)]
mod tests {
    use super::{container, system_message};

    #[test]
    fn upstreams_words() {
        assert_eq!(
            system_message("stress", 7),
            "System OOM encountered, victim process: stress, pid: 7"
        );
        assert_eq!(system_message("", 7), "System OOM encountered");
    }

    #[test]
    fn a_container_is_found_by_the_name_of_its_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        for cgroup in [
            format!("/kubepods/burstable/pod12/{id}"),
            format!("/kubepods.slice/kubepods-pod12.slice/cri-containerd-{id}.scope"),
            format!("/kubepods/pod12/{id}/nested"),
        ] {
            assert_eq!(container(&cgroup).map(|found| found.to_string()), Some(id.clone()));
        }
        assert_eq!(container("/user.slice"), None);
    }
}
