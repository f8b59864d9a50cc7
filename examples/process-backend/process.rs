//! Containers as process groups, and the folder that remembers them.
//!
//! ```text
//! ROOT/processes/UID/pod.json            what the pod is, for a later process of the backend
//! ROOT/processes/UID/NAME/ATTEMPT/stat   the group's leader, as the kernel saw it at its start
//! ROOT/processes/UID/NAME/ATTEMPT/log    what it wrote
//! ROOT/processes/UID/NAME/ATTEMPT/exit   its exit code, once it has ended
//! ```
//!
//! The leader of each group is a shell that waits for the container's command and writes its exit
//! code down, so that nothing is lost while the backend does not run.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rkubelet::agent::Resolved;
use rkubelet::backend::{
    ContainerId, ContainerState, Exit, Found, FoundPod, Pod, PodKey, PodUid, Wall,
};
use serde_json::{Value, json};
use tokio::process::Command;

/// Waits for the command, whatever happens to the backend. A TERM to the group ends the command;
/// the shell only notes it.
const LEADER: &str = r#"
dir=$1; shift
/bin/cp /proc/$$/stat "$dir/stat.new" && /bin/mv "$dir/stat.new" "$dir/stat" || exit 1
trap : TERM
"$@" > "$dir/log" 2>&1 < /dev/null &
child=$!
while :; do wait "$child"; code=$?; kill -0 "$child" 2> /dev/null || break; done
echo "$code" > "$dir/exit.new" && /bin/mv "$dir/exit.new" "$dir/exit"
"#;

/// The search path of a container that sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The time in which a group's leader is there.
const PROMPT: Duration = Duration::from_secs(10);

/// The folder of all pods.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

/// The folder of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodFolder {
    path: PathBuf,
    uid: String,
}

/// One start of a container.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) name: String,
    pub(crate) number: u32,
    path: PathBuf,
    uid: String,
}

impl Folder {
    pub(crate) fn open(root: &str) -> io::Result<Self> {
        let root = Path::new(root).join("processes");
        std::fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    pub(crate) fn of(&self, uid: &PodUid) -> PodFolder {
        PodFolder { path: self.root.join(uid.as_str()), uid: uid.to_string() }
    }

    /// Finds a container by its id.
    pub(crate) fn container(&self, id: &str) -> Option<Attempt> {
        let mut parts = id.split('_');
        let uid = PodUid::from(parts.next()?);
        let name = parts.next()?;
        let number: u32 = parts.next()?.parse().ok()?;
        let attempts = self.of(&uid).attempts();
        attempts.into_iter().find(|attempt| attempt.name == name && attempt.number == number)
    }

    /// Lists the pods of an earlier process.
    pub(crate) fn found(&self) -> Found {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let found = entries.filter_map(|entry| {
            let uid = PodUid::from(entry.file_name().to_str()?);
            let noted = std::fs::read(entry.path().join("pod.json")).ok()?;
            let noted: Value = serde_json::from_slice(&noted).ok()?;
            let text = |name: &str| noted[name].as_str().unwrap_or_default().into();
            let attempts = self.of(&uid).attempts();
            let is_running = attempts.iter().any(|attempt| attempt.leader().is_some());
            let mut containers: Vec<String> =
                attempts.into_iter().map(|attempt| attempt.name).collect();
            containers.dedup();
            let pod = FoundPod {
                key: PodKey { namespace: text("namespace"), name: text("name") },
                containers,
                grace: Duration::from_secs(noted["grace"].as_u64().unwrap_or(30)),
                is_running,
                is_static: false,
            };
            Some((uid, pod))
        });
        found.collect()
    }
}

impl PodFolder {
    /// Notes the pod, before anything of it is started.
    pub(crate) fn note(&self, pod: &Pod) -> io::Result<()> {
        let file = self.path.join("pod.json");
        if file.exists() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.path)?;
        let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let metadata = &pod.metadata;
        let note = json!({"namespace": metadata.namespace, "name": metadata.name, "grace": grace});
        let new = self.path.join("pod.json.new");
        std::fs::write(&new, note.to_string())?;
        std::fs::rename(new, file)
    }

