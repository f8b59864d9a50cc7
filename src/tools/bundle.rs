//! `rkubelet support-bundle`: one archive with what helps to find a fault.
//!
//! It holds what the running kubelet says of itself and its pods, what the kernel says of the
//! machine, and the kubelet's last log. It never holds a Secret, a token, the environment of a
//! container or the text of a pod; the header fields of `staticPodURL` are blanked.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::{ToolError, client};
use crate::config::KUBERNETES_VERSION;
use crate::server::PodReport;

/// The name of the archive if none is given.
const NAME: &str = "rkubelet-support.tar.gz";

/// The most bytes of one file of the machine.
const MOST: u64 = 4 << 20;

/// The most bytes of the log.
const MOST_LOG: usize = 16 << 20;

/// What the kernel says of the machine.
const OF_THE_MACHINE: [&str; 12] = [
    "/etc/os-release",
    "/proc/cgroups",
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/self/mountinfo",
    "/proc/uptime",
    "/proc/version",
];

/// The units whose log is kept.
const UNITS: [&str; 3] = ["rkubelet", "kubelet", "containerd"];

/// Writes the archive, and says what is in it. A part that cannot be had is named in the archive
/// and does not stop the others. Blocks.
pub(super) fn run(root_dir: &Path, file: Option<&str>) -> Result<String, ToolError> {
    let path = PathBuf::from(file.unwrap_or(NAME));
    let failed = |source| ToolError::Write { path: path.clone(), source };

    let parts = collect(root_dir);
    write(&path, &parts).map_err(failed)?;

    let mut text = format!("Wrote {}:\n", path.display());
    for part in &parts {
        text.push_str("  ");
        text.push_str(&part.name);
        if let Content::Missing(problem) = &part.content {
            text.push_str(": left out, ");
            text.push_str(problem);
        }
        text.push('\n');
    }
    Ok(text)
}

/// One file of the archive.
struct Part {
    name: String,
    content: Content,
}

/// The content of a part.
enum Content {
    /// As it was read.
    Bytes(Vec<u8>),
    /// It could not be had, for this reason.
    Missing(String),
}

impl Part {
    fn new(name: impl Into<String>, content: Result<Vec<u8>, impl ToString>) -> Self {
        let content = match content {
            Ok(content) => Content::Bytes(content),
            Err(error) => Content::Missing(error.to_string()),
        };
        Self { name: name.into(), content }
    }
}

fn collect(root_dir: &Path) -> Vec<Part> {
    let version =
        format!("rkubelet {}\nKubernetes {KUBERNETES_VERSION}\n", env!("CARGO_PKG_VERSION"));
    let mut parts = vec![Part::new("version.txt", Ok::<_, io::Error>(version.into_bytes()))];

    let ask = |page: &str| client::ask(root_dir, page).map(|answer| answer.to_vec());
    parts.push(Part::new("configz.json", ask("/configz").map(|config| without_secrets(&config))));
    parts.push(Part::new("metrics.txt", ask("/metrics")));
    parts.push(Part::new("pods.json", ask("/pods")));
    let pods: Vec<PodReport> = client::ask_for(root_dir, "/pods").unwrap_or_default();
    for pod in &pods {
        let page = format!("/timeline/{}/{}", pod.namespace, pod.name);
        let name = format!("timelines/{}/{}.json", pod.namespace, pod.name);
        parts.push(Part::new(name, ask(&page)));
    }

    for path in OF_THE_MACHINE {
        parts.push(Part::new(format!("machine{path}"), bounded(Path::new(path))));
    }
    parts.push(Part::new("root-dir.txt", listing(root_dir)));
    for unit in UNITS {
        parts.push(Part::new(format!("log/{unit}.txt"), log(unit)));
    }
    parts
}

