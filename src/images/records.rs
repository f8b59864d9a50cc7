//! Records which credentials pulled each image (upstream's KubeletEnsureSecretPulledImages): an
//! image that was pulled with a secret is not given to a pod that could not have pulled it.
//!
//! The files are upstream's, in `image_manager/{pulling,pulled}` under the root directory, so
//! either kubelet can take over. They are small; the calls block for a few microseconds.
//!
//! A lost record makes an image be pulled again (an intent that cannot be read) or counts it as
//! preloaded. It never fails a pod.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::credentials::{Source, Tracked};
use super::reference;
use crate::linux::fs::{ensure_dir, write_atomic};
use crate::model::Wall;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const OLD_API_VERSION: &str = "kubelet.config.k8s.io/v1alpha1";
/// The secrets that only matched a pull, at most, in a record; upstream's limit.
const MATCHED_LIMIT: usize = 100;

/// `imagePullCredentialsVerificationPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// Nothing is verified or recorded (feature gate `KubeletEnsureSecretPulledImages` off).
    Off,
    /// Every pod may use every image that is on the node.
    Never,
    /// Every pod may use the images that this kubelet never pulled; the default.
    #[default]
    NeverForPreloaded,
    /// Every pod may use these images: names without tag, or prefixes that end in `/*`.
    NeverForAllowlisted(Vec<String>),
    /// A pod may use an image only after a pull with its own credentials.
    Always,
}

impl Verification {
    fn requires(&self, image: &str, pulled_by_us: bool) -> bool {
        match self {
            Self::Off | Self::Never => false,
            Self::NeverForPreloaded => pulled_by_us,
            Self::Always => true,
            Self::NeverForAllowlisted(patterns) => {
                let name = reference::without_tag(image).unwrap_or(image);
                !patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(prefix) => name.starts_with(prefix),
                    None => name == pattern,
                })
            }
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intent {
    kind: String,
    api_version: String,
    image: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pulled {
    kind: String,
    api_version: String,
    last_updated_time: String,
    image_ref: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    credential_mapping: BTreeMap<String, Access>,
}

/// The access to an image by one of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Access {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretAccess>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<AccountAccess>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

/// The access that a secret gives. Sorted as upstream does: by namespace, name, UID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretAccess {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

/// In upstream's order: by namespace, name, UID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AccountAccess {
    uid: String,
    namespace: String,
    name: String,
}

impl AccountAccess {
    fn of(tracked: &Tracked) -> Option<Self> {
        let Source::ServiceAccount(account) = &tracked.source else { return None };
        Some(Self {
            uid: account.uid.clone(),
            namespace: account.namespace.clone(),
            name: account.name.clone(),
        })
    }
}

impl Access {
    /// Returns who may use an image that was pulled with this credential: pods that have the same
    /// one; all pods if it is the node's, or none was needed.
    fn of(used: Option<&Tracked>) -> Self {
        match used.map(|tracked| (tracked, &tracked.source)) {
            None | Some((_, Source::Node)) => {
                Self { node_pods_accessible: true, ..Self::default() }
            }
            Some((tracked, Source::Secret(_))) => Self {
                kubernetes_secrets: SecretAccess::of(tracked).into_iter().collect(),
                ..Self::default()
            },
            Some((tracked, Source::ServiceAccount(_))) => Self {
                kubernetes_service_accounts: AccountAccess::of(tracked).into_iter().collect(),
                ..Self::default()
            },
        }
    }
}

impl SecretAccess {
    fn of(tracked: &Tracked) -> Option<Self> {
        let Source::Secret(secret) = &tracked.source else { return None };
        Some(Self {
            uid: secret.uid.clone(),
            namespace: secret.namespace.clone(),
            name: secret.name.clone(),
            credential_hash: tracked.credential.hash(),
        })
    }

    fn is_same_secret(&self, other: &Self) -> bool {
        self.uid == other.uid && self.namespace == other.namespace && self.name == other.name
    }

    fn is_same_credential(&self, other: &Self) -> bool {
        !self.credential_hash.is_empty() && self.credential_hash == other.credential_hash
    }
}

/// The records.
#[derive(Debug)]
pub(super) struct Records {
    pulling: PathBuf,
    pulled: PathBuf,
    verification: Verification,
    /// The number of running pulls of each image; its file exists while there is one. The lock also
    /// orders all changes.
    under_way: Mutex<HashMap<String, u32>>,
}

/// A running pull that is recorded as such. If it is dropped, the pull has failed or was cancelled.
#[derive(Debug)]
pub(super) struct Recorded {
    records: Arc<Records>,
    image: String,
    keep: bool,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if !self.keep {
            self.records.forget_intent(&self.image);
        }
    }
}

