//! The certificates on disk, in upstream's layout.
//!
//! ```text
//!  kubelet-client-2026-11-30-20-45-30.pem   certificate chain and key, 0600
//!  kubelet-client-current.pem            -> the newest of them
//!  kubelet-client-updated.pem            -> the same, for the moment before it becomes current
//! ```
//!
//! One manager owns a store. The link is changed in one step, and the file that it leads to is on
//! the disk before: a process that is killed, or a machine that loses power, leaves the old pair or
//! the new one. Nothing here removes a file of an earlier pair, as upstream. Names of files have
//! the time in UTC. Blocks, briefly.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tracing::info;

use super::block::encode;
use super::pair::{Pair, PairError};
use crate::apiserver::kubeconfig::IdentityFiles;
use crate::linux::fs::{WriteOptions, ensure_root_dir, write_atomic_with};
use crate::model::Wall;

/// Why a pair cannot be read or kept. The texts are upstream's where it has one.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// A file cannot be used.
    #[error("cannot {step} {:?}", path.display().to_string())]
    File {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file holds no pair.
    #[error("could not convert data from {:?} into cert/key pair", path.display().to_string())]
    Content {
        /// The file of the certificate.
        path: PathBuf,
        /// The cause.
        #[source]
        source: PairError,
    },
    /// What should be a link is something else.
    #[error("expected {:?} to be a symlink but it is a file", .0.display().to_string())]
    NoLink(PathBuf),
    /// The new pair is none.
    #[error("invalid certificate data")]
    New(#[source] PairError),
}

/// The pairs of one kind.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// `kubelet-client`.
    prefix: &'static str,
    directory: PathBuf,
    /// The files that the configuration names, for as long as the store has none.
    configured: Option<IdentityFiles>,
}

/// One step of an update. Each leaves a usable pair behind.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Writes the pair, whole and synced.
    Write { path: PathBuf, text: String },
    /// Removes a link that an earlier process has left.
    Unlink { path: PathBuf },
    /// Makes the link that is to become the current one.
    Link { target: PathBuf, path: PathBuf },
    /// Makes it the current one.
    Rename { from: PathBuf, to: PathBuf },
}

impl Store {
    /// Opens a store and finishes an update that was interrupted.
    pub(super) fn open(
        prefix: &'static str,
        directory: &Path,
        configured: Option<IdentityFiles>,
    ) -> Result<Self, StoreError> {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let store = Self { prefix, directory, configured };
        let (current, updated) = (store.current_path(), store.path("updated"));
        if exists(&current)? || !is_link(&updated)? {
            return Ok(store);
        }

        std::fs::rename(&updated, &current).map_err(failed("rename", &updated))?;
        Ok(store)
    }

    /// Returns the path of the link to the newest pair.
    pub(super) fn current_path(&self) -> PathBuf {
        self.path("current")
    }

    fn path(&self, qualifier: &str) -> PathBuf {
        self.directory.join(format!("{}-{qualifier}.pem", self.prefix))
    }

    /// Reads the newest pair: of the store, else of the configured files, else of the names that
    /// old versions of Kubernetes used. `None` if there is none.
    pub(super) fn current(&self) -> Result<Option<Pair>, StoreError> {
        let current = self.current_path();
        let legacy = |extension| self.directory.join(format!("{}.{extension}", self.prefix));
        let places = [
            Some(IdentityFiles { certificate: current.clone(), key: current }),
            self.configured.clone(),
            Some(IdentityFiles { certificate: legacy("crt"), key: legacy("key") }),
        ];
        for files in places.into_iter().flatten() {
            if exists(&files.certificate)? && exists(&files.key)? {
                info!(file = %files.certificate.display(), "loading certificate and key");
                return read(&files).map(Some);
            }
        }
        Ok(None)
    }

