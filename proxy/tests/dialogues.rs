//! The table of dialogues, over sockets and real TLS. The mediator's tests play the same without.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;
#[path = "../../crates/smtp/dialogues/table.rs"]
mod table;

use std::time::Duration;

use support::{Mx, Node, Peer, Plan, Shows};
use table::{Dialogue, Step};
use tokio::net::TcpStream;
use warren_config::TlsPolicy;
use warren_wire::MaybeTls;

/// A TLS record: alert, version 1.2, two bytes: fatal, handshake_failure (RFC 5246 §7.2).
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];
/// More than a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(31);
/// Of longer ones, what is in the middle does not come byte by byte.
const LONG: usize = 1_000;

#[test]
fn in_one_segment() {
    for dialogue in table::outbound() {
        play(&dialogue, usize::MAX);
    }
}

#[test]
fn byte_by_byte() {
    for dialogue in table::outbound().iter().filter(|dialogue| dialogue.divisible) {
        play(dialogue, 1);
    }
}

/// Each has a clock of its own: time that one of them let pass is not the next one's.
fn play(dialogue: &Dialogue, size: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(said(dialogue, size));
}

/// Without waiting for it: what is due by then is due now.
async fn let_pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Both ends of a session through the proxy; an MX that is not there was dropped.
struct Ends<'a> {
    mx: &'a Mx,
    client: Option<Peer<TcpStream>>,
    server: Option<Peer<MaybeTls<TcpStream>>>,
    size: usize,
}

async fn said(dialogue: &Dialogue, size: usize) {
    let (mx, node) = meet(dialogue).await;
    let client = Some(node.msa().await.without_delay());
    let mut ends = Ends { mx: &mx, client, server: None, size };
    for step in &dialogue.steps {
        ends.step(step, &format!("{}, at {step:?}", dialogue.name)).await;
    }
    assert!(ends.client.is_none() && ends.server.is_none(), "{}: somebody is left", dialogue.name);
    let (recorded, transcript) = node.recorded().await;
    assert!(recorded.session.outcome.is_some(), "{}:\n{transcript}", dialogue.name);
    // What the other player takes as given.
    let verified = dialogue.steps.iter().find_map(|step| match step {
        Step::Driver("handshake") => Some(false),
        Step::Driver("handshake verified") => Some(true),
        _ => None,
    });
    if verified.is_some() {
        assert_eq!(recorded.legs[0].tls_trusted, verified, "{}:\n{transcript}", dialogue.name);
    }
}

/// An MX that shows what it is to show, and a node that does about it what it is to do.
async fn meet(dialogue: &Dialogue) -> (Mx, Node) {
    let tls = match dialogue.tls {
        "require" => TlsPolicy::Require,
        "verify" => TlsPolicy::Verify,
        _ => TlsPolicy::Opportunistic,
    };
    let shows = match dialogue.shows {
        "TLS 1.2" => Shows::Tls12,
        "trusted" => Shows::Trusted,
        "expired" => Shows::Expired,
        "wrong name" => Shows::WrongName,
        "" => {
            let mx = Mx::new().await;
            let node = Node::towards(mx.address, tls).await;
            return (mx, node);
        }
        other => panic!("no server shows {other}"),
    };
    let mx = Mx::showing(shows).await;
    let node = Plan::new().tls(tls).trusting(&mx).told_of_names().start(mx.address).await;
    // Were a domain known, its certificate would be judged at RCPT, and not at the handshake.
    node.serves_anybody().await;
    (mx, node)
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
            "handshake" | "handshake verified" => {
                let server = self.server.take().expect(at).accept_tls(&self.mx.tls).await;
                self.server = Some(server);
            }
            "handshake fails" => self.server.take().expect(at).send_in_pieces(b"500 this is no TLS\r\n", 100).await,
            "handshake alert" => {
                let mut server = self.server.take().expect(at);
                server.client_hello().await;
                server.send(&ALERT).await;
            }
            "handshake stalls" => {
                self.server.as_mut().expect(at).client_hello().await;
                let_pass(HANDSHAKE).await;
            }
            "server closes" => drop(self.server.take().expect(at)),
            "server closes its direction" => self.server.as_mut().expect(at).close_direction().await,
            "server resets" => self.server.take().expect(at).reset(),
            "client closes" => drop(self.client.take().expect(at)),
            "client closes its direction" => self.client.as_mut().expect(at).close_direction().await,
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
            what => {
                let forged = what.strip_prefix("forges ").unwrap_or_else(|| panic!("no driver does {what}"));
                self.server.take().expect(at).forge(forged).await;
            }
        }
    }
}
