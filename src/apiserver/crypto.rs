//! The cryptography of TLS connections: ring's, and of ECDSA what ring lacks: the curve P-521, and
//! SHA-512 with the other two curves.
//!
//! Go takes such certificates, signatures and keys, and so does upstream's kubelet: of the API
//! server and of its authority, of this kubelet as a client and as a server, of those who call it.
//! Every connection but those of probes, which verify nobody, is made with [`provider`].

use std::fmt;
use std::sync::{Arc, LazyLock};

use p521::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use p521::pkcs8::DecodePrivateKey as _;
use rustls::crypto::{CryptoProvider, KeyProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
    SubjectPublicKeyInfoDer, alg_id,
};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// The length of a number of the curve in bytes.
const FIELD: usize = 66;

/// The one provider.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let ring = ring::default_provider();
        let signature_verification_algorithms = algorithms(ring.signature_verification_algorithms);
        Arc::new(CryptoProvider { signature_verification_algorithms, key_provider: &Keys, ..ring })
    });
    Arc::clone(&PROVIDER)
}

/// What one scheme of a handshake may be verified with.
type Mapping = (SignatureScheme, &'static [&'static dyn SignatureVerificationAlgorithm]);

/// ring's algorithms and our own. TLS 1.2 names the hash alone, so that a key of any curve may sign
/// by the schemes of the other curves too; TLS 1.3 takes the first of each.
fn algorithms(ring: WebPkiSupportedAlgorithms) -> WebPkiSupportedAlgorithms {
    let mapping = ring.mapping.iter().map(|&(scheme, known)| -> Mapping {
        let ours: [&'static dyn SignatureVerificationAlgorithm; 1] =
            if scheme == SignatureScheme::ECDSA_NISTP256_SHA256 {
                [&P521_SHA256]
            } else if scheme == SignatureScheme::ECDSA_NISTP384_SHA384 {
                [&P521_SHA384]
            } else {
                return (scheme, known);
            };
        (scheme, leak([known, &ours].concat()))
    });
    let of_sha512: [&'static dyn SignatureVerificationAlgorithm; 3] =
        [&P521_SHA512, &P384_SHA512, &P256_SHA512];
    let of_p521: [&'static dyn SignatureVerificationAlgorithm; 2] = [&P521_SHA384, &P521_SHA256];
    let own: Mapping = (SignatureScheme::ECDSA_NISTP521_SHA512, leak(of_sha512.to_vec()));
    WebPkiSupportedAlgorithms {
        all: leak([ring.all, &of_sha512, &of_p521].concat()),
        mapping: leak(mapping.chain([own]).collect()),
    }
}

/// Made once per process, and used to its end.
fn leak<T>(list: Vec<T>) -> &'static [T] {
    Box::leak(list.into_boxed_slice())
}

static P256_SHA512: Verifier = Verifier { curve: Curve::P256, hash: Hash::Sha512 };
static P384_SHA512: Verifier = Verifier { curve: Curve::P384, hash: Hash::Sha512 };
static P521_SHA256: Verifier = Verifier { curve: Curve::P521, hash: Hash::Sha256 };
static P521_SHA384: Verifier = Verifier { curve: Curve::P521, hash: Hash::Sha384 };
static P521_SHA512: Verifier = Verifier { curve: Curve::P521, hash: Hash::Sha512 };

#[derive(Clone, Copy, Debug)]
enum Curve {
    P256,
    P384,
    P521,
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sha384 => Sha384::digest(message).to_vec(),
            Self::Sha512 => Sha512::digest(message).to_vec(),
        }
    }

    /// The hash of a message as a number of P-521, which is longer than all of them. Of a number
    /// that is too long for a curve its first bits count, so that the others take the hash itself.
    fn of(self, message: &[u8]) -> [u8; FIELD] {
        let hash = self.digest(message);
        let mut number = [0; FIELD];
        number[FIELD - hash.len()..].copy_from_slice(&hash);
        number
    }
}

/// Verifies signatures of keys of one curve, by one hash.
#[derive(Debug)]
struct Verifier {
    curve: Curve,
    hash: Hash,
}

