//! The CPU shares of the burstable tier: as many as its pods ask for together.
//!
//! One task owns the value. In: the pods that count against the node, the latest list wins. Out:
//! the tier's shares, written when they change. A write that fails is tried again after a minute,
//! which is how often upstream writes it. Without a list nothing is written: after a restart the
//! tier keeps what it has until the pods are known.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use super::apply::PodCgroups;
use super::pod_config;
use super::qos::QosClass;
use crate::model::{Pod, error_chain};

/// How soon a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Keeps the shares of the burstable tier at what the pods that count ask for together. Ends with
/// the sender.
pub async fn keep(cgroups: PodCgroups, mut pods: watch::Receiver<Vec<Arc<Pod>>>) {
    let mut written = None;
    let mut is_stale = false;
    loop {
        // Cancel-safe: both only wait.
        tokio::select! {
            changed = pods.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if is_stale => {}
        }
        is_stale = false;
        let wanted = shares(&pods.borrow_and_update());
        if let Some(wanted) = wanted.filter(|wanted| written != Some(*wanted)) {
            match cgroups.share_burstable(wanted).await {
                Ok(()) => written = Some(wanted),
                Err(error) => {
                    is_stale = true;
                    let error = error_chain(&error);
                    warn!(
                        error,
                        "the CPU shares of burstable pods could not be brought up to date"
                    );
                }
            }
        }
    }
}

fn shares(pods: &[Arc<Pod>]) -> Option<u64> {
    pod_config::tier(QosClass::Burstable, pods.iter().map(AsRef::as_ref)).cpu_shares
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use serde_json::json;
    use tokio::sync::watch;

    use super::keep;
    use crate::linux::cgroup::CgroupError;
    use crate::model::Pod;
    use crate::resources::apply::{Backend, Config, PodCgroups};
    use crate::resources::cgroup_names::{CgroupDriver, CgroupTree};
    use crate::resources::pod_config::{CgroupSettings, Figures, PodCgroupPolicy, Reading};

    /// The shares that were written, in order, and how many writes are still to fail.
    #[derive(Clone, Debug, Default)]
    struct Fake(Arc<Mutex<(Vec<u64>, usize)>>);

    impl Backend for Fake {
        fn validate(&self, _path: &str) -> Result<(), CgroupError> {
            Ok(())
        }

        fn create(&self, _top: &str, _path: &str) -> Result<(), CgroupError> {
            Ok(())
        }

        fn update(&self, path: &str, settings: &CgroupSettings) -> Result<(), CgroupError> {
            assert_eq!(path, "/kubepods/burstable");
            assert_eq!(settings.huge_pages, None, "nothing else is touched");
            let mut state = self.0.lock();
            if let Some(left) = state.1.checked_sub(1) {
                state.1 = left;
                return Err(CgroupError::NotMounted);
            }
            state.0.extend(settings.cpu_shares);
            Ok(())
        }

        fn read(&self, _path: &str) -> Result<Reading, CgroupError> {
            Ok(Reading::default())
        }

        fn kept(&self, figures: Figures) -> Figures {
            figures
        }

        fn children(&self, _path: &str) -> Result<BTreeSet<String>, CgroupError> {
            Ok(BTreeSet::new())
        }

        fn kill(&self, _path: &str) -> Result<usize, CgroupError> {
            Ok(0)
        }

        fn remove(&self, _path: &str) -> Result<(), CgroupError> {
            Ok(())
        }
    }

    fn pod(cpu: &str) -> Arc<Pod> {
        let resources = json!({"requests": {"cpu": cpu}});
        let pod = json!({"metadata": {"name": "p", "uid": cpu},
            "spec": {"containers": [{"name": "c", "resources": resources}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn cgroups(fake: &Fake) -> PodCgroups {
        let tree = CgroupTree::new("/", CgroupDriver::Cgroupfs, true);
        PodCgroups::new(fake.clone(), Config { tree, policy: PodCgroupPolicy::default() })
    }

    async fn settle() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    #[tokio::test]
    async fn the_latest_list_wins_and_is_written_once() {
        let fake = Fake::default();
        let (handle, list) = watch::channel(Vec::new());
        let task = keep(cgroups(&fake), list);
        let seen = async {
            settle().await;
            assert!(fake.0.lock().0.is_empty(), "nothing is known yet");
            // A pod is resized while the write for the one before is under way.
            handle.send_replace(vec![pod("1")]);
            handle.send_replace(vec![pod("2")]);
            handle.send_replace(vec![pod("500m"), pod("250m")]);
            settle().await;
            handle.send_replace(vec![pod("250m"), pod("500m")]);
            settle().await;
            handle.send_replace(Vec::new());
            settle().await;
            let written = fake.0.lock().0.clone();
            assert_eq!(written.last(), Some(&2), "the last pod is gone: {written:?}");
            assert_eq!(written[written.len() - 2], 768, "{written:?}");
            drop(handle);
        };
        tokio::join!(task, seen);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_fails_is_tried_again() {
        let fake = Fake::default();
        fake.0.lock().1 = 2;
        let (handle, list) = watch::channel(Vec::new());
        let task = keep(cgroups(&fake), list);
        let seen = async {
            handle.send_replace(vec![pod("1")]);
            tokio::time::sleep(Duration::from_secs(200)).await;
            assert_eq!(fake.0.lock().0, [1024]);
            drop(handle);
        };
        tokio::join!(task, seen);
    }
}
