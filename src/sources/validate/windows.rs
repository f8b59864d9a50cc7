//! The operating system of a pod, and what only Windows has. Pure.
//!
//! Admission refuses a pod of Windows on this node; its object is checked before.

use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec, WindowsSecurityContextOptions};

use super::problems::Problems;
use super::{names, visit};

/// The largest specification of credentials.
const LARGEST_CREDENTIALS: usize = 64 << 10;
/// The length that the domain of a user does not reach.
const LONGEST_DOMAIN: usize = 256;
/// The longest name of a user without its domain.
const LONGEST_USER: usize = 104;
/// The longest name of a NetBIOS domain.
const LONGEST_NETBIOS: usize = 15;

/// Checks the options of a pod or of a container.
pub(super) fn options(
    problems: &mut Problems,
    path: &str,
    options: Option<&WindowsSecurityContextOptions>,
) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        problems.name(format!("{path}.gmsaCredentialSpecName"), name, names::subdomain);
    }
    if let Some(credentials) = &options.gmsa_credential_spec {
        let path = format!("{path}.gmsaCredentialSpec");
        if credentials.is_empty() {
            let why = "gmsaCredentialSpec cannot be an empty string";
            problems.invalid(path, credentials, why);
        } else if credentials.len() > LARGEST_CREDENTIALS {
            let why = "gmsaCredentialSpec size must be under 64 KiB";
            problems.invalid(path, credentials, why);
        }
    }
    if let Some(user) = &options.run_as_user_name {
        user_name(problems, &format!("{path}.runAsUserName"), user);
    }
}

/// Checks the name of a user, with a domain or without, e.g. `NT AUTHORITY\SYSTEM`.
fn user_name(problems: &mut Problems, path: &str, text: &str) {
    let mut refuse = |why: &str| problems.invalid(path, text, format!("runAsUserName{why}"));
    if text.is_empty() {
        return refuse(" cannot be an empty string");
    }
    if text.chars().any(|found| found.is_ascii_control()) {
        return refuse(" cannot contain control characters");
    }
    let (domain, user) = match text.split('\\').collect::<Vec<_>>()[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return refuse(" cannot contain more than one backslash"),
    };

    if let Some(domain) = domain {
        if domain.len() >= LONGEST_DOMAIN {
            refuse("'s Domain length must be under 256 characters");
        }
        if !is_netbios(domain) && !is_dns(domain) {
            refuse("'s Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        refuse("'s User cannot be empty");
    } else if user.len() > LONGEST_USER {
        refuse("'s User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|found| matches!(found, '.' | ' ')) {
        refuse("'s User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@'])
        || user.contains(['[', ']'])
    {
        refuse("'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

fn is_netbios(domain: &str) -> bool {
    let forbidden = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=LONGEST_NETBIOS).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(forbidden)
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// Checks that containers with the host's processes are all of a pod's, and on the host's network.
pub(super) fn host_process(problems: &mut Problems, spec: &PodSpec) {
    let asked = |options: Option<&WindowsSecurityContextOptions>| {
        options.and_then(|options| options.host_process)
    };
    let context = spec.security_context.as_ref();
    let of_pod = asked(context.and_then(|context| context.windows_options.as_ref()));
    let (mut count, mut on_host) = (0, 0);
    for (path, container) in visit::containers(spec) {
        count += 1;
        let context = container.security_context.as_ref();
        let own = asked(context.and_then(|context| context.windows_options.as_ref()));
        if let (Some(of_pod), Some(own)) = (of_pod, own)
            && of_pod != own
        {
            let path = format!("{path}.securityContext.windowsOptions.hostProcess");
            let why = format!(
                "pod hostProcess value must be identical if both are specified, was {of_pod}"
            );
            problems.invalid(path, own, why);
        }
        if own.or(of_pod) == Some(true) {
            on_host += 1;
        }
    }
    if on_host == 0 {
        return;
    }
    if on_host != count {
        let why = "If pod contains any hostProcess containers then all containers must be \
                   HostProcess containers";
        problems.invalid("spec", "", why);
    }
    if spec.host_network != Some(true) {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        problems.invalid("spec.hostNetwork", false, why);
    }
}

/// Checks the name of the operating system, and that the pod has no field of the other one.
pub(super) fn os(problems: &mut Problems, spec: &PodSpec) {
    match spec.os.as_ref().map(|os| os.name.as_str()) {
        None => {}
        Some("") => problems.required("spec.os.name"),
        Some("linux") => of_linux(problems, spec),
        Some("windows") => of_windows(problems, spec),
        other @ Some(_) => problems.one_of("spec.os", other, &["linux", "windows"]),
    }
}

fn of_linux(problems: &mut Problems, spec: &PodSpec) {
    const WHY: &str = "windows options cannot be set for a linux pod";

    let context = spec.security_context.as_ref();
    if context.is_some_and(|context| context.windows_options.is_some()) {
        problems.forbidden("spec.securityContext.windowsOptions", WHY);
    }
    for (path, container) in visit::containers(spec) {
        let context = container.security_context.as_ref();
        if context.is_some_and(|context| context.windows_options.is_some()) {
            problems.forbidden(format!("{path}.securityContext.windowsOptions"), WHY);
        }
    }
}

fn of_windows(problems: &mut Problems, spec: &PodSpec) {
    const WHY: &str = "cannot be set for a windows pod";

    for (field, is_set) in [
        ("hostUsers", spec.host_users.is_some()),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        ("shareProcessNamespace", spec.share_process_namespace.is_some()),
    ] {
        if is_set {
            problems.forbidden(format!("spec.{field}"), WHY);
        }
    }
    for field in spec.security_context.iter().flat_map(fields_of_linux) {
        problems.forbidden(format!("spec.securityContext.{field}"), WHY);
    }
    for (path, container) in visit::containers(spec) {
        let Some(context) = &container.security_context else { continue };
        for (field, is_set) in [
            ("appArmorProfile", context.app_armor_profile.is_some()),
            ("seLinuxOptions", context.se_linux_options.is_some()),
            ("seccompProfile", context.seccomp_profile.is_some()),
            ("capabilities", context.capabilities.is_some()),
            ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
            ("privileged", context.privileged.is_some()),
            ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
            ("procMount", context.proc_mount.is_some()),
            ("runAsUser", context.run_as_user.is_some()),
            ("runAsGroup", context.run_as_group.is_some()),
        ] {
            if is_set {
                problems.forbidden(format!("{path}.securityContext.{field}"), WHY);
            }
        }
    }
}

/// Returns the fields of a pod's security context that are set and that Windows does not have.
fn fields_of_linux(context: &PodSecurityContext) -> impl Iterator<Item = &'static str> {
    let fields = [
        ("appArmorProfile", context.app_armor_profile.is_some()),
        ("seLinuxOptions", context.se_linux_options.is_some()),
        ("seccompProfile", context.seccomp_profile.is_some()),
        ("fsGroup", context.fs_group.is_some()),
        ("fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
        ("sysctls", context.sysctls.as_ref().is_some_and(|sysctls| !sysctls.is_empty())),
        ("runAsUser", context.run_as_user.is_some()),
        ("runAsGroup", context.run_as_group.is_some()),
        ("supplementalGroups", context.supplemental_groups.is_some()),
        ("supplementalGroupsPolicy", context.supplemental_groups_policy.is_some()),
        ("seLinuxChangePolicy", context.se_linux_change_policy.is_some()),
    ];
    fields.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field)
}
