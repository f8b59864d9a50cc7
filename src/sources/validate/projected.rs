//! Projected volumes: files from several objects in one directory. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, PodCertificateProjection, ProjectedVolumeSource, VolumeProjection,
};
use serde::Serialize;

use super::problems::Problems;
use super::{files, metadata, names, scheduling};

/// The shortest life of a pod's certificate.
const SHORTEST_CERTIFICATE: i32 = 3600;
/// The longest life of a pod's certificate, and of one that a signer of Kubernetes signs.
const LONGEST_CERTIFICATES: (i32, i32) = (91 * 24 * 60 * 60, 24 * 60 * 60);
/// The longest domain of a signer, and the longest name of one.
const LONGEST_SIGNERS: (usize, usize) = (253, 253 + 253 + 63 + 1 + 1);

/// Checks a projected volume.
pub(super) fn volume(problems: &mut Problems, path: &str, source: &ProjectedVolumeSource) {
    problems.file_mode(format!("{path}.defaultMode"), source.default_mode);
    let mut paths = BTreeSet::new();
    for (index, source) in source.sources.iter().flatten().enumerate() {
        projection(problems, path, &format!("{path}.sources[{index}]"), source, &mut paths);
    }
}

/// Checks one source of a projected volume. `all` is the path of the volume: conflicts are
/// reported there.
fn projection<'a>(
    problems: &mut Problems,
    all: &str,
    path: &str,
    source: &'a VolumeProjection,
    paths: &mut BTreeSet<&'a str>,
) {
    let mut take = |problems: &mut Problems, file: &'a str, shown: &str| {
        if !file.is_empty() && !paths.insert(file) {
            problems.invalid(all, shown, "conflicting duplicate paths");
        }
    };
    let secret = source.secret.as_ref().map(|found| (&found.name, &found.items));
    let config_map = source.config_map.as_ref().map(|found| (&found.name, &found.items));
    for (field, object) in [("secret", secret), ("configMap", config_map)] {
        let Some((name, items)) = object else { continue };
        let path = format!("{path}.{field}");
        if name.is_empty() {
            problems.required(format!("{path}.name"));
        }
        for (index, item) in items.iter().flatten().enumerate() {
            files::key_to_path(problems, &format!("{path}.items[{index}]"), item);
            take(problems, &item.path, name);
        }
    }
    for file in source.downward_api.iter().flat_map(|found| &found.items).flatten() {
        files::downward_file(problems, &format!("{path}.downwardAPI"), file);
        take(problems, &file.path, &file.path);
    }
    if let Some(token) = &source.service_account_token {
        let seconds = token.expiration_seconds.unwrap_or_default();
        let seconds_path = format!("{path}.serviceAccountToken.expirationSeconds");
        if seconds < 600 {
            let why = "may not specify a duration less than 10 minutes";
            problems.invalid(&seconds_path, seconds, why);
        }
        if seconds > 1 << 32 {
            let why = "may not specify a duration larger than 2^32 seconds";
            problems.invalid(&seconds_path, seconds, why);
        }
        // Upstream leaves out which source is wrong.
        if token.path.is_empty() {
            problems.required(format!("{all}.path"));
        } else {
            problems.not_reserved(format!("{all}.path"), &token.path);
        }
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        trust_bundle(problems, &format!("{path}.clusterTrustBundle"), bundle);
        // A bundle without a path takes the empty one.
        if !paths.insert(&bundle.path) {
            problems.invalid(all, &bundle.path, "conflicting duplicate paths");
        }
    }
    if let Some(found) = &source.pod_certificate {
        let path = format!("{path}.podCertificate");
        certificate(problems, &path, found);
        let mut count = 0;
        for (field, file) in [
            ("credentialBundlePath", &found.credential_bundle_path),
            ("keyPath", &found.key_path),
            ("certificateChainPath", &found.certificate_chain_path),
        ] {
            let Some(file) = file.as_deref().filter(|file| !file.is_empty()) else { continue };
            count += 1;
            problems.not_reserved(format!("{path}.{field}"), file);
            if !paths.insert(file) {
                problems.invalid(all, file, "conflicting duplicate paths");
            }
        }
        if count == 0 {
            let why = "specify at least one of credentialBundlePath, keyPath, and \
                       certificateChainPath";
            problems.required_for(path, why);
        }
    }
    let count = [
        source.secret.is_some(),
        source.config_map.is_some(),
        source.downward_api.is_some(),
        source.service_account_token.is_some(),
        source.cluster_trust_bundle.is_some(),
        source.pod_certificate.is_some(),
    ];
    if count.into_iter().filter(|present| *present).count() > 1 {
        problems.forbidden(path, "may not specify more than 1 volume type per source");
    }
}