    /// Keeps a new pair and makes it the current one.
    pub(super) fn update(
        &self,
        certificate: &[u8],
        key: &str,
        now: Wall,
    ) -> Result<Pair, StoreError> {
        let pair = Pair::from_pem(certificate, key.as_bytes()).map_err(StoreError::New)?;
        ensure_root_dir(&self.directory, 0o755).map_err(failed("create", &self.directory))?;
        for step in self.plan(certificate, key, now)? {
            step.run()?;
        }

        let directory = File::open(&self.directory).and_then(|directory| directory.sync_all());
        directory.map_err(failed("sync", &self.directory))?;
        Ok(pair)
    }

    /// Returns the steps of an update, after looking at what is there.
    fn plan(&self, certificate: &[u8], key: &str, now: Wall) -> Result<Vec<Step>, StoreError> {
        let path = self.path(&now.strftime("%Y-%m-%d-%H-%M-%S").to_string());
        let (current, updated) = (self.current_path(), self.path("updated"));
        is_link(&current)?;
        let mut steps = vec![Step::Write { path: path.clone(), text: text(certificate, key) }];
        if is_link(&updated)? {
            steps.push(Step::Unlink { path: updated.clone() });
        }
        steps.push(Step::Link { target: path, path: updated.clone() });
        steps.push(Step::Rename { from: updated, to: current });
        Ok(steps)
    }
}

impl Step {
    fn run(self) -> Result<(), StoreError> {
        match self {
            Self::Write { path, text } => {
                let options = WriteOptions::mode(0o600).synced();
                write_atomic_with(&path, text, options).map_err(failed("write", &path))
            }
            Self::Unlink { path } => std::fs::remove_file(&path).map_err(failed("remove", &path)),
            Self::Link { target, path } => {
                std::os::unix::fs::symlink(target, &path).map_err(failed("link", &path))
            }
            Self::Rename { from, to } => {
                std::fs::rename(&from, to).map_err(failed("rename", &from))
            }
        }
    }
}

/// The content of a file: the chain and the key, in Go's form.
fn text(certificate: &[u8], key: &str) -> String {
    let mut text = String::new();
    for certificate in CertificateDer::pem_slice_iter(certificate).filter_map(Result::ok) {
        text.push_str(&encode("CERTIFICATE", certificate.to_vec()));
    }
    text.push_str(key);
    text
}

/// Reads a pair of files, which may be one file.
pub(super) fn read(files: &IdentityFiles) -> Result<Pair, StoreError> {
    let get = |path: &Path| std::fs::read(path).map_err(failed("read", path));
    let (certificate, key) = (get(&files.certificate)?, get(&files.key)?);
    Pair::from_pem(&certificate, &key)
        .map_err(|source| StoreError::Content { path: files.certificate.clone(), source })
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(failed("look at", path))
}

