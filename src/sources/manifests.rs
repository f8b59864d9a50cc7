//! Static pods from files: a directory of manifests, or one manifest.
//!
//! Read at start, whenever inotify tells of a change (a moment later, so that an editor's steps are
//! one), and every `fileCheckFrequency` in any case. A bad file affects only its own pod: as long
//! as the file is there, the last good version of it stays (upstream would stop the pod). Dot files
//! and subdirectories are not read. A file that was deleted and is there again with the same text
//! is a pod that was removed and is wanted anew: it is started again, as upstream does; one that
//! was replaced by a rename is just read again.
//!
//! Of two files with pods of one name the first in the order of the names of files has it. It keeps
//! the name as long as it is there, also when it is edited: a copy that lies beside it does not run
//! (upstream's does, at some time).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use tokio::sync::watch;

use super::static_pod::{self, Origin, References};
use super::{Source, SourceKind, SourceState, adopted, duplicate_message};
use crate::apiserver::events::Recorder;
use crate::clock::Clock;
use crate::config::clean_path;
use crate::model::{EventType, Pod, PodKey, PodUid, Wall, pod, reason};

/// How long after a change the files are read: a rename, or a write in pieces, is over by then.
const SETTLE: Duration = Duration::from_millis(50);
/// The largest manifest that is read, as upstream.
const MAX_SIZE: u64 = 10 << 20;

/// What to read and how often.
#[derive(Clone, Debug)]
pub struct Config {
    /// `staticPodPath`: a directory or a file.
    pub path: PathBuf,
    /// `fileCheckFrequency`.
    pub check_frequency: Duration,
    /// This node's name.
    pub node_name: String,
    /// Whether static pods may refer to objects of the API.
    pub references: References,
}

/// One file as it was last read.
#[derive(Debug, Default)]
struct File {
    /// The text, to tell whether it has changed.
    text: Vec<u8>,
    /// The pod of its last good version.
    pod: Option<Arc<Pod>>,
    /// What is wrong with the present version.
    problem: Option<String>,
}

/// What a pass over the files has found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    path: PathBuf,
    text: Result<Vec<u8>, String>,
}

/// Makes the source, and the task that reads it. The task runs until it is dropped.
pub fn new(
    config: Config,
    recorder: Recorder,
    clock: Clock,
) -> (Source, impl Future<Output = ()> + Send + 'static) {
    let (sender, state) = watch::channel(SourceState::default());
    let task = Task {
        config,
        recorder,
        clock,
        sender,
        files: BTreeMap::new(),
        names: BTreeMap::new(),
        left_out: BTreeSet::new(),
        failed: None,
    };
    (Source { kind: SourceKind::File, state }, task.run())
}

struct Task {
    config: Config,
    recorder: Recorder,
    clock: Clock,
    sender: watch::Sender<SourceState>,
    files: BTreeMap<PathBuf, File>,
    /// The file that has the name of a pod.
    names: BTreeMap<PodKey, PathBuf>,
    /// The pods whose name another file has.
    left_out: BTreeSet<PodUid>,
    failed: Option<String>,
}

impl Task {
    async fn run(mut self) {
        let mut events = None;
        let mut deleted = BTreeSet::new();
        loop {
            if events.is_none() {
                events = watch_files(&self.config.path);
            }

            let path = self.config.path.clone();
            match crate::linux::blocking::spawn(move || scan(&path)).await {
                Ok(Ok(found)) => {
                    self.failed = None;
                    let is_same = |found: &Found| deleted.contains(&found.path) && self.has(found);
                    if found.iter().any(is_same) {
                        // A file that is away for this moment keeps the name of its pod.
                        let others =
                            found.iter().filter(|found| !is_same(found)).cloned().collect();
                        self.apply(others);
                        // So that whoever watches sees that they were gone.
                        tokio::time::sleep(SETTLE * 2).await;
                    }
                    deleted.clear();
                    self.names.retain(|_, path| found.iter().any(|found| found.path == *path));
                    self.apply(found);
                }
                Ok(Err(error)) => self.fail(error.to_string()),
                Err(_) => self.fail("reading the manifests panicked".to_owned()),
            }

            let period = crate::apiserver::random::jitter(self.config.check_frequency, 0.05);
            match &mut events {
                None => tokio::time::sleep(period).await,
                Some(stream) => match tokio::time::timeout(period, stream.next()).await {
                    Ok(Some(Ok(event))) => {
                        let ends = inotify::EventMask::IGNORED | inotify::EventMask::DELETE_SELF;
                        let is_over = event.mask.intersects(ends);
                        self.note_deleted(&event, &mut deleted);
                        let mut settled = std::pin::pin!(tokio::time::sleep(SETTLE));
                        // Cancel-safe: a stream loses nothing.
                        while let Some(Ok(event)) = tokio::select! {
                            () = &mut settled => None,
                            event = stream.next() => event,
                        } {
                            self.note_deleted(&event, &mut deleted);
                        }
                        if is_over {
                            events = None;
                        }
                    }
                    Ok(Some(Err(_)) | None) => events = None,
                    Err(_) => {}
                },
            }
        }
    }

