//! Security contexts of the pod and of its containers. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use super::problems::Problems;
use super::{names, windows};

pub(super) fn pod(problems: &mut Problems, path: &str, spec: &PodSpec) {
    let Some(context) = &spec.security_context else { return };
    problems.identity(format!("{path}.fsGroup"), context.fs_group);
    problems.identity(format!("{path}.runAsUser"), context.run_as_user);
    problems.identity(format!("{path}.runAsGroup"), context.run_as_group);
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        problems.identity(format!("{path}.supplementalGroups[{index}]"), Some(*group));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        problems.invalid(format!("{path}.shareProcessNamespace"), true, why);
    }

    sysctls(problems, &format!("{path}.sysctls"), context, spec);
    let policy = context.fs_group_change_policy.as_deref();
    problems.one_of(format!("{path}.fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    seccomp(problems, &format!("{path}.seccompProfile"), context.seccomp_profile.as_ref());
    app_armor(problems, &format!("{path}.appArmorProfile"), context.app_armor_profile.as_ref());
    let policy = context.supplemental_groups_policy.as_deref();
    problems.one_of(format!("{path}.supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    // The other policy needs the gate SELinuxMount, which is off.
    let policy = context.se_linux_change_policy.as_deref();
    problems.one_of(format!("{path}.seLinuxChangePolicy"), policy, &["Recursive"]);
    let options = context.windows_options.as_ref();
    windows::options(problems, &format!("{path}.windowsOptions"), options);
}

fn sysctls(problems: &mut Problems, path: &str, context: &PodSecurityContext, spec: &PodSpec) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = format!("{path}[{index}].name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            problems.required(&path);
        } else if !names::sysctl(name).is_empty() {
            problems.name(&path, name, names::sysctl);
        } else if seen.contains(name) {
            problems.duplicate(&path, name);
        }
        let dotted = name.replace('/', ".");
        let is_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|prefix| dotted.starts_with(prefix))
            || dotted == "kernel.sem";
        if dotted.starts_with("net.") && spec.host_network == Some(true) {
            problems.invalid(path, name, "may not be specified when 'hostNetwork' is true");
        } else if is_ipc && spec.host_ipc == Some(true) {
            problems.invalid(path, name, "may not be specified when 'hostIPC' is true");
        }
        seen.insert(name);
    }
}

pub(super) fn container(
    problems: &mut Problems,
    path: &str,
    context: &SecurityContext,
    host_users: bool,
) {
    problems.identity(format!("{path}.runAsUser"), context.run_as_user);
    problems.identity(format!("{path}.runAsGroup"), context.run_as_group);
    let proc_mount = context.proc_mount.as_deref();
    problems.one_of(format!("{path}.procMount"), proc_mount, &["Default", "Unmasked"]);
    if host_users && proc_mount == Some("Unmasked") {
        let why = "`hostUsers` must be false to use `Unmasked`";
        problems.invalid(format!("{path}.procMount"), "Unmasked", why);
    }
    seccomp(problems, &format!("{path}.seccompProfile"), context.seccomp_profile.as_ref());
    escalation(problems, path, context);
    app_armor(problems, &format!("{path}.appArmorProfile"), context.app_armor_profile.as_ref());
    let options = context.windows_options.as_ref();
    windows::options(problems, &format!("{path}.windowsOptions"), options);
}

/// Refuses what would grant more privileges to a process that may get none.
fn escalation(problems: &mut Problems, path: &str, context: &SecurityContext) {
    if context.allow_privilege_escalation != Some(false) {
        return;
    }
    // Upstream prints the fields of its internal type, which has other names.
    let mut refuse = |what: &str| {
        let why = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
        problems.invalid_json(path, context, why);
    };
    if context.privileged == Some(true) {
        refuse("`privileged` to true");
    }
    let added = context.capabilities.iter().flat_map(|found| &found.add).flatten();
    for _ in added.filter(|name| *name == "CAP_SYS_ADMIN") {
        refuse("`capabilities.Add` CAP_SYS_ADMIN");
    }
}

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(problems: &mut Problems, path: &str, profile: Option<&SeccompProfile>) {
    let Some(profile) = profile else { return };
    if profile.type_.is_empty() {
        let why = "type is required when seccompProfile is set";
        problems.required_for(format!("{path}.type"), why);
    } else {
        problems.one_of(format!("{path}.type"), Some(&profile.type_), &PROFILE_TYPES);
    }

    let local = format!("{path}.localhostProfile");
    match (profile.type_ == "Localhost", &profile.localhost_profile) {
        (true, None) => {
            problems.required_for(local, "must be set when seccomp type is Localhost");
        }
        (true, Some(name)) => problems.descending(local, name),
        (false, Some(_)) => {
            let why = "can only be set when seccomp type is Localhost";
            let printed = serde_json::json!({
                "Type": profile.type_, "LocalhostProfile": profile.localhost_profile,
            });
            problems.invalid_json(local, &Ordered(&printed), why);
        }
        (false, None) => {}
    }
}

/// A profile as Go prints the internal type: the type first.
struct Ordered<'a>(&'a serde_json::Value);

impl serde::Serialize for Ordered<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;

        let mut map = serializer.serialize_map(Some(2))?;
        for name in ["Type", "LocalhostProfile"] {
            map.serialize_entry(name, &self.0[name])?;
        }
        map.end()
    }
}

fn app_armor(problems: &mut Problems, path: &str, profile: Option<&AppArmorProfile>) {
    /// The longest path of Linux.
    const LONGEST: usize = 4095;

    let Some(profile) = profile else { return };
    let local = format!("{path}.localhostProfile");
    let missing = "must be set when AppArmor type is Localhost";
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None) => problems.required_for(local, missing),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                problems.invalid(&local, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                problems.required_for(&local, missing);
            }
            if name.len() > LONGEST {
                problems.too_long(local, LONGEST);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            problems.invalid(local, name, "can only be set when AppArmor type is Localhost");
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            let why = "type is required when appArmorProfile is set";
            problems.required_for(format!("{path}.type"), why);
        }
        (other, _) => problems.one_of(format!("{path}.type"), Some(other), &PROFILE_TYPES),
    }
}
