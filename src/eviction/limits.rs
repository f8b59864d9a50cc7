//! Limits of local storage: which pod uses more than an emptyDir, a container or the pod itself
//! may. Pure.
//!
//! Looked at for each pod that has such a limit, whether the node is short of anything or not. The
//! order is upstream's: emptyDir volumes, the pod, its containers.

use std::sync::Arc;

use super::message::parse;
use super::quantity::Quantity;
use super::rank::Candidate;
use super::thresholds::Layout;
use crate::model::quantity::Amount;
use crate::model::{Pod, pod, quote};
use crate::resources::list::{self, Column, EPHEMERAL_STORAGE};
use crate::stats::usage::{ContainerUsage, Fs, PodUsage};

/// The kind of limit that a pod has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `sizeLimit` of an emptyDir.
    EmptyDir,
    /// The limits of all containers together.
    Pod,
    /// The limit of one container.
    Container,
}

impl Limit {
    /// Returns the signal's name in metrics.
    pub fn signal(self) -> &'static str {
        match self {
            Self::EmptyDir => "emptydirfs.limit",
            Self::Pod => "ephemeralpodfs.limit",
            Self::Container => "ephemeralcontainerfs.limit",
        }
    }
}

/// Returns true if the pod has a limit of local storage.
pub fn has_any(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let limits_dir = volumes
        .iter()
        .any(|volume| volume.empty_dir.as_ref().is_some_and(|dir| dir.size_limit.is_some()));
    limits_dir || list::pod_limits(pod).contains_key(EPHEMERAL_STORAGE)
}

/// Returns the limit that the pod exceeds, if any, and upstream's message about it.
pub fn exceeded(candidate: &Candidate<'_>, layout: Layout) -> Option<(Limit, String)> {
    let usage = candidate.usage?;
    empty_dir(candidate.pod, usage)
        .or_else(|| whole_pod(candidate.pod, usage))
        .or_else(|| container(candidate.pod, usage, layout))
}

fn empty_dir(pod: &Arc<Pod>, usage: &PodUsage) -> Option<(Limit, String)> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes.iter().find_map(|volume| {
        let limit = parse(volume.empty_dir.as_ref()?.size_limit.as_ref()?);
        let measured = usage.volumes.iter().find(|measured| measured.name == volume.name)?;
        let used = Quantity::bytes(measured.fs.used?);
        let is_over = limit.amount() > Amount::ZERO && used.amount() > limit.amount();
        is_over.then(|| {
            let name = quote::go_quote(&volume.name);
            let limit = quote::go_quote(&limit.to_string());
            let message = format!("Usage of EmptyDir volume {name} exceeds the limit {limit}. ");
            (Limit::EmptyDir, message)
        })
    })
}

fn whole_pod(pod: &Arc<Pod>, usage: &PodUsage) -> Option<(Limit, String)> {
    let limit = *list::pod_limits(pod).get(EPHEMERAL_STORAGE)?;
    let used = usage.ephemeral_storage.as_ref().and_then(|fs| fs.used).unwrap_or_default();
    let used = Quantity::bytes(used).amount();
    (used > limit).then(|| {
        // The sum is shown in the form of the first limit, as upstream adds them up.
        let first = pod::main_containers(pod).iter().chain(pod::init_containers(pod)).find_map(
            |container| {
                let limits = list::column(container.resources.as_ref(), Column::Limits)?;
                limits.get(EPHEMERAL_STORAGE).map(parse)
            },
        );
        let limit = first.unwrap_or_else(Quantity::zero).with_amount(limit);
        let message = format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        );
        (Limit::Pod, message)
    })
}

fn container(pod: &Arc<Pod>, usage: &PodUsage, layout: Layout) -> Option<(Limit, String)> {
    // The writable layer counts only where it lies on the node's own file system.
    let with_rootfs = layout == Layout::Shared;
    usage.containers.iter().find_map(|container| {
        let mut specs = pod::main_containers(pod).iter();
        let spec = specs.find(|spec| spec.name == container.name)?;
        let limits = list::column(spec.resources.as_ref(), Column::Limits)?;
        let limit = limits.get(EPHEMERAL_STORAGE).map(parse)?;
        let is_over =
            limit.amount() > Amount::ZERO && limit.amount() < used(container, with_rootfs);
        is_over.then(|| {
            let name = &container.name;
            let limit = quote::go_quote(&limit.to_string());
            let message =
                format!("Container {name} exceeded its local ephemeral storage limit {limit}. ");
            (Limit::Container, message)
        })
    })
}

fn used(container: &ContainerUsage, with_rootfs: bool) -> Amount {
    let used = |fs: Option<&Fs>| fs.and_then(|fs| fs.used).unwrap_or_default();
    let logs = used(container.logs.as_ref());
    let rootfs = if with_rootfs { used(container.rootfs.as_ref()) } else { 0 };
    Quantity::bytes(logs.saturating_add(rootfs)).amount()
}
