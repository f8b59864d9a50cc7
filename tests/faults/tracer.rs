//! Stops a kubelet at its own system calls: those that change files or mounts of the pods that a
//! case watches.
//!
//! It attaches to all threads of the process and to the programs that it starts. At the entry of
//! each call that changes something below a watched pod's directories it is counted, as a step of
//! that pod; the thread that comes to the step at which the pod is to be caught is not let go on.
//! With one pod caught at each step the kubelet is killed: none of these calls has been made, all
//! before them have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use regex::Regex;

/// After how long without any step no more are expected.
const QUIET: Duration = Duration::from_secs(8);

/// Where a call's arguments say what it changes.
#[derive(Clone, Copy)]
enum Place {
    /// A path, relative to the working directory.
    Path(usize),
    /// A descriptor of a directory, and a path relative to it.
    At(usize, usize),
    /// A descriptor.
    Open(usize),
    /// A path that is created if the flags say so.
    Created(usize),
    /// The same relative to a descriptor; the flags follow.
    CreatedAt(usize, usize),
    /// The same with the flags behind a pointer.
    CreatedHow(usize, usize),
    /// A path relative to a descriptor; the flags that follow say whether it is a directory.
    RemovedAt(usize, usize),
}

/// The calls that change something.
const CALLS: &[(libc::c_long, &str, Place)] = &[
    (libc::SYS_mount, "mount", Place::Path(1)),
    (libc::SYS_move_mount, "mount", Place::At(2, 3)),
    (libc::SYS_mount_setattr, "remount", Place::At(0, 1)),
    (libc::SYS_umount2, "umount", Place::Path(0)),
    (libc::SYS_mkdirat, "mkdir", Place::At(0, 1)),
    (libc::SYS_unlinkat, "unlink", Place::RemovedAt(0, 1)),
    (libc::SYS_renameat, "rename", Place::At(2, 3)),
    (libc::SYS_renameat2, "rename", Place::At(2, 3)),
    (libc::SYS_symlinkat, "symlink", Place::At(1, 2)),
    (libc::SYS_linkat, "link", Place::At(2, 3)),
    (libc::SYS_openat, "create", Place::CreatedAt(0, 1)),
    (libc::SYS_openat2, "create", Place::CreatedHow(0, 1)),
    (libc::SYS_fchmod, "chmod", Place::Open(0)),
    (libc::SYS_fchmodat, "chmod", Place::At(0, 1)),
    (libc::SYS_fchown, "chown", Place::Open(0)),
    (libc::SYS_fchownat, "chown", Place::At(0, 1)),
    (libc::SYS_write, "write", Place::Open(0)),
    (libc::SYS_pwrite64, "write", Place::Open(0)),
    (libc::SYS_writev, "write", Place::Open(0)),
    (libc::SYS_ftruncate, "truncate", Place::Open(0)),
    (libc::SYS_truncate, "truncate", Place::Path(0)),
];
/// Those that only this architecture has.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(libc::c_long, &str, Place)] = &[
    (libc::SYS_open, "create", Place::Created(0)),
    (libc::SYS_creat, "create", Place::Path(0)),
    (libc::SYS_mkdir, "mkdir", Place::Path(0)),
    (libc::SYS_rmdir, "rmdir", Place::Path(0)),
    (libc::SYS_unlink, "unlink", Place::Path(0)),
    (libc::SYS_rename, "rename", Place::Path(1)),
    (libc::SYS_symlink, "symlink", Place::Path(1)),
    (libc::SYS_link, "link", Place::Path(1)),
    (libc::SYS_chmod, "chmod", Place::Path(0)),
    (libc::SYS_chown, "chown", Place::Path(0)),
    (libc::SYS_lchown, "chown", Place::Path(0)),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(libc::c_long, &str, Place)] = &[];

/// A call of one pod's life, by what it does to what: the `nth` of its kind since the tracer came.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    what: String,
    nth: usize,
}

impl Step {
    /// Whether it changes this directory of a pod, or something in it.
    pub(crate) fn is_in(&self, dir: &str) -> bool {
        self.what.split_once(' ').is_some_and(|(_, path)| Path::new(path).starts_with(dir))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.what)?;
        if self.nth > 1 { write!(f, " ({})", self.nth) } else { Ok(()) }
    }
}

