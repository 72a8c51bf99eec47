//! Our side of TLS against real servers: rustls in many shapes, and OpenSSL's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor};
use warren_wire::client::{Kind, MAX_CERTIFICATES, Secured};
use warren_wire::{ClientTls, HandshakeError, MaybeTls};

const LIMIT: Duration = Duration::from_secs(20);
const MX: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const TLS12: &[&SupportedProtocolVersion] = &[&version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// An authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let own = params.self_signed(&key).unwrap();
        Self { certificate: own.der().clone(), pem: own.pem(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for `name`, changed by `change`.
    fn signs(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Host {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let own = params.signed_by(&key, &self.issuer).unwrap();
        Host {
            pem: own.pem() + &self.pem,
            chain: vec![own.der().clone(), self.certificate.clone()],
            key: key.serialize_der(),
            key_pem: key.serialize_pem(),
        }
    }

    /// A client that trusts it.
    fn trusted(&self) -> ClientTls {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        ClientTls::with_roots(roots)
    }
}

/// What a server has.
struct Host {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    pem: String,
    key_pem: String,
}

impl Host {
    fn config(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(PrivateKeyDer::try_from(self.key.clone()).unwrap()).unwrap();
        // As it is: nobody looks whether the certificate is sound.
        let own = SingleCertAndKey::from(CertifiedKey::new(self.chain.clone(), key));
        let config = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions);
        Arc::new(config.unwrap().with_no_client_auth().with_cert_resolver(Arc::new(own)))
    }
}

/// One connection to a rustls server: what the client got, and the SNI that the server saw.
async fn connect(
    client: &ClientTls,
    config: &Arc<ServerConfig>,
    name: Option<&str>,
    address: IpAddr,
) -> (Result<Secured<tokio::io::DuplexStream>, HandshakeError>, Option<String>) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let serving = async {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), far).await.unwrap();
        let sni = hello.client_hello().server_name().map(ToOwned::to_owned);
        if let Ok(mut stream) = hello.into_stream(Arc::clone(config)).await {
            // Tickets of TLS 1.3 come with the first read.
            let _ = stream.write_all(b"x").await;
            let _ = stream.flush().await;
        }
        sni
    };
    let connecting = async {
        let mut secured = client.connect(MaybeTls::Plain(near), name, address, LIMIT).await?;
        secured.stream.read_exact(&mut [0]).await.unwrap();
        Ok(secured)
    };
    tokio::join!(connecting, serving)
}