impl Records {
    pub(super) fn new(root_dir: &std::path::Path, verification: Verification) -> Self {
        let directory = root_dir.join("image_manager");
        Self {
            pulling: directory.join("pulling"),
            pulled: directory.join("pulled"),
            verification,
            under_way: Mutex::default(),
        }
    }

    /// Whether it is looked at who may have an image that is on the node.
    pub(super) fn verifies(&self) -> bool {
        self.verification != Verification::Off
    }

    /// Records that an image is going to be pulled. If this process is killed, the image still
    /// counts as pulled by the kubelet.
    pub(super) fn begin(self: &Arc<Self>, image: &str) -> io::Result<Recorded> {
        if !self.verifies() {
            return Ok(Recorded { records: Arc::clone(self), image: image.to_owned(), keep: true });
        }
        let mut under_way = self.under_way.lock();
        let intent = Intent {
            kind: "ImagePullIntent".into(),
            api_version: API_VERSION.into(),
            image: image.to_owned(),
        };
        ensure_dir(&self.pulling, 0o700)?;
        write_atomic(&self.pulling.join(file_name(image)), json(&intent)?, 0o600)?;
        *under_way.entry(image.to_owned()).or_default() += 1;
        drop(under_way);

        Ok(Recorded { records: Arc::clone(self), image: image.to_owned(), keep: false })
    }

    /// Records that the image was pulled, and with which credentials. If that cannot be written the
    /// intent stays, and with it the knowledge that the image was pulled.
    pub(super) fn succeed(
        &self,
        mut pull: Recorded,
        image_ref: &str,
        used: Option<&Tracked>,
        now: Wall,
    ) {
        if !self.verifies() {
            return;
        }
        let access = Access::of(used);
        let lock = self.under_way.lock();
        let written = self.add(&pull.image, image_ref, Some(access), now);
        drop(lock);

        if let Err(error) = written {
            tracing::error!(image_ref, %error, "the record of a pulled image cannot be written");
            pull.keep = true;
        }
    }

    fn forget_intent(&self, image: &str) {
        let mut under_way = self.under_way.lock();
        if let Some(count) = under_way.get_mut(image).filter(|count| **count > 1) {
            *count -= 1;
            return;
        }

        match std::fs::remove_file(self.pulling.join(file_name(image))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(image, %error, "the intent to pull an image cannot be removed");
                return;
            }
        }

