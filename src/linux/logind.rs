//! Speaks to systemd-logind by its D-Bus interface on the system bus: hears of the machine's
//! shutdown, and holds it back by an inhibitor lock.
//!
//! Every call has a deadline. Nothing here knows of pods, and nothing here shuts the machine down.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::net::UnixStream;
use zbus::proxy::CacheProperties;
use zbus::{Connection, MatchRule, MessageStream};

use super::{blocking, systemd};

/// The socket of the system bus.
const BUS: &str = "/run/dbus/system_bus_socket";
/// The folder of what overrides logind's configuration.
const OVERRIDES: &str = "/etc/systemd/logind.conf.d";
/// The name of the override, upstream's.
const OVERRIDE: &str = "99-kubelet.conf";
/// The deadline of a call.
const DEADLINE: Duration = Duration::from_secs(10);
/// The signal by which logind reads its configuration again.
const SIGHUP: i32 = 1;

/// The reasons why logind cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogindError {
    /// The bus cannot be reached.
    #[error("no system bus on {socket:?}")]
    Absent {
        /// The socket of the bus.
        socket: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The call was refused, or the connection broke.
    #[error("{call} failed")]
    Refused {
        /// The call.
        call: &'static str,
        /// The bus's error.
        #[source]
        source: Box<zbus::Error>,
    },
    /// The override of logind's configuration cannot be written.
    #[error("failed writing logind shutdown inhibit override file {path:?}")]
    Override {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The deadline has passed.
    #[error("{0} has not answered after {DEADLINE:?}")]
    Deadline(&'static str),
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Manager {
    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max(&self) -> zbus::Result<u64>;

    fn inhibit(
        &self,
        what: &str,
        who: &str,
        why: &str,
        mode: &str,
    ) -> zbus::Result<zbus::zvariant::OwnedFd>;
}

/// systemd-logind of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Logind {
    bus: PathBuf,
    overrides: PathBuf,
    /// True if a test and not a bus is behind the socket.
    #[cfg(test)]
    peer: bool,
}

impl Default for Logind {
    fn default() -> Self {
        Self {
            bus: PathBuf::from(BUS),
            overrides: PathBuf::from(OVERRIDES),
            #[cfg(test)]
            peer: false,
        }
    }
}

impl Logind {
    /// Opens a connection to the bus.
    pub async fn connect(&self) -> Result<Session, LogindError> {
        let absent = |source| LogindError::Absent { socket: self.bus.clone(), source };
        let connecting = tokio::time::timeout(DEADLINE, UnixStream::connect(&self.bus)).await;
        let late = |_| LogindError::Deadline("the system bus");
        let stream = connecting.map_err(late)?.map_err(absent)?;
        let builder = zbus::connection::Builder::unix_stream(stream);
        #[cfg(test)]
        let builder = if self.peer { builder.p2p() } else { builder };

        let bus = call("the system bus", builder.build()).await?;
        let manager = ManagerProxy::builder(&bus).cache_properties(CacheProperties::No);
        let manager = call("the system bus", manager.build()).await?;
        Ok(Session { bus, manager, overrides: self.overrides.clone() })
    }
}

/// An open connection to the bus.
#[derive(Debug)]
pub struct Session {
    bus: Connection,
    manager: ManagerProxy<'static>,
    overrides: PathBuf,
}

/// A lock that holds the machine's shutdown back until it is dropped.
#[derive(Debug)]
pub struct Inhibitor {
    _lock: OwnedFd,
}

impl Session {
    /// Returns the longest time for which logind lets a shutdown be held back.
    pub async fn longest_delay(&self) -> Result<Duration, LogindError> {
        let micros = call("reading InhibitDelayMaxUSec", self.manager.inhibit_delay_max()).await?;
        Ok(Duration::from_micros(micros))
    }

    /// Has logind let a shutdown be held back for `delay`. It takes effect some time later.
    pub async fn extend_delay(&self, delay: Duration) -> Result<(), LogindError> {
        let folder = self.overrides.clone();
        let written = blocking::spawn(move || write_override(&folder, delay)).await;
        let source = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(error) => Some(io::Error::other(error)),
        };
        if let Some(source) = source {
            return Err(LogindError::Override { path: self.overrides.join(OVERRIDE), source });
        }

        // Nothing of systemd is read, so that nothing is to be kept.
        let units = systemd::ManagerProxy::builder(&self.bus);
        let units = units.cache_properties(CacheProperties::No).build();
        let units = call("the system bus", units).await?;
        let reload = units.kill_unit("systemd-logind.service", "all", SIGHUP);
        call("reloading the configuration of logind", reload).await
    }

    /// Takes the lock.
    pub async fn inhibit(&self) -> Result<Inhibitor, LogindError> {
        let why = "Kubelet needs time to handle node shutdown";
        let taken = self.manager.inhibit("shutdown", "kubelet", why, "delay");
        let lock = call("taking the inhibitor lock", taken).await?;
        Ok(Inhibitor { _lock: lock.into() })
    }

    /// Returns the announcements from now on: true for a shutdown that begins, false for one that
    /// was cancelled. As with upstream's kubelet, the sender does not matter.
    pub async fn announcements(&self) -> Result<Announcements, LogindError> {
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface("org.freedesktop.login1.Manager")
            .and_then(|rule| rule.member("PrepareForShutdown"))
            .and_then(|rule| rule.path("/org/freedesktop/login1"));
        let refused =
            |source| LogindError::Refused { call: "listening to logind", source: Box::new(source) };
        let rule = rule.map_err(refused)?.build();
        let stream = MessageStream::for_match_rule(rule, &self.bus, Some(8));
        Ok(Announcements { stream: call("listening to logind", stream).await? })
    }
}

/// The announcements of a shutdown.
#[derive(Debug)]
pub struct Announcements {
    stream: MessageStream,
}

impl Announcements {
    /// Waits for the next one; `None` once the connection is broken. Cancel-safe.
    pub async fn next(&mut self) -> Option<bool> {
        loop {
            let message = self.stream.next().await?.ok()?;
            if let Ok(begins) = message.body().deserialize::<bool>() {
                return Some(begins);
            }
        }
    }
}

async fn call<T>(
    call: &'static str,
    work: impl Future<Output = zbus::Result<T>>,
) -> Result<T, LogindError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(outcome) => {
            outcome.map_err(|source| LogindError::Refused { call, source: Box::new(source) })
        }
        Err(_) => Err(LogindError::Deadline(call)),
    }
}