/// Returns true for a link and false if there is nothing; anything else is an error.
fn is_link(path: &Path) -> Result<bool, StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Ok(true),
        Ok(_) => Err(StoreError::NoLink(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn failed(step: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { step, path: path.clone(), source }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::super::pair::testing::issued;
    use super::super::template::Template;
    use super::*;

    fn wall(second: i64) -> Wall {
        Wall::from_second(second).expect("a time")
    }

    fn made(node: &str) -> (String, String) {
        issued(&Template::client(node), wall(0), wall(2_000_000_000))
    }

    fn open(directory: &Path) -> Store {
        Store::open("kubelet-client", directory, None).expect("a store")
    }

    fn current(store: &Store) -> Option<String> {
        store.current().expect("readable").map(|pair| pair.leaf.common_name)
    }

    #[test]
    fn files_are_upstreams() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(&directory.path().join("pki"));
        assert_eq!(current(&store), None);
        let (certificate, key) = made("one");
        store.update(certificate.as_bytes(), &key, wall(1_764_535_530)).expect("kept");
        assert_eq!(current(&store).as_deref(), Some("system:node:one"));

        let dated = directory.path().join("pki/kubelet-client-2025-11-30-20-45-30.pem");
        let link = directory.path().join("pki/kubelet-client-current.pem");
        assert_eq!(std::fs::read_link(&link).expect("a link"), dated);
        assert_eq!(dated.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&dated).expect("text");
        let certificate = certificate.replace('\r', "");
        assert_eq!(text, format!("{certificate}{key}"));
        assert!(text.contains("-----BEGIN EC PRIVATE KEY-----"), "in this order");
    }

    #[test]
    fn configured_files_and_old_names_are_read_while_there_is_no_link() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, node: &str| {
            let (certificate, key) = made(node);
            let path = directory.path().join(name);
            std::fs::write(path.with_extension("crt"), certificate).expect("written");
            std::fs::write(path.with_extension("key"), key).expect("written");
            IdentityFiles {
                certificate: path.with_extension("crt"),
                key: path.with_extension("key"),
            }
        };
        write("kubelet-client", "old");
        assert_eq!(current(&open(directory.path())).as_deref(), Some("system:node:old"));

        let configured = Some(write("other", "configured"));
        let store = Store::open("kubelet-client", directory.path(), configured).expect("a store");
        assert_eq!(current(&store).as_deref(), Some("system:node:configured"));

        let (certificate, key) = made("new");
        store.update(certificate.as_bytes(), &key, wall(0)).expect("kept");
        assert_eq!(current(&store).as_deref(), Some("system:node:new"));
    }

    #[test]
    fn a_file_in_the_place_of_the_link_is_refused_and_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = made("one");
        let path = directory.path().join("kubelet-client-current.pem");
        std::fs::write(&path, format!("{certificate}{key}")).expect("written");
        let store = open(directory.path());
        assert_eq!(current(&store).as_deref(), Some("system:node:one"), "as upstream reads it");
        let error = store.update(certificate.as_bytes(), &key, wall(0)).expect_err("refused");
        let text =
            format!("expected {:?} to be a symlink but it is a file", path.display().to_string());
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn what_is_no_pair_changes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = open(directory.path());
        let (certificate, key) = made("one");
        store.update(certificate.as_bytes(), &key, wall(0)).expect("kept");
        let (_, other) = made("two");
        store.update(certificate.as_bytes(), &other, wall(1)).expect_err("another key");
        store.update(b"nonsense", &key, wall(2)).expect_err("no certificate");
        assert_eq!(current(&store).as_deref(), Some("system:node:one"));
        assert_eq!(std::fs::read_dir(directory.path()).expect("a folder").count(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// A process that dies after any step leaves the old pair or the new one, and the next one
        /// can go on; so too with the pair of the same second, and after another such death.
        #[test]
        fn a_crash_at_each_step_leaves_a_usable_pair(
            has_old in any::<bool>(),
            deaths in prop::collection::vec((0_usize..5, 0_i64..2), 1..4),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let mut possible = vec![None];
            if has_old {
                let (certificate, key) = made("old");
                open(directory.path()).update(certificate.as_bytes(), &key, wall(0)).expect("kept");
                possible = vec![Some("system:node:old".to_owned())];
            }
            for (number, (steps, second)) in deaths.into_iter().enumerate() {
                let node = format!("new{number}");
                let (certificate, key) = made(&node);
                let store = open(directory.path());
                let plan = store.plan(certificate.as_bytes(), &key, wall(second)).expect("a plan");
                plan.into_iter().take(steps).for_each(|step| step.run().expect("done"));

                possible.push(Some(format!("system:node:{node}")));
                let found = current(&open(directory.path()));
                prop_assert!(possible.contains(&found), "{found:?} of {possible:?}");
                if found.is_some() {
                    possible.retain(Option::is_some);
                }
            }
            let (certificate, key) = made("last");
            open(directory.path()).update(certificate.as_bytes(), &key, wall(0)).expect("kept");
            let found = current(&open(directory.path()));
            prop_assert_eq!(found.as_deref(), Some("system:node:last"));
        }
    }
}
