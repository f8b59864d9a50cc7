//! Security contexts: the pod's and the container's merged, users checked, namespaces chosen.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1 as api;

use crate::cri::v1::security_profile::ProfileType;
use crate::cri::v1::{
    Capability, IdMapping, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy,
    UserNamespace,
};
use crate::model::{Pod, pod};

use super::input::{ContainerInput, ImageUser};
use super::{IdRange, Settings, SpecError, pod_in_messages};

/// Hidden below `/proc` and `/sys` unless `procMount` is `Unmasked`.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Read-only below `/proc` unless `procMount` is `Unmasked`.
const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// The annotations that AppArmor profiles had before the field; static pods may still have them.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

fn pod_context(pod: &Pod) -> Option<&api::PodSecurityContext> {
    pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref())
}

/// The security context of a sandbox. `extra_groups` come with the pod's volumes.
pub(super) fn sandbox_security(
    pod: &Pod,
    extra_groups: &[i64],
    user_ids: Option<IdRange>,
) -> Result<LinuxSandboxSecurityContext, SpecError> {
    let mut out = LinuxSandboxSecurityContext {
        privileged: has_privileged_container(pod),
        // The sandbox's own process needs nothing that the runtime's profile would forbid.
        seccomp: Some(profile(ProfileType::RuntimeDefault)),
        namespace_options: Some(namespaces(pod, user_ids)),
        ..LinuxSandboxSecurityContext::default()
    };
    let Some(context) = pod_context(pod) else { return Ok(out) };
    out.run_as_user = context.run_as_user.map(|value| Int64Value { value });
    out.run_as_group = context.run_as_group.map(|value| Int64Value { value });
    out.supplemental_groups.extend(context.fs_group);
    out.supplemental_groups.extend(extra_groups);
    out.supplemental_groups.extend(context.supplemental_groups.iter().flatten());
    out.supplemental_groups_policy = groups_policy(context).map_err(SpecError::sandbox)?;
    out.selinux_options = context.se_linux_options.as_ref().map(selinux);
    Ok(out)
}

fn has_privileged_container(pod: &Pod) -> bool {
    let privileged = |context: &Option<api::SecurityContext>| {
        context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
    };
    let containers = pod::init_containers(pod).iter().chain(pod::main_containers(pod));
    containers.map(|container| &container.security_context).any(privileged)
        || pod::ephemeral_containers(pod)
            .iter()
            .any(|container| privileged(&container.security_context))
}

/// The namespaces that the pod's containers share with the node and with each other.
fn namespaces(pod: &Pod, user_ids: Option<IdRange>) -> NamespaceOption {
    let spec = pod.spec.as_ref();
    let set = |field: fn(&api::PodSpec) -> Option<bool>| spec.and_then(field).unwrap_or(false);
    let shared = |node: bool| if node { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if set(|spec| spec.host_pid) {
        NamespaceMode::Node
    } else if set(|spec| spec.share_process_namespace) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: shared(set(|spec| spec.host_network)).into(),
        pid: pid.into(),
        ipc: shared(set(|spec| spec.host_ipc)).into(),
        target_id: String::new(),
        userns_options: Some(UserNamespace {
            mode: shared(user_ids.is_none()).into(),
            uids: id_mappings(user_ids),
            gids: id_mappings(user_ids),
        }),
    }
}

/// How ids of a pod are those of the node; none for a pod that shares the node's.
pub(super) fn id_mappings(user_ids: Option<IdRange>) -> Vec<IdMapping> {
    user_ids
        .iter()
        .map(|ids| IdMapping { host_id: ids.first, container_id: 0, length: ids.length })
        .collect()
}

fn groups_policy(context: &api::PodSecurityContext) -> Result<i32, String> {
    match context.supplemental_groups_policy.as_deref() {
        None | Some("Merge") => Ok(SupplementalGroupsPolicy::Merge.into()),
        Some("Strict") => Ok(SupplementalGroupsPolicy::Strict.into()),
        Some(other) => Err(format!("unsupported supplementalGroupsPolicy: {other}")),
    }
}

