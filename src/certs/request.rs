//! The object that requests a certificate, and what the API server's answer means. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest as _, Sha512_256};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::pair::Leaf;
use super::template::Template;
use crate::model::Wall;

/// What a certificate is for: who signs it, and what it may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be known to the API server.
    Client,
    /// To serve the kubelet's API.
    Serving,
}

impl Purpose {
    /// Returns the name of the signer.
    pub(super) fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    /// Returns the usages that upstream requests for keys of an elliptic curve.
    fn usages(self) -> [&'static str; 2] {
        match self {
            Self::Client => ["digital signature", "client auth"],
            Self::Serving => ["digital signature", "server auth"],
        }
    }
}

/// One request for a certificate.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) purpose: Purpose,
    /// The certificate request, PEM.
    pub(super) pem: String,
    /// The public key in it, DER.
    pub(super) public: Vec<u8>,
    /// The name of the object; `None`: the API server makes one of `csr-`.
    pub(super) name: Option<String>,
}

impl Request {
    /// Returns the object to create.
    pub(super) fn object(&self) -> CertificateSigningRequest {
        CertificateSigningRequest {
            metadata: ObjectMeta {
                name: self.name.clone(),
                generate_name: self.name.is_none().then(|| "csr-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(self.pem.clone().into_bytes()),
                signer_name: self.purpose.signer().to_owned(),
                usages: Some(self.purpose.usages().map(ToOwned::to_owned).to_vec()),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        }
    }

    /// Checks that an object of the same name was made for the same request, by an earlier process
    /// with the same key.
    pub(super) fn check_reuse(
        &self,
        found: &CertificateSigningRequest,
        now: Wall,
    ) -> Result<(), Incompatible> {
        let own = Parsed::read(self.pem.as_bytes()).ok_or(Incompatible::Request)?;
        let other = Parsed::read(&found.spec.request.0).ok_or(Incompatible::Request)?;
        if own.subject != other.subject {
            return Err(Incompatible::Subject { new: other.subject, orig: own.subject });
        }
        let signer = self.purpose.signer();
        if found.spec.signer_name != signer {
            let new = found.spec.signer_name.clone();
            return Err(Incompatible::Signer { new, orig: signer });
        }
        if other.public != self.public {
            return Err(Incompatible::Key);
        }
        if let Some(expired) = certificates(found).find(|leaf| leaf.not_after < now) {
            return Err(Incompatible::Expired(expired.not_after));
        }
        Ok(())
    }
}

/// Why an object of the same name is not used. The texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Incompatible {
    /// It cannot be read.
    #[error("unable to parse new csr")]
    Request,
    /// It names somebody else.
    #[error("csr subjects differ: new: {new}, orig: {orig}")]
    Subject {
        /// Of the object.
        new: String,
        /// Of this request.
        orig: String,
    },
    /// Somebody else would sign it.
    #[error("csr signerNames differ: new {new:?}, orig: {orig:?}")]
    Signer {
        /// Of the object.
        new: String,
        /// Of this request.
        orig: &'static str,
    },
    /// It was made with another key.
    #[error("error validating signature new CSR against old key")]
    Key,
    /// Its certificate is of no use any more.
    #[error("one of the certificates for the CSR has expired: {0}")]
    Expired(Wall),
}

fn certificates(found: &CertificateSigningRequest) -> impl Iterator<Item = Leaf> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let pem = found.status.as_ref().and_then(|status| status.certificate.clone());
    let pem = pem.map(|pem| pem.0).unwrap_or_default();
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .filter_map(Result::ok)
        .filter_map(|certificate| Leaf::read(&certificate))
        .collect();
    found.into_iter()
}

/// A certificate request as it can be compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) subject: String,
    pub(super) public: Vec<u8>,
}

impl Parsed {
    pub(super) fn read(pem: &[u8]) -> Option<Self> {
        let block = pem::parse(pem).ok().filter(|block| block.tag() == "CERTIFICATE REQUEST")?;
        let (_, request) = X509CertificationRequest::from_der(block.contents()).ok()?;
        let info = request.certification_request_info;
        Some(Self { subject: info.subject.to_string(), public: info.subject_pki.raw.to_vec() })
    }
}

/// Returns the name of the request for the first certificate: the same for the same key, so that a
/// process that starts again finds the request of the one before.
pub(super) fn digested_name(public: &[u8], template: &Template, purpose: Purpose) -> String {
    let mut hash = Sha512_256::new();
    // The delimiter is not of the alphabet: no two inputs give the same stream.
    let mut write = |data: &[u8]| hash.update(format!("{}|", URL_SAFE_NO_PAD.encode(data)));
    write(public);
    write(template.common_name.as_bytes());
    write(template.organization.as_bytes());
    for usage in purpose.usages() {
        write(usage.as_bytes());
    }
    format!("node-csr-{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
}

/// What has become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody has decided.
    Undecided,
    /// It is approved, and the signer has not signed it yet.
    Approved,
    /// The certificate, PEM.
    Issued(Vec<u8>),
    /// There will be none.
    Refused(Refusal),
}

