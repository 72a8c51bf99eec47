//! The client's side of TLS, towards MX hosts.
//!
//! ```text
//!   STARTTLS ─▶ handshake: any certificate, but its key proven ─▶ Chain, judged by trusted roots ─▶ Secured{stream, TlsFacts, Chain}
//!                   ▲                                                                                     │
//!                   └── tickets, by server name and address ◀─────────────────────────────────────────────┘
//! ```
//!
//! Most MXs have certificates that no authority vouches for, and mail must flow to them: encryption against onlookers is worth having
//! by itself (RFC 7435). So the handshake takes every certificate whose key the server proves to hold, and the verdict of a proper verification is a
//! fact that is recorded, and that policy may insist on: the [`Chain`] stays with the caller, who may hold it against another name, or
//! against TLSA records.
//!
//! **Resumption** loses nothing: rustls keeps the certificates of the first handshake with the ticket, and they are judged again, by today's clock. Who
//! shares tickets, and what that tells whom, stands in `tickets.rs`.
//!
//! **Bounds**: a handshake message is at most 64 KiB (rustls), so a certificate of 1 MB ends the handshake. Of a chain the first
//! [`MAX_CERTIFICATES`] count; names and texts of certificates are cut.

mod chain;
mod facts;
#[cfg(test)]
mod tests;
mod tickets;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CipherSuite, ClientConfig, CommonState, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::deadline::Expired;
use crate::stream::{HandshakeError, MaybeTls};
use tickets::{Judged, Memory, Server, Tickets};

pub use chain::{Chain, Kind, MAX_CERTIFICATES, Objection, anchored};
pub use facts::{CertificateFacts, PolicyFacts, TlsFacts};

/// A connection after its handshake.
#[derive(Debug)]
pub struct Secured<S> {
    /// The connection.
    pub stream: MaybeTls<S>,
    /// What was negotiated, for the record.
    pub facts: TlsFacts,
    /// Who the server says it is, for whoever insists on something.
    pub chain: Arc<Chain>,
}

/// Why roots of one's own cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read authorities from {}: {reason}", file.display())]
pub struct RootsError {
    file: PathBuf,
    reason: String,
}

/// TLS towards servers. Clones share what is remembered.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// Without any, nobody is trusted.
    roots: Arc<RootCertStore>,
    memory: Arc<Memory>,
}

impl ClientTls {
    /// Judges certificates by the system's roots (or those of `SSL_CERT_FILE`) and, if there is one, by those of a PEM file. A system without any trusts
    /// nobody; TLS works all the same.
    pub fn with_system_roots(more: Option<&Path>) -> Result<Self, RootsError> {
        system_roots(more).map(Self::with_roots)
    }

    /// Judges certificates by these roots.
    pub fn with_roots(roots: RootCertStore) -> Self {
        let provider = Arc::new(provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Self { config: Arc::new(config), roots: Arc::new(roots), memory: Arc::default() }
    }

    /// Does the client's side of a handshake, at most for `limit`. `name` is the server's name for SNI and verification; where it is unknown or no
    /// host name, its `address` stands for it and no SNI is sent. Everything read in the clear must have been consumed or dropped.
    pub async fn connect<S>(
        &self,
        stream: MaybeTls<S>,
        name: Option<&str>,
        address: IpAddr,
        limit: Duration,
    ) -> Result<Secured<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let MaybeTls::Plain(stream) = stream else { return Err(HandshakeError::Already) };
        let sni =
            name.map(|name| name.trim_end_matches('.')).filter(|name| ServerName::try_from(*name).is_ok_and(is_dns));
        let name = match sni {
            Some(name) => ServerName::try_from(name.to_owned()).unwrap_or(ServerName::IpAddress(address.into())),
            None => ServerName::IpAddress(address.into()),
        };
        let server = Server { name, address };
        let tickets = Tickets::new(Arc::clone(&self.memory), server.clone());
        // The copy shares everything but whose tickets it uses, the verifier above all: rustls resumes nothing that another verifier let pass.
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::store(Arc::<Tickets>::clone(&tickets));
        let began = Instant::now();
        let handshake = TlsConnector::from(Arc::new(config)).connect(server.name.clone(), stream);
        let stream = match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(HandshakeError::Failed(error)),
            Err(_) => return Err(Expired { what: "TLS handshake", limit }.into()),
        };
        let took = began.elapsed();
        let state = stream.get_ref().1;
        let sent = state.peer_certificates().unwrap_or_default();
        tickets.weigh(sent);
        let judged = self.judged(&server, sent);
        let facts = facts(state, &judged, &server.name, sni, took);
        Ok(Secured { stream: MaybeTls::Client(Box::new(stream)), facts, chain: judged.chain })
    }

    /// A resumed session brings the certificates of its first handshake: they are judged like any, unless the same were just now.
    fn judged(&self, server: &Server, sent: &[CertificateDer<'_>]) -> Judged {
        let now = Instant::now();
        if let Some(judged) = self.memory.judged(server, sent, now) {
            return judged;
        }
        let chain = Chain::judged(sent, &self.roots, UnixTime::now());
        let judged = Judged {
            certificate: chain.certificates().first().and_then(CertificateFacts::read),
            sha256: chain.certificates().iter().map(|certificate| facts::sha256(certificate)).collect(),
            chain: Arc::new(chain),
        };
        self.memory.judge(server, &judged, now);
        judged
    }
}

/// What is offered, 128-bit AES first: as safe for what mail is worth, and its hash is SHA-256, which processors compute themselves, where SHA-384 takes a resumed
/// handshake tens of microseconds. Servers that prefer something else choose that.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}

/// The system's roots (or those of `SSL_CERT_FILE`) and, if there is one, those of a PEM file.
pub fn system_roots(more: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read a trusted root");
    }
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(added, ignored, "trusted roots");
    if let Some(file) = more {
        add_file(&mut roots, file).map_err(|reason| RootsError { file: file.into(), reason })?;
    }
    Ok(roots)
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let mut any = false;
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
        any = true;
    }
    if any { Ok(()) } else { Err("there is no certificate in it".into()) }
}

fn facts(state: &CommonState, judged: &Judged, server: &ServerName<'_>, sni: Option<&str>, took: Duration) -> TlsFacts {
    let objection = judged.chain.verify(server).err();
    TlsFacts {
        version: match state.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
            other => format!("{other:?}"),
        },
        cipher: state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown").into(),
        group: state.negotiated_key_exchange_group().and_then(|group| group.name().as_str()).map(Into::into),
        sni: sni.map(Into::into),
        resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        handshake_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        trusted: objection.is_none(),
        objection: objection.map(|objection| objection.text),
        certificate: judged.certificate.clone(),
        chain_sha256: judged.sha256.clone(),
        policies: Vec::new(),
    }
}

fn is_dns(name: ServerName<'_>) -> bool {
    matches!(name, ServerName::DnsName(_))
}

/// Takes every certificate, but not every signature: the server proves that it holds the key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
