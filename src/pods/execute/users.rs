//! The ids of a pod with a user namespace of its own (`hostUsers: false`): given before its sandbox
//! is made, kept until its directory is removed.

use super::ActionError;
use super::scope::Scope;
use crate::linux::blocking;
use crate::model::reason::event;
use crate::pods::request::IdRange;

/// Returns why a pod cannot have a user namespace, in upstream's words.
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

/// Returns the ids of the pod's users, given to the pod now if it has none. `None`: the pod shares
/// the node's.
pub(super) async fn user_ids(scope: Scope<'_>) -> Result<Option<IdRange>, ActionError> {
    let failed = |problem| ActionError::new(event::FAILED_CREATE_POD_SANDBOX, problem);
    if scope.context.pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false) {
        return Ok(None);
    }

    let handler = scope.runtime_handler()?;
    let refused = {
        let condition = scope.deps.runtime.condition.borrow();
        let known = condition.handlers.iter().find(|known| known.name == handler);
        let supports = known.map(|known| known.user_namespaces);
        refusal(&handler, supports, !condition.handlers.is_empty())
    };
    if let Some(problem) = refused {
        return Err(failed(problem));
    }

    let namespaces = &scope.deps.resources.user_namespaces;
    if let Some(range) = namespaces.of(scope.uid) {
        return Ok(Some(range));
    }
    let namespaces = namespaces.clone();
    let uid = scope.uid.clone();
    let given = blocking::spawn(move || namespaces.ensure(&uid)).await;
    match given {
        Ok(given) => given.map(Some).map_err(|error| failed(error.to_string())),
        Err(panicked) => Err(failed(panicked.to_string())),
    }
}

/// Frees the pod's ids.
pub(super) async fn release_user_ids(scope: Scope<'_>) {
    let namespaces = scope.deps.resources.user_namespaces.clone();
    let uid = scope.uid.clone();
    // After a panic here the ids are freed when the pod is forgotten.
    blocking::spawn(move || namespaces.release(&uid)).await.ok();
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
