//! Removes images that are not needed: those that were not used for too long, and others while the
//! disk is too full.
//!
//! In: the runtime's images and containers, the names that pods refer to, the image file system's
//! size, demands of eviction. Out: RemoveImage, events on the node. [`super::gc_plan`] decides
//! which images go, and in which order.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::Measure;
use super::gc_plan::{self, Policy, Records, Seen};
use super::reference::{self, Reference};
use crate::cri::{CriError, v1};
use crate::linux::mount::{FsUsage, fs_usage};
use crate::model::reason::event;
use crate::model::{EventType, Mono};

/// The time between two rounds; upstream's.
const EVERY: Duration = Duration::from_secs(300);

/// Returns the images that pods refer to, as their specs name them.
pub type Wanted = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Demands that may wait for the collector. One asker makes one at a time.
const DEMANDS: usize = 4;

/// A demand to delete every image that nobody needs.
type Demand = oneshot::Sender<Result<(), CollectError>>;

/// Asks for images to be deleted out of turn. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    demands: mpsc::Sender<Demand>,
}

impl Handle {
    /// Deletes every image that no pod needs and that is old enough, whatever is free. Cancel-safe:
    /// what was begun goes on.
    pub async fn delete_unused(&self) -> Result<(), CollectError> {
        let (reply, answer) = oneshot::channel();
        self.demands.send(reply).await.map_err(|_| CollectError::Stopped)?;
        answer.await.map_err(|_| CollectError::Stopped)?
    }
}

/// Collects images.
pub struct Collector {
    images: super::Handle,
    demands: mpsc::Receiver<Demand>,
    policy: Policy,
    node_name: String,
    wanted: Wanted,
    records: Records,
    began: Mono,
    failed: bool,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// The reason why images were not collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The runtime refused, or did not answer.
    #[error("{0}")]
    Runtime(#[from] CriError),
    /// In upstream's words.
    #[error("{0}")]
    Text(String),
    /// The kubelet is ending.
    #[error("the kubelet is stopping")]
    Stopped,
}

impl Collector {
    /// Returns a collector with `policy`, and what asks it for more; `wanted` returns the images
    /// that pods refer to.
    pub fn new(
        images: super::Handle,
        policy: Policy,
        node_name: String,
        wanted: Wanted,
    ) -> (Handle, Self) {
        let (sender, demands) = mpsc::channel(DEMANDS);
        let began = images.inner.clock.now().mono;
        let collector = Self {
            images,
            demands,
            policy,
            node_name,
            wanted,
            records: Records::default(),
            began,
            failed: false,
        };
        (Handle { demands: sender }, collector)
    }

    /// Runs until it is dropped. Where images go on demand only, it knows from the beginning which
    /// there were.
    pub async fn run(mut self) {
        if self.policy.is_off() {
            match self.see().await {
                Ok(seen) => self.records.note(&seen, self.images.inner.clock.now().mono),
                Err(error) => warn!(%error, "images could not be listed"),
            }
        }
        let clock = self.images.inner.clock;
        let mut next = (!self.policy.is_off()).then(|| clock.now().mono);
        loop {
            // Every arm is cancel-safe.
            let demand = tokio::select! {
                () = clock.sleep_until_some(next) => None,
                Some(demand) = self.demands.recv() => Some(demand),
            };
            if let Some(reply) = demand {
                // Nobody may wait for it any more.
                reply.send(self.delete_unused().await).ok();
            } else {
                self.collect().await;
                next = Some(clock.now().mono.after(EVERY));
            }
        }
    }

    /// Makes a round of its own accord.
    async fn collect(&mut self) {
        match self.round().await {
            Ok(()) => self.failed = false,
            Err(error) => {
                warn!(%error, "images could not be collected");
                // The first failure may only mean that the runtime has just come up.
                if std::mem::replace(&mut self.failed, true) {
                    self.tell(event::IMAGE_GC_FAILED, error.to_string());
                }
            }
        }
    }

