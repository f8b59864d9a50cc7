//! Provides TLS 1.2's cipher suites with AES-CBC and HMAC-SHA1, for probes only.
//!
//! Go's client offers them, and some servers know nothing newer: under upstream's kubelet their
//! probes succeed. rustls leaves them out because they are hard to protect against attackers who
//! change or time records. A probe sends no secrets, verifies no certificate and reads little more
//! than a status code, so the weakness does not matter here. No other connection offers them.
//!
//! A record is MAC-then-encrypt (RFC 5246, 6.2.3.2): an explicit IV, and below AES-CBC the content,
//! its MAC and the padding. The key block of such a suite holds two MAC keys and then two cipher
//! keys. rustls cuts it into what it calls keys and IVs, with the lengths that the suite requests:
//! here its *key* is the MAC key, and its *IV* the key of the cipher.

use std::sync::LazyLock;

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _};
use aes::{Aes128, Aes256};
use hmac::{Hmac, Mac as _};
use rustls::crypto::CipherSuiteCommon;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
    Tls12AeadAlgorithm, UnsupportedOperationError, make_tls12_aad,
};
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::{
    CipherSuite, ConnectionTrafficSecrets, Error, SupportedCipherSuite, Tls12CipherSuite,
};
use sha1::Sha1;

/// The length of AES's block.
const BLOCK: usize = 16;
/// The length of HMAC-SHA1's MAC.
const MAC: usize = 20;

/// The suites, in Go's order.
pub(super) static SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
    let rsa = cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    let ecdsa = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let all = [
        (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, ecdsa, &AES_128),
        (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, rsa, &AES_128),
        (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, ecdsa, &AES_256),
        (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA, rsa, &AES_256),
    ];
    all.into_iter().filter_map(|(name, like, cipher)| suite(name, like, cipher)).collect()
});

/// Returns the suite `name`, which differs from `like` in its cipher.
fn suite(
    name: CipherSuite,
    like: SupportedCipherSuite,
    cipher: &'static Cbc,
) -> Option<SupportedCipherSuite> {
    let SupportedCipherSuite::Tls12(like) = like else { return None };

    let suite = Tls12CipherSuite {
        common: CipherSuiteCommon {
            suite: name,
            hash_provider: like.common.hash_provider,
            confidentiality_limit: u64::MAX,
        },
        prf_provider: like.prf_provider,
        kx: like.kx,
        sign: like.sign,
        aead_alg: cipher,
    };
    // Created once per process, and used to its end.
    Some(SupportedCipherSuite::Tls12(Box::leak(Box::new(suite))))
}

static AES_128: Cbc = Cbc { key_length: 16 };
static AES_256: Cbc = Cbc { key_length: 32 };

/// AES-CBC with keys of one length.
struct Cbc {
    key_length: usize,
}

impl Tls12AeadAlgorithm for Cbc {
    fn encrypter(&self, key: AeadKey, iv: &[u8], _: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(Records::new(&key, iv))
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Box::new(Records::new(&key, iv))
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        KeyBlockShape { enc_key_len: MAC, fixed_iv_len: self.key_length, explicit_nonce_len: 0 }
    }

    fn extract_keys(
        &self,
        _: AeadKey,
        _: &[u8],
        _: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

/// The keys of one direction.
struct Records {
    mac: Vec<u8>,
    key: Vec<u8>,
}

impl Records {
    fn new(mac: &AeadKey, key: &[u8]) -> Self {
        Self { mac: mac.as_ref().to_vec(), key: key.to_vec() }
    }

    /// Starts the MAC of a record: over its header and content.
    fn authenticator(&self, header: &[u8], content: &[u8]) -> Result<Hmac<Sha1>, Error> {
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.mac).map_err(|_| Error::EncryptError)?;
        mac.update(header);
        mac.update(content);
        Ok(mac)
    }

    /// Encrypts whole blocks in place.
    fn encrypt_blocks(&self, iv: &[u8], blocks: &mut [u8]) -> Option<()> {
        let length = blocks.len();
        if self.key.len() == 16 {
            let cipher = cbc::Encryptor::<Aes128>::new_from_slices(&self.key, iv).ok()?;
            cipher.encrypt_padded_mut::<NoPadding>(blocks, length).ok()?;
        } else {
            let cipher = cbc::Encryptor::<Aes256>::new_from_slices(&self.key, iv).ok()?;
            cipher.encrypt_padded_mut::<NoPadding>(blocks, length).ok()?;
        }
        Some(())
    }

    /// Decrypts whole blocks in place.
    fn decrypt_blocks(&self, iv: &[u8], blocks: &mut [u8]) -> Option<()> {
        if self.key.len() == 16 {
            let cipher = cbc::Decryptor::<Aes128>::new_from_slices(&self.key, iv).ok()?;
            cipher.decrypt_padded_mut::<NoPadding>(blocks).ok()?;
        } else {
            let cipher = cbc::Decryptor::<Aes256>::new_from_slices(&self.key, iv).ok()?;
            cipher.decrypt_padded_mut::<NoPadding>(blocks).ok()?;
        }
        Some(())
    }
}

impl MessageEncrypter for Records {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let mut blocks = message.payload.to_vec();
        let header = make_tls12_aad(sequence, message.typ, message.version, blocks.len());
        let mac = self.authenticator(&header, &blocks)?.finalize().into_bytes();
        blocks.extend_from_slice(&mac);
        let padding = BLOCK - blocks.len() % BLOCK;
        let fill = u8::try_from(padding - 1).map_err(|_| Error::EncryptError)?;
        blocks.resize(blocks.len() + padding, fill);