fn selinux(options: &api::SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn profile(profile_type: ProfileType) -> SecurityProfile {
    SecurityProfile { profile_type: profile_type.into(), localhost_ref: String::new() }
}

/// The security context of a container.
pub(super) fn container_security(
    input: &ContainerInput<'_>,
) -> Result<LinuxContainerSecurityContext, SpecError> {
    let (pod, container) = (input.pod, input.container);
    let effective = Effective::of(pod, container);
    verify_non_root(&effective, input)?;

    let empty = api::SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&empty);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let mut out = LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|set| Capability {
            add_capabilities: set.add.clone().unwrap_or_default(),
            drop_capabilities: set.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: own.privileged.unwrap_or(false),
        selinux_options: effective.selinux.map(selinux),
        run_as_user: effective.run_as_user.map(|value| Int64Value { value }),
        run_as_group: effective.run_as_group.map(|value| Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation.is_some_and(|allowed| !allowed),
        seccomp: Some(seccomp(pod, own, input.settings)?),
        ..LinuxContainerSecurityContext::default()
    };
    if !unmasked {
        let masked = MASKED_PATHS.iter().map(ToString::to_string);
        out.masked_paths =
            masked.chain(input.settings.extra_masked_paths.iter().cloned()).collect();
        out.readonly_paths = READONLY_PATHS.iter().map(ToString::to_string).collect();
    }
    if out.run_as_user.is_none() {
        match input.image_user {
            ImageUser::Uid(value) => out.run_as_user = Some(Int64Value { value: *value }),
            ImageUser::Name(name) => out.run_as_username.clone_from(name),
        }
    }
    apparmor(&mut out, pod, container)?;

    let mut namespaces = namespaces(pod, input.user_ids);
    if let Some(target) = input.pid_target
        && namespaces.pid == i32::from(NamespaceMode::Container)
    {
        namespaces.pid = NamespaceMode::Target.into();
        target.as_str().clone_into(&mut namespaces.target_id);
    }
    out.namespace_options = Some(namespaces);

    if let Some(context) = pod_context(pod) {
        out.supplemental_groups.extend(context.fs_group);
        out.supplemental_groups.extend(context.supplemental_groups.iter().flatten());
        out.supplemental_groups_policy = groups_policy(context).map_err(SpecError::container)?;
    }
    out.supplemental_groups.extend(input.extra_groups);
    Ok(out)
}

/// The fields that both security contexts have, the container's first.
struct Effective<'a> {
    run_as_user: Option<i64>,
    run_as_group: Option<i64>,
    run_as_non_root: bool,
    selinux: Option<&'a api::SELinuxOptions>,
}

impl<'a> Effective<'a> {
    fn of(pod: &'a Pod, container: &'a api::Container) -> Self {
        let shared = pod_context(pod);
        let own = container.security_context.as_ref();
        Self {
            run_as_user: own
                .and_then(|own| own.run_as_user)
                .or(shared.and_then(|shared| shared.run_as_user)),
            run_as_group: own
                .and_then(|own| own.run_as_group)
                .or(shared.and_then(|shared| shared.run_as_group)),
            run_as_non_root: own
                .and_then(|own| own.run_as_non_root)
                .or(shared.and_then(|shared| shared.run_as_non_root))
                .unwrap_or(false),
            selinux: own
                .and_then(|own| own.se_linux_options.as_ref())
                .or(shared.and_then(|shared| shared.se_linux_options.as_ref())),
        }
    }
}

