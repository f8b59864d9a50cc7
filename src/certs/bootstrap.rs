//! The first client certificate: whether one has to be requested, the kubeconfig that then leads to
//! it, and the request itself where certificates are not rotated.
//!
//! Called once, before the clients of the API server are made. It never touches a kubeconfig whose
//! certificate is valid.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tracing::{error, info, warn};

use super::config::Settings;
use super::key::Key;
use super::pair::Leaf;
use super::request::{Purpose, Request, digested_name};
use super::store::Store;
use super::template::Template;
use super::{kubeconfig as text, signer};
use crate::apiserver::kubeconfig::{self, Access, Identity};
use crate::apiserver::{ClientConfig, Clients, random};
use crate::clock::Clock;
use crate::linux::fs::{WriteOptions, ensure_root_dir, write_atomic_with};
use crate::model::Wall;

/// The store of the client certificate.
pub(super) const PREFIX: &str = "kubelet-client";
/// The key of a request that has not been signed yet, so that the next process finds its request.
const PENDING_KEY: &str = "kubelet-client.key.tmp";
/// How long the first certificate may take; upstream's time.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long the API server is waited for before the request is made.
const SERVER: Duration = Duration::from_secs(60);
/// How often it is asked whether it is there, and how long each answer may take.
const ASK: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(1);

/// What the clients of the API server are made from.
pub(super) struct Origin {
    /// The server.
    pub(super) cluster: Access,
    /// The certificate that the kubeconfig has or names.
    pub(super) identity: Option<Identity>,
}

/// Chooses between the kubeconfig and the bootstrap kubeconfig, and writes the first where the
/// second is used. Blocks on files.
///
/// A kubeconfig whose certificate has expired is used on while there is no usable bootstrap
/// kubeconfig. Upstream's process ends then.
pub(super) fn prepare(settings: &Settings, now: Wall) -> anyhow::Result<Origin> {
    let path = &settings.client.kubeconfig;
    let Some(bootstrap) = settings.bootstrap.as_ref().filter(|_| !is_still_valid(path, now)) else {
        return of_kubeconfig(path);
    };
    let unable = || "unable to load bootstrap kubeconfig".to_owned();
    match kubeconfig::load_cluster(bootstrap).with_context(unable) {
        Ok(cluster) => {
            let store = Store::open(PREFIX, &settings.directory, None)?;
            write_kubeconfig(path, &cluster, &store.current_path())?;
            info!(kubeconfig = %path.display(), "client certificate is requested with the bootstrap credentials");
            Ok(Origin { cluster, identity: None })
        }
        Err(error) => {
            let Ok(origin) = of_kubeconfig(path) else { return Err(error) };
            let error = format!("{error:#}");
            warn!(
                error,
                "the client certificate is of no use, and there is no bootstrap kubeconfig"
            );
            Ok(origin)
        }
    }
}

fn of_kubeconfig(path: &Path) -> anyhow::Result<Origin> {
    let cluster = kubeconfig::load_cluster(path).context("unable to load kubeconfig")?;
    let identity = match kubeconfig::load(path) {
        Ok(access) => access.identity,
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            error!(error, "the user of the kubeconfig cannot be used");
            None
        }
    };
    Ok(Origin { cluster, identity })
}

/// Returns true if a kubeconfig has a client certificate none of which has expired.
fn is_still_valid(path: &Path, now: Wall) -> bool {
    if !path.exists() {
        return false;
    }
    let identity = match kubeconfig::load(path) {
        Ok(access) => access.identity,
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            error!(error, "unable to read existing bootstrap client config");
            return false;
        }
    };
    let Some(identity) = identity else { return false };
    let mut leaves = identity.chain.iter().map(|certificate| Leaf::read(certificate));
    let expired = leaves.find(|leaf| leaf.as_ref().is_none_or(|leaf| leaf.not_after < now));
    if let Some(leaf) = &expired {
        let at = leaf.as_ref().map(|leaf| leaf.not_after.to_string());
        error!(
            kubeconfig = %path.display(),
            at,
            "part of the existing bootstrap client certificate is expired"
        );
    }
    expired.is_none()
}

