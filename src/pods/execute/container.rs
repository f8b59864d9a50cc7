//! Starting a container: fetch what its spec refers to, prepare files, create, start; and running
//! its postStart hook.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1 as api;
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::super::memory::container::HookState;
use super::super::plan::types::Key;
use super::super::{hooks, request};
use super::executor::PodExecutor;
use super::{ActionError, Completion, Context, Count, Outcome};
use crate::apiserver::objects::ObjectError;
use crate::cri::v1;
use crate::linux::blocking;
use crate::linux::fs::{WriteOptions, fill, go_text, holds};
use crate::model::reason::{container as reason, event};
use crate::model::{ContainerId, ContainerKind, EventType, SandboxId, pod};

/// How long a ConfigMap or Secret may take to arrive for the first time.
const OBJECT_DEADLINE: Duration = Duration::from_secs(10);

/// The longest file name that is used for the legacy link to a log.
const MAX_LINK_NAME: usize = 255;

/// Why an image cannot be had.
const IMAGE_REASONS: [&str; 6] = [
    reason::ERR_IMAGE_PULL,
    reason::IMAGE_PULL_BACK_OFF,
    reason::ERR_IMAGE_NEVER_PULL,
    reason::INVALID_IMAGE_NAME,
    reason::IMAGE_INSPECT_ERROR,
    reason::REGISTRY_UNAVAILABLE,
];

/// A start as it was planned.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) container: String,
    pub(super) kind: ContainerKind,
    pub(super) restart_count: u32,
    pub(super) sandbox: SandboxId,
    pub(super) image_ref: String,
}

/// Without an API server nothing can be fetched.
fn standalone(kind: &'static str, namespace: &str, name: &str) -> ObjectError {
    ObjectError::Failed {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        problem: "the kubelet runs without an API server".to_owned(),
    }
}

/// The users of images, by the image's id: what is asked of the runtime once need not be asked at
/// every start.
#[derive(Debug, Default)]
pub struct ImageUsers(Mutex<BTreeMap<String, request::ImageUser>>);

impl ImageUsers {
    /// How many are remembered; more images than that are rare, and being asked again does no harm.
    const MOST: usize = 256;

    fn get(&self, id: &str) -> Option<request::ImageUser> {
        self.0.lock().get(id).cloned()
    }

    fn remember(&self, id: &str, user: &request::ImageUser) {
        let mut known = self.0.lock();
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(id.to_owned(), user.clone());
    }
}

/// What the container's spec refers to, fetched.
#[derive(Debug, Default)]
struct References {
    config_maps: BTreeMap<String, Result<Arc<api::ConfigMap>, ObjectError>>,
    secrets: BTreeMap<String, Result<Arc<api::Secret>, ObjectError>>,
    files: BTreeMap<(String, String), request::EnvFile>,
}

