//! The ids of a pod with a user namespace of its own (`hostUsers: false`): given before its sandbox
//! is made, kept until its directory is removed.

use super::super::request;
use super::executor::PodExecutor;
use super::{ActionError, Context};
use crate::cri::v1;
use crate::model::Pod;
use crate::model::reason::event;

/// Why a pod cannot have users of its own; upstream's words.
fn refusal(handler: &str, supports: Option<bool>, knows_handlers: bool) -> Option<String> {
    let problem = if handler.is_empty() {
        "can't set `spec.hostUsers: false`, runtime does not support user namespaces".to_owned()
    } else {
        format!(
            "can't set `spec.hostUsers: false`, RuntimeClass handler {handler:?} does not support user namespaces"
        )
    };
    match supports {
        Some(true) => None,
        None if knows_handlers => Some(format!("{problem}: the handler {handler:?} is not known")),
        // A runtime that does not list its handlers is too old for user namespaces.
        Some(false) | None => Some(problem),
    }
}

impl PodExecutor {
    /// The ids of the pod's users, given to it now if it has none; `None` where it shares the
    /// node's.
    pub(super) async fn user_ids(
        &self,
        pod: &Pod,
    ) -> Result<Option<request::IdRange>, ActionError> {
        let failed = |problem| ActionError::new(event::FAILED_CREATE_POD_SANDBOX, problem);
        if pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false) {
            return Ok(None);
        }
        let handler = self.runtime_handler(pod)?;
        let refused = {
            let condition = self.deps.condition.borrow();
            let known = condition.handlers.iter().find(|known| known.name == handler);
            refusal(
                &handler,
                known.map(|known| known.user_namespaces),
                !condition.handlers.is_empty(),
            )
        };
        if let Some(problem) = refused {
            return Err(failed(problem));
        }
        if let Some(range) = self.deps.user_namespaces.of(&self.uid) {
            return Ok(Some(range));
        }
        let (namespaces, uid) = (self.deps.user_namespaces.clone(), self.uid.clone());
        let given = crate::linux::blocking::spawn(move || namespaces.ensure(&uid)).await;
        given.unwrap_or_else(|panicked| Err(panicked.to_string())).map(Some).map_err(failed)
    }

    /// The pod's ids are free again.
    pub(super) async fn release_user_ids(&self) {
        let (namespaces, uid) = (self.deps.user_namespaces.clone(), self.uid.clone());
        // A panic there leaves the ids in use: a loss of one range until the next start.
        crate::linux::blocking::spawn(move || namespaces.release(&uid)).await.ok();
    }

    /// The sandbox as a pull is told of it: the runtime reads the pod's identity and annotations
    /// there. A pull may be ahead of the sandbox, so nothing is given to the pod for it.
    pub(super) fn sandbox_for_pull(&self, context: &Context) -> Option<v1::PodSandboxConfig> {
        let user_ids = self.deps.user_namespaces.of(&self.uid);
        self.sandbox_request(context, 0, user_ids).ok().map(|request| request.config)
    }
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn says_why_there_can_be_no_users() {
        let check = |handler, supports, knows, expected: Option<&str>| {
            assert_eq!(refusal(handler, supports, knows).as_deref(), expected);
        };
        let runtime = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
        check("", Some(true), true, None);
        check("", None, false, Some(runtime));
        check("", Some(false), true, Some(runtime));
        let kata = "can't set `spec.hostUsers: false`, RuntimeClass handler \"kata\" does not support user namespaces";
        check("kata", Some(false), true, Some(kata));
        check("kata", None, true, Some(&format!("{kata}: the handler \"kata\" is not known")));
    }
}