impl SignatureVerificationAlgorithm for Verifier {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let is_good = match self.curve {
            Curve::P256 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(public_key);
                let signature = p256::ecdsa::Signature::from_der(signature);
                key.and_then(|key| key.verify_prehash(&self.hash.digest(message), &signature?))
            }
            Curve::P384 => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(public_key);
                let signature = p384::ecdsa::Signature::from_der(signature);
                key.and_then(|key| key.verify_prehash(&self.hash.digest(message), &signature?))
            }
            Curve::P521 => {
                let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(public_key);
                let signature = p521::ecdsa::Signature::from_der(signature);
                key.and_then(|key| key.verify_prehash(&self.hash.of(message), &signature?))
            }
        };
        is_good.map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        match self.curve {
            Curve::P256 => alg_id::ECDSA_P256,
            Curve::P384 => alg_id::ECDSA_P384,
            Curve::P521 => alg_id::ECDSA_P521,
        }
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.hash {
            Hash::Sha256 => alg_id::ECDSA_SHA256,
            Hash::Sha384 => alg_id::ECDSA_SHA384,
            Hash::Sha512 => alg_id::ECDSA_SHA512,
        }
    }
}

/// Loads private keys: ring's kinds, else P-521.
#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let ring = ring::default_provider().key_provider;
        match ring.load_private_key(key.clone_key()) {
            Ok(loaded) => Ok(loaded),
            Err(error) => Ok(Arc::new(Key::parse(&key).ok_or(error)?)),
        }
    }
}

/// A private key of P-521. `Debug` shows nothing of it.
#[derive(Clone)]
struct Key(p521::ecdsa::SigningKey);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").finish_non_exhaustive()
    }
}