#[derive(Debug, Default)]
struct State {
    /// A directory, as paths end that lead to it; the pod whose it is, and what it is called.
    marks: Vec<(String, String, &'static str)>,
    /// Where each pod is to be caught.
    barriers: BTreeMap<String, Step>,
    counts: BTreeMap<(String, String), usize>,
    steps: Vec<(String, Step)>,
    caught: BTreeSet<String>,
    /// When the last step was come to.
    last: Option<Instant>,
    error: Option<String>,
}

impl State {
    /// A call is about to change this path: whether it is to be held.
    fn note(&mut self, call: &str, path: &Path) -> bool {
        let path = path.display().to_string();
        let found = self.marks.iter().find_map(|(mark, pod, name)| {
            let rest = path.split_once(mark.as_str())?.1;
            (rest.is_empty() || rest.starts_with('/'))
                .then(|| (format!("{name}{}", constant(rest)), pod.clone()))
        });
        let Some((place, pod)) = found else { return false };
        let what = format!("{call} {place}");
        let nth = self.counts.entry((pod.clone(), what.clone())).or_default();
        *nth += 1;
        let step = Step { what, nth: *nth };
        let is_held = self.barriers.get(&pod) == Some(&step);
        if is_held {
            self.caught.insert(pod.clone());
        }
        self.steps.push((pod, step));
        self.last = Some(Instant::now());
        is_held
    }
}

/// The path without what differs from pod to pod and from time to time.
fn constant(path: &str) -> String {
    static PARTS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let parts = [
            (r"\.\.\d{4}_[0-9_]+\.\d+", "..GENERATION"),
            (r"\.([^/]+)\.\d+-\d+\.tmp$", ".$1.tmp"),
            (r"fault-[0-9a-z-]+", "PV"),
            (r"/only-\d", "/only"),
        ];
        parts
            .into_iter()
            .filter_map(|(pattern, text)| Some((Regex::new(pattern).ok()?, text)))
            .collect()
    });
    let path = path.trim_end_matches(" (deleted)").to_owned();
    PARTS.iter().fold(path, |path, (pattern, text)| pattern.replace_all(&path, *text).into_owned())
}