    /// Deletes every image that nobody needs.
    async fn delete_unused(&mut self) -> Result<(), CollectError> {
        let began = self.images.inner.clock.now();
        let seen = self.see().await?;
        self.records.note(&seen, began.mono);
        info!("deleting images that nobody needs");
        let (freed, left) = self.free(&seen, u64::MAX, began.mono).await?;
        info!(freed, images = left.len(), "images that nobody needs are deleted");
        self.images.prune_records(&left, began.wall);
        Ok(())
    }

    fn tell(&self, reason: &str, message: String) {
        self.images.inner.recorder.node(&self.node_name, EventType::Warning, reason, message);
    }

    async fn round(&mut self) -> Result<(), CollectError> {
        let began = self.images.inner.clock.now();
        let mut seen = self.see().await?;
        let now = began.mono;
        self.records.note(&seen, now);
        let old: Vec<Seen> = self
            .records
            .too_old(&seen, &self.policy, self.began, now)
            .into_iter()
            .cloned()
            .collect();
        for image in &old {
            self.remove(image, "age").await?;
        }

        seen.retain(|image| !old.contains(image));
        let usage = self.usage().await?;
        if usage.capacity == 0 {
            let message = "invalid capacity 0 on image filesystem".to_owned();
            self.tell(event::INVALID_DISK_CAPACITY, message.clone());
            return Err(CollectError::Text(message));
        }

        let Some(wanted) = gc_plan::to_free(&self.policy, usage.capacity, usage.available) else {
            return Ok(());
        };

        let percent = gc_plan::used_percent(usage.capacity, usage.available);
        info!(
            percent,
            to_free = wanted,
            "the image file system is too full: images that nobody uses go"
        );
        let (freed, left) = self.free(&seen, wanted, now).await?;
        self.images.prune_records(&left, began.wall);

        if freed < wanted {
            let size = gc_plan::size_text(usage.capacity);
            let message = format!(
                "Insufficient free disk space on the node's image filesystem ({percent}% of {size} used). Failed to free \
                 sufficient space by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be \
                 used by active images, logs, volumes, or other data."
            );
            self.tell(event::FREE_DISK_SPACE_FAILED, message.clone());
            return Err(CollectError::Text(message));
        }

        Ok(())
    }

    /// Removes images until enough is free. Returns the bytes that were freed, and the ids of the
    /// images that are left.
    async fn free(
        &self,
        seen: &[Seen],
        wanted: u64,
        now: Mono,
    ) -> Result<(u64, Vec<String>), CollectError> {
        let mut left: BTreeSet<String> = seen.iter().map(|image| image.id.clone()).collect();
        let mut freed = 0_u64;
        let mut problems = Vec::new();

        for image in self.records.candidates(seen, &self.policy, now) {
            match self.remove(image, "space").await {
                Ok(()) => {
                    freed = freed.saturating_add(image.size);
                    left.remove(&image.id);
                }
                Err(error) => problems.push(error.to_string()),
            }
            if freed >= wanted {
                break;
            }
        }

        if problems.is_empty() {
            return Ok((freed, left.into_iter().collect()));
        }

        Err(CollectError::Text(format!(
            "wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {}",
            problems.join(", ")
        )))
    }

    async fn remove(&self, image: &Seen, why: &'static str) -> Result<(), CriError> {
        debug!(image = image.id, why, "removing an image");
        let spec = v1::ImageSpec { image: image.id.clone(), ..v1::ImageSpec::default() };
        self.images
            .inner
            .runtime
            .remove_image(v1::RemoveImageRequest { image: Some(spec) })
            .await?;
        (self.images.inner.observer)(Measure::Collected { reason: why });
        Ok(())
    }