/// Blanks the fields of the configuration that may hold a credential.
fn without_secrets(config: &[u8]) -> Vec<u8> {
    let Ok(mut document) = serde_json::from_slice::<Value>(config) else {
        return b"not JSON\n".to_vec();
    };
    if let Some(fields) = document.get_mut("kubeletconfig").and_then(Value::as_object_mut) {
        if let Some(Value::Object(headers)) = fields.get_mut("staticPodURLHeader") {
            headers.values_mut().for_each(|value| *value = "(blanked)".into());
        }
        if let Some(Value::String(url)) = fields.get_mut("staticPodURL") {
            *url = without_credentials(url);
        }
    }
    serde_json::to_vec_pretty(&document).unwrap_or_default()
}

/// Blanks user, password and query of a URL.
fn without_credentials(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = authority.rsplit('@').next().unwrap_or(authority);
            format!("{scheme}://{host}/{path}")
        }
        None => url.to_owned(),
    }
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut content)?;
    Ok(content)
}

/// Lists the root directory: modes, owners, sizes and names, two levels deep. No content is read.
fn listing(root_dir: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    list(root_dir, 0, &mut text)?;
    Ok(text)
}

fn list(directory: &Path, depth: usize, text: &mut Vec<u8>) -> io::Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(directory)?.filter_map(Result::ok).collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        writeln!(
            text,
            "{:06o} {:>5} {:>5} {:>12} {}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.len(),
            entry.path().display()
        )?;
        if metadata.is_dir() && depth < 1 {
            list(&entry.path(), depth + 1, text)?;
        }
    }
    Ok(())
}

/// Reads the end of a unit's log from the journal.
fn log(unit: &str) -> io::Result<Vec<u8>> {
    let journal = Command::new("timeout")
        .arg(LOG_TIMEOUT.as_secs().to_string())
        .args(["journalctl", "--no-pager", "--output=short-iso-precise", "--lines=20000", "--unit"])
        .arg(unit)
        .stdin(Stdio::null())
        .output()?;
    if !journal.status.success() {
        let problem = String::from_utf8_lossy(&journal.stderr).trim().to_owned();
        return Err(io::Error::other(format!("journalctl: {problem}")));
    }
    let start = journal.stdout.len().saturating_sub(MOST_LOG);
    Ok(journal.stdout[start..].to_vec())
}

/// How long the journal may take.
const LOG_TIMEOUT: Duration = Duration::from_secs(30);

fn write(path: &Path, parts: &[Part]) -> io::Result<()> {
    // Readable for root alone: names of pods and images are not for everybody.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for part in parts {
        let (name, content) = match &part.content {
            Content::Bytes(content) => (part.name.clone(), content.as_slice()),
            Content::Missing(problem) => (format!("{}.missing", part.name), problem.as_bytes()),
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        archive.append_data(&mut header, Path::new("rkubelet-support").join(name), content)?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{run, without_credentials, without_secrets};

    #[test]
    fn credentials_are_blanked() {
        let config = br#"{"kubeletconfig": {"staticPodURL": "https://u:pw@h:1/p?token=t",
            "staticPodURLHeader": {"Authorization": ["Bearer t0ps3cret"]}}}"#;
        let text = String::from_utf8(without_secrets(config)).expect("text");
        for secret in ["pw", "token", "t0ps3cret"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(without_credentials("http://host/path"), "http://host/path");
        assert_eq!(without_credentials("http://u@host"), "http://host/");
    }

    #[test]
    fn without_a_kubelet_there_is_still_an_archive() {
        let root = tempfile::tempdir().expect("a directory");
        let file = root.path().join("b.tar.gz");
        let said = run(root.path(), file.to_str()).expect("written");
        assert!(said.contains("pods.json: left out, "), "{said}");
        let archive = std::fs::File::open(&file).expect("there");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
        let names: Vec<String> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        for name in ["version.txt", "machine/proc/meminfo", "pods.json.missing", "root-dir.txt"] {
            let name = format!("rkubelet-support/{name}");
            assert!(names.contains(&name), "{name}: {names:?}");
        }
    }
}