    fn note_deleted(&self, event: &inotify::EventOwned, deleted: &mut BTreeSet<PathBuf>) {
        if let Some(name) =
            event.name.as_ref().filter(|_| event.mask.contains(inotify::EventMask::DELETE))
        {
            // The path is the directory, or the one manifest in it.
            deleted.insert(self.config.path.join(name));
            if self.config.path.file_name() == Some(name) {
                deleted.insert(self.config.path.clone());
            }
        }
    }

    /// Whether a file is as it was last read.
    fn has(&self, found: &Found) -> bool {
        let known =
            self.files.get(&found.path).filter(|file| file.pod.is_some() && file.problem.is_none());
        known.is_some_and(|file| found.text.as_ref().is_ok_and(|text| *text == file.text))
    }

    /// The whole directory cannot be read: what is known stays, and the source counts as read only
    /// if it merely does not exist, as upstream has it.
    fn fail(&mut self, problem: String) {
        if self.failed.as_ref() != Some(&problem) {
            tracing::error!(path = %self.config.path.display(), error = problem, "Cannot read the static pods");
            self.failed = Some(problem);
        }
    }

    fn apply(&mut self, found: Vec<Found>) {
        let present: BTreeSet<PathBuf> = found.iter().map(|found| found.path.clone()).collect();
        self.files.retain(|path, _| present.contains(path));
        let now = self.clock.now().wall;
        for Found { path, text } in found {
            let file = self.files.entry(path.clone()).or_default();
            let problem = match text {
                Ok(text) if file.pod.is_some() && file.problem.is_none() && file.text == text => {
                    continue;
                }
                Ok(text) => file.read(text, &path, &self.config, now),
                Err(problem) => Some(problem),
            };
            if let Some(problem) = problem
                && file.problem.as_ref() != Some(&problem)
            {
                tracing::error!(path = %path.display(), error = problem, "A static pod's manifest cannot be used");
                let kept =
                    if file.pod.is_some() { "; its last good version keeps running" } else { "" };
                let message = format!(
                    "Error validating static pod from file {}: {problem}{kept}",
                    path.display()
                );
                let warning = reason::event::FAILED_VALIDATION;
                self.recorder.node(&self.config.node_name, EventType::Warning, warning, message);
                file.problem = Some(problem);
            }
        }
        let pods = self.named();
        self.sender.send_if_modified(|state| {
            let same = state.ready
                && state.pods.len() == pods.len()
                && state.pods.values().zip(pods.values()).all(|(old, new)| Arc::ptr_eq(old, new));
            state.pods = pods;
            state.ready = true;
            !same
        });
    }

    /// Returns the pods, one of each name.
    fn named(&mut self) -> BTreeMap<PodUid, Arc<Pod>> {
        let files = &self.files;
        self.names.retain(|key, path| match files.get(path) {
            // A file that is gone loses the name before, or is only away for a moment.
            None => true,
            Some(file) => file.pod.as_ref().is_some_and(|pod| pod::key(pod) == *key),
        });

        let mut pods = BTreeMap::new();
        let mut left_out = BTreeSet::new();
        for (path, file) in files {
            let Some(pod) = &file.pod else { continue };
            let uid = pod::uid(pod);
            let holder = self.names.entry(pod::key(pod)).or_insert_with(|| path.clone());
            if holder == path {
                pods.insert(uid, Arc::clone(pod));
                continue;
            }
            if !self.left_out.contains(&uid) {
                tracing::warn!(pod = %pod::key(pod), path = %path.display(), holder = %holder.display(), "A second pod of this name is ignored");
                let message = duplicate_message(pod, SourceKind::File);
                let why = reason::event::FAILED_VALIDATION;
                self.recorder.pod(pod, None, EventType::Warning, why, message);
            }
            left_out.insert(uid);
        }
        self.left_out = left_out;
        pods
    }
}

