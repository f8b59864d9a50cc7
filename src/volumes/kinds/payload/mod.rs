//! configMap, secret, downwardAPI and projected volumes: files that this process writes, in an
//! emptyDir that is wrapped around them.
//!
//! Each kind says which files there are; this file puts them in place by the atomic writer, so that
//! a container never sees half of a change. Only a ConfigMap's files lie on disk.

pub mod config_map;
pub mod downward;
pub mod projected;
pub mod secret;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::context::{Context, Done, OnDisk, Place};
use super::empty_dir;
use crate::linux::beneath::Root;
use crate::model::Pod;
use crate::volumes::atomic_writer::{self, Write};
use crate::volumes::error::{SetUpError, TearDownError};
use crate::volumes::medium::Medium;
use crate::volumes::mounter::Mounter;
use crate::volumes::nested;
use crate::volumes::payload::Payload;

/// Writes the files that `files` makes. `medium` is where they lie: memory, but for a ConfigMap.
async fn set_up<M: Mounter, T: Send + Sync + 'static>(
    plugin: &'static str,
    medium: Medium,
    context: &Arc<Context<M, T>>,
    files: impl FnOnce(&Context<M, T>) -> Result<Payload, SetUpError> + Send + 'static,
) -> Result<Done, SetUpError> {
    let write = move |context: &Context<M, T>| {
        context.check_names()?;
        let payload = files(context)?;
        context.make_pod_dirs()?;
        write(plugin, &medium, context, payload)
    };
    let kept_old = context.blocking(write).await?;
    Ok(Done { kept_old, ..Done::default() })
}

/// Writes the files, and answers whether older ones were kept. Blocks.
fn write<M: Mounter, T>(
    plugin: &str,
    medium: &Medium,
    context: &Context<M, T>,
    payload: Payload,
) -> Result<bool, SetUpError> {
    let place = context.place(plugin, &wrapped(context.name()));
    let fs_group = fs_group(&context.pod);
    context.note(plugin, medium)?;
    empty_dir::make(&context.tools.mounter, &place, medium, fs_group)?;

    let inside = nested::mount_points(&context.pod, context.name());
    let inside = inside.map_err(|error| SetUpError::Payload(error.into()))?;
    make_nested(&place, &inside)
        .map_err(SetUpError::io("make the nested mount points in", &place.dir))?;

    let write =
        Write { dir: &place.dir, fs_group, now: context.now, keep_old: &*context.is_starting };
    atomic_writer::write(&write, payload).map(|written| written.kept_old)
}

fn make_nested(place: &Place, inside: &BTreeSet<String>) -> io::Result<()> {
    if inside.is_empty() {
        return Ok(());
    }
    let root = Root::open(&place.dir)?;
    inside.iter().try_for_each(|path| root.make_dirs(path.as_ref(), 0o755).map(drop))
}

/// The medium of files that may be secret: memory, charged to the pod.
fn memory<M, T>(context: &Context<M, T>) -> Medium {
    Medium::Memory(empty_dir::memory_size(None, &context.pod, context.allocatable.memory))
}

/// Removes the files, their mount and their directory.
pub(super) async fn tear_down<M: Mounter>(
    plugin: &str,
    volume: &Arc<OnDisk<M>>,
) -> Result<(), TearDownError> {
    let plugin = plugin.to_owned();
    let remove =
        move |volume: &OnDisk<M>| empty_dir::remove(&volume.mounter, &place(&plugin, volume));
    volume.blocking(remove).await
}

/// Returns true if a generation of files is there as a whole. Blocks.
pub(super) fn on_disk<M: Mounter>(plugin: &str, volume: &OnDisk<M>) -> bool {
    let place = place(plugin, volume);
    empty_dir::is_ready(&place.ready_dir) && atomic_writer::is_complete(&place.dir)
}

fn place<M: Mounter>(plugin: &str, volume: &OnDisk<M>) -> Place {
    Place {
        dir: volume.dir(plugin),
        ready_dir: volume.paths.ready_dir(&volume.uid, &wrapped(&volume.directory)),
    }
}

/// The name under which upstream marks the emptyDir of such a volume as ready.
fn wrapped(name: &str) -> String {
    format!("wrapped_{name}")
}

/// Returns the pod's `fsGroup`.
pub(super) fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}
