//! The authorities of client certificates (`authentication.x509.clientCAFile`).
//!
//! The handshake proves that a client holds the key of the certificate that it shows. The
//! certificate is verified here, for every request: it may have expired since the connection was
//! made, or its authority may have been withdrawn. The file is read again when it has changed.

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::pem_file::{NamedFile, TlsError, certificates};
use crate::apiserver::crypto;
use crate::linux::stamp::Stamp;

/// The authorities that the file holds now.
#[derive(Debug)]
pub struct ClientCa {
    file: NamedFile,
    /// False: what the file held at the start stays in force.
    reload: bool,
    current: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    verifier: Arc<dyn ClientCertVerifier>,
    stamp: Stamp,
}

impl ClientCa {
    /// Reads the file.
    pub(super) fn load(file: &NamedFile, reload: bool) -> Result<Self, TlsError> {
        let stamp = Stamp::of(&file.path);
        let verifier = read(file)?;
        let current = Mutex::new(Loaded { verifier, stamp });
        Ok(Self { file: file.clone(), reload, current })
    }

    /// Verifies a chain, leaf first: its signatures up to an authority, its dates, and that it may
    /// be used by a client.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'static>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        self.verifier().verify_client_cert(leaf, intermediates, now).map(|_| ())
    }

    /// Returns the verifier for handshakes. It asks for a certificate, if there is one, and for the
    /// proof of its key.
    pub(super) fn for_handshakes(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(ProofOfKey(self.verifier()))
    }

    /// The verifier for the file's present content. A file that has changed and cannot be used
    /// leaves the old authorities in force.
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        if !self.reload {
            return Arc::clone(&self.current.lock().verifier);
        }
        let stamp = Stamp::of(&self.file.path);
        let mut current = self.current.lock();
        if current.stamp != stamp {
            current.stamp = stamp;
            match read(&self.file) {
                Ok(verifier) => {
                    tracing::info!(file = %self.file.path.display(), "read the changed client CA");
                    current.verifier = verifier;
                }
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the changed client CA cannot be used; the old one stays"
                ),
            }
        }
        Arc::clone(&current.verifier)
    }
}

fn read(file: &NamedFile) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let refused = |source| TlsError::Refused { file: file.clone(), source };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, "CA certificate")? {
        roots.add(certificate).map_err(refused)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto::provider())
        .allow_unauthenticated()
        .build()
        .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
        .map_err(|error| refused(rustls::Error::General(error.to_string())))
}

/// Accepts every certificate whose key the client holds, as Go's `RequestClientCert`.
#[derive(Debug)]
struct ProofOfKey(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ProofOfKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! Authorities and client certificates.

    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
        IsCa, Issuer, KeyPair,
    };
    use rustls::pki_types::CertificateDer;

    /// An authority.
    pub(in crate::server) struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pub(in crate::server) pem: String,
    }

    impl Authority {
        pub(in crate::server) fn new(name: &str) -> Self {
            let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
            parameters.distinguished_name = named(&[(DnType::CommonName, name)]);
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let pem = parameters.self_signed(&key).expect("a certificate").pem();
            Self { issuer: Issuer::new(parameters, key), pem }
        }

        /// A client certificate of kube-apiserver that is valid until the first of January of that
        /// year.
        pub(in crate::server) fn client(&self, until: i32) -> Vec<CertificateDer<'static>> {
            self.client_named(
                &[
                    (DnType::CommonName, "kube-apiserver"),
                    (DnType::OrganizationName, "system:masters"),
                ],
                until,
            )
        }

        pub(in crate::server) fn client_named(
            &self,
            names: &[(DnType, &str)],
            until: i32,
        ) -> Vec<CertificateDer<'static>> {
            let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
            parameters.distinguished_name = named(names);
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
            parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
            let key = KeyPair::generate().expect("a key");
            let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
            vec![certificate.der().clone()]
        }
    }

    fn named(names: &[(DnType, &str)]) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        for (kind, value) in names {
            name.push(kind.clone(), *value);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::pem::PemObject as _;

    use super::testing::Authority;
    use super::*;

    /// The first of January 2020.
    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_577_836_800))
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test writes as an administrator does")]
    fn clients_may_have_certificates_of_p521() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.crt");
        std::fs::write(&path, crypto::testing::CA).expect("written");
        let file = NamedFile { field: "clientCAFile", path };
        let ca = ClientCa::load(&file, true).expect("an authority");
        let client = CertificateDer::from_pem_slice(crypto::testing::CLIENT.as_bytes());
        let client = client.expect("a certificate");
        ca.verify(std::slice::from_ref(&client), UnixTime::now()).expect("valid");
        let other = Authority::new("other").client(2100);
        ca.verify(&other, UnixTime::now()).expect_err("of another authority");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test writes as an administrator does")]
    fn a_chain_is_verified_against_the_present_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ca.crt");
        let (old, new) = (Authority::new("old"), Authority::new("new"));
        std::fs::write(&path, &old.pem).expect("written");
        let file = NamedFile { field: "clientCAFile", path: path.clone() };
        let ca = ClientCa::load(&file, true).expect("an authority");
        let fixed = ClientCa::load(&file, false).expect("an authority");

        ca.verify(&old.client(2030), now()).expect("valid");
        ca.verify(&old.client(2019), now()).expect_err("expired");
        ca.verify(&new.client(2030), now()).expect_err("of another authority");
        ca.verify(&[], now()).expect_err("nothing was shown");

        std::fs::write(&path, "not PEM").expect("written");
        ca.verify(&old.client(2030), now()).expect("the old authority stays");

        std::fs::write(&path, &new.pem).expect("written");
        ca.verify(&old.client(2030), now()).expect_err("withdrawn");
        ca.verify(&new.client(2030), now()).expect("the new authority");
        fixed.verify(&old.client(2030), now()).expect("the authority of the start");
        fixed.verify(&new.client(2030), now()).expect_err("of another authority");
    }
}
