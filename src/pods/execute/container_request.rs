//! The request for one container: fetch what its spec refers to, prepare its files and mounts, and
//! put the request together with the pure functions of `pods::request`.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::ActionError;
use super::container::ContainerStart;
use super::references::References;
use super::users::user_ids;
use crate::cri::v1;
use crate::linux::blocking;
use crate::linux::fs::{WriteOptions, ensure_dir, fill, go_text, holds};
use crate::model::reason::container as reason;
use crate::model::{ContainerId, pod};
use crate::pods::request;

impl ContainerStart<'_> {
    /// Makes the request, with everything on disk that it refers to.
    pub(super) async fn request(self) -> Result<v1::CreateContainerRequest, ActionError> {
        let Self { scope, start, container } = self;
        let deps = scope.deps;
        let user_ids = user_ids(scope).await.map_err(|error| refused(error.message))?;
        let fetch = async {
            tokio::join!(
                References::fetch(scope, container),
                deps.runtime.image_users.of(&start.image_ref)
            )
        };
        let (references, image_user) = scope.unless_stopped(fetch).await?;
        let image_user = image_user?;
        let pod_ips = scope.pod_ips();
        let env = self.environment(&references, &pod_ips)?;

        // Given up with the pod's stop: what was set aside stays the pod's own until it is
        // forgotten. Boxed: a plugin's call is large, and most containers need none.
        let given = Box::pin(deps.resources.manager.start(&scope.context.pod, container));
        let allocation = scope.unless_stopped(given).await?;
        let allocation = allocation.map_err(|error| refused(error.to_string()))?;
        let volumes = scope.unless_stopped(self.volume_sources()).await??;
        // Not given up: what is bound half-way would outlive the pod's volumes.
        let sub_paths = self.sub_paths(&env, &volumes).await?;
        let etc_hosts = self.write_etc_hosts(&pod_ips).await?;
        let termination_log = self.termination_log()?;
        let pid_target = self.pid_target()?;

        let config = request::container_config(&request::ContainerInput {
            pod: &scope.context.pod,
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
            oom_score_adj: scope.oom_score_adj(container),
            extra_groups: &deps.volumes.groups(scope.uid),
            user_ids,
            recursive_read_only: scope.recursive_read_only(),
            settings: &deps.settings.spec,
        })
        .map_err(|error| ActionError::new(error.reason, error.message))?;

        // A refused container leaves its folder, but no file for a message that it will not write.
        if let Some(path) = &termination_log {
            fill(Path::new(path), b"", WriteOptions::mode(0o666))
                .map_err(|error| termination_log_failed(Path::new(path), &error))?;
        }
        let sandbox_config = self.sandbox_config(user_ids)?;
        self.make_log_directory(&sandbox_config)?;
        Ok(v1::CreateContainerRequest {
            pod_sandbox_id: start.sandbox.as_str().to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        })
    }

    fn environment(
        self,
        references: &References,
        pod_ips: &[IpAddr],
    ) -> Result<Vec<request::EnvVar>, ActionError> {
        let Self { scope, container, .. } = self;
        let services = scope.services();
        let env = request::environment(&request::EnvInput {
            pod: &scope.context.pod,
            container,
            pod_ips: &scope.preferred(pod_ips),
            host_ips: &scope.deps.node.host_ips.borrow(),
            allocatable: &scope.deps.node.allocatable.borrow(),
            services: services.as_deref(),
            config_maps: &references.config_maps,
            secrets: &references.secrets,
            files: &references.files,
        });
        env.map_err(|error| ActionError::new(error.reason, error.message))
    }

    /// Writes the managed `/etc/hosts`. `None`: the pod has no address yet, or the container mounts
    /// a file of its own there.
    async fn write_etc_hosts(self, pod_ips: &[IpAddr]) -> Result<Option<String>, ActionError> {
        let pod = &self.scope.context.pod;
        let is_host_network = pod::is_host_network(pod);
        if request::mounts_hosts_file(self.container) {
            return Ok(None);
        }
        if pod_ips.is_empty() && !is_host_network {
            return Ok(None);
        }

        let text = if is_host_network {
            let read = blocking::spawn(|| std::fs::read_to_string("/etc/hosts")).await;
            let node = read
                .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
                .map_err(|error| refused(format!("open /etc/hosts: {}", go_text(&error))))?;
            request::node_hosts_file(pod, &node)
        } else {
            let domain = &self.scope.deps.settings.spec.dns.cluster_domain;
            let name = request::hostname(pod, domain).map_err(|error| refused(error.message))?;
            request::hosts_file(pod, &name, pod_ips)
        };

        let path = self.scope.pod_dir().join("etc-hosts");
        // The container may have made the file huge: truncating it takes time.
        let file = path.clone();
        let written = blocking::spawn(move || write_in_place(&file, &text)).await;
        written
            .unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
            .map_err(|error| refused(format!("open {}: {}", path.display(), go_text(&error))))?;
        Ok(Some(path.to_string_lossy().into_owned()))
    }

    /// Names the file of the termination message and makes its folders.
    fn termination_log(self) -> Result<Option<String>, ActionError> {
        let wanted = self.container.termination_message_path.as_deref();
        if wanted.unwrap_or_default().is_empty() {
            return Ok(None);
        }

        let all = self.scope.pod_dir().join("containers");
        let own = all.join(&self.container.name);
        for directory in [&all, &own] {
            ensure_dir(directory, 0o750)
                .map_err(|error| termination_log_failed(directory, &error))?;
        }
        let path = own.join(format!("{:08x}", crate::apiserver::random::bits32()));
        Ok(Some(path.to_string_lossy().into_owned()))
    }

    /// The container whose process namespace an ephemeral container joins.
    fn pid_target(self) -> Result<Option<ContainerId>, ActionError> {
        let context = self.scope.context;
        let mut ephemeral = pod::ephemeral_containers(&context.pod).iter();
        let own = ephemeral.find(|container| container.name == self.start.container);
        let target = own.and_then(|own| own.target_container_name.as_deref()).unwrap_or_default();
        if target.is_empty() {
            return Ok(None);
        }

        match context.observed.latest(target) {
            Some(container) => Ok(Some(container.id.clone())),
            None => Err(refused(format!("unable to find target container {target}"))),
        }
    }

    /// The configuration of the sandbox that the container joins.
    fn sandbox_config(
        self,
        user_ids: Option<request::IdRange>,
    ) -> Result<v1::PodSandboxConfig, ActionError> {
        let mut sandboxes = self.scope.context.observed.sandboxes.iter();
        let sandbox = sandboxes.find(|found| found.id == self.start.sandbox);
        let attempt = sandbox.map_or(0, |sandbox| sandbox.attempt);
        Ok(self.scope.sandbox_request(attempt, user_ids)?.config)
    }

    fn make_log_directory(self, sandbox: &v1::PodSandboxConfig) -> Result<(), ActionError> {
        let name = &self.container.name;
        let directory = Path::new(&sandbox.log_directory).join(name);
        ensure_dir(&directory, 0o755).map_err(|error| {
            refused(format!(
                "create container log directory for container {name} failed: mkdir {}: {}",
                directory.display(),
                go_text(&error)
            ))
        })
    }
}

fn refused(problem: String) -> ActionError {
    ActionError::new(reason::CREATE_CONTAINER_CONFIG_ERROR, problem)
}

fn termination_log_failed(path: &Path, error: &std::io::Error) -> ActionError {
    refused(format!("error making the termination message file {}: {error}", path.display()))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::write_in_place;

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
}
