//! The executor of one pod. It owns what outlives a single action: the pod's identity, the
//! warnings that were emitted, and whether its start has failed.
//!
//! Each action is a function or a type of its own over [`Scope`].

use std::sync::Arc;

use super::Context;
use super::deps::{Count, Deps};
use super::own_users::OwnUsers;
use super::scope::Scope;
use super::warnings::Warnings;
use crate::model::{Pod, PodUid};
use crate::pods::request;

/// Carries out the actions of one pod on the real runtime.
#[derive(Debug)]
pub struct PodExecutor {
    deps: Arc<Deps>,
    uid: PodUid,
    pub(super) warnings: Warnings,
    pub(super) own_users: OwnUsers,
}

impl PodExecutor {
    /// The executor of a pod.
    pub fn new(deps: Arc<Deps>, uid: PodUid) -> Self {
        Self { deps, uid, warnings: Warnings::default(), own_users: OwnUsers::default() }
    }

    /// Returns the directory of the pod's logs.
    pub fn log_directory(&self, pod: &Pod) -> String {
        request::pod_log_directory(pod, &self.deps.settings.spec.pod_logs_dir)
    }

    /// Removes the pod's log directory, once nothing of the pod is left in the runtime.
    pub fn remove_log_directory(&self, directory: &str) {
        super::logs::remove_directory(directory, &self.deps.settings);
    }

    /// The pod as one action sees it.
    pub(super) fn scope<'a>(&'a self, context: &'a Context) -> Scope<'a> {
        Scope { deps: &self.deps, uid: &self.uid, context }
    }
}

impl Drop for PodExecutor {
    fn drop(&mut self) {
        if self.warnings.is_dns_cut() {
            self.deps.metrics.count(Count::DnsCut(false));
        }
    }
}
