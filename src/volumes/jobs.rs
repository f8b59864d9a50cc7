//! The work on one volume: its files gathered, then written on a blocking thread. No decisions about when or whether.

use std::io;
use std::sync::Arc;

use super::atomic_writer::{self, Write};
use super::directories::make_pod_dirs;
use super::error::SetUpError;
use super::kinds::empty_dir::{self, Medium, Place};
use super::kinds::projected::{self, Inputs, found, fs_group};
use super::kinds::{Allocatable, Kind, config_map, downward_api, host_path, nested, secret};
use super::mounter::Mounter;
use super::paths::{Paths, is_component};
use super::payload::{Objects, Payload};
use super::source::TokenSource;
use crate::linux::beneath::Root;
use crate::model::{Mono, Pod, Wall, pod};

/// The work to set up one volume of a pod.
#[derive(Debug)]
pub(super) struct SetUp {
    pub(super) paths: Arc<Paths>,
    pub(super) allocatable: Allocatable,
    pub(super) pod: Arc<Pod>,
    /// Which of the pod's volumes.
    pub(super) index: usize,
    /// What is known of the objects that it is made of.
    pub(super) objects: Objects,
    pub(super) now: Wall,
    /// Whether files of earlier generations stay.
    pub(super) keep_old: bool,
}

impl SetUp {
    /// Does it. The answer is when to do it again, if there is such a moment. Dropping the future leaves a blocking
    /// part running; it ends by itself.
    pub(super) async fn run<M: Mounter, T: TokenSource>(
        self,
        mounter: M,
        tokens: T,
    ) -> Result<Option<Mono>, SetUpError> {
        let mut texts = Vec::new();
        let mut refresh_at: Option<Mono> = None;
        if let Some(Kind::Projected(source)) = self.kind() {
            for request in projected::token_requests(source, &self.pod) {
                let token = tokens.token(request).await?;
                refresh_at = Some(refresh_at.map_or(token.refresh_at, |known| known.min(token.refresh_at)));
                texts.push(token.secret);
            }
        }
        let work = tokio::task::spawn_blocking(move || self.write(&mounter, &texts));
        work.await.unwrap_or_else(|panicked| Err(SetUpError::Panicked(panicked.to_string())))?;
        Ok(refresh_at)
    }

    fn kind(&self) -> Option<Kind<'_>> {
        self.pod.spec.as_ref()?.volumes.as_ref()?.get(self.index).map(Kind::of)
    }

    fn name(&self) -> &str {
        let volumes = self.pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        volumes.get(self.index).map(|volume| volume.name.as_str()).unwrap_or_default()
    }

    fn write<M: Mounter>(&self, mounter: &M, tokens: &[Arc<str>]) -> Result<(), SetUpError> {
        let Some(kind) = self.kind() else { return Ok(()) };
        let uid = pod::uid(&self.pod);
        if !is_component(self.name()) || !is_component(uid.as_str()) {
            return Err(SetUpError::Payload(format!("{:?} is not the name of a directory", self.name())));
        }
        let dirs = || make_pod_dirs(&self.paths, &uid).map_err(SetUpError::io("make", &self.paths.pod(&uid)));
        match kind {
            Kind::HostPath(source) => host_path::set_up(source),
            Kind::EmptyDir(source) => {
                let medium = empty_dir::medium(source, &self.pod, self.allocatable.memory)?;
                dirs()?;
                let place = self.place(empty_dir::PLUGIN, self.name());
                empty_dir::set_up(mounter, &place, &medium, fs_group(&self.pod))
            }
            Kind::ConfigMap(_) | Kind::Secret(_) | Kind::DownwardApi(_) | Kind::Projected(_) => {
                let payload = self.payload(kind, tokens)?;
                dirs()?;
                self.write_payload(mounter, kind, payload)
            }
            Kind::Image | Kind::Unsupported(_) => Ok(()),
        }
    }

    fn payload(&self, kind: Kind<'_>, tokens: &[Arc<str>]) -> Result<Payload, SetUpError> {
        match kind {
            Kind::ConfigMap(source) => {
                let optional = source.optional == Some(true);
                let object = self.objects.config_maps.get(&source.name);
                let object = found("configmap", &source.name, object, optional)?;
                config_map::payload(source.items.as_deref(), object, source.default_mode, optional)
            }
            Kind::Secret(source) => {
                let optional = source.optional == Some(true);
                let name = source.secret_name.as_deref().unwrap_or_default();
                let object = found("secret", name, self.objects.secrets.get(name), optional)?;
                secret::payload(source.items.as_deref(), object, source.default_mode, optional)
            }
            Kind::DownwardApi(source) => {
                let items = source.items.as_deref().unwrap_or_default();
                downward_api::payload(items, &self.pod, &self.allocatable, source.default_mode)
            }
            Kind::Projected(source) => {
                let inputs = Inputs { pod: &self.pod, objects: &self.objects, tokens, allocatable: &self.allocatable };
                projected::payload(source, &inputs)
            }
            Kind::EmptyDir(_) | Kind::HostPath(_) | Kind::Image | Kind::Unsupported(_) => Ok(Payload::new()),
        }
    }

    fn write_payload<M: Mounter>(&self, mounter: &M, kind: Kind<'_>, payload: Payload) -> Result<(), SetUpError> {
        let place = self.place(kind.plugin().unwrap_or_default(), &format!("wrapped_{}", self.name()));
        // On disk as upstream has it: what a ConfigMap holds is no secret, and its memory would be charged to nobody.
        let medium = match kind {
            Kind::ConfigMap(_) => Medium::Disk,
            Kind::Secret(_)
            | Kind::DownwardApi(_)
            | Kind::Projected(_)
            | Kind::EmptyDir(_)
            | Kind::HostPath(_)
            | Kind::Image
            | Kind::Unsupported(_) => Medium::Memory(empty_dir::memory_size(None, &self.pod, self.allocatable.memory)),
        };
        let fs_group = fs_group(&self.pod);
        empty_dir::set_up(mounter, &place, &medium, fs_group)?;
        let inside = nested::mount_points(&self.pod, self.name()).map_err(SetUpError::Payload)?;
        make_nested(&place, &inside).map_err(SetUpError::io("make the nested mount points in", &place.dir))?;
        let write = Write { dir: &place.dir, fs_group, now: self.now, keep_old: self.keep_old };
        atomic_writer::write(&write, payload).map(|_written| ())
    }

    fn place(&self, plugin: &str, ready_name: &str) -> Place {
        let uid = pod::uid(&self.pod);
        Place {
            dir: self.paths.plugin_volume(&uid, plugin, self.name()),
            ready_dir: self.paths.ready_dir(&uid, ready_name),
        }
    }
}

fn make_nested(place: &Place, inside: &std::collections::BTreeSet<String>) -> io::Result<()> {
    if inside.is_empty() {
        return Ok(());
    }
    let root = Root::open(&place.dir)?;
    inside.iter().try_for_each(|path| root.make_dirs(path.as_ref(), 0o755).map(drop))
}
