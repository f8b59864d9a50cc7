//! `supplementalGroupsPolicy: Strict` needs a runtime that honours it.

use super::{AdmitInput, Rejection};

pub(super) fn check(input: &AdmitInput<'_>) -> Result<(), Rejection> {
    let context = input.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let policy = context.and_then(|context| context.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !input.node.supplemental_groups_policy {
        return Err(Rejection::new(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ));
    }
    Ok(())
}
