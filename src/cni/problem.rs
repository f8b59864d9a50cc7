//! Explains why no sandbox can be created for lack of a network: the runtime's message, and a
//! diagnosis of the node's own configuration.
//!
//! Fed by the runtime's condition. The files are read only while there is a problem.

use std::time::Duration;

use tokio::sync::watch;

use super::{Places, diagnose};
use crate::cri::RuntimeCondition;
use crate::model::error_chain;
use crate::watch::set_if_changed;

/// The time between two diagnoses of a problem: the configuration may change while the runtime's
/// message stays.
const PERIOD: Duration = Duration::from_secs(10);

/// A network that is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkProblem {
    /// The problem in the runtime's words, as upstream reports it.
    pub message: String,
    /// The fault in the node's configuration, if one was found.
    pub diagnosis: Option<String>,
}

/// Returns the current problem, and the task that keeps it up to date.
pub fn problem(
    mut runtime: watch::Receiver<RuntimeCondition>,
    places: Places,
) -> (watch::Receiver<Option<NetworkProblem>>, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = watch::channel(None);
    let task = async move {
        loop {
            let message = runtime.borrow_and_update().network.clone().err();
            let is_ready = message.is_none();
            let problem = message.map(|message| NetworkProblem {
                message,
                diagnosis: diagnose(&places).err().map(|problem| error_chain(&problem)),
            });
            set_if_changed(&sender, problem);

            let again = async {
                if is_ready {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(PERIOD).await;
            };
            // Both branches are cancel-safe.
            tokio::select! {
                changed = runtime.changed() => if changed.is_err() { return },
                () = again => {}
            }
        }
    };
    (receiver, task)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::path::PathBuf;

    use tokio::sync::watch;
    use tokio_util::task::TaskTracker;

    use super::problem;
    use crate::cni::Places;
    use crate::cri::RuntimeCondition;

    #[tokio::test(start_paused = true)]
    async fn a_problem_comes_with_its_diagnosis_and_goes() {
        let down = RuntimeCondition { network: Err("not ready".to_owned()), ..Default::default() };
        let (sender, runtime) = watch::channel(down);
        let home = tempfile::tempdir().expect("a folder");
        let conf_dir: PathBuf = home.path().join("net.d");
        let places = Places { conf_dir: conf_dir.clone(), bin_dirs: Vec::new() };
        let (mut receiver, task) = problem(runtime, places);
        let tasks = TaskTracker::new();
        tasks.spawn(task);

        let found = receiver.wait_for(Option::is_some).await.expect("it runs").clone();
        let found = found.expect("a problem");
        assert_eq!(found.message, "not ready");
        let missing = found.diagnosis.expect("a diagnosis");
        assert!(missing.contains("no conflist"), "{missing}");

        std::fs::create_dir(&conf_dir).expect("a folder");
        std::fs::write(conf_dir.join("10.conflist"), "{").expect("a file");
        let other = |now: &Option<super::NetworkProblem>| {
            now.as_ref().and_then(|problem| problem.diagnosis.as_ref()) != Some(&missing)
        };
        let changed = receiver.wait_for(other).await.expect("it runs").clone();
        assert!(changed.is_some(), "diagnosed anew, though the runtime says the same");

        let up = RuntimeCondition { network: Ok(()), ..Default::default() };
        sender.send_replace(up);
        receiver.wait_for(Option::is_none).await.expect("it runs");
    }
}