fn trust_bundle(problems: &mut Problems, path: &str, bundle: &ClusterTrustBundleProjection) {
    match (&bundle.name, &bundle.signer_name) {
        (Some(_), Some(_)) => {
            let why = "only one of name and signerName may be used";
            problems.invalid_json(path, &PrintedBundle::from(bundle), why);
        }
        (Some(name), None) => {
            let name_path = format!("{path}.name");
            if name.is_empty() {
                problems.required_for(&name_path, "must be a valid object name");
            }
            for why in bundle_name(name) {
                let why = format!("not a valid clustertrustbundlename: {why}");
                problems.invalid(&name_path, name, why);
            }
            if let Some(selector) = &bundle.label_selector {
                let why = "labelSelector must be unset if name is specified";
                problems.invalid_json(format!("{path}.labelSelector"), selector, why);
            }
        }
        (None, Some(signer)) => {
            let signer_path = format!("{path}.signerName");
            if signer.is_empty() {
                problems.required_for(&signer_path, "must be a valid signer name");
            }
            signer_name(problems, &signer_path, signer);
            let selector = bundle.label_selector.as_ref();
            scheduling::selector(problems, &format!("{path}.labelSelector"), selector);
        }
        (None, None) => {
            problems.required_for(path, "either name or signerName must be specified");
        }
    }
    let file_path = format!("{path}.path");
    if bundle.path.is_empty() {
        problems.required(&file_path);
    }
    problems.not_reserved(file_path, &bundle.path);
}

/// A bundle as Go prints the internal type.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PrintedBundle<'a> {
    name: &'a Option<String>,
    signer_name: &'a Option<String>,
    label_selector: &'a Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    optional: Option<bool>,
    path: &'a str,
}

impl<'a> From<&'a ClusterTrustBundleProjection> for PrintedBundle<'a> {
    fn from(bundle: &'a ClusterTrustBundleProjection) -> Self {
        Self {
            name: &bundle.name,
            signer_name: &bundle.signer_name,
            label_selector: &bundle.label_selector,
            optional: bundle.optional,
            path: &bundle.path,
        }
    }
}

/// Checks the name of a bundle: with colons it begins with the name of its signer, whose slashes
/// have become colons. Such a beginning is the right one by itself.
fn bundle_name(name: &str) -> names::Wrong {
    names::subdomain(name.rsplit_once(':').map_or(name, |(_, own)| own))
}

fn certificate(problems: &mut Problems, path: &str, found: &PodCertificateProjection) {
    const KEYS: [&str; 6] =
        ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

    signer_name(problems, &format!("{path}.signerName"), &found.signer_name);
    if let Some(annotations) = &found.user_annotations {
        metadata::annotations(problems, &format!("{path}.userAnnotations"), Some(annotations));
    }
    problems.one_of(format!("{path}.keyType"), Some(&found.key_type), &KEYS);
    let Some(seconds) = found.max_expiration_seconds else { return };
    let path = format!("{path}.maxExpirationSeconds");
    if seconds < SHORTEST_CERTIFICATE {
        let why = format!("if provided, maxExpirationSeconds must be >= {SHORTEST_CERTIFICATE}");
        problems.invalid(&path, seconds, why);
    }
    let domain = found.signer_name.split('/').next().unwrap_or_default();
    let is_own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let longest = if is_own { LONGEST_CERTIFICATES.1 } else { LONGEST_CERTIFICATES.0 };
    if seconds > longest {
        let why = format!("if provided, maxExpirationSeconds must be <= {longest}");
        problems.invalid(path, seconds, why);
    }
}

/// Checks the name of a signer, e.g. `example.com/signer`.
fn signer_name(problems: &mut Problems, path: &str, signer: &str) {
    if signer.is_empty() {
        return problems.required(path);
    }
    let [domain, name] = signer.split('/').collect::<Vec<_>>()[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return problems.invalid(path, signer, why);
    };
    if domain.len() > LONGEST_SIGNERS.0 {
        problems.too_long(path, LONGEST_SIGNERS.0);
    }
    first_wrong(problems, path, domain, names::label);
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        problems.invalid(path, domain, why);
    }
    first_wrong(problems, path, name, names::subdomain);
    if signer.len() > LONGEST_SIGNERS.1 {
        problems.too_long(path, LONGEST_SIGNERS.1);
    }
}

/// Reports the first part of a dotted name that has not its form.
fn first_wrong(problems: &mut Problems, path: &str, name: &str, form: fn(&str) -> names::Wrong) {
    let mut parts = name.split('.').map(|part| (part, form(part)));
    if let Some((part, wrong)) = parts.find(|(_, wrong)| !wrong.is_empty()) {
        for why in wrong {
            problems.invalid(path, name, format!("validating label {part:?}: {why}"));
        }
    }
}