/// A tracer of one process. When it goes, the process is killed.
#[derive(Debug)]
pub(crate) struct Tracer {
    pid: Pid,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Tracer {
    /// Attaches to the process, all of whose calls pass here from now on.
    pub(crate) fn attach(pid: i32) -> Result<Self> {
        let pid = Pid::from_raw(pid);
        let state = Arc::<Mutex<State>>::default();
        let (attached, is_attached) = mpsc::channel();
        let shared = state.clone();
        // A tracer is a thread: no other may ask for its tracees.
        let thread = std::thread::spawn(move || {
            if let Err(error) = follow(pid, &shared, &attached) {
                shared.lock().error = Some(format!("{error:#}"));
            }
        });
        let tracer = Self { pid, state, thread: Some(thread) };
        if is_attached.recv_timeout(Duration::from_secs(10)).is_ok() {
            return Ok(tracer);
        }
        let why = tracer.state.lock().error.clone();
        bail!(
            "the tracer could not attach to {pid}: {}",
            why.unwrap_or_else(|| "no answer".to_owned())
        )
    }

    /// From now on the directory that paths with `mark` in them lead to is the pod's, and called
    /// so.
    pub(crate) fn mark(&self, mark: &str, pod: &str, name: &'static str) {
        self.state.lock().marks.push((mark.to_owned(), pod.to_owned(), name));
    }

    /// Where the pod is to be caught.
    pub(crate) fn catch(&self, pod: &str, step: &Step) {
        self.state.lock().barriers.insert(pod.to_owned(), step.clone());
    }

    /// The steps that the pod has come to, in their order.
    pub(crate) fn steps(&self, pod: &str) -> Vec<Step> {
        self.state
            .lock()
            .steps
            .iter()
            .filter(|(of, _)| of == pod)
            .map(|(_, step)| step.clone())
            .collect()
    }

    /// Waits until all pods that are to be caught are; answers those that are, also if they are
    /// fewer in the end, when nobody has come to any step for a while.
    pub(crate) async fn until_caught(&self, patience: Duration) -> Result<BTreeSet<String>> {
        let deadline = Instant::now() + patience;
        loop {
            {
                let state = self.state.lock();
                if let Some(error) = &state.error {
                    bail!("the tracer has ended: {error}");
                }
                let is_quiet = state.last.is_some_and(|last| last.elapsed() > QUIET);
                if state.caught.len() == state.barriers.len()
                    || is_quiet
                    || Instant::now() > deadline
                {
                    return Ok(state.caught.clone());
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Kills the process, and waits for its end.
    pub(crate) fn kill(mut self) -> Result<()> {
        kill(self.pid, Signal::SIGKILL)?;
        let thread = self.thread.take().context("a tracer without a thread")?;
        thread.join().map_err(|_| anyhow!("the tracer panicked"))?;
        self.state.lock().error.take().map_or(Ok(()), |error| bail!("the tracer: {error}"))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// Attaches, and lets all threads go on from stop to stop until the process has ended. What else
/// was started by it goes on then.
fn follow(pid: Pid, state: &Mutex<State>, attached: &mpsc::Sender<()>) -> Result<()> {
    let mut waiting = seize(pid).context("attaching")?;
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(status) => status,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("waiting for the process"),
        };
        let (thread, signal) = match status {
            WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, ..) if ended == pid => {
                return Ok(());
            }
            WaitStatus::PtraceSyscall(thread) => {
                if let Some((call, path)) = entered(thread)
                    && state.lock().note(call, &path)
                {
                    continue;
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::Exited(..)
            | WaitStatus::Signaled(..)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => {
                continue;
            }
        };
        match ptrace::syscall(thread, signal) {
            // ESRCH: it was killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("letting a thread go on"),
        }
        if waiting.remove(&thread) && waiting.is_empty() {
            let _ = attached.send(());
        }
    }
}

/// Attaches to every thread; those which they start are attached to by themselves.
fn seize(pid: Pid) -> Result<BTreeSet<Pid>> {
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK;
    let mut seized = BTreeSet::new();
    loop {
        let before = seized.len();
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = Pid::from_raw(entry?.file_name().to_string_lossy().parse()?);
            if seized.contains(&thread) {
                continue;
            }
            match ptrace::seize(thread, options) {
                Ok(()) => {
                    ptrace::interrupt(thread)?;
                    seized.insert(thread);
                }
                // One that a thread has started that is attached to, or that has ended.
                Err(Errno::EPERM | Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if seized.len() == before {
            return Ok(seized);
        }
    }
}

/// The changing call that a stopped thread is about to make, and what it changes.
fn entered(thread: Pid) -> Option<(&'static str, PathBuf)> {
    if ptrace::syscall_info(thread).ok()?.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    let line = std::fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut words = line.split_whitespace();
    let number: libc::c_long = words.next()?.parse().ok()?;
    let (_, call, place) = CALLS.iter().chain(OLD_CALLS).find(|(known, ..)| *known == number)?;
    let arguments: Vec<u64> = words
        .filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .collect();
    let argument = |index: usize| arguments.get(index).copied();
    let creates = |flags: u64| flags & u64::from(libc::O_CREAT.unsigned_abs()) != 0;
    let (at, path, creates) = match *place {
        Place::Open(index) => return Some((*call, descriptor(thread, argument(index)?)?)),
        Place::Path(index) => (u64::MAX, argument(index)?, true),
        Place::At(at, index) | Place::RemovedAt(at, index) => {
            (argument(at)?, argument(index)?, true)
        }
        Place::Created(index) => (u64::MAX, argument(index)?, creates(argument(index + 1)?)),
        Place::CreatedAt(at, index) => {
            (argument(at)?, argument(index)?, creates(argument(index + 1)?))
        }
        Place::CreatedHow(at, index) => {
            let mut flags = [0; 8];
            memory(thread)?.read_exact_at(&mut flags, argument(index + 1)?).ok()?;
            (argument(at)?, argument(index)?, creates(u64::from_ne_bytes(flags)))
        }
    };
    let removes_dir = matches!(place, Place::RemovedAt(..)) && argument(2)? != 0;
    let call = if removes_dir { "rmdir" } else { *call };
    let path = creates.then(|| resolved(thread, at, path))??;
    does_it(call, &Path::new(&format!("/proc/{thread}/root")).join(path.strip_prefix("/").ok()?))
        .then_some((call, path))
}

/// Whether the call will change something there: many only make sure.
fn does_it(call: &str, path: &Path) -> bool {
    let is_dir = || path.symlink_metadata().map(|metadata| metadata.is_dir());
    match call {
        "mkdir" => is_dir().is_err() && path.parent().is_some_and(Path::exists),
        "unlink" => is_dir().is_ok_and(|is_dir| !is_dir),
        "rmdir" => path.read_dir().is_ok_and(|mut entries| entries.next().is_none()),
        _ => true,
    }
}

fn memory(thread: Pid) -> Option<std::fs::File> {
    std::fs::File::open(format!("/proc/{thread}/mem")).ok()
}

/// What a descriptor of the thread is open on.
fn descriptor(thread: Pid, number: u64) -> Option<PathBuf> {
    // It is an `int`: the upper half of the register says nothing.
    let number = u32::try_from(number & u64::from(u32::MAX)).ok()?.cast_signed();
    let link = if number < 0 { "cwd".to_owned() } else { format!("fd/{number}") };
    std::fs::read_link(format!("/proc/{thread}/{link}")).ok()
}

/// The path at `address`, relative to the descriptor.
fn resolved(thread: Pid, at: u64, address: u64) -> Option<PathBuf> {
    /// No piece of this size that begins at a multiple of it crosses a page.
    const PIECE: u64 = 256;
    let memory = memory(thread)?;
    let (mut text, mut next) = (Vec::new(), address);
    while text.len() < 4096 {
        let mut piece = vec![0; usize::try_from(PIECE - next % PIECE).ok()?];
        memory.read_exact_at(&mut piece, next).ok()?;
        next += u64::try_from(piece.len()).ok()?;
        let end = piece.iter().position(|byte| *byte == 0);
        text.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
        if end.is_some() {
            break;
        }
    }
    let text = String::from_utf8(text).ok()?;
    if let Some(number) = text.strip_prefix("/proc/self/fd/") {
        return descriptor(thread, number.parse().ok()?);
    }
    match text.as_str() {
        "" => descriptor(thread, at),
        absolute if absolute.starts_with('/') => Some(PathBuf::from(absolute)),
        relative => Some(descriptor(thread, at)?.join(relative)),
    }
}