/// Why there will be no certificate. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Somebody has denied it.
    #[error("certificate signing request is denied, reason: {reason}, message: {message}")]
    Denied {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// The signer could not sign it.
    #[error("certificate signing request failed, reason: {reason}, message: {message}")]
    Failed {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// The object is gone.
    #[error("csr {0:?} was deleted")]
    Deleted(String),
    /// Another object has its name.
    #[error("csr {0:?} changed UIDs")]
    ChangedUid(String),
}

/// Judges the object `found`, which was created as the object of `uid`.
pub(super) fn judge(found: &CertificateSigningRequest, uid: &str) -> Verdict {
    if found.metadata.uid.as_deref() != Some(uid) {
        let name = found.metadata.name.clone().unwrap_or_default();
        return Verdict::Refused(Refusal::ChangedUid(name));
    }

    let status = found.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut verdict = Verdict::Undecided;
    for condition in conditions {
        let CertificateSigningRequestCondition { type_, .. } = condition;
        let reason = condition.reason.clone().unwrap_or_default();
        let message = condition.message.clone().unwrap_or_default();
        match type_.as_str() {
            "Denied" => return Verdict::Refused(Refusal::Denied { reason, message }),
            "Failed" => return Verdict::Refused(Refusal::Failed { reason, message }),
            "Approved" => verdict = Verdict::Approved,
            _ => {}
        }
    }
    let issued = status.and_then(|status| status.certificate.as_ref());
    match issued.filter(|certificate| !certificate.0.is_empty()) {
        Some(certificate) if verdict == Verdict::Approved => Verdict::Issued(certificate.0.clone()),
        _ => verdict,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::certs::key::Key;

    fn request(name: Option<&str>) -> (Request, Key) {
        let key = Key::generate().expect("a key");
        let pem = key.request(&Template::client("n1")).expect("a request");
        let name = name.map(ToOwned::to_owned);
        (Request { purpose: Purpose::Client, pem, public: key.public(), name }, key)
    }

    fn object(status: Value) -> CertificateSigningRequest {
        let (request, _) = request(Some("a"));
        let mut object = serde_json::to_value(request.object()).expect("JSON");
        object["metadata"]["uid"] = json!("1");
        object["status"] = status;
        serde_json::from_value(object).expect("a request")
    }

    #[test]
    fn the_object_is_upstreams() {
        let (mut request, _) = request(None);
        request.pem = "PEM".to_owned();
        assert_eq!(
            serde_json::to_value(request.object()).expect("JSON"),
            json!({
                "apiVersion": "certificates.k8s.io/v1",
                "kind": "CertificateSigningRequest",
                "metadata": {"generateName": "csr-"},
                "spec": {
                    "request": "UEVN",
                    "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                    "usages": ["digital signature", "client auth"],
                },
            })
        );
        assert_eq!(Purpose::Serving.signer(), "kubernetes.io/kubelet-serving");
        assert_eq!(Purpose::Serving.usages(), ["digital signature", "server auth"]);
    }

    #[test]
    fn the_name_is_that_of_upstreams_digest() {
        // Computed by upstream's own function for these bytes and names.
        let name = digested_name(b"public key", &Template::client("n1"), Purpose::Client);
        assert_eq!(name, NAME_OF_UPSTREAM);
    }

    const NAME_OF_UPSTREAM: &str = "node-csr-f3vVHrY1M8DAO8mz9hQu5I5Up6O-PUTTDMkYxWeiXWY";

    #[test]
    fn an_answer_is_judged_by_its_conditions() {
        let condition = |type_: &str| json!({"type": type_, "status": "True", "reason": "Because", "message": "I say so"});
        let of = |status: Value| judge(&object(status), "1");
        assert_eq!(of(json!({})), Verdict::Undecided);
        assert_eq!(of(json!({"certificate": "UEVN"})), Verdict::Undecided, "nobody approved it");
        let approved = json!({"conditions": [condition("Approved")]});
        assert_eq!(of(approved), Verdict::Approved);
        let issued = json!({"conditions": [condition("Approved")], "certificate": "UEVN"});
        assert_eq!(of(issued.clone()), Verdict::Issued(b"PEM".to_vec()));
        let Verdict::Refused(other) = judge(&object(issued), "2") else { panic!("taken") };
        assert_eq!(other.to_string(), "csr \"a\" changed UIDs");

        for (type_, word) in [("Denied", "is denied"), ("Failed", "failed")] {
            let conditions = json!({"conditions": [condition("Approved"), condition(type_)]});
            let Verdict::Refused(refusal) = of(conditions) else { panic!("not refused") };
            let text =
                format!("certificate signing request {word}, reason: Because, message: I say so");
            assert_eq!(refusal.to_string(), text);
        }
    }

    #[test]
    fn an_earlier_object_is_reused_only_for_the_same_key_and_names() {
        let (mut own, key) = request(Some("a"));
        let found = own.object();
        // The signature is another one each time.
        own.pem = key.request(&Template::client("n1")).expect("a request");
        own.check_reuse(&found, Wall::UNIX_EPOCH).expect("the same");

        let (other, _) = request(Some("a"));
        let error = other.check_reuse(&found, Wall::UNIX_EPOCH).expect_err("another key");
        assert!(matches!(error, Incompatible::Key), "{error}");

        own.pem = key.request(&Template::client("n2")).expect("a request");
        let error = own.check_reuse(&found, Wall::UNIX_EPOCH).expect_err("another node");
        assert!(matches!(error, Incompatible::Subject { .. }), "{error}");
    }
}