impl File {
    /// Reads a new text; answers what is wrong with it.
    fn read(&mut self, text: Vec<u8>, path: &Path, config: &Config, now: Wall) -> Option<String> {
        // The UID depends on the path, which upstream makes clean only within a directory.
        let is_whole = *path == config.path;
        let origin = if is_whole { path.display().to_string() } else { clean_path(path) };
        let pod =
            static_pod::read(&text, Origin::File(&origin), &config.node_name, config.references)
                .map_err(|error| error.to_string())
                .map(|mut pods| pods.pop());
        self.text = text;
        match pod {
            Ok(Some(pod)) => {
                self.problem = None;
                self.pod = Some(adopted(pod, SourceKind::File, self.pod.as_ref(), now));
                None
            }
            Ok(None) => Some("it holds no pod".to_owned()),
            Err(problem) => Some(problem),
        }
    }
}

/// Watches the directory, or the directory of the file. None when that is impossible: then only the
/// clock tells.
fn watch_files(path: &Path) -> Option<inotify::EventStream<[u8; 4096]>> {
    let directory = if path.is_dir() { path } else { path.parent()? };
    let inotify = Inotify::init().ok()?;
    let mask = WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::ATTRIB
        | WatchMask::ONLYDIR;
    inotify.watches().add(directory, mask).ok()?;
    inotify.into_event_stream([0; 4096]).ok()
}

/// Reads the files. A path that does not exist holds none.
fn scan(path: &Path) -> io::Result<Vec<Found>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if metadata.is_file() {
        return Ok(read(path.to_owned()).into_iter().collect());
    }
    if !metadata.is_dir() {
        return Err(io::Error::other("it is neither a directory nor a file"));
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths.into_iter().filter_map(read).collect())
}

