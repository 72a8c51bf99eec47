//! Handshakes in memory.

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

async fn handshake(client: &ClientTls, server: &Server, name: Option<&str>) -> TlsFacts {
    handshake_and(client, server, name, true).await
}

/// Nothing is read behind the handshake, and no ticket comes.
async fn handshake_without_tickets(client: &ClientTls, server: &Server, name: Option<&str>) -> TlsFacts {
    handshake_and(client, server, name, false).await
}

async fn handshake_and(client: &ClientTls, server: &Server, name: Option<&str>, read: bool) -> TlsFacts {
    let (near, far) = tokio::io::duplex(16_384);
    let accepted = MaybeTls::Plain(far).accept_tls(&server.config, LIMIT);
    let connected = async {
        let Secured { mut stream, facts, .. } =
            client.connect(MaybeTls::Plain(near), name, [192, 0, 2, 1].into(), LIMIT).await.unwrap();
        // TLS 1.3 tickets come with the first read.
        if read {
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut [0]).await.unwrap();
        }
        (facts, stream)
    };
    let serving = async {
        let mut stream = accepted.await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await.unwrap();
        tokio::io::AsyncWriteExt::flush(&mut stream).await.unwrap();
        stream
    };
    let ((facts, _), _) = tokio::join!(connected, serving);
    facts
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_taken_and_said_so() {
    let server = server("mx.example", &[&rustls::version::TLS13]);
    let client = ClientTls::with_roots(RootCertStore::empty());
    let facts = handshake(&client, &server, Some("mx.example")).await;
    assert_eq!((facts.version.as_str(), facts.sni.as_deref(), facts.resumed), ("TLSv1.3", Some("mx.example"), false));
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
async fn sessions_that_begin_before_the_next_tickets_come_are_resumed_too() {
    const AT_ONCE: usize = 20;
    let server = server("mx.example", &[&rustls::version::TLS13]);
    let client = ClientTls::with_roots(RootCertStore::empty());
    for _ in 0..AT_ONCE {
        // Takes one ticket, and brings two.
        handshake(&client, &server, Some("mx.example")).await;
    }
    for _ in 0..AT_ONCE {
        assert!(handshake_without_tickets(&client, &server, Some("mx.example")).await.resumed);
    }
    while client.memory.tickets() > 0 {
        handshake_without_tickets(&client, &server, Some("mx.example")).await;
    }
    assert!(!handshake_without_tickets(&client, &server, Some("mx.example")).await.resumed, "each is good for one");
}

#[tokio::test]
async fn no_server_fills_the_memory_with_tickets() {
    let server = server("mx.example", &[&rustls::version::TLS13]);
    let client = ClientTls::with_roots(RootCertStore::empty());
    for _ in 0..tickets::MAX_TICKETS + 10 {
        handshake(&client, &server, Some("mx.example")).await;
    }
    assert_eq!(client.memory.tickets(), tickets::MAX_TICKETS);
}

#[tokio::test]
async fn a_server_that_sends_many_tickets_at_once_is_not_believed() {
    let mut server = server("mx.example", &[&rustls::version::TLS13]);
    Arc::get_mut(&mut server.config).unwrap().send_tls13_tickets = 10;
    let client = ClientTls::with_roots(RootCertStore::empty());
    handshake(&client, &server, Some("mx.example")).await;
    assert_eq!(client.memory.tickets(), tickets::MAX_SENT);
}

#[tokio::test]
async fn a_server_without_a_preference_gets_the_cheapest_suite() {
    for (version, suite) in [
        (&rustls::version::TLS13, "TLS13_AES_128_GCM_SHA256"),
        (&rustls::version::TLS12, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ] {
        let server = server("mx.example", &[version]);
        let client = ClientTls::with_roots(RootCertStore::empty());
        assert_eq!(handshake(&client, &server, Some("mx.example")).await.cipher, suite);
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