        under_way.remove(image);
    }

    /// Returns true if an image that is on the node must be pulled all the same because the pod has
    /// not proved its access. `credentials` are the pod's own.
    pub(super) fn must_pull(
        &self,
        image: &str,
        image_ref: &str,
        credentials: &[Tracked],
        now: Wall,
    ) -> bool {
        if !self.verifies() {
            return false;
        }
        let lock = self.under_way.lock();
        let record = self.read(image_ref);
        let pulled_by_us = match &record {
            Ok(Some(_)) => true,
            Ok(None) => lock.contains_key(image) || self.pulling.join(file_name(image)).exists(),
            Err(error) => {
                tracing::error!(image_ref, %error, "the record of a pulled image cannot be read");
                return true;
            }
        };
        if !self.verification.requires(image, pulled_by_us) {
            return false;
        }

        let Ok(Some(record)) = record else { return true };
        let Ok(name) = reference::without_tag(image) else { return true };
        let Some(access) = record.credential_mapping.get(name) else { return true };
        if access.node_pods_accessible {
            return false;
        }

        let own: Vec<SecretAccess> = credentials.iter().filter_map(SecretAccess::of).collect();
        for own in own {
            for known in &access.kubernetes_secrets {
                let secret = own.is_same_secret(known);
                let credential = own.is_same_credential(known);
                let has_room = access.kubernetes_secrets.len() < MATCHED_LIMIT;
                let is_known = credential || secret && has_room;
                if !is_known {
                    continue;
                }

                if secret != credential && has_room {
                    // The same secret with a new content, or the same content in another secret:
                    // next time it is known.
                    let matched =
                        Access { kubernetes_secrets: vec![own.clone()], ..Access::default() };
                    if let Err(error) = self.add(image, image_ref, Some(matched), now) {
                        tracing::error!(image_ref, %error, "the record of a pulled image cannot be written");
                    }
                }

                return false;
            }
        }

        // Upstream compares the first account only, which is the pod's.
        let account = credentials.iter().find_map(AccountAccess::of);
        !account.is_some_and(|account| access.kubernetes_service_accounts.contains(&account))
    }

    /// Whether the record of an image names credentials that a pod may show.
    pub(super) fn knows_credentials(&self, image: &str, image_ref: &str) -> bool {
        let Ok(name) = reference::without_tag(image) else { return false };
        let lock = self.under_way.lock();
        let record = self.read(image_ref).ok().flatten();
        drop(lock);
        let access = record.as_ref().and_then(|record| record.credential_mapping.get(name));
        access.is_some_and(|access| {
            !access.kubernetes_secrets.is_empty() || !access.kubernetes_service_accounts.is_empty()
        })
    }

    /// Turns the intents of a killed kubelet into records, for images that exist. `images` are id
    /// and names of each.
    pub(super) fn recover(&self, images: &[(String, Vec<String>)], now: Wall) {
        if !self.verifies() {
            return;
        }
        let lock = self.under_way.lock();
        let Ok(files) = std::fs::read_dir(&self.pulling) else { return };

        for file in files.flatten() {
            let intent = std::fs::read(file.path()).map_err(|error| error.to_string());
            let intent = intent.and_then(|data| {
                serde_json::from_slice::<Intent>(&data).map_err(|error| error.to_string())
            });
            let Ok(Intent { image, .. }) = intent else { continue };

            for (id, _) in images.iter().filter(|(_, names)| names.contains(&image)) {
                match self.add(&image, id, None, now) {
                    Ok(()) => drop(std::fs::remove_file(file.path())),
                    Err(error) => {
                        tracing::error!(image, %error, "the record of a pulled image cannot be written");
                    }
                }
            }
        }

        drop(lock);
    }

    /// Removes the records of images that are gone. `until` is the time at which the list of images
    /// was begun.
    pub(super) fn prune(&self, images: &[String], until: Wall) {
        if !self.verifies() {
            return;
        }
        let lock = self.under_way.lock();

        let Ok(files) = std::fs::read_dir(&self.pulled) else { return };
        for file in files.flatten() {
            let Ok(data) = std::fs::read(file.path()) else { continue };
            let Ok(record) = serde_json::from_slice::<Pulled>(&data) else { continue };
            let updated = record.last_updated_time.parse::<Wall>().unwrap_or(Wall::UNIX_EPOCH);
            if updated < until && !images.contains(&record.image_ref) {
                drop(std::fs::remove_file(file.path()));
            }
        }

        drop(lock);
    }

    fn read(&self, image_ref: &str) -> io::Result<Option<Pulled>> {
        let data = match std::fs::read(self.pulled.join(file_name(image_ref))) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let record: Pulled = serde_json::from_slice(&data)?;
        if record.kind != "ImagePulledRecord"
            || ![API_VERSION, OLD_API_VERSION].contains(&record.api_version.as_str())
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an ImagePulledRecord"));
        }

        Ok(Some(record).filter(|record| record.image_ref == image_ref))
    }

    /// Adds an access to an image's record. A record that cannot be read is made anew.
    fn add(
        &self,
        image: &str,
        image_ref: &str,
        access: Option<Access>,
        now: Wall,
    ) -> io::Result<()> {
        let name = reference::without_tag(image).map_err(io::Error::other)?;
        let old = self.read(image_ref).unwrap_or_default();
        let mut record = old.clone().unwrap_or_else(|| Pulled {
            kind: "ImagePulledRecord".into(),
            api_version: API_VERSION.into(),
            last_updated_time: String::new(),
            image_ref: image_ref.to_owned(),
            credential_mapping: BTreeMap::new(),
        });
        if let Some(access) = access {
            merge(record.credential_mapping.entry(name.to_owned()).or_default(), access);
        }
        if old.as_ref() == Some(&record) {
            return Ok(());
        }

        record.api_version = API_VERSION.into();
        record.last_updated_time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        ensure_dir(&self.pulled, 0o700)?;

        write_atomic(&self.pulled.join(file_name(image_ref)), json(&record)?, 0o600)
    }
}