fn write_kubeconfig(path: &Path, cluster: &Access, pem: &Path) -> anyhow::Result<()> {
    let fail = || format!("cannot write the kubeconfig {}", path.display());
    if let Some(folder) = path.parent() {
        ensure_root_dir(folder, 0o755).with_context(fail)?;
    }
    let options = WriteOptions::mode(0o600).synced();
    write_atomic_with(path, text::text(cluster, pem), options).with_context(fail)
}

/// Requests the first client certificate, once, where it is not rotated afterwards: with a key that
/// survives this process, so that the next one finds the same request. Does nothing while the
/// kubeconfig is valid. May take an hour. Cancel-safe.
pub async fn load_client_cert(settings: &Settings, clock: Clock) -> anyhow::Result<()> {
    let path = &settings.client.kubeconfig;
    let Some(bootstrap) = &settings.bootstrap else { return Ok(()) };
    if is_still_valid(path, clock.now().wall) {
        info!(kubeconfig = %path.display(), "kubeconfig exists and is valid, skipping bootstrap");
        return Ok(());
    }

    let unable = "unable to load bootstrap kubeconfig";
    let cluster = kubeconfig::load_cluster(bootstrap).context(unable)?;
    let config = ClientConfig { kubeconfig: bootstrap.clone(), ..settings.client.clone() };
    let clients = Clients::new(&config, clock).context(unable)?;
    let store = Store::open(PREFIX, &settings.directory, None)?;
    let pending = settings.directory.join(PENDING_KEY);
    let key = key(&store, &pending)?;
    wait_for_server(&clients).await;

    let template = Template::client(&settings.client.node_name);
    let public = key.public();
    let name = Some(digested_name(&public, &template, Purpose::Client));
    let pem = key.request(&template).context("unable to generate certificate request")?;
    let request = Request { purpose: Purpose::Client, pem, public, name };
    let certificate = signer::sign(&clients, &request, clock.now().wall, PATIENCE).await?;

    store.update(&certificate, key.pem(), clock.now().wall)?;
    if let Err(error) = std::fs::remove_file(&pending)
        && error.kind() != io::ErrorKind::NotFound
    {
        info!(%error, path = %pending.display(), "failed cleaning up private key file");
    }
    write_kubeconfig(path, &cluster, &store.current_path())
}

/// Returns the key for the request: that of the store, else the one of an earlier request, else a
/// new one, which is kept first.
fn key(store: &Store, pending: &Path) -> anyhow::Result<Key> {
    let stored = store.current().ok().flatten();
    if let Some(key) = stored.and_then(|pair| Key::parse(&pair.to_pem().1).ok()) {
        return Ok(key);
    }
    match std::fs::read_to_string(pending) {
        Ok(text) => {
            let fail = || format!("error loading key from {}", pending.display());
            return Key::parse(&text).with_context(fail);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error)
                .with_context(|| format!("error loading key from {}", pending.display()));
        }
    }

    let key = Key::generate().context("error generating key")?;
    let fail = || format!("error writing key to {}", pending.display());
    if let Some(folder) = pending.parent() {
        ensure_root_dir(folder, 0o755).with_context(fail)?;
    }
    let options = WriteOptions::mode(0o600).synced();
    write_atomic_with(pending, key.pem(), options).with_context(fail)?;
    Ok(key)
}

