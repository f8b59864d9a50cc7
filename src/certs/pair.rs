//! A certificate with its key, and what the certificate says. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::block::encode;
use crate::apiserver::kubeconfig::{Identity, PemError};
use crate::model::Wall;

/// What a certificate says of its owner and of its validity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) not_before: Wall,
    pub(super) not_after: Wall,
}

/// Why two texts are no usable certificate and key.
#[derive(Debug, thiserror::Error)]
pub(super) enum PairError {
    /// The texts cannot be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The certificate cannot be read.
    #[error("the certificate cannot be read")]
    Certificate,
    /// The certificate and the key do not belong together.
    #[error("the certificate and the key cannot be used together")]
    Unfit(#[source] rustls::Error),
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The chain and the key.
    pub(super) identity: Arc<Identity>,
    /// What the first certificate says.
    pub(super) leaf: Leaf,
}

impl Pair {
    /// Reads a chain and a key from PEM; both may be the same text.
    pub(super) fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PairError> {
        Self::new(Identity::from_pem(certificate, key)?)
    }

    /// Checks that the key fits the certificate.
    pub(super) fn new(identity: Identity) -> Result<Self, PairError> {
        let first = identity.chain.first().ok_or(PairError::Certificate)?;
        let leaf = Leaf::read(first).ok_or(PairError::Certificate)?;
        identity.check().map_err(PairError::Unfit)?;
        Ok(Self { identity: Arc::new(identity), leaf })
    }

    /// Returns the PEM texts of the chain and of the key.
    pub(super) fn to_pem(&self) -> (String, String) {
        let chain = self.identity.chain.iter();
        let chain = chain.map(|certificate| encode("CERTIFICATE", certificate.to_vec())).collect();
        let tag = if matches!(self.identity.key, PrivateKeyDer::Pkcs1(_)) {
            "RSA PRIVATE KEY"
        } else if matches!(self.identity.key, PrivateKeyDer::Sec1(_)) {
            "EC PRIVATE KEY"
        } else {
            "PRIVATE KEY"
        };
        (chain, encode(tag, self.identity.key.secret_der().to_vec()))
    }

    /// Returns true until the certificate has expired.
    pub(super) fn is_valid(&self, now: Wall) -> bool {
        now < self.leaf.not_after
    }
}

impl Leaf {
    /// Reads a certificate (DER).
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let organizations = subject.iter_organization().filter_map(|name| name.as_str().ok());

        let mut leaf = Self {
            common_name: common_name.unwrap_or_default().to_owned(),
            organizations: organizations.map(ToOwned::to_owned).collect(),
            dns_names: Vec::new(),
            ips: Vec::new(),
            not_before: Wall::from_second(certificate.validity().not_before.timestamp()).ok()?,
            not_after: Wall::from_second(certificate.validity().not_after.timestamp()).ok()?,
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            if let GeneralName::DNSName(host) = name {
                leaf.dns_names.push((*host).to_owned());
            } else if let GeneralName::IPAddress(bytes) = name {
                leaf.ips.extend(address(bytes));
            }
        }
        Some(leaf)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

#[cfg(test)]
pub(super) mod testing {
    //! Certificates for tests, signed by an authority of their own.

    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

    use super::Pair;
    use crate::certs::key::Key;
    use crate::certs::template::Template;
    use crate::model::Wall;

    /// The PEM texts of a certificate for `template` and of its key. Dates are whole seconds.
    pub(in crate::certs) fn issued(
        template: &Template,
        not_before: Wall,
        not_after: Wall,
    ) -> (String, String) {
        let key = Key::generate().expect("a key");
        let request = key.request(template).expect("a request");
        (sign(&request, template, not_before, not_after), key.pem().to_owned())
    }

    /// The public key of a request.
    struct Public(Vec<u8>);

    impl rcgen::PublicKeyData for Public {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }

        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }

    /// Signs a request as the controller manager does.
    pub(in crate::certs) fn sign(
        request: &str,
        template: &Template,
        not_before: Wall,
        not_after: Wall,
    ) -> String {
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.distinguished_name.push(DnType::CommonName, "ca");
        let issuer = Issuer::new(authority, KeyPair::generate().expect("a key"));

        let der = pem::parse(request).expect("PEM");
        let (_, parsed) = X509CertificationRequest::from_der(der.contents()).expect("a request");
        let bits = &parsed.certification_request_info.subject_pki.subject_public_key;
        let public = Public(bits.data.to_vec());

        let date = |wall: Wall| {
            let seconds = u64::try_from(wall.as_second()).expect("a late date");
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        let mut parameters = crate::certs::key::parameters(template).expect("parameters");
        parameters.not_before = date(not_before);
        parameters.not_after = date(not_after);
        parameters.signed_by(&public, &issuer).expect("a certificate").pem()
    }

    /// A pair for the client certificate of `n1`.
    pub(in crate::certs) fn pair(not_before: Wall, not_after: Wall) -> Pair {
        let (certificate, key) = issued(&Template::client("n1"), not_before, not_after);
        Pair::from_pem(certificate.as_bytes(), key.as_bytes()).expect("a pair")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::issued;
    use super::*;
    use crate::certs::template::Template;

    fn wall(second: i64) -> Wall {
        Wall::from_second(second).expect("a time")
    }

    #[test]
    fn a_certificate_says_whom_it_is_for() {
        let template = Template {
            dns_names: vec!["n1".to_owned()],
            ips: vec!["10.0.0.1".parse().expect("one"), "fd00::1".parse().expect("one")],
            ..Template::client("n1")
        };
        let (certificate, key) = issued(&template, wall(1_000_000), wall(2_000_000));
        let pair = Pair::from_pem(certificate.as_bytes(), key.as_bytes()).expect("a pair");
        assert!(template.is_satisfied_by(&pair.leaf), "{:?}", pair.leaf);
        assert!(Template::client("n1").is_satisfied_by(&pair.leaf), "more names are no reason");
        assert!(!Template::client("n2").is_satisfied_by(&pair.leaf));
        assert_eq!((pair.leaf.not_before, pair.leaf.not_after), (wall(1_000_000), wall(2_000_000)));
        assert!(pair.is_valid(wall(1_999_999)) && !pair.is_valid(wall(2_000_000)));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let template = Template::client("n1");
        let (certificate, _) = issued(&template, wall(0), wall(2_000_000));
        let (_, key) = issued(&template, wall(0), wall(2_000_000));
        let error = Pair::from_pem(certificate.as_bytes(), key.as_bytes()).expect_err("refused");
        assert!(matches!(error, PairError::Unfit(_)), "{error}");
    }
}
