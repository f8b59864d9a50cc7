//! Starts, sets and stops systemd's slices, by its D-Bus interface on the system bus.
//!
//! A connection is opened for each call and closed after it. An open one receives a signal for
//! every change of any unit, and a kubelet should not wake up for those. Functions block until
//! systemd has carried the call out, thirty seconds at most: call them on a blocking thread of the
//! runtime. Nothing here knows of pods.
//!
//! The socket that systemd keeps for root (`/run/systemd/private`) is not used: on it systemd names
//! itself in a way that zbus does not read.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use zbus::zvariant::{OwnedObjectPath, Value};

/// The socket of the system bus.
const BUS: &str = "/run/dbus/system_bus_socket";
/// The deadline of a job; runc and upstream's kubelet wait for the same time.
const DEADLINE: Duration = Duration::from_secs(30);
/// The job mode in which a job replaces one that is queued for the same unit.
const REPLACE: &str = "replace";
/// The error of a unit that exists already.
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// The error of a unit that does not exist.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// The properties that an older systemd refuses, with the first version that has them. The same
/// values are also written to the cgroup file system.
const SINCE: [(&str, u32); 2] = [("CPUQuotaPeriodUSec", 242), ("AllowedCPUs", 244)];

/// A property of a unit, as systemd's D-Bus interface names it.
pub type Property = (&'static str, Value<'static>);

