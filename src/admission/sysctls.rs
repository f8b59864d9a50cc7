//! Sysctls that a pod may set: the safe ones, and those that the node's configuration allows.

use std::collections::BTreeMap;

use super::Rejection;
use crate::model::Pod;

const FORBIDDEN: &str = "SysctlForbidden";
/// The longest name.
const MAX_LENGTH: usize = 253;

/// The safe sysctls with the kernel (major, minor) from which on each belongs to a namespace.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// The namespace that a sysctl belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

impl Namespace {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ipc => "IPC",
            Self::Net => "Net",
        }
    }
}

/// Why a pattern of `allowedUnsafeSysctls` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is no pattern.
    #[error(
        "allowedUnsafeSysctls: sysctl {pattern:?} must have at most 253 characters and match regex \
         ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]"
    )]
    Malformed {
        /// The pattern.
        pattern: String,
    },
    /// Setting it would set it for the whole node.
    #[error("allowedUnsafeSysctls: the sysctls {pattern:?} are not known to be namespaced")]
    NotNamespaced {
        /// The pattern.
        pattern: String,
    },
}

/// What pods may set. Made once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysctlAllowlist {
    names: BTreeMap<String, Namespace>,
    prefixes: BTreeMap<String, Namespace>,
}

impl SysctlAllowlist {
    /// The safe sysctls of a kernel (major, minor), and `allowedUnsafeSysctls`
    /// (`net.core.somaxconn`, `kernel.msg*`).
    pub fn new(kernel: (u32, u32), unsafe_patterns: &[String]) -> Result<Self, PatternError> {
        let mut list = Self::default();
        for (name, since) in SAFE {
            if kernel >= since {
                list.allow(name)?;
            }
        }
        for pattern in unsafe_patterns {
            if !is_pattern(pattern) {
                return Err(PatternError::Malformed { pattern: pattern.clone() });
            }
            list.allow(pattern)?;
        }
        Ok(list)
    }

    fn allow(&mut self, pattern: &str) -> Result<(), PatternError> {
        let name = normalize(pattern);
        let (name, is_prefix) =
            name.split_once('*').map_or((name.as_str(), false), |(prefix, _)| (prefix, true));
        let Some(namespace) = namespace(name) else {
            return Err(PatternError::NotNamespaced { pattern: name.to_owned() });
        };
        let list = if is_prefix { &mut self.prefixes } else { &mut self.names };
        list.insert(name.to_owned(), namespace);
        Ok(())
    }

    /// Whether the pod sets only what it may.
    pub fn check(&self, pod: &Pod) -> Result<(), Rejection> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let sysctls =
            spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
        for sysctl in sysctls {
            let name = normalize(&sysctl.name);
            let by_prefix = || {
                self.prefixes
                    .iter()
                    .find(|(prefix, _)| name.starts_with(*prefix))
                    .map(|(_, space)| space)
            };
            let shared = match self.names.get(&name).or_else(by_prefix) {
                None => return Err(forbid(&format!("{name:?} not allowlisted"))),
                Some(Namespace::Ipc) if spec.host_ipc == Some(true) => Namespace::Ipc,
                Some(Namespace::Net) if spec.host_network == Some(true) => Namespace::Net,
                Some(_) => continue,
            };
            return Err(forbid(&format!(
                "{name:?} not allowed with host {} enabled",
                shared.as_str()
            )));
        }
        Ok(())
    }
}

fn forbid(why: &str) -> Rejection {
    Rejection::new(FORBIDDEN, format!("forbidden sysctl: {why}"))
}

/// `net/ipv4/conf.eth0` is `net.ipv4.conf/eth0`: the first separator tells which of the two
/// spellings it is.
pub fn normalize(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes().get(first) == Some(&b'/') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        Some(_) | None => name.to_owned(),
    }
}

fn namespace(name: &str) -> Option<Namespace> {
    const IPC: [&str; 10] = [
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg",
    ];
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else if name.starts_with("net.") {
        Some(Namespace::Net)
    } else {
        None
    }
}

/// Segments of small letters, digits, dashes and underscores, parted by dots or slashes; the last
/// may end in a star.
fn is_pattern(pattern: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_inner = |c: char| is_edge(c) || c == '-' || c == '_';
    let is_segment = |text: &str| {
        text.starts_with(is_edge) && text.ends_with(is_edge) && text.chars().all(is_inner)
    };
    let mut segments: Vec<&str> = pattern.split(['.', '/']).collect();
    let Some(last) = segments.pop() else { return false };
    let is_last = match last.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => prefix.starts_with(is_edge) && prefix.chars().all(is_inner),
        None => is_segment(last),
    };
    pattern.len() <= MAX_LENGTH && is_last && segments.into_iter().all(is_segment)
}