        let mut iv = [0; BLOCK];
        default_provider().secure_random.fill(&mut iv).map_err(|_| Error::EncryptError)?;
        self.encrypt_blocks(&iv, &mut blocks).ok_or(Error::EncryptError)?;

        let mut payload = PrefixedPayload::with_capacity(BLOCK + blocks.len());
        payload.extend_from_slice(&iv);
        payload.extend_from_slice(&blocks);

        Ok(OutboundOpaqueMessage::new(message.typ, message.version, payload))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        BLOCK + (length + MAC) / BLOCK * BLOCK + BLOCK
    }
}

impl MessageDecrypter for Records {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload: &mut [u8] = &mut message.payload;
        let (iv, blocks) = payload.split_at_mut_checked(BLOCK).ok_or(Error::DecryptError)?;
        self.decrypt_blocks(iv, blocks).ok_or(Error::DecryptError)?;

        let fill = *blocks.last().ok_or(Error::DecryptError)?;
        let padding = usize::from(fill) + 1;
        let rest = blocks.len().checked_sub(padding).ok_or(Error::DecryptError)?;
        if blocks[rest..].iter().any(|byte| *byte != fill) {
            return Err(Error::DecryptError);
        }

        let length = rest.checked_sub(MAC).ok_or(Error::DecryptError)?;
        let (content, mac) = blocks[..rest].split_at(length);
        let header = make_tls12_aad(sequence, message.typ, message.version, length);
        let expected = self.authenticator(&header, content)?;
        expected.verify_slice(mac).map_err(|_| Error::DecryptError)?;

        Ok(message.into_plain_message_range(BLOCK..BLOCK + length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::CryptoProvider;
    use rustls::crypto::cipher::OutboundChunks;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ContentType, ProtocolVersion, ServerConfig};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;

    use super::*;
    use crate::probes::check::tls;

    /// A server of one connection that knows this suite only, and sends back what it is sent.
    async fn echo(suite: SupportedCipherSuite, tasks: &mut JoinSet<()>) -> std::net::SocketAddr {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
        let certificate: CertificateDer<'static> = pair.cert.der().clone();
        let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).expect("a key");
        let provider = CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = acceptor.accept(stream).await.expect("a handshake");
            let mut bytes = vec![0; 40_000];
            stream.read_exact(&mut bytes).await.expect("all of it");
            stream.write_all(&bytes).await.expect("sent");
            stream.shutdown().await.expect("closed");
        });
        address
    }

    #[tokio::test]
    async fn speaks_to_a_server_that_knows_nothing_newer() {
        // The key that is made here is for ECDSA.
        for suite in [SUITES[0], SUITES[2]] {
            let mut tasks = JoinSet::new();
            let address = echo(suite, &mut tasks).await;
            let stream = TcpStream::connect(address).await.expect("a connection");
            let mut stream = tls::connect(stream, "127.0.0.1").await.expect("a handshake");
            let sent: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[0]).collect();
            stream.write_all(&sent).await.expect("sent");
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.expect("received");
            assert!(back == sent, "{suite:?}");
        }
    }

    #[test]
    fn a_record_that_was_changed_is_refused() {
        let records = || Records { mac: vec![1; MAC], key: vec![2; 16] };
        let kind = ContentType::ApplicationData;
        let version = ProtocolVersion::TLSv1_2;
        for length in [0, 11, 12, 13, 100] {
            let content = vec![7; length];
            let payload = OutboundChunks::Single(&content);
            let message = OutboundPlainMessage { typ: kind, version, payload };
            let sealed = records().encrypt(message, 5).expect("a record");
            let sealed = sealed.payload.as_ref().to_vec();
            assert_eq!(sealed.len(), records().encrypted_payload_len(length));

            let open = |mut bytes: Vec<u8>, sequence| {
                let message = InboundOpaqueMessage::new(kind, version, &mut bytes);
                records().decrypt(message, sequence).map(|plain| plain.payload.to_vec())
            };
            assert_eq!(open(sealed.clone(), 5).expect("as it was"), content);
            open(sealed.clone(), 6).expect_err("out of order");
            open(sealed[..sealed.len() - 1].to_vec(), 5).expect_err("cut");
            open(Vec::new(), 5).expect_err("empty");
            for place in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[place] ^= 1;
                assert!(open(changed, 5).map_or(true, |plain| plain != content), "{place}");
            }
        }
    }
}