    /// Lists the images, and whether each is needed: by a container, or by a pod whose containers
    /// do not exist yet.
    async fn see(&self) -> Result<Vec<Seen>, CriError> {
        let runtime = &self.images.inner.runtime;
        // Containers first: an image that is pulled in between is young, and stays for that reason.
        let containers =
            runtime.list_containers(v1::ListContainersRequest::default()).await?.containers;
        let used: BTreeSet<String> = containers
            .into_iter()
            .flat_map(|container| [container.image_id, container.image_ref])
            .collect();
        let images = runtime.list_images(v1::ListImagesRequest::default()).await?.images;
        let wanted: BTreeSet<String> =
            (self.wanted)().iter().filter_map(|name| full_name(name)).collect();
        let see = |image: v1::Image| {
            let mut names = image.repo_tags.iter().chain(&image.repo_digests);
            let is_named = names.any(|name| {
                used.contains(name) || full_name(name).is_some_and(|name| wanted.contains(&name))
            });
            let in_use = is_named || used.contains(&image.id);
            Seen { in_use, size: image.size, pinned: image.pinned, id: image.id }
        };

        Ok(images.into_iter().map(see).collect())
    }

    async fn usage(&self) -> Result<FsUsage, CollectError> {
        let answer =
            self.images.inner.runtime.image_fs_info(v1::ImageFsInfoRequest::default()).await?;
        let first =
            answer.image_filesystems.into_iter().next().and_then(|filesystem| filesystem.fs_id);
        let Some(id) = first else {
            return Err(CollectError::Text("the runtime names no image file system".to_owned()));
        };
        fs_usage(Path::new(&id.mountpoint))
            .map_err(|error| CollectError::Text(format!("{}: {error}", id.mountpoint)))
    }
}

/// Completes an image's name with all its optional parts.
fn full_name(name: &str) -> Option<String> {
    let reference = Reference::parse(&reference::with_default_tag(name).ok()?).ok()?;
    Some(match (reference.digest, reference.tag) {
        (Some(digest), _) => format!("{}@{digest}", reference.repository),
        (None, tag) => format!("{}:{}", reference.repository, tag.unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Config, Handle, Limits, NodeCredentials, Plugins, Verification};
    use super::{Collector, Policy};
    use crate::apiserver::events::Recorder;
    use crate::clock::Clock;
    use crate::cri::fake::FakeRuntime;

    #[tokio::test(start_paused = true)]
    async fn what_pods_refer_to_stays_and_old_ones_go() {
        let clock = Clock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let fake = FakeRuntime::new(clock);
        fake.add_image("docker.io/library/needed:1", 10);
        fake.add_image("docker.io/library/unused:1", 10);
        let root = tempfile::tempdir().expect("a directory");
        let settings = Config {
            limits: Limits { parallel: None, qps: 0.0, burst: 0 },
            node_credentials: NodeCredentials::in_usual_places(root.path(), None),
            root_dir: root.path().to_owned(),
            verification: Verification::Never,
            plugins: Plugins::default(),
        };
        let images =
            Handle::new(settings, fake.client(), clock, Recorder::channel().0, Arc::new(|_| {}));
        let policy = Policy {
            high_percent: 100,
            low_percent: 80,
            min_age: Duration::from_secs(120),
            max_age: Duration::from_secs(600),
        };
        let (_handle, collector) = Collector::new(
            images,
            policy,
            "n".to_owned(),
            Arc::new(|| vec!["needed:1".to_owned()]),
        );
        let running = collector.run();
        tokio::pin!(running);
        tokio::time::timeout(Duration::from_secs(500), &mut running).await.expect_err("it runs on");
        assert_eq!(fake.count("RemoveImage"), 0, "not watched for long enough");
        tokio::time::timeout(Duration::from_secs(500), &mut running).await.expect_err("it runs on");
        assert_eq!(fake.count("RemoveImage"), 1);
        let images = fake.images();
        assert!(images.len() == 1 && images[0].contains("needed"), "{images:?}");
    }
}