/// Reads one file; `None` for what is no file, or has just gone.
fn read(path: PathBuf) -> Option<Found> {
    let metadata = std::fs::metadata(&path).ok()?;
    if !metadata.is_file() {
        return None;
    }
    let text = if metadata.len() > MAX_SIZE {
        Err(format!("it is larger than {MAX_SIZE} bytes"))
    } else {
        match std::fs::read(&path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
        }
    };
    Some(Found { path, text })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write the manifests that they read")]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::{Config, Source, new, scan};
    use crate::apiserver::events::{Event, Recorder};
    use crate::clock::Clock;
    use crate::model::pod;

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}"
        )
    }

    struct World {
        _tasks: JoinSet<()>,
        source: Source,
        events: tokio::sync::mpsc::Receiver<Event>,
    }

    fn world(path: &Path) -> World {
        let mut tasks = JoinSet::new();
        let (recorder, events) = Recorder::channel();
        let config = Config {
            path: path.to_owned(),
            check_frequency: Duration::from_millis(20),
            node_name: "n".to_owned(),
            references: super::References::Refused,
        };
        let (source, task) = new(config, recorder, Clock::system());
        tasks.spawn(task);
        World { _tasks: tasks, source, events }
    }

    impl World {
        async fn until(&mut self, expected: &[(&str, &str)]) {
            let mut expected: Vec<(String, String)> = expected
                .iter()
                .map(|(name, image)| ((*name).to_owned(), (*image).to_owned()))
                .collect();
            expected.sort();
            let wait = self.source.state.wait_for(|state| {
                let mut pods: Vec<_> = state
                    .pods
                    .values()
                    .map(|pod| {
                        let image = pod::main_containers(pod)[0].image.clone().unwrap_or_default();
                        (pod.metadata.name.clone().unwrap_or_default(), image)
                    })
                    .collect();
                pods.sort();
                state.ready && pods == expected
            });
            drop(
                tokio::time::timeout(Duration::from_secs(10), wait)
                    .await
                    .expect("in time")
                    .expect("the task lives"),
            );
        }
    }

    #[tokio::test]
    async fn follows_the_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        std::fs::write(path.join("a.yaml"), manifest("a", "i:1")).expect("written");
        std::fs::write(path.join(".hidden.yaml"), manifest("h", "i:1")).expect("written");
        std::fs::create_dir(path.join("sub")).expect("made");
        let mut world = world(path);
        world.until(&[("a-n", "i:1")]).await;
        std::fs::write(path.join(".b.tmp"), manifest("b", "i:1")).expect("written");
        std::fs::rename(path.join(".b.tmp"), path.join("b.json")).expect("renamed");
        world.until(&[("a-n", "i:1"), ("b-n", "i:1")]).await;
        std::fs::write(path.join("a.yaml"), manifest("a", "i:2")).expect("written");
        world.until(&[("a-n", "i:2"), ("b-n", "i:1")]).await;
        std::fs::remove_file(path.join("a.yaml")).expect("removed");
        world.until(&[("b-n", "i:1")]).await;
    }

    #[tokio::test]
    async fn a_file_that_was_deleted_and_is_back_is_another_life_of_its_pod() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        for name in ["a", "b"] {
            std::fs::write(path.join(format!("{name}.yaml")), manifest(name, "i:1"))
                .expect("written");
        }
        let mut world = world(path);
        world.until(&[("a-n", "i:1"), ("b-n", "i:1")]).await;
        let mut state = world.source.state.clone();
        let gone =
            tokio::spawn(async move { drop(state.wait_for(|state| state.pods.len() == 1).await) });
        std::fs::write(path.join(".a.tmp"), manifest("a", "i:1")).expect("written");
        std::fs::rename(path.join(".a.tmp"), path.join("a.yaml")).expect("renamed");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!gone.is_finished(), "replaced by the same text");
        std::fs::remove_file(path.join("b.yaml")).expect("removed");
        std::fs::write(path.join("b.yaml"), manifest("b", "i:1")).expect("written");
        tokio::time::timeout(Duration::from_secs(10), gone)
            .await
            .expect("in time")
            .expect("no panic");
        world.until(&[("a-n", "i:1"), ("b-n", "i:1")]).await;
    }

    #[tokio::test]
    async fn a_file_keeps_the_name_of_its_pod_when_it_is_edited() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let write = |name: &str, image: &str| {
            let temporary = path.join(".new");
            std::fs::write(&temporary, manifest("a", image)).expect("written");
            std::fs::rename(temporary, path.join(name)).expect("renamed");
        };
        write("a.yaml", "i:0");
        let mut world = world(path);
        world.until(&[("a-n", "i:0")]).await;
        write("a.yaml.backup", "i:old");
        write("Before.yaml", "i:old");
        for edit in 1..20 {
            let image = format!("i:{edit}");
            write("a.yaml", &image);
            world.until(&[("a-n", &image)]).await;
        }
        let event = world.events.recv().await.expect("an event");
        assert!(event.message.ends_with("from file due to duplicate pod name \"a-n\", ignoring"));

        // Gone for a moment, with the same text.
        std::fs::remove_file(path.join("a.yaml")).expect("removed");
        write("a.yaml", "i:19");
        world.until(&[]).await;
        world.until(&[("a-n", "i:19")]).await;

        std::fs::remove_file(path.join("a.yaml")).expect("removed");
        world.until(&[("a-n", "i:old")]).await;
        write("a.yaml", "i:20");
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.until(&[("a-n", "i:old")]).await;
        std::fs::write(path.join("Before.yaml"), manifest("b", "i:b")).expect("written");
        world.until(&[("a-n", "i:20"), ("b-n", "i:b")]).await;
    }

    #[tokio::test]
    async fn a_bad_file_affects_only_itself_and_keeps_its_last_good_pod() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        std::fs::write(path.join("a.yaml"), manifest("a", "i:1")).expect("written");
        let mut world = world(path);
        world.until(&[("a-n", "i:1")]).await;
        std::fs::write(path.join("a.yaml"), "kind: Pod\napiVersion: v1\nmetadata: {name: a}")
            .expect("written");
        std::fs::write(path.join("b.yaml"), manifest("b", "i:1")).expect("written");
        world.until(&[("a-n", "i:1"), ("b-n", "i:1")]).await;
        let event = tokio::time::timeout(Duration::from_secs(10), world.events.recv())
            .await
            .expect("in time");
        let event = event.expect("an event");
        assert_eq!(event.reason, "FailedValidation");
        assert!(
            event.message.contains("a.yaml: invalid pod: [spec.containers: Required value]"),
            "{}",
            event.message
        );
        std::fs::write(path.join("a.yaml"), manifest("a", "i:2")).expect("written");
        world.until(&[("a-n", "i:2"), ("b-n", "i:1")]).await;
    }

    #[tokio::test]
    async fn a_missing_directory_is_an_empty_one_until_it_appears() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("later");
        let mut world = world(&path);
        world.until(&[]).await;
        std::fs::create_dir(&path).expect("made");
        std::fs::write(path.join("a.yaml"), manifest("a", "i:1")).expect("written");
        world.until(&[("a-n", "i:1")]).await;
    }

    #[tokio::test]
    async fn the_uid_depends_on_the_clean_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        std::fs::create_dir(path.join("x")).expect("made");
        std::fs::write(path.join("a.yaml"), manifest("a", "i:1")).expect("written");
        let uid = async |path: &Path| {
            let mut world = world(path);
            world.until(&[("a-n", "i:1")]).await;
            world.source.state.borrow().pods.keys().next().cloned()
        };
        let dirty = path.join("x/..//.").join("");
        assert_eq!(uid(&dirty).await, uid(path).await);
    }

    #[test]
    fn one_file_may_be_the_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("pod.yaml");
        std::fs::write(&file, "x").expect("written");
        assert_eq!(scan(&file).expect("read").len(), 1);
        assert_eq!(scan(&directory.path().join("none")).expect("none"), []);
    }
}
