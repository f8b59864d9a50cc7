//! A pod that asks for an AppArmor profile needs a kernel that enforces it.

use k8s_openapi::api::core::v1 as api;

use super::{AdmitInput, Rejection};
use crate::model::{Phase, pod};

/// The annotation of former days, followed by the container's name.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const UNCONFINED: &str = "Unconfined";
const ANNOTATION_UNCONFINED: &str = "unconfined";
const ANNOTATION_LOCALHOST: &str = "localhost/";

/// Only pods that have not been started are looked at, by their recorded phase, as upstream does.
pub(super) fn check(input: &AdmitInput<'_>) -> Result<(), Rejection> {
    if input.pod.status.as_ref().and_then(Phase::of) != Some(Phase::Pending)
        || !is_required(input.pod)
    {
        return Ok(());
    }
    if !input.apparmor {
        return reject("AppArmor is not enabled on the host");
    }
    let names_no_profile = |profile: &api::AppArmorProfile| {
        profile.type_ == "Localhost"
            && profile.localhost_profile.as_deref().unwrap_or_default().trim().is_empty()
    };
    let pod_profile = input
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref()?.app_armor_profile.as_ref());
    let is_empty = containers(input.pod).into_iter().any(|(name, own)| {
        match (own, by_annotation(input.pod, &name)) {
            (Some(own), _) => names_no_profile(own),
            (None, Some(text)) => text
                .strip_prefix(ANNOTATION_LOCALHOST)
                .is_some_and(|profile| profile.trim().is_empty()),
            (None, None) => pod_profile.is_some_and(names_no_profile),
        }
    });
    if is_empty { reject("invalid empty AppArmor profile name") } else { Ok(()) }
}

fn reject(why: &str) -> Result<(), Rejection> {
    Err(Rejection::new("AppArmor", format!("Cannot enforce AppArmor: {why}")))
}

fn is_required(pod: &api::Pod) -> bool {
    let confines = |profile: &api::AppArmorProfile| profile.type_ != UNCONFINED;
    let pod_profile = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref()?.app_armor_profile.as_ref());
    let annotations = pod.metadata.annotations.iter().flatten();
    pod_profile.is_some_and(confines)
        || containers(pod).into_iter().filter_map(|(_, own)| own).any(confines)
        || annotations
            .filter(|(name, _)| name.starts_with(ANNOTATION))
            .any(|(_, text)| text != ANNOTATION_UNCONFINED)
}

fn by_annotation<'a>(pod: &'a api::Pod, container: &str) -> Option<&'a str> {
    pod::annotation(pod, &format!("{ANNOTATION}{container}"))
}

/// Every container's name and own profile.
fn containers(pod: &api::Pod) -> Vec<(String, Option<&api::AppArmorProfile>)> {
    let usual = pod::init_containers(pod).iter().chain(pod::main_containers(pod));
    let usual =
        usual.map(|container| (container.name.clone(), container.security_context.as_ref()));
    let ephemeral = pod::ephemeral_containers(pod).iter();
    let ephemeral =
        ephemeral.map(|container| (container.name.clone(), container.security_context.as_ref()));
    usual
        .chain(ephemeral)
        .map(|(name, context)| {
            (name, context.and_then(|context| context.app_armor_profile.as_ref()))
        })
        .collect()
}