#[tokio::test]
async fn every_certificate_makes_tls_and_the_verdict_says_what_is_wrong() {
    let authority = Authority::new("a root");
    let stranger = Authority::new("another root");
    let good = authority.signs("mx.example", |_| ());
    let wildcard = authority.signs("*.mx.example", |_| ());
    let expired = authority.signs("mx.example", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = authority.signs("mx.example", |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let foreign = stranger.signs("mx.example", |_| ());
    let mut alone = stranger.signs("mx.example", |_| ());
    alone.chain.truncate(1);
    for (host, name, verdict) in [
        (&good, "mx.example", None),
        (&wildcard, "a.mx.example", None),
        (&wildcard, "b.a.mx.example", Some(Kind::WrongName)),
        (&wildcard, "mx.example", Some(Kind::WrongName)),
        (&good, "other.example", Some(Kind::WrongName)),
        (&expired, "mx.example", Some(Kind::Expired)),
        (&early, "mx.example", Some(Kind::Expired)),
        (&foreign, "mx.example", Some(Kind::NotTrusted)),
        (&alone, "mx.example", Some(Kind::NotTrusted)),
    ] {
        for (versions, protocol) in [(TLS13, "TLSv1.3"), (TLS12, "TLSv1.2")] {
            let (secured, sni) = connect(&authority.trusted(), &host.config(versions), Some(name), MX).await;
            let Secured { facts, chain, .. } = secured.unwrap();
            let found = chain.verify(&ServerName::try_from(name).unwrap()).err().map(|objection| objection.kind);
            assert_eq!(found, verdict, "{name}");
            assert_eq!((facts.trusted, facts.objection.is_some()), (verdict.is_none(), verdict.is_some()));
            assert_eq!((facts.sni.as_deref(), sni.as_deref()), (Some(name), Some(name)));
            assert_eq!(facts.chain_sha256.len(), host.chain.len());
            assert_eq!(facts.certificate.unwrap().sha256, facts.chain_sha256[0]);
            assert_eq!(facts.version, protocol);
            assert!(facts.group.is_some());
        }
    }
}

#[tokio::test]
async fn a_server_of_unknown_name_gets_no_sni_and_no_trust() {
    let authority = Authority::new("a root");
    let host = authority.signs("mx.example", |_| ());
    for name in [None, Some("192.0.2.1"), Some("not a name"), Some("")] {
        let (secured, sni) = connect(&authority.trusted(), &host.config(TLS13), name, MX).await;
        let facts = secured.unwrap().facts;
        assert_eq!((facts.sni, sni, facts.trusted), (None, None, false), "{name:?}");
        assert_eq!(facts.certificate.unwrap().names, ["mx.example"]);
    }
}

#[tokio::test]
async fn a_resumed_session_keeps_its_facts_and_other_servers_have_no_part_in_it() {
    let authority = Authority::new("a root");
    for versions in [TLS13, TLS12] {
        let config = authority.signs("mx.example", |_| ()).config(versions);
        let client = authority.trusted();
        let first = connect(&client, &config, Some("mx.example"), MX).await.0.unwrap();
        let again = connect(&client, &config, Some("mx.example"), MX).await.0.unwrap();
        assert_eq!((first.facts.resumed, again.facts.resumed), (false, true));
        assert!(again.facts.trusted);
        assert_eq!(first.facts.certificate, again.facts.certificate);
        assert_eq!(first.facts.chain_sha256, again.facts.chain_sha256);
        assert!(Arc::ptr_eq(&first.chain, &again.chain), "the chain is held once");
        let other = connect(&client, &config, Some("other.example"), MX).await.0.unwrap();
        assert_eq!((other.facts.resumed, other.facts.trusted), (false, false));
        let elsewhere = connect(&client, &config, Some("mx.example"), [192, 0, 2, 2].into()).await.0.unwrap();
        assert_eq!((elsewhere.facts.resumed, elsewhere.facts.trusted), (false, true));
    }
}

#[tokio::test]
async fn a_chain_of_a_hundred_is_cut_and_its_tickets_are_not_kept() {
    let authority = Authority::new("a root");
    let mut host = authority.signs("mx.example", |_| ());
    host.chain.resize(100, authority.certificate.clone());
    for versions in [TLS13, TLS12] {
        let client = authority.trusted();
        for _ in 0..2 {
            let connected = connect(&client, &host.config(versions), Some("mx.example"), MX).await;
            let Secured { facts, chain, .. } = connected.0.unwrap();
            assert_eq!((facts.chain_sha256.len(), chain.certificates().len()), (MAX_CERTIFICATES, MAX_CERTIFICATES));
            assert!(facts.trusted && !facts.resumed);
        }
    }
}

#[tokio::test]
async fn a_certificate_of_a_megabyte_is_refused() {
    let authority = Authority::new("a root");
    let host = authority.signs("mx.example", |params| {
        let name = |n: usize| rcgen::SanType::DnsName(format!("{}{n}.example", "x".repeat(55)).try_into().unwrap());
        params.subject_alt_names.extend((0..16_000).map(name));
    });
    assert!(host.chain[0].len() > 1_000_000);
    for versions in [TLS13, TLS12] {
        let (refused, _) = connect(&authority.trusted(), &host.config(versions), Some("mx.example"), MX).await;
        assert!(matches!(refused, Err(HandshakeError::Failed(_))));
    }
}

#[tokio::test]
async fn authorities_of_ones_own_are_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("roots.pem");
    let authority = Authority::new("a root");
    std::fs::write(&file, &authority.pem).unwrap();
    let client = ClientTls::with_system_roots(Some(&file)).unwrap();
    let host = authority.signs("mx.example", |_| ());
    assert!(connect(&client, &host.config(TLS13), Some("mx.example"), MX).await.0.unwrap().facts.trusted);
    std::fs::write(&file, "").unwrap();
    assert!(ClientTls::with_system_roots(Some(&file)).unwrap_err().to_string().ends_with("no certificate in it"));
    assert!(ClientTls::with_system_roots(Some(&folder.path().join("none"))).is_err());
}

#[tokio::test]
async fn whoever_stalls_alerts_or_talks_nonsense_is_an_error_in_time() {
    let client = ClientTls::with_roots(RootCertStore::empty());
    let attempt = async |said: &[u8], limit| {
        let (near, mut far) = tokio::io::duplex(4_096);
        far.write_all(said).await.unwrap();
        let failed = client.connect(MaybeTls::Plain(near), Some("mx.example"), MX, limit).await.unwrap_err();
        drop(far);
        failed
    };
    let alert = attempt(&[21, 3, 3, 0, 2, 2, 40], LIMIT).await;
    assert!(alert.to_string().contains("HandshakeFailure"), "{alert}");
    for said in [&b"220 2.0.0 Ready to start TLS\r\n"[..], &[0; 8], b"\x16\x03\x01\xff\xff\x02\0\0"] {
        assert!(matches!(attempt(said, LIMIT).await, HandshakeError::Failed(_)));
    }
    for said in [&b""[..], b"\x16\x03\x03\0\x7a\x02"] {
        assert!(matches!(attempt(said, Duration::from_millis(20)).await, HandshakeError::Expired(_)));
    }
}

/// `openssl s_server`, ended when dropped.
struct OpenSsl {
    at: std::net::SocketAddr,
    _process: tokio::process::Child,
    _files: tempfile::TempDir,
}

impl OpenSsl {
    async fn start(host: &Host, options: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (chain, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
        std::fs::write(&chain, &host.pem).unwrap();
        std::fs::write(&key, &host.key_pem).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let mut command = tokio::process::Command::new("openssl");
        command.args(["s_server", "-quiet", "-accept", &at.to_string(), "-cert"]).arg(&chain);
        command.arg("-cert_chain").arg(&chain).arg("-key").arg(&key).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().expect("openssl is on every machine that runs these tests");
        // It does not tell when it listens.
        while TcpStream::connect(at).await.is_err() {
            assert!(process.try_wait().unwrap().is_none(), "s_server ended");
            tokio::task::yield_now().await;
        }
        Self { at, _process: process, _files: files }
    }

    async fn connect(&self, client: &ClientTls) -> Result<Secured<TcpStream>, HandshakeError> {
        let stream = TcpStream::connect(self.at).await.unwrap();
        let mut secured = client.connect(MaybeTls::Plain(stream), Some("mx.example"), self.at.ip(), LIMIT).await?;
        // It closes when we do; what it sent before, tickets too, is read until then.
        secured.stream.shutdown().await.unwrap();
        let _ = secured.stream.read_to_end(&mut Vec::new()).await;
        Ok(secured)
    }
}

#[tokio::test]
async fn openssl_is_spoken_to_verified_and_resumed() {
    let authority = Authority::new("a root");
    let host = authority.signs("mx.example", |_| ());
    for (option, protocol) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let server = OpenSsl::start(&host, &[option]).await;
        let client = authority.trusted();
        let first = server.connect(&client).await.unwrap().facts;
        assert_eq!((first.version.as_str(), first.trusted, first.resumed), (protocol, true, false));
        let again = server.connect(&client).await.unwrap().facts;
        assert_eq!((again.trusted, again.resumed, again.certificate), (true, true, first.certificate), "{protocol}");
    }
}

#[tokio::test]
async fn openssl_of_another_age_is_an_error() {
    let host = Authority::new("a root").signs("mx.example", |_| ());
    let server = OpenSsl::start(&host, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await;
    let failed = server.connect(&ClientTls::with_roots(RootCertStore::empty())).await.unwrap_err();
    assert!(matches!(failed, HandshakeError::Failed(_)), "{failed}");
}
