//! The client's side of TLS, towards MX hosts.
//!
//! ```text
//!   STARTTLS ─▶ handshake: any certificate, but its key proven ─▶ chain and name verified ─▶ Facts{trusted, objection, …}
//! ```
//!
//! Most MXs have certificates that no authority vouches for, and mail must flow to them: encryption against onlookers is worth having
//! by itself (RFC 7435). So the handshake takes every certificate whose key the server proves to hold, and the verdict of a proper verification is a fact
//! that is recorded, and that policy may insist on. Sessions are resumed where the server allows it; the chain is judged again then.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, CommonState, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::deadline::Expired;
use crate::stream::{HandshakeError, MaybeTls};

/// Most names kept of one certificate.
const MAX_NAMES: usize = 100;
/// Longest subject, issuer or name kept.
const MAX_TEXT: usize = 300;

/// What was negotiated with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The protocol, as in `TLSv1.3`.
    pub version: String,
    /// The cipher suite by its IANA name.
    pub cipher: String,
    /// The key exchange group.
    pub group: Option<String>,
    /// The server name that was asked for.
    pub sni: Option<String>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// How long the handshake took.
    pub took: Duration,
    /// Whether the chain leads to a trusted root and the certificate names the server.
    pub trusted: bool,
    /// What stands in the way of trust.
    pub objection: Option<String>,
    /// The server's own certificate.
    pub certificate: Option<Certificate>,
    /// SHA-256 of every certificate of the chain as sent, in hexadecimal, the server's own first.
    pub chain_sha256: Vec<String>,
}

/// What a certificate says. All of it is the peer's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// The DNS names and addresses it is for.
    pub names: Vec<String>,
    /// Valid from, in seconds of Unix time.
    pub not_before: i64,
    /// Valid until, in seconds of Unix time.
    pub not_after: i64,
    /// SHA-256 of the certificate, in hexadecimal.
    pub sha256: String,
}

/// TLS towards servers. Clones share the resumption cache.
#[derive(Debug, Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// None: no root is trusted, so nobody is.
    judge: Option<Arc<WebPkiServerVerifier>>,
}