/// Writes a file that running containers have mounted, so that it stays the same file. A container
/// may have written anything to it: no more than the wanted text is read back. Blocks.
fn write_in_place(path: &Path, text: &str) -> std::io::Result<()> {
    if holds(path, text.as_bytes()) {
        return Ok(());
    }

    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

fn termination_log_failed(path: &Path, error: &std::io::Error) -> ActionError {
    ActionError::new(
        reason::CREATE_CONTAINER_CONFIG_ERROR,
        format!("error making the termination message file {}: {error}", path.display()),
    )
}

impl PodExecutor {
    /// Creates and starts a container.
    pub(super) async fn start(&self, key: Key, start: Start, context: Context) -> Completion {
        let Some((_, container)) = pod::find_container(&context.pod, &start.container) else {
            let error = ActionError::internal(format!(
                "container {} is not in the pod's spec",
                start.container
            ));
            return Completion { key, outcome: Err(error), mutated: false };
        };
        // Files that it is given by subPath stay from before they are looked up until it has them,
        // even if they change meanwhile: a removed one cannot be mounted.
        let guard = self.deps.volumes.starting(&self.uid);
        let kind = start.kind;
        self.deps.metrics.count(Count::Container(kind));
        let request = match self.request(&start, &container, &context).await {
            // The pod has begun to stop meanwhile: what was waited for has been given up, nothing
            // was created.
            Ok(_) | Err(_) if context.stop.is_cancelled() => {
                return Completion { key, outcome: Ok(Outcome::Done), mutated: false };
            }
            Ok(request) => request,
            Err(error) => {
                // Of an image that is a volume the pull has told already.
                if !IMAGE_REASONS.contains(&error.reason.as_str()) {
                    self.start_failed(&context, &start.container, &error.message);
                }
                self.deps.metrics.count(Count::ContainerFailed { kind, reason: &error.reason });
                return Completion { key, outcome: Err(error), mutated: false };
            }
        };
        let has_post_start =
            container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
        let outcome = self.create_and_start(&start, request, has_post_start, &context).await;
        drop(guard);
        if let Err(error) = &outcome {
            self.deps.metrics.count(Count::ContainerFailed { kind, reason: &error.reason });
        }
        Completion { key, outcome, mutated: true }
    }

    async fn create_and_start(
        &self,
        start: &Start,
        request: v1::CreateContainerRequest,
        has_post_start: bool,
        context: &Context,
    ) -> Result<Outcome, ActionError> {
        let log_path =
            request.config.as_ref().map(|config| config.log_path.clone()).unwrap_or_default();
        let log_directory = request
            .sandbox_config
            .as_ref()
            .map(|config| config.log_directory.clone())
            .unwrap_or_default();
        if context.stop.is_cancelled() {
            return Ok(Outcome::Done);
        }
        let turn = self.deps.permits.container();
        let mutation = self.deps.pleg.begin(&self.uid);
        let (created, mut mutation) = self.deps.cri.create_container(request, mutation).await;
        let id = match created {
            Ok(id) => id,
            Err(error) => {
                mutation.end();
                let message = error.message.clone();
                self.start_failed(context, &start.container, &message);
                return Err(ActionError::new(reason::CREATE_CONTAINER_ERROR, message));
            }
        };
        mutation.touched_container(&id, &start.sandbox);
        self.container_event(
            &context.pod,
            &start.container,
            EventType::Normal,
            event::CREATED,
            "Container created".into(),
        );
        if context.stop.is_cancelled() {
            // It was being made when the pod was told to stop: it is removed with the rest.
            mutation.end();
            return Ok(Outcome::Done);
        }
        let (started, mutation) = self.deps.cri.start_container(&id, mutation).await;
        mutation.end();
        drop(turn);
        if let Err(error) = started {
            let message = error.message.clone();
            // Ids differ each time: events that name them could not be counted as one.
            self.start_failed(
                context,
                &start.container,
                &message.replace(id.as_str(), &start.container),
            );
            return Err(ActionError::new(reason::RUN_CONTAINER_ERROR, message));
        }
        self.container_event(
            &context.pod,
            &start.container,
            EventType::Normal,
            event::STARTED,
            "Container started".into(),
        );
        self.link_log(context, &start.container, &id, &Path::new(&log_directory).join(log_path));
        Ok(Outcome::Started { id, has_post_start })
    }

    fn start_failed(&self, context: &Context, container: &str, message: &str) {
        debug!(container, message, "starting a container failed");
        self.container_event(
            &context.pod,
            container,
            EventType::Warning,
            event::FAILED,
            format!("Error: {message}"),
        );
    }

    /// Everything that the runtime needs to know.
    async fn request(
        &self,
        start: &Start,
        container: &api::Container,
        context: &Context,
    ) -> Result<v1::CreateContainerRequest, ActionError> {
        let config_error =
            |error: request::SpecError| ActionError::new(error.reason, error.message);
        let refused = |problem| ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, problem);
        let user_ids = self.user_ids(&context.pod).await.map_err(|error| refused(error.message))?;
        let cancelled = || ActionError::internal("the pod stops");
        let fetch = async {
            tokio::join!(self.references(container, context), self.image_user(&start.image_ref))
        };
        let (references, image_user) =
            context.stop.run_until_cancelled(fetch).await.ok_or_else(cancelled)?;
        let image_user = image_user?;
        let pod_ips = self.pod_ips(context);
        let services = self.services(&context.pod);
        let env = request::environment(&request::EnvInput {
            pod: &context.pod,
            container,
            pod_ips: &self.preferred(&pod_ips),
            host_ips: &self.deps.host_ips.borrow(),
            allocatable: &self.deps.allocatable.borrow(),
            services: services.as_deref(),
            config_maps: &references.config_maps,
            secrets: &references.secrets,
            files: &references.files,
        })
        .map_err(config_error)?;
        // Given up with the pod's stop: what was set aside stays the pod's own until it is
        // forgotten.
        // Boxed: a plugin's call is large, and most containers need none.
        let given = Box::pin(self.deps.manager.start(&context.pod, container));
        let allocation = context.stop.run_until_cancelled(given);
        let allocation = allocation.await.ok_or_else(cancelled)?.map_err(refused)?;
        let sources = context.stop.run_until_cancelled(self.volume_sources(container, context));
        let volumes = sources.await.ok_or_else(cancelled)??;
        // Not given up: what is bound half-way would outlive the pod's volumes.
        let sub_paths = self.sub_paths(container, &env, &volumes, context).await?;
        let etc_hosts = self.write_etc_hosts(container, context, &pod_ips).await?;
        let termination_log = self.termination_log(container)?;
        let pid_target = Self::pid_target(&start.container, context)?;
        let config = request::container_config(&request::ContainerInput {
            pod: &context.pod,
            container,
            restart_count: start.restart_count,
            image_ref: &start.image_ref,
            image_user: &image_user,
            env: &env,
            allocation: &allocation,
            volumes: &volumes,
            sub_paths: &sub_paths,
            etc_hosts: etc_hosts.as_deref(),
            termination_log: termination_log.as_deref(),
            pid_target: pid_target.as_ref(),
            oom_score_adj: self.oom_score_adj(&context.pod, container),
            extra_groups: &self.deps.volumes.groups(&self.uid),
            user_ids,
            recursive_read_only: self.recursive_read_only(&context.pod),
            settings: &self.deps.settings.spec,
        })
        .map_err(config_error)?;
        // A container that is refused leaves its folder, but no file for a message that it will not
        // write.
        if let Some(path) = &termination_log {
            fill(Path::new(path), b"", WriteOptions::mode(0o666))
                .map_err(|error| termination_log_failed(Path::new(path), &error))?;
        }
        let sandbox = context.observed.sandboxes.iter().find(|found| found.id == start.sandbox);
        let attempt = sandbox.map_or(0, |sandbox| sandbox.attempt);
        let sandbox_config = self.sandbox_request(context, attempt, user_ids)?.config;
        let log_directory = Path::new(&sandbox_config.log_directory).join(&container.name);
        crate::linux::fs::ensure_dir(&log_directory, 0o755).map_err(|error| {
            refused(format!(
                "create container log directory for container {} failed: mkdir {}: {}",
                container.name,
                log_directory.display(),
                go_text(&error)
            ))
        })?;
        Ok(v1::CreateContainerRequest {
            pod_sandbox_id: start.sandbox.as_str().to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        })
    }

    /// Fetches the ConfigMaps, Secrets and files that the environment refers to, all at once.
    async fn references(&self, container: &api::Container, context: &Context) -> References {
        let namespace = pod::key(&context.pod).namespace;
        let mut references = References::default();
        let (mut maps, mut secrets) = (Vec::new(), Vec::new());
        for reference in request::references(&context.pod, container) {
            match reference {
                request::ObjectRef::ConfigMap { name, .. } => maps.push(name),
                request::ObjectRef::Secret { name, .. } => secrets.push(name),
                request::ObjectRef::File { volume, path } => {
                    if let Some(file) = self.read_env_file(&context.pod, &volume, &path).await {
                        references.files.insert((volume, path), file);
                    }
                }
            }
        }
        let maps = join_all(maps.into_iter().map(async |name| {
            let fetched = match &self.deps.objects {
                Some(objects) => objects.config_map(&namespace, &name).get(OBJECT_DEADLINE).await,
                None => Err(standalone("configmap", &namespace, &name)),
            };
            (name, fetched)
        }));
        let secrets = join_all(secrets.into_iter().map(async |name| {
            let fetched = match &self.deps.objects {
                Some(objects) => objects.secret(&namespace, &name).get(OBJECT_DEADLINE).await,
                None => Err(standalone("secret", &namespace, &name)),
            };
            (name, fetched)
        }));
        let (maps, secrets) = tokio::join!(maps, secrets);
        references.config_maps = maps.into_iter().collect();
        references.secrets = secrets.into_iter().collect();
        references
    }

    /// The user that the image was built to run as: asked for once per image.
    async fn image_user(&self, image_ref: &str) -> Result<request::ImageUser, ActionError> {
        if let Some(known) = self.deps.image_users.get(image_ref) {
            return Ok(known);
        }
        let request = v1::ImageStatusRequest {
            image: Some(v1::ImageSpec { image: image_ref.to_owned(), ..v1::ImageSpec::default() }),
            verbose: false,
        };
        let answer = self.deps.cri.image_status(request).await.map_err(|error| {
            ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, error.to_string())
        })?;
        let image = answer.image.unwrap_or_default();
        let user = match image.uid {
            Some(uid) => request::ImageUser::Uid(uid.value),
            None if image.username.is_empty() => request::ImageUser::Uid(0),
            None => request::ImageUser::Name(image.username),
        };
        // An id is made from the content, so it keeps its user; a name may be given to another
        // image.
        if image.id == image_ref {
            self.deps.image_users.remember(image_ref, &user);
        }
        Ok(user)
    }

    /// Writes the managed `/etc/hosts`; `None` while the pod has no address, or where the container
    /// mounts its own (it is then not mounted, as upstream).
    async fn write_etc_hosts(
        &self,
        container: &api::Container,
        context: &Context,
        pod_ips: &[std::net::IpAddr],
    ) -> Result<Option<String>, ActionError> {
        if request::mounts_hosts_file(container) {
            return Ok(None);
        }
        if pod_ips.is_empty() && !pod::is_host_network(&context.pod) {
            return Ok(None);
        }
        let failed =
            |message: String| ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, message);
        let text = if pod::is_host_network(&context.pod) {
            let read = blocking::spawn(|| std::fs::read_to_string("/etc/hosts")).await;
            let node = read
                .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
                .map_err(|error| failed(format!("open /etc/hosts: {}", go_text(&error))))?;
            request::node_hosts_file(&context.pod, &node)
        } else {
            let name = request::hostname(&context.pod, &self.deps.settings.spec.dns.cluster_domain)
                .map_err(|error| failed(error.message))?;
            request::hosts_file(&context.pod, &name, pod_ips)
        };
        let path = self.pod_dir().join("etc-hosts");
        // The container may have made the file huge: truncating it takes time.
        let file = path.clone();
        let written = blocking::spawn(move || write_in_place(&file, &text)).await;
        written
            .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
            .map_err(|error| failed(format!("open {}: {}", path.display(), go_text(&error))))?;
        Ok(Some(path.to_string_lossy().into_owned()))
    }

    /// Where the file of the termination message goes; its folders are made.
    fn termination_log(&self, container: &api::Container) -> Result<Option<String>, ActionError> {
        if container.termination_message_path.as_deref().unwrap_or_default().is_empty() {
            return Ok(None);
        }
        let all = self.pod_dir().join("containers");
        let own = all.join(&container.name);
        for directory in [&all, &own] {
            crate::linux::fs::ensure_dir(directory, 0o750)
                .map_err(|error| termination_log_failed(directory, &error))?;
        }
        let path = own.join(format!("{:08x}", crate::apiserver::random::bits32()));
        Ok(Some(path.to_string_lossy().into_owned()))
    }

    /// The container whose process namespace an ephemeral container joins.
    fn pid_target(name: &str, context: &Context) -> Result<Option<ContainerId>, ActionError> {
        let ephemeral =
            pod::ephemeral_containers(&context.pod).iter().find(|container| container.name == name);
        let target = ephemeral
            .and_then(|container| container.target_container_name.as_deref())
            .unwrap_or_default();
        if target.is_empty() {
            return Ok(None);
        }
        match context.observed.latest(target) {
            Some(container) => Ok(Some(container.id.clone())),
            None => Err(ActionError::new(
                reason::CREATE_CONTAINER_CONFIG_ERROR,
                format!("unable to find target container {target}"),
            )),
        }
    }

    /// Links the log where node agents look for it:
    /// `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`.
    fn link_log(&self, context: &Context, container: &str, id: &ContainerId, log: &Path) {
        let link = self.log_link(context, container, id);
        if !log.exists() {
            return;
        }
        if let Err(error) = std::os::unix::fs::symlink(log, &link) {
            warn!(link = %link.display(), %error, "linking a container's log failed");
        }
    }

    /// The legacy link to a container's log.
    pub(super) fn log_link(&self, context: &Context, container: &str, id: &ContainerId) -> PathBuf {
        let key = pod::key(&context.pod);
        let mut name = format!("{}_{}_{container}-{id}", key.name, key.namespace);
        name.truncate(MAX_LINK_NAME - ".log".len());
        self.deps.settings.container_logs_dir.join(name + ".log")
    }

    /// Runs the postStart hook of a container.
    pub(super) async fn post_start(
        &self,
        key: Key,
        container: String,
        id: ContainerId,
        context: Context,
    ) -> Completion {
        let state = self.run_post_start(&container, &id, &context).await;
        Completion { key, outcome: Ok(Outcome::Hook { id, state }), mutated: false }
    }

    async fn run_post_start(
        &self,
        container: &str,
        id: &ContainerId,
        context: &Context,
    ) -> HookState {
        let Some((kind, spec)) = pod::find_container(&context.pod, container) else {
            return HookState::Done;
        };
        let target = hooks::HookTarget {
            exec: &*self.deps.exec,
            recorder: &self.deps.recorder,
            pod: &context.pod,
            kind,
            container: &spec,
            id,
            pod_ip: self.pod_ip(context),
        };
        match hooks::post_start(target).await {
            Ok(()) => HookState::Done,
            Err(error) => {
                warn!(container, "postStart hook failed");
                HookState::Failed { message: error.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::{ImageUsers, request::ImageUser, write_in_place};

    #[test]
    fn a_hosts_file_that_a_container_has_blown_up_is_written_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("etc-hosts");
        write_in_place(&path, "127.0.0.1 web").expect("written");
        let inode = || std::fs::metadata(&path).expect("it exists").ino();
        let first = inode();
        // `truncate -s 1T /etc/hosts`, in the container.
        std::fs::File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("grown");
        write_in_place(&path, "127.0.0.1 web").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("readable"), "127.0.0.1 web");
        assert_eq!(inode(), first, "containers that run have it mounted");
    }

    #[test]
    fn the_users_that_are_remembered_are_bounded() {
        let users = ImageUsers::default();
        for number in 0..=ImageUsers::MOST {
            users.remember(&format!("sha256:{number}"), &ImageUser::Uid(1));
        }
        assert_eq!(users.get("sha256:0"), None);
        assert_eq!(users.get(&format!("sha256:{}", ImageUsers::MOST)), Some(ImageUser::Uid(1)));
        assert_eq!(users.0.lock().len(), 1);
    }
}