    /// Lists the starts of all containers, newest first for each.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for container in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = container.file_name().to_string_lossy().into_owned();
            for entry in std::fs::read_dir(container.path()).into_iter().flatten().flatten() {
                let file = entry.file_name();
                let Some(number) = file.to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let path = entry.path();
                let uid = self.uid.clone();
                attempts.push(Attempt { name: name.clone(), number, path, uid });
            }
        }
        attempts.sort_by(|a, b| a.name.cmp(&b.name).then(b.number.cmp(&a.number)));
        attempts
    }

    /// Starts a container.
    pub(crate) fn start(
        &self,
        name: &str,
        number: u32,
        (resolved, directory): (&Resolved, Option<&str>),
    ) -> io::Result<()> {
        let path = self.path.join(name).join(number.to_string());
        std::fs::create_dir_all(&path)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", LEADER, "leader"]).arg(&path);
        command.args(&resolved.command).args(&resolved.args);
        // Not in the arguments: values may be secrets.
        command.env_clear().env("PATH", PATH);
        command.envs(resolved.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(directory.unwrap_or("/"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Dropped: it lives on, and is reaped.
        command.process_group(0).spawn().map(drop)
    }

    /// Removes what is known of the pod.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Attempt {
    pub(crate) fn id(&self) -> ContainerId {
        ContainerId::from(format!("{}_{}_{}", self.uid, self.name, self.number))
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(crate) fn created_at(&self) -> Wall {
        // The folder's own time changes with each file.
        let started_at = time_of(&self.path.join("stat"));
        started_at.or_else(|| time_of(&self.path)).unwrap_or(Wall::UNIX_EPOCH)
    }

    pub(crate) fn state(&self) -> ContainerState {
        let started_at = time_of(&self.path.join("stat"));
        let exit = self.path.join("exit");
        let ended = || std::fs::read_to_string(&exit).ok()?.trim().parse::<i32>().ok();
        // In this order: a leader that ends in between has written its exit code.
        let is_running = self.leader().is_some();
        let exit_code = match (ended(), started_at) {
            (Some(code), _) => code,
            (None, Some(started_at)) if is_running => {
                return ContainerState::Running { started_at };
            }
            (None, Some(_)) => 137,
            (None, None) if !self.is_late() => return ContainerState::Created,
            (None, None) => 128,
        };
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        ContainerState::Exited(Exit {
            started_at,
            finished_at: time_of(&exit).or(started_at).unwrap_or_else(|| self.created_at()),
            exit_code,
            reason: reason.to_owned(),
            message: String::new(),
        })
    }

    /// Signals the whole group, if its leader is still the one that was started.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader() {
            killpg(leader, signal).ok();
        }
    }

    /// The variables that the container was started with.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let Some(leader) = self.leader() else { return Vec::new() };
        let block = std::fs::read(format!("/proc/{leader}/environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&block);
        let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The group's leader, if it still runs.
    fn leader(&self) -> Option<Pid> {
        let noted = std::fs::read_to_string(self.path.join("stat")).ok()?;
        let pid: i32 = noted.split(' ').next()?.parse().ok()?;
        let now = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields = |stat: &str| -> Option<(String, String)> {
            let mut fields = stat.rsplit(')').next()?.split_whitespace();
            let state = fields.next()?.to_owned();
            // The start time is the 22nd field; the state is the third.
            Some((state, fields.nth(18)?.to_owned()))
        };
        let (_, started) = fields(&noted)?;
        let (state, starts) = fields(&now)?;
        (started == starts && state != "Z").then(|| Pid::from_raw(pid))
    }

    /// Whether the leader should have been there by now.
    fn is_late(&self) -> bool {
        let made = std::fs::metadata(&self.path).and_then(|folder| folder.modified());
        let age = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok());
        age.is_none_or(|age| age > PROMPT)
    }
}

fn time_of(path: &Path) -> Option<Wall> {
    let modified = std::fs::metadata(path).and_then(|file| file.modified()).ok()?;
    Wall::try_from(modified).ok()
}