impl ClientTls {
    /// Judges certificates by the system's roots (or those of `SSL_CERT_FILE`). A system without any trusts nobody; TLS works all the same.
    pub fn with_system_roots() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read a trusted root");
        }
        let mut roots = RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(added, ignored, "trusted roots");
        Self::with_roots(roots)
    }

    /// Judges certificates by these roots.
    pub fn with_roots(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().ok();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Self { config: Arc::new(config), judge }
    }

    /// Does the client's side of a handshake, at most for `limit`. `name` is the server's name for SNI and verification; where it is unknown or no
    /// host name, its `address` stands for it and no SNI is sent. Everything read in the clear must have been consumed or dropped.
    pub async fn connect<S>(
        &self,
        stream: MaybeTls<S>,
        name: Option<&str>,
        address: IpAddr,
        limit: Duration,
    ) -> Result<(MaybeTls<S>, Facts), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let MaybeTls::Plain(stream) = stream else { return Err(HandshakeError::Already) };
        let sni =
            name.map(|name| name.trim_end_matches('.')).filter(|name| ServerName::try_from(*name).is_ok_and(is_dns));
        let server = match sni {
            Some(name) => ServerName::try_from(name.to_owned()).unwrap_or(ServerName::IpAddress(address.into())),
            None => ServerName::IpAddress(address.into()),
        };
        let began = Instant::now();
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(server.clone(), stream);
        let stream = match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(HandshakeError::Failed(error)),
            Err(_) => return Err(Expired { what: "TLS handshake", limit }.into()),
        };
        let took = began.elapsed();
        let facts = self.facts(stream.get_ref().1, &server, sni, took);
        Ok((MaybeTls::Client(Box::new(stream)), facts))
    }

    fn facts(&self, state: &CommonState, server: &ServerName<'_>, sni: Option<&str>, took: Duration) -> Facts {
        let chain = state.peer_certificates().unwrap_or_default();
        let objection = self.objection(chain, server);
        Facts {
            version: match state.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
                Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
                other => format!("{other:?}"),
            },
            cipher: state
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown")
                .into(),
            group: state.negotiated_key_exchange_group().and_then(|group| group.name().as_str()).map(Into::into),
            sni: sni.map(Into::into),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            took,
            trusted: objection.is_none(),
            objection,
            certificate: chain.first().and_then(certificate),
            chain_sha256: chain.iter().map(sha256).collect(),
        }
    }

    /// What a verifying client would object to.
    fn objection(&self, chain: &[CertificateDer<'_>], server: &ServerName<'_>) -> Option<String> {
        let Some((own, intermediates)) = chain.split_first() else { return Some("no certificate".into()) };
        let Some(judge) = &self.judge else { return Some("no trusted roots".into()) };
        judge
            .verify_server_cert(own, intermediates, server, &[], UnixTime::now())
            .err()
            .map(|error| bounded(&error.to_string()))
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

fn certificate(der: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    Some(Certificate {
        subject: bounded(&parsed.subject().to_string()),
        issuer: bounded(&parsed.issuer().to_string()),
        names: names.filter_map(name).take(MAX_NAMES).collect(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        sha256: sha256(der),
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(bounded(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn sha256(der: &CertificateDer<'_>) -> String {
    Sha256::digest(der).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;

    const LIMIT: Duration = Duration::from_secs(10);

    struct Server {
        config: Arc<ServerConfig>,
        certificate: CertificateDer<'static>,
    }

    fn server(name: &str, versions: &[&'static rustls::SupportedProtocolVersion]) -> Server {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        Server { config: Arc::new(config), certificate }
    }

    async fn handshake(client: &ClientTls, server: &Server, name: Option<&str>) -> Facts {
        let (near, far) = tokio::io::duplex(16_384);
        let accepted = MaybeTls::Plain(far).accept_tls(&server.config, LIMIT);
        let connected = async {
            let (mut stream, facts) =
                client.connect(MaybeTls::Plain(near), name, [192, 0, 2, 1].into(), LIMIT).await.unwrap();
            // TLS 1.3 tickets come with the first read.
            let mut byte = [0];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await.unwrap();
            facts
        };
        let serving = async {
            let mut stream = accepted.await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await.unwrap();
            tokio::io::AsyncWriteExt::flush(&mut stream).await.unwrap();
            stream
        };
        tokio::join!(connected, serving).0
    }

    #[tokio::test]
    async fn a_certificate_that_nobody_vouches_for_is_taken_and_said_so() {
        let server = server("mx.example", &[&rustls::version::TLS13]);
        let client = ClientTls::with_roots(RootCertStore::empty());
        let facts = handshake(&client, &server, Some("mx.example")).await;
        assert_eq!(
            (facts.version.as_str(), facts.sni.as_deref(), facts.resumed),
            ("TLSv1.3", Some("mx.example"), false)
        );
        assert_eq!((facts.trusted, facts.objection.as_deref()), (false, Some("no trusted roots")));
        let certificate = facts.certificate.unwrap();
        assert_eq!(certificate.names, ["mx.example"]);
        assert_eq!(facts.chain_sha256, [certificate.sha256]);
        assert!(facts.group.is_some() && facts.cipher.starts_with("TLS13_"));
    }

    #[tokio::test]
    async fn trust_wants_a_root_and_the_name() {
        let server = server("mx.example", &[&rustls::version::TLS13]);
        let mut roots = RootCertStore::empty();
        roots.add(server.certificate.clone()).unwrap();
        let client = ClientTls::with_roots(roots);
        assert_eq!(handshake(&client, &server, Some("mx.example.")).await.objection, None);
        let other = handshake(&client, &server, Some("other.example")).await;
        assert!(!other.trusted && other.objection.unwrap().contains("not valid for name"));
        let nameless = handshake(&client, &server, None).await;
        assert_eq!((nameless.trusted, nameless.sni), (false, None));
        let odd = handshake(&client, &server, Some("no host name")).await;
        assert_eq!(odd.sni, None);
    }

    #[tokio::test]
    async fn sessions_are_resumed_and_judged_again() {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let server = server("mx.example", &[version]);
            let client = ClientTls::with_roots(RootCertStore::empty());
            assert!(!handshake(&client, &server, Some("mx.example")).await.resumed);
            let again = handshake(&client, &server, Some("mx.example")).await;
            assert!(again.resumed && !again.trusted && again.certificate.is_some());
        }
    }

    #[tokio::test]
    async fn a_peer_that_speaks_no_tls_is_an_error() {
        let (near, mut far) = tokio::io::duplex(1_024);
        tokio::io::AsyncWriteExt::write_all(&mut far, b"454 4.7.0 TLS not available\r\n").await.unwrap();
        let client = ClientTls::with_roots(RootCertStore::empty());
        let failed = client.connect(MaybeTls::Plain(near), None, [192, 0, 2, 1].into(), LIMIT).await;
        assert!(matches!(failed, Err(HandshakeError::Failed(_))));
        let (near, _silent) = tokio::io::duplex(1_024);
        let failed = client.connect(MaybeTls::Plain(near), None, [192, 0, 2, 1].into(), Duration::from_millis(1)).await;
        assert!(matches!(failed, Err(HandshakeError::Expired(_))));
    }
}
