//! The order in which pods are evicted, for each resource that the node may be short of. Pure.
//!
//! Upstream's order: pods whose usage is not known, then those that use more than they asked for,
//! then by priority, then by how much they use beyond their request. Process ids have no requests:
//! there priority comes first.

use std::cmp::Reverse;
use std::sync::Arc;

use super::signals::{Resource, Signal};
use super::thresholds::Layout;
use crate::model::Pod;
use crate::model::quantity::Amount;
use crate::resources::list::{self, Column, EPHEMERAL_STORAGE, MEMORY};
use crate::stats::usage::{Fs, PodUsage};

/// A pod that may be evicted, with what it uses.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The pod, with the resources that it was given.
    pub pod: &'a Arc<Pod>,
    /// Its usage; `None` if that is not known.
    pub usage: Option<&'a PodUsage>,
}

/// The parts of a pod's local storage that lie on one file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parts {
    rootfs: bool,
    logs: bool,
    volumes: bool,
}

/// Orders the candidates for eviction: the first one goes first. Equal ones keep their order.
pub fn rank(candidates: &mut [Candidate<'_>], signal: Signal, layout: Layout) {
    match signal.resource() {
        Resource::Memory => candidates.sort_by_cached_key(|candidate| {
            by_excess(candidate, request(candidate.pod, MEMORY), |usage| {
                bytes(usage.resources.memory.as_ref().map(|memory| memory.working_set))
            })
        }),
        Resource::Pids => candidates.sort_by_cached_key(|candidate| {
            let processes = candidate.usage.and_then(|usage| usage.processes).unwrap_or_default();
            (priority(candidate.pod), candidate.usage.is_some(), Reverse(processes))
        }),
        Resource::EphemeralStorage => {
            let parts = parts(signal, layout);
            candidates.sort_by_cached_key(|candidate| {
                by_excess(candidate, request(candidate.pod, EPHEMERAL_STORAGE), |usage| {
                    disk(candidate.pod, usage, parts, |fs| fs.used)
                })
            });
        }
        Resource::Inodes => {
            let parts = parts(signal, layout);
            candidates.sort_by_cached_key(|candidate| {
                let used =
                    |usage: &PodUsage| disk(candidate.pod, usage, parts, |fs| fs.inodes_used);
                let uses_any = candidate.usage.is_some_and(|usage| !used(usage).is_zero());
                // Inodes have no requests. Upstream takes those of bytes off all the same.
                let (known, _, priority, more) =
                    by_excess(candidate, request(candidate.pod, EPHEMERAL_STORAGE), used);
                (known, !uses_any, priority, more)
            });
        }
    }
}

/// The place of a pod by usage and request: unknown usage first, then usage above the request, then
/// the lower priority, then the greater excess.
fn by_excess(
    candidate: &Candidate<'_>,
    request: Amount,
    used: impl FnOnce(&PodUsage) -> Amount,
) -> (bool, bool, i32, Reverse<Amount>) {
    let priority = priority(candidate.pod);
    match candidate.usage {
        None => (false, false, priority, Reverse(Amount::ZERO)),
        Some(usage) => {
            let used = used(usage);
            (true, used <= request, priority, Reverse(used - request))
        }
    }
}

/// Returns the pod's priority; zero if it has none.
fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default()
}

/// Returns what the pod asks for: pod-level requests take the place of those of its containers, and
/// the overhead counts where anything is asked for.
fn request(pod: &Pod, name: &str) -> Amount {
    let is_pod_level = [Column::Requests, Column::Limits].into_iter().any(|column| {
        let listed = list::pod_level(pod, column).into_iter().flatten();
        listed.into_iter().any(|(name, _)| list::is_pod_level(name))
    });
    let asked = if is_pod_level {
        let own = list::pod_level(pod, Column::Requests).filter(|_| list::is_pod_level(name));
        own.and_then(|own| own.get(name)).map_or(Amount::ZERO, list::parse)
    } else {
        list::container_sum(pod, Column::Requests).get(name).copied().unwrap_or_default()
    };

    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref()?.get(name));
    match overhead {
        Some(overhead) if !asked.is_zero() => asked + list::parse(overhead),
        Some(_) | None => asked,
    }
}

/// Returns the parts of a pod that lie on the file system of a signal.
fn parts(signal: Signal, layout: Layout) -> Parts {
    let is_image_fs = matches!(signal, Signal::ImageFsAvailable | Signal::ImageFsInodesFree);
    let is_container_fs =
        matches!(signal, Signal::ContainerFsAvailable | Signal::ContainerFsInodesFree);
    match layout {
        Layout::ImageFs if is_image_fs || is_container_fs => {
            Parts { rootfs: true, ..Parts::default() }
        }
        Layout::ImageFs => Parts { rootfs: false, logs: true, volumes: true },
        // Only images lie there, which are no pod's.
        Layout::SplitImageFs if is_image_fs => Parts::default(),
        Layout::Shared | Layout::SplitImageFs => Parts { rootfs: true, logs: true, volumes: true },
    }
}

/// Sums one value over the parts of a pod. Of its volumes count those on the node's own disks.
fn disk(pod: &Pod, usage: &PodUsage, parts: Parts, value: impl Fn(&Fs) -> Option<u64>) -> Amount {
    let value = |fs: Option<&Fs>| bytes(fs.and_then(&value));
    let mut sum = Amount::ZERO;
    for container in &usage.containers {
        if parts.rootfs {
            sum = sum + value(container.rootfs.as_ref());
        }
        if parts.logs {
            sum = sum + value(container.logs.as_ref());
        }
    }

    if parts.volumes {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
        let local = volumes.unwrap_or_default().iter().filter(|volume| is_local(volume));
        for volume in local {
            let measured = usage.volumes.iter().find(|measured| measured.name == volume.name);
            sum = sum + value(measured.map(|measured| &measured.fs));
        }
    }
    sum
}

/// Returns true if the volume's files lie on the node's own disks (upstream's list).
fn is_local(volume: &k8s_openapi::api::core::v1::Volume) -> bool {
    let on_disk = |medium: Option<&str>| medium.is_none_or(str::is_empty);
    volume.host_path.is_some()
        || volume.git_repo.is_some()
        || volume.empty_dir.as_ref().is_some_and(|dir| on_disk(dir.medium.as_deref()))
        || volume.config_map.is_some()
}

fn bytes(count: Option<u64>) -> Amount {
    Amount::from_units(i64::try_from(count.unwrap_or_default()).unwrap_or(i64::MAX))
}
