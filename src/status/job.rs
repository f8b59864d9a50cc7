//! One write of a pod's status: the calls to the API server, in order.
//!
//! A job reads the object if the fate of the last write is unknown, patches its status if that
//! changes anything, and deletes it if that was requested. [`super::queue`] makes jobs and decides
//! when they begin. A job never tries again by itself.

use k8s_openapi::api::core::v1 as api;
use serde_json::Value;

use super::api::{Failure, StatusApi, Target};
use super::base::{Base, Want};
use super::{merge, patch};
use crate::model::{Pod, PodUid};

/// One write of a pod's status, with the newest status at its begin.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) uid: PodUid,
    pub(super) base: Base,
    /// The status to write; `None` if only a deletion was requested.
    pub(super) want: Option<Want>,
    /// True if the fate of the last write is unknown: the object is read first.
    pub(super) read_first: bool,
    /// True if the object is deleted after the write.
    pub(super) delete: bool,
}

/// The result of a job.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) uid: PodUid,
    /// The UID of the object that the job was for.
    pub(super) target_uid: String,
    /// The object in the API server's answer; `None` without an answer.
    pub(super) base: Option<Base>,
    /// The version of the status that the API server now has.
    pub(super) accepted: Option<u64>,
    pub(super) end: End,
}

/// The end of a job.
#[derive(Debug)]
pub(super) enum End {
    /// There is nothing left to do.
    Done,
    /// The status was written, and the answer shows that another writer had overwritten a part of
    /// ours that the base still had and the patch therefore left out.
    Overwritten,
    /// The object is no longer in the API.
    Gone,
    /// A call failed; the job must be tried again.
    Failed(Failure),
}

impl Job {
    /// Makes the calls, one after the other.
    pub(super) async fn perform<A: StatusApi>(mut self, api: &A) -> Outcome {
        let target = self.base.target();
        let mut outcome = Outcome {
            uid: self.uid.clone(),
            target_uid: target.uid.clone(),
            base: None,
            accepted: None,
            end: End::Done,
        };
        outcome.end = match self.steps(api, &target, &mut outcome).await {
            Ok(end) => end,
            Err(Failure::NotFound { .. }) => End::Gone,
            Err(failure) => End::Failed(failure),
        };

        outcome
    }

    /// Reads, writes and deletes, each only if it is necessary.
    async fn steps<A: StatusApi>(
        &mut self,
        api: &A,
        target: &Target,
        outcome: &mut Outcome,
    ) -> Result<End, Failure> {
        if self.read_first {
            let pod = api.get(target).await?;
            if pod.metadata.uid.as_deref() != Some(&target.uid) {
                return Ok(End::Gone);
            }
            self.take(pod, outcome);
        }

        let mut end = End::Done;
        if let Some(want) = self.want.clone() {
            if let Some(body) = self.missing(&target.uid, &want) {
                let pod = api.patch_status(target, &body).await?;
                if pod.metadata.uid.as_deref() != Some(&target.uid) {
                    return Ok(End::Gone);
                }

                self.take(pod, outcome);

                // What the server drops of a body is missing again; only another writer makes
                // something else be missing.
                if self.missing(&target.uid, &want).is_some_and(|missing| missing != body) {
                    end = End::Overwritten;
                }
            }
            outcome.accepted = Some(want.version);
        }

        if self.delete && self.base.is_deletable() {
            return match api.delete(target).await {
                // Another object has the name: ours is gone all the same.
                Ok(()) | Err(Failure::NotFound { .. } | Failure::Conflict { .. }) => Ok(End::Gone),
                Err(failure) => Err(failure),
            };
        }

        Ok(end)
    }

    /// Returns the patch that gives the object the wanted status; `None` if it has that.
    fn missing(&self, uid: &str, want: &Want) -> Option<Value> {
        let nothing = api::PodStatus::default();
        let has = self.base.status().unwrap_or(&nothing);
        patch::build(uid, has, &merge::merge(has, &want.status))
    }

    fn take(&mut self, pod: Pod, outcome: &mut Outcome) {
        self.base = Base::answered(pod);
        outcome.base = Some(self.base.clone());
    }
}