fn merge(known: &mut Access, new: Access) {
    if known.node_pods_accessible {
        return;
    }

    if new.node_pods_accessible {
        *known = Access { node_pods_accessible: true, ..Access::default() };
        return;
    }

    for secret in new.kubernetes_secrets {
        match known.kubernetes_secrets.iter_mut().find(|known| known.is_same_secret(&secret)) {
            Some(known) => known.credential_hash = secret.credential_hash,
            None => known.kubernetes_secrets.push(secret),
        }
    }

    known
        .kubernetes_secrets
        .sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    for account in new.kubernetes_service_accounts {
        if !known.kubernetes_service_accounts.contains(&account) {
            known.kubernetes_service_accounts.push(account);
        }
    }
    known
        .kubernetes_service_accounts
        .sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut data = serde_json::to_vec(value)?;
    data.push(b'\n');
    Ok(data)
}

fn file_name(image: &str) -> String {
    let hex: Vec<String> = Sha256::digest(image).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256-{}", hex.concat())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests prepare files")]
mod tests {
    use std::sync::Arc;

    use super::{Records, Verification, file_name};
    use crate::images::credentials::{
        AccountName, Credential, Keyring, PullSecret, Source, Tracked,
    };
    use crate::model::Wall;

    const NOW: Wall = Wall::UNIX_EPOCH;