impl Key {
    /// Reads a key in the form of PKCS #8 or of SEC 1.
    fn parse(key: &PrivateKeyDer<'_>) -> Option<Self> {
        let secret = if let PrivateKeyDer::Pkcs8(der) = key {
            p521::SecretKey::from_pkcs8_der(der.secret_pkcs8_der()).ok()
        } else if let PrivateKeyDer::Sec1(der) = key {
            p521::SecretKey::from_sec1_der(der.secret_sec1_der()).ok()
        } else {
            None
        }?;
        p521::ecdsa::SigningKey::from_bytes(&secret.to_bytes()).ok().map(Self)
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let is_offered = offered.contains(&SignatureScheme::ECDSA_NISTP521_SHA512);
        is_offered.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let point = p521::ecdsa::VerifyingKey::from(&self.0).to_encoded_point(false);
        Some(public_key_to_spki(&alg_id::ECDSA_P521, point.as_bytes()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature: Result<p521::ecdsa::Signature, _> =
            self.0.sign_prehash(&Hash::Sha512.of(message));
        let signature = signature.map_err(|_| Error::General("signing failed".to_owned()))?;
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Certificates and keys of P-521, made with OpenSSL and valid for a hundred years.

    /// The authority.
    pub(crate) const CA: &str = include_str!("testdata/p521-ca.crt");
    /// The certificate of a server named `localhost`.
    pub(crate) const SERVER: &str = include_str!("testdata/p521-server.crt");
    /// Its key, PKCS #8.
    pub(crate) const SERVER_KEY: &str = include_str!("testdata/p521-server.key");
    /// The certificate of a client named `p521-client`.
    pub(crate) const CLIENT: &str = include_str!("testdata/p521-client.crt");
    /// Its key, SEC 1.
    pub(crate) const CLIENT_KEY: &str = include_str!("testdata/p521-client.key");
}

#[cfg(test)]
mod tests {
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use rustls::sign::CertifiedKey;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::testing::{CA, CLIENT, CLIENT_KEY, SERVER, SERVER_KEY};
    use super::*;

    fn certificate(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    fn key(pem: &str) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key")
    }

    fn roots() -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(CA)).expect("an authority");
        Arc::new(roots)
    }

    /// A handshake in which both sides show a certificate of P-521 and verify the other's.
    fn handshake(version: &'static rustls::SupportedProtocolVersion) {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(), provider()).build();
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_client_cert_verifier(verifier.expect("a verifier"))
            .with_single_cert(vec![certificate(SERVER)], key(SERVER_KEY))
            .expect("a pair");
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(roots())
            .with_client_auth_cert(vec![certificate(CLIENT)], key(CLIENT_KEY))
            .expect("a pair");

        let name = "localhost".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
        let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("written");
            server.read_tls(&mut bytes.as_slice()).expect("read");
            server.process_new_packets().expect("the client's certificate is good");
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).expect("written");
            client.read_tls(&mut bytes.as_slice()).expect("read");
            client.process_new_packets().expect("the server's certificate is good");
        }
        assert_eq!(server.peer_certificates().map(<[_]>::len), Some(1));
    }

    #[test]
    fn both_sides_may_have_keys_of_p521() {
        handshake(&rustls::version::TLS13);
        handshake(&rustls::version::TLS12);
    }

    #[test]
    fn the_shorter_curves_verify_sha512_too() {
        let p256: p256::ecdsa::SigningKey =
            p256::SecretKey::from_slice(&[7; 32]).expect("a key").into();
        let p384: p384::ecdsa::SigningKey =
            p384::SecretKey::from_slice(&[7; 48]).expect("a key").into();
        let hash = Sha512::digest(b"message");
        let of_p256: p256::ecdsa::Signature = p256.sign_prehash(&hash).expect("signed");
        let of_p384: p384::ecdsa::Signature = p384.sign_prehash(&hash).expect("signed");
        let p256 = p256.verifying_key().to_encoded_point(false);
        let p384 = p384.verifying_key().to_encoded_point(false);
        let cases = [
            (&P256_SHA512, p256.as_bytes(), of_p256.to_der().as_bytes().to_vec()),
            (&P384_SHA512, p384.as_bytes(), of_p384.to_der().as_bytes().to_vec()),
        ];
        for (verifier, key, signature) in cases {
            let verify = |message: &[u8]| verifier.verify_signature(key, message, &signature);
            verify(b"message").expect("as it was");
            verify(b"massage").expect_err("changed");
        }
    }

    #[test]
    fn a_chain_of_p256_may_be_signed_by_sha512() {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(include_str!("testdata/p256-sha512-ca.crt"))).expect("an authority");
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider());
        let verifier = verifier.build().expect("a verifier");
        let server = certificate(include_str!("testdata/p256-sha512-server.crt"));
        let name = "localhost".try_into().expect("a name");
        verifier
            .verify_server_cert(&server, &[], &name, &[], UnixTime::now())
            .expect("as Go's client takes it");
    }

    #[test]
    fn a_key_has_to_fit_its_certificate() {
        let pair = |pem: &str, key: PrivateKeyDer<'static>| {
            CertifiedKey::from_der(vec![certificate(pem)], key, &provider())
        };
        pair(SERVER, key(SERVER_KEY)).expect("its own");
        pair(SERVER, key(CLIENT_KEY)).expect_err("another one");
        let other = rcgen::KeyPair::generate().expect("a key").serialize_der();
        let other = PrivateKeyDer::try_from(other).expect("a key");
        pair(SERVER, other).expect_err("one of P-256");
    }

    #[test]
    fn every_hash_verifies_and_a_changed_message_does_not() {
        let key = Key::parse(&key(SERVER_KEY)).expect("a key");
        let public = p521::ecdsa::VerifyingKey::from(&key.0).to_encoded_point(false);
        for verifier in [&P521_SHA256, &P521_SHA384, &P521_SHA512] {
            let signature: p521::ecdsa::Signature =
                key.0.sign_prehash(&verifier.hash.of(b"message")).expect("signed");
            let signature = signature.to_der();
            let verify = |message: &[u8], signature: &[u8]| {
                verifier.verify_signature(public.as_bytes(), message, signature)
            };
            verify(b"message", signature.as_bytes()).expect("as it was");
            verify(b"massage", signature.as_bytes()).expect_err("changed");
            verify(b"message", b"").expect_err("no signature");
        }
    }
}
