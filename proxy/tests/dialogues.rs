//! The table of dialogues, over sockets and real TLS. The mediator's tests play the same without.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;
#[path = "../../crates/smtp/dialogues/table.rs"]
mod table;

use support::{Mx, Node, Peer};
use table::{Dialogue, Step};
use tokio::net::TcpStream;
use warren_config::TlsPolicy;
use warren_wire::MaybeTls;

/// Of longer ones, what is in the middle does not come byte by byte.
const LONG: usize = 1_000;

#[tokio::test]
async fn in_one_segment() {
    for dialogue in table::outbound() {
        play(&dialogue, usize::MAX).await;
    }
}

#[tokio::test]
async fn byte_by_byte() {
    for dialogue in table::outbound().iter().filter(|dialogue| dialogue.divisible) {
        play(dialogue, 1).await;
    }
}

/// Both ends of a session through the proxy; an MX that is not there was dropped.
struct Ends<'a> {
    mx: &'a Mx,
    client: Option<Peer<TcpStream>>,
    server: Option<Peer<MaybeTls<TcpStream>>>,
    size: usize,
}

async fn play(dialogue: &Dialogue, size: usize) {
    let mx = Mx::new().await;
    let tls = match dialogue.tls {
        "require" => TlsPolicy::Require,
        "verify" => TlsPolicy::Verify,
        _ => TlsPolicy::Opportunistic,
    };
    let node = Node::towards(mx.address, tls).await;
    let client = Some(node.msa().await.without_delay());
    let mut ends = Ends { mx: &mx, client, server: None, size };
    for step in &dialogue.steps {
        ends.step(step, &format!("{}, at {step:?}", dialogue.name)).await;
    }
    assert!(ends.client.is_none() && ends.server.is_none(), "{}: somebody is left", dialogue.name);
    let (recorded, transcript) = node.recorded().await;
    assert!(recorded.session.outcome.is_some(), "{}:\n{transcript}", dialogue.name);
}

impl Ends<'_> {
    async fn step(&mut self, step: &Step, at: &str) {
        match step {
            Step::ClientSends(bytes) => {
                let size = self.size_of(bytes);
                self.client.as_mut().expect(at).send_in_pieces(bytes, size).await;
            }
            Step::ServerSends(bytes) => {
                let size = self.size_of(bytes);
                self.server.as_mut().expect(at).send_in_pieces(bytes, size).await;
            }
            Step::ClientGets(bytes) => self.client.as_mut().expect(at).gets(bytes, at).await,
            Step::ServerGets(bytes) => self.server.as_mut().expect(at).gets(bytes, at).await,
            Step::Driver(what) => self.drive(what, at).await,
        }
    }

    fn size_of(&self, bytes: &[u8]) -> usize {
        if bytes.len() > LONG { bytes.len() } else { self.size }
    }

    async fn drive(&mut self, what: &str, at: &str) {
        match what {
            "dial" => self.server = Some(self.mx.dialled().await.0),
            "handshake" => {
                let server = self.server.take().expect(at).accept_tls(&self.mx.tls).await;
                self.server = Some(server);
            }
            "handshake fails" => self.server.take().expect(at).send_in_pieces(b"500 this is no TLS\r\n", 100).await,
            "server closes" => drop(self.server.take().expect(at)),
            "server resets" => self.server.take().expect(at).reset(),
            "client closes" => self.client.as_mut().expect(at).close_direction().await,
            "client resets" => self.client.take().expect(at).reset(),
            // Of content that is cut off there may be more than was expected, but never its end.
            "drop server" => {
                if let Some(mut server) = self.server.take() {
                    let rest = String::from_utf8_lossy(&server.rest().await).into_owned();
                    assert!(!rest.ends_with("\r\n.\r\n") && !rest.ends_with("QUIT\r\n"), "{at}: {rest:?}");
                }
            }
            "close server" => assert_eq!(self.server.take().expect(at).rest().await, b"", "{at}"),
            "close client" => {
                if let Some(mut client) = self.client.take() {
                    assert_eq!(client.rest().await, b"", "{at}");
                }
            }
            other => panic!("no driver does {other}"),
        }
    }
}
