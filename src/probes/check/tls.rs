//! Opens TLS connections that trust any server: a probe asks whether a container is well, not for
//! its identity.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cbc;
use super::tcp::os_text;

/// The reason why there is no TLS connection.
#[derive(Debug)]
pub(super) enum TlsError {
    /// The server answered plain HTTP.
    PlainHttp,
    /// Another reason; a text for people.
    Other(String),
}

/// Opens a TLS connection over `stream`, offering HTTP/2 and HTTP/1.1.
pub(super) async fn connect(stream: TcpStream, host: &str) -> Result<TlsStream<Sniffed>, TlsError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| TlsError::Other(format!("tls: {host:?} is not a server name")))?;
    let stream = Sniffed { stream, first: Vec::new() };

    let connector = TlsConnector::from(Arc::clone(&CONFIG));
    match connector.connect(name, stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((_, stream)) if stream.first == b"HTTP/" => Err(TlsError::PlainHttp),
        Err((error, _)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(TlsError::Other("EOF".to_owned()))
        }
        Err((error, _)) if error.raw_os_error().is_some() => {
            Err(TlsError::Other(format!("read: {}", os_text(&error))))
        }
        Err((error, _)) => Err(TlsError::Other(format!("tls: {error}"))),
    }
}

/// The signature schemes that Go's client accepts besides those that the provider can verify.
/// Nothing is verified here, so the provider need not know them.
const UNVERIFIED: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::ECDSA_SHA1_Legacy,
];

static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut provider = ring::default_provider();
    provider.cipher_suites.extend(cbc::SUITES.iter().copied());
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Every probe handshakes anew, as a new client would.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
});

/// A stream that remembers the first bytes that the server sent.
#[derive(Debug)]
pub(super) struct Sniffed {
    stream: TcpStream,
    first: Vec<u8>,
}

/// The length of `HTTP/`.
const SNIFFED: usize = 5;

impl AsyncRead for Sniffed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let missing = SNIFFED.saturating_sub(self.first.len());
        if missing > 0 {
            self.first.extend(buffer.filled()[before..].iter().take(missing));
        }
        polled
    }
}

impl AsyncWrite for Sniffed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        schemes.extend(UNVERIFIED);
        schemes
    }
}