    fn credentials(name: &str, password: &str) -> Vec<Tracked> {
        let json = format!(
            "{{\"auths\":{{\"x.io\":{{\"username\":\"u\",\"password\":\"{password}\"}}}}}}"
        );
        let secret = k8s_openapi::api::core::v1::Secret {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some("shop".to_owned()),
                uid: Some(format!("uid-{name}")),
                ..Default::default()
            },
            type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
            data: Some(
                [(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(json.into_bytes()))]
                    .into(),
            ),
            ..Default::default()
        };
        let secret = PullSecret::from_secret(&secret).expect("a pull secret");
        Keyring::of_secrets(&[secret]).expect("a keyring").lookup("x.io/a")
    }

    fn records(verification: Verification) -> (tempfile::TempDir, Arc<Records>) {
        let directory = tempfile::tempdir().expect("a directory");
        let records = Arc::new(Records::new(directory.path(), verification));
        (directory, records)
    }

    fn given_for(account: &str) -> Vec<Tracked> {
        let name = AccountName {
            namespace: "shop".to_owned(),
            name: account.to_owned(),
            uid: format!("uid-{account}"),
        };
        let source = Source::ServiceAccount(name);
        vec![Tracked { credential: Credential::new("u", "p"), source }]
    }

    #[test]
    fn an_image_that_was_pulled_for_a_service_account_is_its_own() {
        let (directory, records) = records(Verification::NeverForPreloaded);
        let pull = records.begin("x.io/a:1").expect("recorded");
        records.succeed(pull, "sha256:a", given_for("one").first(), NOW);
        assert!(records.knows_credentials("x.io/a:1", "sha256:a"));
        assert!(!records.must_pull("x.io/a:1", "sha256:a", &given_for("one"), NOW));
        assert!(records.must_pull("x.io/a:1", "sha256:a", &given_for("two"), NOW));
        assert!(records.must_pull("x.io/a:1", "sha256:a", &credentials("one", "p"), NOW));

        let file = directory.path().join("image_manager/pulled").join(file_name("sha256:a"));
        let record = std::fs::read_to_string(file).expect("a record");
        let account = r#"[{"uid":"uid-one","namespace":"shop","name":"one"}]"#;
        let expected = format!(
            r#""credentialMapping":{{"x.io/a":{{"kubernetesServiceAccounts":{account}}}}}"#
        );
        assert!(record.contains(&expected), "{record}");
    }

    #[test]
    fn without_the_gate_nothing_is_recorded_or_verified() {
        let (directory, records) = records(Verification::Off);
        let pull = records.begin("x.io/a:1").expect("not recorded");
        records.succeed(pull, "sha256:a", credentials("one", "p").first(), NOW);
        assert!(!records.must_pull("x.io/a:1", "sha256:a", &[], NOW));
        assert!(!directory.path().join("image_manager").exists());
    }

    #[test]
    fn preloaded_images_are_everybodys_and_pulled_ones_are_not() {
        let (directory, records) = records(Verification::NeverForPreloaded);
        let own = credentials("one", "p");
        assert!(!records.must_pull("x.io/a:1", "sha256:a", &[], NOW), "preloaded");
        let pull = records.begin("x.io/a:1").expect("recorded");
        assert!(records.must_pull("x.io/a:1", "sha256:a", &own, NOW), "being pulled by somebody");
        records.succeed(pull, "sha256:a", own.first(), NOW);
        assert!(records.must_pull("x.io/a:1", "sha256:a", &[], NOW), "no credential");
        assert!(
            !records.must_pull("x.io/a:2", "sha256:a", &own, NOW),
            "another tag of the same name"
        );
        assert!(
            records.must_pull("y.io/a:1", "sha256:a", &own, NOW),
            "another name of the same image"
        );
        assert!(
            !records.must_pull("x.io/a:1", "sha256:a", &credentials("two", "p"), NOW),
            "the same content"
        );
        assert!(
            !records.must_pull("x.io/a:1", "sha256:a", &credentials("one", "q"), NOW),
            "the same secret"
        );
        assert!(records.must_pull("x.io/a:1", "sha256:a", &credentials("three", "r"), NOW));
        assert!(
            !directory.path().join("image_manager/pulling").join(file_name("x.io/a:1")).exists()
        );
        let pull = records.begin("x.io/a:1").expect("recorded");
        records.succeed(pull, "sha256:a", None, NOW);
        assert!(!records.must_pull("x.io/a:1", "sha256:a", &[], NOW), "pulled without any");
        records.prune(&[], NOW);
        assert!(!records.must_pull("x.io/a:1", "sha256:a", &[], NOW), "not older than the list");
        records.prune(&[], NOW + jiff::SignedDuration::from_secs(1));
        assert_eq!(
            std::fs::read_dir(directory.path().join("image_manager/pulled"))
                .expect("there")
                .count(),
            0
        );
    }

    #[test]
    fn a_pull_that_failed_leaves_nothing_and_one_that_was_killed_does() {
        let (directory, records) = records(Verification::NeverForPreloaded);
        let first = records.begin("x.io/a:1").expect("recorded");
        let second = records.begin("x.io/a:1").expect("recorded");
        drop(first);
        assert!(records.must_pull("x.io/a:1", "sha256:a", &[], NOW), "the second is under way");
        drop(second);
        assert!(!records.must_pull("x.io/a:1", "sha256:a", &[], NOW));
        std::mem::forget(records.begin("x.io/a:1").expect("recorded"));
        let again = Records::new(directory.path(), Verification::NeverForPreloaded);
        assert!(again.must_pull("x.io/a:1", "sha256:a", &[], NOW));
        again.recover(&[("sha256:a".to_owned(), vec!["x.io/a:1".to_owned()])], NOW);
        assert!(again.must_pull("x.io/a:1", "sha256:a", &[], NOW), "by a record now");
        assert_eq!(
            std::fs::read_dir(directory.path().join("image_manager/pulling"))
                .expect("there")
                .count(),
            0
        );
    }

    #[test]
    fn upstreams_files_are_understood() {
        let (directory, records) = records(Verification::NeverForPreloaded);
        let pulled = directory.path().join("image_manager/pulled");
        std::fs::create_dir_all(&pulled).expect("made");
        let text = "{\"kind\":\"ImagePulledRecord\",\"apiVersion\":\"kubelet.config.k8s.io/v1alpha1\",\
                    \"lastUpdatedTime\":\"2024-10-21T12:26:40Z\",\"imageRef\":\"sha256:b\",\
                    \"credentialMapping\":{\"x.io/b\":{\"nodePodsAccessible\":true}}}";
        std::fs::write(pulled.join(file_name("sha256:b")), text).expect("written");
        assert!(!records.must_pull("x.io/b:1", "sha256:b", &[], NOW));
        std::fs::write(pulled.join(file_name("sha256:c")), "{").expect("written");
        assert!(
            records.must_pull("x.io/c:1", "sha256:c", &[], NOW),
            "a broken record forces a pull"
        );
    }

    #[track_caller]
    fn check(verification: &Verification, image: &str, expected: bool) {
        assert_eq!(verification.requires(image, false), expected, "{image}");
    }

    #[test]
    fn the_allowlist_knows_names_and_prefixes() {
        let list =
            Verification::NeverForAllowlisted(vec!["x.io/a".to_owned(), "y.io/team/*".to_owned()]);
        check(&list, "x.io/a:1", false);
        check(&list, "x.io/ab", true);
        check(
            &list,
            "y.io/team/b/c@sha256:7cc4b5aefd1d0cadf8d97d4350462ba51c694ebca145b08d7d41b41acc8db5aa",
            false,
        );
        check(&list, "y.io/other", true);
        check(&Verification::Always, "x.io/a", true);
        check(&Verification::Never, "x.io/a", false);
    }
}