/// The reasons why systemd did not carry a call out.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The bus cannot be reached.
    #[error(
        "no system bus on {socket:?}; the cgroup driver systemd needs systemd as init, and D-Bus (package dbus)"
    )]
    Absent {
        /// The socket of the bus.
        socket: PathBuf,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// systemd refused the call, or the connection broke.
    #[error("systemd refused")]
    Refused(#[source] Box<zbus::Error>),
    /// The job ended in another way than `done`.
    #[error("systemd ended its job with {result:?}; `systemctl status {unit}` may say why")]
    Job {
        /// The unit.
        unit: String,
        /// The job's result: `failed`, `timeout`, `dependency`, …
        result: String,
    },
    /// The deadline has passed.
    #[error("systemd has not answered after {DEADLINE:?}")]
    Deadline,
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
pub(super) trait Manager {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[&(&str, Value<'_>)],
        others: &[(&str, &[(&str, Value<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;

    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;

    fn subscribe(&self) -> zbus::Result<()>;

    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;

    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: &[&(&str, Value<'_>)],
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

/// systemd of this machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Systemd {
    bus: PathBuf,
    /// The version, once it has been read.
    version: Arc<OnceLock<u32>>,
    /// True if a test and not a bus is behind the socket.
    #[cfg(test)]
    peer: bool,
}

impl Default for Systemd {
    fn default() -> Self {
        Self {
            bus: PathBuf::from(BUS),
            version: Arc::default(),
            #[cfg(test)]
            peer: false,
        }
    }
}

impl Systemd {
    /// Starts the slice `unit` with these properties; a running one is left as it is. The slices
    /// that contain it by its name are started with it.
    pub fn start_slice(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        self.call(async |manager| {
            let properties = self.known(&manager, properties).await?;
            let mut ended = ended_jobs(&manager).await?;
            match manager.start_transient_unit(unit, REPLACE, &properties, &[]).await {
                Err(error) if is(&error, UNIT_EXISTS) => Ok(()),
                Err(error) => Err(refused(error)),
                Ok(job) => done(&mut ended, unit, &job).await,
            }
        })
    }

    /// Sets properties of a running unit, until the next boot.
    pub fn set_properties(&self, unit: &str, properties: &[Property]) -> Result<(), SystemdError> {
        self.call(async |manager| {
            let properties = self.known(&manager, properties).await?;
            manager.set_unit_properties(unit, true, &properties).await.map_err(refused)
        })
    }

    /// Stops a unit: its processes are killed, its cgroup is removed. A unit that does not run is
    /// no error.
    pub fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        self.call(async |manager| {
            let mut ended = ended_jobs(&manager).await?;
            match manager.stop_unit(unit, REPLACE).await {
                Err(error) if is(&error, NO_SUCH_UNIT) => Ok(()),
                Err(error) => Err(refused(error)),
                Ok(job) => done(&mut ended, unit, &job).await,
            }
        })
    }

    /// Returns the properties that this systemd has.
    async fn known<'p>(
        &self,
        manager: &ManagerProxy<'static>,
        properties: &'p [Property],
    ) -> Result<Vec<&'p Property>, SystemdError> {
        let since = |name: &str| {
            SINCE.iter().find(|(young, _)| *young == name).map_or(0, |(_, version)| *version)
        };
        let newest = properties.iter().map(|(name, _)| since(name)).max().unwrap_or_default();
        let version = match self.version.get() {
            Some(version) => *version,
            None if newest == 0 => newest,
            None => {
                let text = manager.version().await.map_err(refused)?;
                *self.version.get_or_init(|| version_of(&text))
            }
        };

        Ok(properties.iter().filter(|(name, _)| since(name) <= version).collect())
    }

    fn call<T>(
        &self,
        work: impl AsyncFnOnce(ManagerProxy<'static>) -> Result<T, SystemdError>,
    ) -> Result<T, SystemdError> {
        Handle::current().block_on(async {
            let called = async { work(self.manager().await?).await };
            tokio::time::timeout(DEADLINE, called).await.unwrap_or(Err(SystemdError::Deadline))
        })
    }

    async fn manager(&self) -> Result<ManagerProxy<'static>, SystemdError> {
        let absent = |source| SystemdError::Absent { socket: self.bus.clone(), source };
        let stream = UnixStream::connect(&self.bus).await.map_err(absent)?;
        let builder = zbus::connection::Builder::unix_stream(stream);
        #[cfg(test)]
        let builder = if self.peer { builder.p2p() } else { builder };
        let connection = builder.build().await.map_err(refused)?;
        let manager =
            ManagerProxy::builder(&connection).cache_properties(zbus::proxy::CacheProperties::No);
        manager.build().await.map_err(refused)
    }
}

/// Returns the stream of jobs that end from now on. systemd sends it only after a subscription.
async fn ended_jobs(manager: &ManagerProxy<'static>) -> Result<JobRemovedStream, SystemdError> {
    let jobs = manager.receive_job_removed().await.map_err(refused)?;
    manager.subscribe().await.map_err(refused)?;
    Ok(jobs)
}

/// Waits for the end of `job`.
async fn done(
    ended: &mut JobRemovedStream,
    unit: &str,
    job: &OwnedObjectPath,
) -> Result<(), SystemdError> {
    while let Some(signal) = ended.next().await {
        let about = signal.args().map_err(refused)?;
        if about.job != *job {
            continue;
        }
        return match about.result.as_str() {
            "done" => Ok(()),
            result => Err(SystemdError::Job { unit: unit.to_owned(), result: result.to_owned() }),
        };
    }

    let closed =
        std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection was closed");
    Err(refused(zbus::Error::InputOutput(closed.into())))
}

/// Parses a version: `252 (252.38-1~deb12u1)`, `v245.4-1.fc32`. A text without one gives 0, the
/// oldest, of which the least is required.
fn version_of(text: &str) -> u32 {
    let digits: String =
        text.trim_start_matches(['v', '"']).chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_default()
}

fn refused(error: zbus::Error) -> SystemdError {
    SystemdError::Refused(Box::new(error))
}

fn is(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(seen, _, _) if seen.as_str() == name)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::net::UnixListener;
    use zbus::object_server::SignalEmitter;
    use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue};

    use super::{Systemd, SystemdError, version_of};
    use crate::linux::blocking;

    #[derive(Debug, zbus::DBusError)]
    #[zbus(prefix = "org.freedesktop.systemd1")]
    enum Refusal {
        #[zbus(error)]
        ZBus(zbus::Error),
        UnitExists(String),
        NoSuchUnit(String),
        UnitMasked(String),
    }

    /// The calls that systemd received, and its answers about units by name.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<Vec<String>>>, &'static str);

    impl Fake {
        async fn job(
            &self,
            what: String,
            unit: &str,
            emitter: &SignalEmitter<'_>,
        ) -> Result<OwnedObjectPath, Refusal> {
            self.0.lock().push(what);
            match unit {
                "there.slice" => return Err(Refusal::UnitExists(unit.to_owned())),
                "none.slice" => return Err(Refusal::NoSuchUnit(unit.to_owned())),
                "masked.slice" => return Err(Refusal::UnitMasked(unit.to_owned())),
                _ => {}
            }
            let result = if unit == "bad.slice" { "failed" } else { "done" };
            // Another job of the same unit ends first.
            for (id, result) in [(1, "canceled"), (2, result)] {
                Self::job_removed(emitter, id, job(id).as_ref(), unit, result).await?;
            }
            Ok(job(2))
        }
    }

    fn job(id: u32) -> OwnedObjectPath {
        ObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}")).expect("a path").into()
    }

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl Fake {
        async fn start_transient_unit(
            &self,
            name: &str,
            mode: &str,
            properties: Vec<(String, OwnedValue)>,
            others: Vec<(String, Vec<(String, OwnedValue)>)>,
            #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        ) -> Result<OwnedObjectPath, Refusal> {
            let names: Vec<String> = properties.into_iter().map(|(name, _)| name).collect();
            self.job(format!("start {name} {mode} {names:?} {}", others.len()), name, &emitter)
                .await
        }

        async fn stop_unit(
            &self,
            name: &str,
            mode: &str,
            #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        ) -> Result<OwnedObjectPath, Refusal> {
            self.job(format!("stop {name} {mode}"), name, &emitter).await
        }

        #[zbus(property)]
        fn version(&self) -> String {
            self.1.to_owned()
        }

        fn subscribe(&self) {
            self.0.lock().push("subscribe".to_owned());
        }

        #[expect(clippy::needless_pass_by_value, reason = "the macro wants what it reads")]
        fn set_unit_properties(
            &self,
            name: &str,
            runtime: bool,
            properties: Vec<(String, OwnedValue)>,
        ) -> Result<(), Refusal> {
            self.0.lock().push(format!("set {name} {runtime} {properties:?}"));
            if name == "none.slice" { Err(Refusal::NoSuchUnit(name.to_owned())) } else { Ok(()) }
        }

        #[zbus(signal)]
        async fn job_removed(
            emitter: &SignalEmitter<'_>,
            id: u32,
            job: ObjectPath<'_>,
            unit: &str,
            result: &str,
        ) -> zbus::Result<()>;
    }

    /// Returns a systemd in memory, and the record of its calls.
    fn systemd(scratch: &tempfile::TempDir, version: &'static str) -> (Systemd, Fake) {
        let socket = scratch.path().join("private");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let fake = Fake(Arc::default(), version);
        let served = fake.clone();
        #[expect(clippy::disallowed_methods, reason = "the test's own peer")]
        tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                let builder =
                    zbus::connection::Builder::unix_stream(stream).server(zbus::Guid::generate());
                let builder = builder
                    .expect("a server")
                    .p2p()
                    .serve_at("/org/freedesktop/systemd1", served.clone());
                connections.push(builder.expect("served").build().await.expect("a connection"));
            }
        });
        (Systemd { bus: socket, version: Arc::default(), peer: true }, fake)
    }

    async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        blocking::spawn(work).await.expect("no panic")
    }

    #[tokio::test]
    async fn starts_sets_and_stops() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (systemd, fake) = systemd(&scratch, "252");
        on_a_thread(move || {
            systemd.start_slice("a-b.slice", &[("TasksAccounting", true.into())]).expect("started");
            systemd.set_properties("a-b.slice", &[("TasksMax", 5_u64.into())]).expect("set");
            systemd.stop("a-b.slice").expect("stopped");
        })
        .await;
        let asked = fake.0.lock();
        let [subscribed, start, set, again, stop] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!([subscribed, again], ["subscribe", "subscribe"]);
        assert_eq!(start, "start a-b.slice replace [\"TasksAccounting\"] 0");
        assert!(set.starts_with("set a-b.slice true [(\"TasksMax\""), "{set}");
        assert_eq!(stop, "stop a-b.slice replace");
    }

    #[tokio::test]
    async fn what_an_old_systemd_does_not_have_is_left_out() {
        for (version, has_period) in
            [("239 (239-82.el8)", false), ("v242", true), ("252 (252.38-1~deb12u1)", true)]
        {
            let scratch = tempfile::tempdir().expect("a directory");
            let (systemd, fake) = systemd(&scratch, version);
            on_a_thread(move || {
                let quota =
                    [("CPUQuotaPeriodUSec", 5_u64.into()), ("CPUQuotaPerSecUSec", 5_u64.into())];
                systemd.set_properties("a.slice", &quota).expect("set");
                systemd.start_slice("a.slice", &quota).expect("started");
            })
            .await;
            let asked = fake.0.lock();
            for asked in [&asked[0], &asked[2]] {
                assert!(asked.contains("CPUQuotaPerSecUSec"), "{version}: {asked}");
                assert_eq!(asked.contains("CPUQuotaPeriodUSec"), has_period, "{version}: {asked}");
            }
        }
        assert_eq!(version_of("rawhide"), 0);
    }

    #[tokio::test]
    async fn what_is_so_already_is_no_error() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (systemd, _) = systemd(&scratch, "252");
        on_a_thread(move || {
            systemd.start_slice("there.slice", &[]).expect("it runs");
            systemd.stop("none.slice").expect("it does not run");
        })
        .await;
    }

    #[tokio::test]
    async fn failures_name_what_systemd_says() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (systemd, _) = systemd(&scratch, "252");
        let absent =
            Systemd { bus: PathBuf::from("/nowhere/bus"), version: Arc::default(), peer: true };
        let [masked, failed, unknown, nobody] = on_a_thread(move || {
            [
                systemd.start_slice("masked.slice", &[]),
                systemd.start_slice("bad.slice", &[]),
                systemd.set_properties("none.slice", &[]),
                absent.stop("a.slice"),
            ]
        })
        .await
        .map(|outcome| outcome.expect_err("it fails"));
        assert!(
            matches!(&masked, SystemdError::Refused(error) if error.to_string().contains("masked.slice")),
            "{masked:?}"
        );
        assert!(
            matches!(&failed, SystemdError::Job { result, .. } if result == "failed"),
            "{failed:?}"
        );
        assert!(
            matches!(&unknown, SystemdError::Refused(error) if error.to_string().contains("none.slice")),
            "{unknown:?}"
        );
        assert!(nobody.to_string().contains("/nowhere/bus"), "{nobody}");
    }
}