/// `runAsNonRoot`, which can be verified for numeric users only.
fn verify_non_root(effective: &Effective<'_>, input: &ContainerInput<'_>) -> Result<(), SpecError> {
    if !effective.run_as_non_root {
        return Ok(());
    }
    let whose =
        format!("(pod: {:?}, container: {})", pod_in_messages(input.pod), input.container.name);
    let refuse = |problem: String| Err(SpecError::container(format!("{problem} {whose}")));
    match (effective.run_as_user, input.image_user) {
        (Some(0), _) => refuse("container's runAsUser breaks non-root policy".to_owned()),
        (None, ImageUser::Name(name)) if !name.is_empty() => refuse(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        )),
        (None, ImageUser::Uid(0)) => {
            refuse("container has runAsNonRoot and image will run as root".to_owned())
        }
        (None, ImageUser::Uid(uid)) if *uid < 0 || *uid > i64::from(i32::MAX) => refuse(format!(
            "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({max})): must be between \
             0 and {max}, inclusive",
            max = i32::MAX
        )),
        (Some(_), _) | (None, ImageUser::Uid(_) | ImageUser::Name(_)) => Ok(()),
    }
}

fn seccomp(
    pod: &Pod,
    own: &api::SecurityContext,
    settings: &Settings,
) -> Result<SecurityProfile, SpecError> {
    let wanted =
        own.seccomp_profile.as_ref().or_else(|| pod_context(pod)?.seccomp_profile.as_ref());
    let Some(wanted) = wanted else {
        let kind = if settings.seccomp_default {
            ProfileType::RuntimeDefault
        } else {
            ProfileType::Unconfined
        };
        return Ok(profile(kind));
    };
    match (wanted.type_.as_str(), wanted.localhost_profile.as_deref()) {
        ("RuntimeDefault", _) => Ok(profile(ProfileType::RuntimeDefault)),
        ("Localhost", Some(file)) if !file.is_empty() => Ok(SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: joined(&settings.seccomp_profile_root, file),
        }),
        ("Localhost", _) => Err(SpecError::container(
            "localhostProfile must be set if seccompProfile type is Localhost.",
        )),
        _ => Ok(profile(ProfileType::Unconfined)),
    }
}

/// `root/file`, tidied as Go's `filepath.Join` does.
fn joined(root: &str, file: &str) -> String {
    let mut path = PathBuf::from(root);
    for part in Path::new(file).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    path.to_string_lossy().into_owned()
}

/// Sets the profile in the field and, for older runtimes, in the form that preceded it.
#[expect(deprecated, reason = "runtimes of before CRI 1.30 read only the old field")]
fn apparmor(
    out: &mut LinuxContainerSecurityContext,
    pod: &Pod,
    container: &api::Container,
) -> Result<(), SpecError> {
    let field = container.security_context.as_ref().and_then(|own| own.app_armor_profile.as_ref());
    let annotation = || pod::annotation(pod, &format!("{APPARMOR_ANNOTATION}{}", container.name));
    let (kind, file) = if let Some(field) = field {
        (field.type_.as_str(), field.localhost_profile.as_deref())
    } else if let Some(known) = annotation().and_then(from_annotation) {
        known
    } else if let Some(shared) =
        pod_context(pod).and_then(|context| context.app_armor_profile.as_ref())
    {
        (shared.type_.as_str(), shared.localhost_profile.as_deref())
    } else {
        return Ok(());
    };
    let (profile, old) = match (kind, file) {
        ("RuntimeDefault", _) => {
            (profile(ProfileType::RuntimeDefault), "runtime/default".to_owned())
        }
        ("Unconfined", _) => (profile(ProfileType::Unconfined), "unconfined".to_owned()),
        ("Localhost", Some(file)) => {
            let localhost_ref = file.to_owned();
            (
                SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref },
                format!("localhost/{file}"),
            )
        }
        ("Localhost", None) => {
            return Err(SpecError::container("missing localhost apparmor profile name"));
        }
        (other, _) => {
            return Err(SpecError::container(format!("unknown apparmor profile type: {other:?}")));
        }
    };
    out.apparmor = Some(profile);
    out.apparmor_profile = old;
    Ok(())
}

fn from_annotation(text: &str) -> Option<(&str, Option<&str>)> {
    match text {
        "runtime/default" => Some(("RuntimeDefault", None)),
        "unconfined" => Some(("Unconfined", None)),
        _ => text.strip_prefix("localhost/").map(|file| ("Localhost", Some(file))),
    }
}