fn write_override(folder: &Path, delay: Duration) -> io::Result<()> {
    let seconds = delay.as_secs();
    let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds}\n");
    std::fs::create_dir_all(folder)?;
    super::fs::write_atomic(&folder.join(OVERRIDE), text, 0o644)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream as Pair;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;
    use zbus::object_server::SignalEmitter;

    use super::*;

    /// What the stand-in of logind knows, and the other ends of the locks that it gave.
    #[derive(Debug, Default)]
    struct Known {
        delay: u64,
        asked: Vec<String>,
        locks: Vec<Pair>,
    }

    #[derive(Clone)]
    struct Fake(Arc<Mutex<Known>>);

    #[zbus::interface(name = "org.freedesktop.login1.Manager")]
    impl Fake {
        #[zbus(property, name = "InhibitDelayMaxUSec")]
        fn inhibit_delay_max(&self) -> u64 {
            self.0.lock().delay
        }

        fn inhibit(
            &self,
            what: &str,
            who: &str,
            why: &str,
            mode: &str,
        ) -> zbus::fdo::Result<zbus::zvariant::OwnedFd> {
            let (theirs, ours) =
                Pair::pair().map_err(|it| zbus::fdo::Error::Failed(it.to_string()))?;
            let mut known = self.0.lock();
            known.asked.push(format!("{what}|{who}|{why}|{mode}"));
            known.locks.push(ours);
            Ok(OwnedFd::from(theirs).into())
        }

        #[zbus(signal)]
        async fn prepare_for_shutdown(
            emitter: &SignalEmitter<'_>,
            begins: bool,
        ) -> zbus::Result<()>;
    }

    struct Init(Arc<Mutex<Known>>, PathBuf);

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl Init {
        /// Reads the override, as logind does.
        fn kill_unit(&self, name: &str, whom: &str, signal: i32) {
            let text = std::fs::read_to_string(self.1.join(OVERRIDE)).unwrap_or_default();
            let seconds = text.lines().find_map(|line| line.strip_prefix("InhibitDelayMaxSec="));
            let seconds: u64 = seconds.and_then(|text| text.parse().ok()).unwrap_or_default();
            let mut known = self.0.lock();
            known.delay = seconds * 1_000_000;
            known.asked.push(format!("kill {name} {whom} {signal}"));
        }
    }

    /// Returns a logind in memory, what it knows, and the sender of its announcements.
    fn logind(scratch: &tempfile::TempDir) -> (Logind, Arc<Mutex<Known>>, mpsc::Sender<bool>) {
        let socket = scratch.path().join("bus");
        let overrides = scratch.path().join("logind.conf.d");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let known = Arc::new(Mutex::new(Known { delay: 5_000_000, ..Known::default() }));
        let (announce, mut announced) = mpsc::channel::<bool>(4);
        let fake = Fake(Arc::clone(&known));
        let init = Init(Arc::clone(&known), overrides.clone());
        #[expect(clippy::disallowed_methods, reason = "the test's own peer")]
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a caller");
            let builder = zbus::connection::Builder::unix_stream(stream)
                .server(zbus::Guid::generate())
                .expect("a server")
                .p2p()
                .serve_at("/org/freedesktop/login1", fake)
                .and_then(|builder| builder.serve_at("/org/freedesktop/systemd1", init));
            let connection = builder.expect("served").build().await.expect("a connection");
            let emitter =
                SignalEmitter::new(&connection, "/org/freedesktop/login1").expect("a path");
            while let Some(begins) = announced.recv().await {
                Fake::prepare_for_shutdown(&emitter, begins).await.expect("sent");
            }
        });
        (Logind { bus: socket, overrides, peer: true }, known, announce)
    }

    #[tokio::test]
    async fn holds_back_and_hears() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (logind, known, announce) = logind(&scratch);
        let session = logind.connect().await.expect("connected");
        assert_eq!(session.longest_delay().await.expect("read"), Duration::from_secs(5));
        session.extend_delay(Duration::from_secs(30)).await.expect("extended");
        assert_eq!(session.longest_delay().await.expect("read"), Duration::from_secs(30));
        let text = std::fs::read_to_string(logind.overrides.join(OVERRIDE)).expect("a file");
        assert_eq!(text, "# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=30\n");

        let mut heard = session.announcements().await.expect("listening");
        let lock = session.inhibit().await.expect("taken");
        announce.send(true).await.expect("announced");
        assert_eq!(heard.next().await, Some(true));
        announce.send(false).await.expect("announced");
        assert_eq!(heard.next().await, Some(false));

        drop(lock);
        let mut given = known.lock().locks.pop().expect("a lock");
        assert_eq!(given.read(&mut [0; 1]).expect("the end"), 0, "it was let go");
        assert_eq!(
            known.lock().asked,
            [
                "kill systemd-logind.service all 1",
                "shutdown|kubelet|Kubelet needs time to handle node shutdown|delay"
            ]
        );
    }

    #[tokio::test]
    async fn a_bus_that_is_not_there_is_named() {
        let logind = Logind {
            bus: PathBuf::from("/nowhere/bus"),
            overrides: PathBuf::from("/nowhere"),
            peer: true,
        };
        let error = logind.connect().await.expect_err("no bus");
        assert!(error.to_string().contains("/nowhere/bus"), "{error}");
    }
}
