//! Private keys: made, read and written in upstream's form, and used to sign requests.
//!
//! A new key is of the curve P-256 and is written as `EC PRIVATE KEY` (SEC 1), which upstream's
//! kubelet reads too. The library that signs reads PKCS #8 only, so keys are converted.

use std::fmt;

use p521::pkcs8::{AlgorithmIdentifierRef, ObjectIdentifier, PrivateKeyInfo};
use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sec1::der::asn1::AnyRef;
use sec1::der::{Decode as _, Encode as _};
use sec1::{EcParameters, EcPrivateKey};

use super::block::encode;
use super::template::Template;

const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// Why a key or a request cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// The library refuses.
    #[error("cannot make a key or a request")]
    Library(#[from] rcgen::Error),
    /// The key is not in the form that is expected.
    #[error("cannot read the key")]
    Form(#[from] sec1::der::Error),
    /// The text is none.
    #[error("no private key in PEM form")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A key of this kind is not used for requests.
    #[error("the key is neither of an elliptic curve nor of RSA")]
    Kind,
}

/// A private key. `Debug` shows nothing of it.
pub(super) struct Key {
    pair: KeyPair,
    pem: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Key {
    /// Makes a new key.
    pub(super) fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate()?;
        let der = pair.serialized_der();
        let info = PrivateKeyInfo::try_from(der).map_err(|_| KeyError::Kind)?;
        let inner = EcPrivateKey::from_der(info.private_key)?;

        // Upstream names the curve in the key itself, and reads no key without.
        let named = EcPrivateKey { parameters: Some(EcParameters::NamedCurve(P256)), ..inner };
        let pem = encode("EC PRIVATE KEY", named.to_der()?);
        Ok(Self { pair, pem })
    }

    /// Reads a key from PEM: of an elliptic curve in the form of SEC 1, of RSA in that of PKCS #1,
    /// or either in that of PKCS #8. The key of a certificate that kubeadm has made is of RSA.
    pub(super) fn parse(pem: &str) -> Result<Self, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
        let pkcs8 = if let PrivateKeyDer::Pkcs8(key) = &key {
            key.secret_pkcs8_der().to_vec()
        } else if let PrivateKeyDer::Sec1(key) = &key {
            to_pkcs8(key.secret_sec1_der())?
        } else if let PrivateKeyDer::Pkcs1(key) = &key {
            rsa_to_pkcs8(key.secret_pkcs1_der())?
        } else {
            return Err(KeyError::Kind);
        };
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8))?;
        Ok(Self { pair, pem: pem.to_owned() })
    }

    /// Returns the key's PEM text.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns the public key in the form of a certificate (SubjectPublicKeyInfo, DER).
    pub(super) fn public(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&self.pair)
    }

    /// Makes a certificate request, PEM.
    pub(super) fn request(&self, template: &Template) -> Result<String, KeyError> {
        let parameters = parameters(template)?;
        let request = parameters.serialize_request(&self.pair)?;
        Ok(encode("CERTIFICATE REQUEST", request.der().to_vec()))
    }
}

/// Returns the names of a template for the library that signs.
pub(super) fn parameters(template: &Template) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    let mut name = DistinguishedName::new();
    // In Go's order, and as the text type that Go chooses.
    name.push(DnType::OrganizationName, text(template.organization));
    name.push(DnType::CommonName, text(&template.common_name));
    parameters.distinguished_name = name;

    for host in &template.dns_names {
        parameters.subject_alt_names.push(SanType::DnsName(host.as_str().try_into()?));
    }
    let addresses = template.ips.iter().copied().map(SanType::IpAddress);
    parameters.subject_alt_names.extend(addresses);
    Ok(parameters)
}

/// Wraps a SEC 1 key, which has to name its curve, into PKCS #8.
fn to_pkcs8(sec1: &[u8]) -> Result<Vec<u8>, KeyError> {
    let key = EcPrivateKey::from_der(sec1)?;
    let curve = key.parameters.and_then(EcParameters::named_curve).ok_or(KeyError::Kind)?;
    let info = PrivateKeyInfo {
        algorithm: AlgorithmIdentifierRef {
            oid: EC_PUBLIC_KEY,
            parameters: Some(AnyRef::from(&curve)),
        },
        private_key: sec1,
        public_key: None,
    };
    Ok(info.to_der()?)
}

/// Wraps an RSA key into PKCS #8.
fn rsa_to_pkcs8(pkcs1: &[u8]) -> Result<Vec<u8>, KeyError> {
    let info = PrivateKeyInfo {
        algorithm: AlgorithmIdentifierRef { oid: RSA, parameters: Some(AnyRef::NULL) },
        private_key: pkcs1,
        public_key: None,
    };
    Ok(info.to_der()?)
}

/// A text of a name: printable where the characters allow, else UTF-8.
fn text(text: &str) -> DnValue {
    let printable = text.try_into().map(DnValue::PrintableString);
    printable.unwrap_or_else(|_: rcgen::Error| DnValue::Utf8String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{Key, Template};
    use crate::certs::request::Parsed;

    #[test]
    fn a_new_key_has_the_form_that_go_reads() {
        let key = Key::generate().expect("a key");
        assert!(key.pem().starts_with("-----BEGIN EC PRIVATE KEY-----\n"), "{}", key.pem().len());
        // 121 bytes: version, key, the curve's name, public key.
        assert_eq!(pem::parse(key.pem()).expect("PEM").contents().len(), 121);
        let again = Key::parse(key.pem()).expect("readable");
        assert_eq!(again.public(), key.public());
    }

    #[test]
    fn an_rsa_key_signs_requests_too() {
        let key = Key::parse(include_str!("testdata/rsa.key")).expect("readable");
        let pem = key.request(&Template::client("n1")).expect("a request");
        let parsed = Parsed::read(pem.as_bytes()).expect("a request");
        assert_eq!(parsed.public, key.public());
    }

    #[test]
    fn a_request_names_its_subject() {
        let key = Key::generate().expect("a key");
        let template = Template {
            dns_names: vec!["n1".to_owned()],
            ips: vec!["10.0.0.1".parse().expect("an address")],
            ..Template::client("n1")
        };
        let pem = key.request(&template).expect("a request");
        assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"), "{pem}");
        let parsed = Parsed::read(pem.as_bytes()).expect("a request");
        assert_eq!(parsed.subject, "O=system:nodes, CN=system:node:n1");
        assert_eq!(parsed.public, key.public());
    }
}