/// Waits until the API server answers, a minute at most.
async fn wait_for_server(clients: &Clients) {
    let asking = async {
        loop {
            let request = http::Request::get("/healthz").body(Vec::new());
            let Ok(request) = request else { return };
            let answer = tokio::time::timeout(ANSWER, clients.writes.request_text(request)).await;
            match answer {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => info!(%error, "failed to connect to apiserver"),
                Err(_) => info!("failed to connect to apiserver: no answer in time"),
            }
            tokio::time::sleep(random::jitter(ASK, 0.2)).await;
        }
    };
    if tokio::time::timeout(SERVER, asking).await.is_err() {
        info!("timed out waiting to connect to apiserver");
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::pair::testing::issued;
    use super::*;
    use crate::config::Proxies;

    fn wall(second: i64) -> Wall {
        Wall::from_second(second).expect("a time")
    }

    struct Place {
        folder: tempfile::TempDir,
        settings: Settings,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().expect("a directory");
        let client = ClientConfig {
            kubeconfig: folder.path().join("etc/kubelet.conf"),
            node_name: "n1".to_owned(),
            qps: -1.0,
            burst: 1,
            event_qps: 0.0,
            event_burst: 0,
            disable_http2: false,
            proxies: Proxies::default(),
        };
        let settings = Settings {
            client,
            bootstrap: Some(folder.path().join("bootstrap.conf")),
            directory: folder.path().join("pki"),
            is_rotated: true,
        };
        Place { folder, settings }
    }

    impl Place {
        fn write(&self, name: &str, server: &str, user: &str) {
            let path = self.folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters:\n- {{name: c, \
                 cluster: {{server: 'https://{server}:6443'}}}}\ncontexts:\n- {{name: x, context: \
                 {{cluster: c, user: u}}}}\nusers:\n- {{name: u, user: {user}}}\n"
            );
            std::fs::write(path, text).expect("written");
        }

        /// A kubeconfig with a certificate that ends at `not_after`.
        fn write_kubeconfig(&self, not_after: i64) {
            let (certificate, key) = issued(&Template::client("n1"), wall(0), wall(not_after));
            std::fs::write(self.folder.path().join("c.pem"), certificate + &key).expect("written");
            let pem = self.folder.path().join("c.pem");
            let user = format!("{{client-certificate: {0}, client-key: {0}}}", pem.display());
            self.write("etc/kubelet.conf", "old", &user);
        }

        fn server(&self) -> String {
            let origin = prepare(&self.settings, wall(1000)).expect("prepared");
            origin.cluster.server.host().expect("a host").to_owned()
        }
    }

    #[test]
    fn a_bootstrap_writes_the_kubeconfig_at_once() {
        let place = place();
        place.write("bootstrap.conf", "new", "{token: abcdef.0123456789abcdef}");
        assert_eq!(place.server(), "new");
        let path = &place.settings.client.kubeconfig;
        assert_eq!(path.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(path).expect("text");
        let pem = place.folder.path().join("pki/kubelet-client-current.pem");
        assert!(text.contains(&format!("client-key: {}\n", pem.display())), "{text}");
        assert!(!text.contains("abcdef"), "no token in {text}");
    }

    #[test]
    fn a_valid_kubeconfig_wins_and_an_expired_one_does_not() {
        let place = place();
        place.write("bootstrap.conf", "new", "{token: abcdef.0123456789abcdef}");
        place.write_kubeconfig(2000);
        assert_eq!(place.server(), "old");
        place.write_kubeconfig(999);
        assert_eq!(place.server(), "new");
        // Its certificate is not there yet.
        assert_eq!(place.server(), "new");
    }

    #[test]
    fn an_expired_kubeconfig_is_used_while_there_is_no_bootstrap_kubeconfig() {
        let place = place();
        let error = prepare(&place.settings, wall(1000)).err().expect("nothing to begin with");
        assert!(format!("{error:#}").starts_with("unable to load bootstrap kubeconfig: "));
        place.write_kubeconfig(999);
        assert_eq!(place.server(), "old");
    }

    #[test]
    fn the_key_of_a_pending_request_is_used_again() {
        let place = place();
        let store = Store::open(PREFIX, &place.settings.directory, None).expect("a store");
        let pending = place.settings.directory.join(PENDING_KEY);
        let first = key(&store, &pending).expect("a key").public();
        assert_eq!(pending.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(key(&store, &pending).expect("a key").public(), first);

        let (certificate, stored) = issued(&Template::client("n1"), wall(0), wall(1));
        store.update(certificate.as_bytes(), &stored, wall(0)).expect("kept");
        let found = key(&store, &pending).expect("a key");
        assert_eq!(found.pem(), stored, "that of an expired certificate");
    }
}
