//! What a kubelet keeps of a running pod on its node: files and mounts below the pod's directory,
//! its logs, its cgroups.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use rkubelet_bed::cluster::Cluster;
use rkubelet_bed::parity::names::plain;
use rkubelet_bed::parity::recording::Recording;

/// The longest content that is kept as it is.
const LONGEST: usize = 600;

/// The values that a kubelet sets, or has the runtime set, by hierarchy.
const VALUES: [(&str, &[&str]); 3] = [
    ("cpu", &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"]),
    ("memory", &["memory.limit_in_bytes", "memory.soft_limit_in_bytes"]),
    ("pids", &["pids.max"]),
];

/// The values of containers' cgroups in one line each, by container id: they are named later, when
/// the ids are known.
pub(crate) type ById = BTreeMap<String, String>;

/// Writes what there is of a pod; returns the values of its containers' cgroups by container id.
pub(crate) fn look(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    uid: &str,
    recording: &mut Recording,
) -> Result<ById> {
    let folder = format!("/var/lib/kubelet/pods/{uid}");
    let mut files = BTreeMap::new();
    walk(&cluster.on_node(&folder), "", &mut files);
    let logs = format!("/var/log/pods/{namespace}_{name}_{uid}");
    walk(&cluster.on_node(&logs), "log", &mut files);
    for (path, what) in files {
        recording.put(&[name, "files", &plain(&path)], what);
    }
    let mounts = format!("/proc/{}/mountinfo", cluster.env("NODE_N1_PID"));
    let mounts = std::fs::read_to_string(&mounts).with_context(|| format!("reading {mounts}"))?;
    for (path, what) in mounts_below(&mounts, &folder) {
        recording.put(&[name, "mounts", &plain(&path)], plain(&what));
    }
    links(cluster, namespace, name, recording);
    Ok(cgroups(cluster, name, uid, recording))
}

fn walk(real: &Path, shown: &str, files: &mut BTreeMap<String, String>) {
    let Ok(facts) = std::fs::symlink_metadata(real) else { return };
    let kind = facts.file_type();
    let owner = format!("{:04o} {}:{}", facts.mode() & 0o7777, facts.uid(), facts.gid());
    let what = if kind.is_dir() {
        format!("dir {owner}")
    } else if kind.is_symlink() {
        format!("link {}", plain(&std::fs::read_link(real).unwrap_or_default().to_string_lossy()))
    } else if kind.is_file() {
        format!("file {owner}{}", content(real, shown))
    } else if kind.is_socket() {
        format!("socket {owner}")
    } else if kind.is_fifo() {
        format!("pipe {owner}")
    } else {
        format!("device {owner}")
    };
    // Of restarts only the last logs are kept, and how many there were is a matter of time.
    let is_log = Path::new(shown).extension().is_some_and(|extension| extension == "log");
    let number = shown.rsplit_once('/').filter(|(folder, _)| folder.starts_with("log/") && is_log);
    let shown = &number.map_or_else(|| shown.to_owned(), |(folder, _)| format!("{folder}/<n>.log"));
    files.insert(if shown.is_empty() { ".".to_owned() } else { shown.to_owned() }, what);
    if kind.is_dir() {
        for entry in std::fs::read_dir(real).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let shown = if shown.is_empty() { name } else { format!("{shown}/{name}") };
            walk(&entry.path(), &shown, files);
        }
    }
}

fn content(real: &Path, shown: &str) -> String {
    // A log has times, and the container's own pace.
    if shown.starts_with("log/") {
        return String::new();
    }
    let bytes = std::fs::read(real).unwrap_or_default();
    match String::from_utf8(bytes) {
        Ok(text)
            if text.len() <= LONGEST
                || text.starts_with("-----BEGIN")
                || text.starts_with("eyJ") =>
        {
            format!(" {:?}", plain(&text))
        }
        Ok(text) => format!(" {} bytes", text.len()),
        Err(error) => format!(" {} bytes", error.as_bytes().len()),
    }
}

/// `path → file system, its options, the mount's options, whether it is shared`.
fn mounts_below(mountinfo: &str, folder: &str) -> Vec<(String, String)> {
    let mut mounts = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.splitn(3, ' ').collect();
        let (Some(path), [kind, _, options]) =
            (left.get(4).and_then(|path| path.strip_prefix(folder)), &right[..])
        else {
            continue;
        };
        let shared: Vec<&str> =
            left[6..].iter().map(|word| word.split(':').next().unwrap_or_default()).collect();
        // What the machine's disk is mounted with is not the kubelet's.
        let options = if *kind == "tmpfs" { options } else { &"" };
        mounts
            .push((path.to_owned(), format!("{kind} {} {options} {}", left[5], shared.join(" "))));
    }
    mounts
}

/// The links by which log collectors find the pod's logs.
fn links(cluster: &Cluster, namespace: &str, name: &str, recording: &mut Recording) {
    let prefix = format!("{name}_{namespace}_");
    for entry in
        std::fs::read_dir(cluster.on_node("/var/log/containers")).into_iter().flatten().flatten()
    {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with(&prefix) {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let target = target.parent().unwrap_or(Path::new("")).join("<n>.log");
            recording.put(&[name, "links", &plain(&file)], plain(&target.display().to_string()));
        }
    }
}

fn cgroups(cluster: &Cluster, name: &str, uid: &str, recording: &mut Recording) -> ById {
    let mut containers = ById::new();
    let mut pod = String::new();
    for (hierarchy, values) in VALUES {
        for class in ["", "/burstable", "/besteffort"] {
            let root = format!(
                "/sys/fs/cgroup/{hierarchy}{}/kubepods{class}/pod{uid}",
                cluster.env("NODE_N1_CGROUP")
            );
            let root = Path::new(&root);
            if !root.exists() {
                continue;
            }
            recording.put(
                &[name, "cgroups", &format!("{hierarchy} parent")],
                format!("kubepods{class}"),
            );
            pod += &read_values(root, values);
            for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    let known = containers
                        .entry(entry.file_name().to_string_lossy().into_owned())
                        .or_default();
                    *known += &read_values(&entry.path(), values);
                    if hierarchy == "memory" {
                        *known += &["oom_score_adj=", &oom_score(&entry.path()), " "].concat();
                    }
                }
            }
        }
    }
    if !pod.is_empty() {
        recording.put(&[name, "cgroups", "pod"], pod.trim());
    }
    containers
}

fn read_values(folder: &Path, values: &[&str]) -> String {
    let read = |value: &&str| {
        let text = std::fs::read_to_string(folder.join(value)).ok()?;
        // What is not limited at all reads as the largest number of pages.
        let text = text.trim().replace("9223372036854771712", "max");
        Some(format!("{value}={text} "))
    };
    values.iter().filter_map(read).collect()
}

fn oom_score(folder: &Path) -> String {
    let processes = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let first = processes.lines().next().unwrap_or_default();
    std::fs::read_to_string(format!("/proc/{first}/oom_score_adj"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}
