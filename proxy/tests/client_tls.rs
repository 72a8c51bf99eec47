//! MSAs on other hosts, under TLS with the proxy: real sockets, rustls on both ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::{Mx, Node, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use warren_config::TlsPolicy;
use warren_proxy::standalone::Entrance;

/// A certificate for the proxy, and an MSA that trusts that one and no other.
fn certificate(directory: &Path) -> (Entrance, TlsConnector) {
    let certificate = warren_wire::server::self_signed(directory, "proxy.example", None).unwrap();
    let pem = std::fs::read(directory.join("certificate.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::pem::PemObject::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    (Entrance { certificate, required: true }, TlsConnector::from(Arc::new(client)))
}

/// An MSA in the clear, up to the 220 of STARTTLS. What it pipelines behind it goes out in the same segment.
async fn start_tls(node: &Node, behind: &str) -> TcpStream {
    let mut stream = node.connect().await;
    read(&mut stream, "220 mx\r\n").await;
    stream.write_all(b"EHLO msa\r\n").await.unwrap();
    read(&mut stream, "250-mx\r\n250 STARTTLS\r\n").await;
    stream.write_all(b"MAIL FROM:<a@acme.example>\r\n").await.unwrap();
    read(&mut stream, "530 5.7.0 must issue a STARTTLS command first\r\n").await;
    stream.write_all(format!("STARTTLS\r\n{behind}").as_bytes()).await.unwrap();
    read(&mut stream, "220 2.0.0 go ahead\r\n").await;
    stream
}

/// Exactly this; nothing of what comes behind it.
async fn read(stream: &mut TcpStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

async fn handshake(tls: &TlsConnector, stream: TcpStream) -> Peer<TlsStream<TcpStream>> {
    Peer::new(tls.connect("proxy.example".try_into().unwrap(), stream).await.unwrap())
}

/// A node that asks MSAs for TLS, and an MSA's TLS that trusts it.
async fn asking(mx: &Mx) -> (Node, TlsConnector) {
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let directory = tempfile::tempdir().unwrap();
    let (entrance, tls) = certificate(directory.path());
    node.proxy.offer_tls(Some(entrance));
    (node, tls)
}

/// An MSA whose EHLO is answered under TLS, after it pipelined this behind STARTTLS.
async fn inside(node: &Node, tls: &TlsConnector, behind: &str) -> Peer<TlsStream<TcpStream>> {
    let mut msa = handshake(tls, start_tls(node, behind).await).await;
    msa.say("EHLO msa").await;
    msa.hears("250 mx").await;
    msa
}

/// Says so to all these commands, in their order.
async fn obliging(mx: &Mx, commands: &[&str]) {
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 mx").await;
    for command in commands {
        peer.hears(command).await;
        peer.say(if command.starts_with("EHLO") { "250 mx" } else { "250 fine" }).await;
    }
    assert_eq!(peer.line().await, None);
}

#[tokio::test]
async fn a_message_comes_under_tls_and_what_was_slipped_in_before_does_not() {
    let mx = Mx::new().await;
    let (node, tls) = asking(&mx).await;
    let msa = async {
        let mut msa = inside(&node, &tls, "RSET\r\nMAIL FROM:<evil@acme.example>\r\n").await;
        msa.say("MAIL FROM:<a@acme.example>").await;
        msa.hears("250 fine").await;
        msa.say("STARTTLS").await;
        msa.hears("503 5.5.1 TLS is there already").await;
        msa.say("QUIT").await;
        msa.hears("250 fine").await;
        assert_eq!(msa.rest().await, b"");
    };
    tokio::join!(obliging(&mx, &["EHLO out.example", "RSET", "MAIL FROM:<a@acme.example>", "QUIT"]), msa);
    let (_, transcript) = node.recorded().await;
    let said =
        ["  >|  STARTTLS", "  <|  220 2.0.0 go ahead", "  ==  TLS with the MSA: TLSv1.3 with TLS13_", "  |>  RSET"];
    let found: Vec<_> = said.iter().map(|line| transcript.find(line)).collect();
    assert!(found.iter().all(Option::is_some) && found.is_sorted(), "{transcript}");
    assert!(
        transcript.contains("  ==  37 bytes behind STARTTLS dropped") && !transcript.contains("evil"),
        "{transcript}"
    );
}

#[tokio::test]
async fn whoever_fails_the_handshake_is_gone_and_a_renewed_certificate_serves() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (entrance, _) = certificate(old.path());
    let (renewed, tls) = certificate(new.path());
    node.proxy.offer_tls(Some(entrance));
    let nonsense = async {
        let mut stream = start_tls(&node, "").await;
        stream.write_all(b"MAIL FROM:<evil@acme.example>\r\nRCPT TO:<b@mx.example>\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"2") && !rest.starts_with(b"5"), "an alert at most: {rest:?}");
    };
    tokio::join!(obliging(&mx, &["EHLO out.example", "QUIT"]), nonsense);
    node.proxy.offer_tls(Some(renewed));
    let msa = async {
        let mut msa = inside(&node, &tls, "").await;
        msa.say("QUIT").await;
        msa.hears("250 fine").await;
    };
    tokio::join!(obliging(&mx, &["EHLO out10.example", "RSET", "QUIT"]), msa);
    let all = node.all_recorded().await;
    assert!(all[1].1.contains("  ==  no TLS with the MSA: TLS handshake: "), "{}", all[1].1);
}

#[tokio::test]
async fn what_comes_in_the_clear_behind_the_end_of_tls_is_nobodys_command() {
    let mx = Mx::new().await;
    let (node, tls) = asking(&mx).await;
    let msa = async {
        let mut msa = inside(&node, &tls, "").await;
        msa.say("MAIL FROM:<a@acme.example>").await;
        msa.hears("250 fine").await;
        msa.forge("RCPT TO:<evil@mx.example>").await;
    };
    tokio::join!(obliging(&mx, &["EHLO out.example", "RSET", "MAIL FROM:<a@acme.example>", "QUIT"]), msa);
    let (recorded, transcript) = node.recorded().await;
    assert_eq!(recorded.session.outcome.as_deref(), Some("msa_lost"), "{transcript}");
    assert!(!transcript.contains("evil"), "{transcript}");
}

#[tokio::test]
async fn an_msa_that_ends_its_side_of_tls_still_hears_the_answers() {
    let mx = Mx::new().await;
    let (node, tls) = asking(&mx).await;
    let (ended, end) = tokio::sync::oneshot::channel();
    let msa = async {
        let mut msa = inside(&node, &tls, "").await;
        msa.say("MAIL FROM:<a@acme.example>\nQUIT").await;
        msa.close_direction().await;
        ended.send(()).unwrap();
        msa.hears("250 fine\n221 bye").await;
        assert_eq!(msa.rest().await, b"");
    };
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.greets("250 mx").await;
        peer.hears("RSET").await;
        peer.say("250 fine").await;
        end.await.unwrap();
        peer.hears("MAIL FROM:<a@acme.example>").await;
        peer.say("250 fine").await;
        peer.is_left().await;
    };
    tokio::join!(server, msa);
}
