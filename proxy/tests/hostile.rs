//! Peers that never stop, over sockets: what they can make the proxy hold is bounded, and others are served meanwhile.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use support::{Mx, Node, Peer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use warren_config::{TenantName, TlsPolicy};
use warren_proxy::door;
use warren_smtp::mediator::MAX_FRUITLESS;
use warren_wire::MaybeTls;

/// What fits into the buffers of four sockets on loopback, and much less than what is sent.
const KERNEL: usize = 40 << 20;
const FLOOD: usize = 256 << 20;

type MxPeer = Peer<MaybeTls<TcpStream>>;

/// A session that has its answer to EHLO.
async fn relaying(node: &Node, mx: &Mx) -> (Peer<TcpStream>, MxPeer) {
    let mut msa = node.msa().await;
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 mx").await;
    msa.hears("220 mx").await;
    msa.say("EHLO msa").await;
    peer.hears("EHLO out.example").await;
    peer.say("250-mx\n250 PIPELINING").await;
    msa.hears("250-mx\n250 PIPELINING").await;
    (msa, peer)
}

#[tokio::test]
async fn a_greeting_without_an_end_is_cut() {
    for line in ["220-and on\r\n", "2"] {
        let mx = Mx::new().await;
        let node = Node::towards(mx.address, TlsPolicy::Opportunistic).await;
        let mut msa = node.msa().await;
        let (mut peer, _) = mx.dialled().await;
        let flood = tokio::spawn(async move { peer.pour(line.repeat(4_096).as_bytes(), FLOOD).await });
        msa.hears("421 4.5.0 the server broke the protocol").await;
        assert_eq!(msa.line().await, None);
        let sent = flood.await.unwrap();
        assert!(sent < KERNEL, "{sent} bytes were taken");
        let (recorded, transcript) = node.recorded().await;
        assert_eq!(recorded.session.outcome.as_deref(), Some("cut"), "{transcript}");
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_nothing_is_lost() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let (mut msa, mut peer) = relaying(&node, &mx).await;
    msa.say("MAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\nDATA").await;
    peer.hears("MAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\nDATA").await;
    peer.say("250 ok\n250 ok\n354 go").await;
    msa.hears("250 ok\n250 ok\n354 go").await;
    let line = format!("{:<1022}\r\n", "content").repeat(64);
    // The MX reads nothing, and the MSA is not read either once every buffer is full.
    let sent = msa.pour(line.as_bytes(), FLOOD).await;
    assert!(sent < KERNEL, "{sent} bytes were taken");
    let rest = line.len() - sent % line.len();
    let end = async {
        msa.send(&line.as_bytes()[line.len() - rest..]).await;
        msa.say(".").await;
    };
    let read = async {
        let mut left = sent + rest;
        while left > 0 {
            let piece = left.min(line.len());
            assert!(peer.exactly(piece).await == line.as_bytes()[..piece]);
            left -= piece;
        }
        peer.hears(".").await;
        peer.say("250 queued").await;
    };
    tokio::join!(end, read);
    msa.hears("250 queued").await;
}

#[tokio::test]
async fn a_thousand_messages_pass_in_one_session() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let (mut msa, mut peer) = relaying(&node, &mx).await;
    let server = async {
        for number in 0..1_000 {
            peer.hears("MAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\nDATA").await;
            peer.say("250 ok\n250 ok\n354 go").await;
            peer.hears(&format!("{number}\n.")).await;
            peer.say(&format!("250 queued {number}")).await;
        }
        peer.hears("QUIT").await;
        peer.say("221 bye").await;
    };
    let client = async {
        for number in 0..1_000 {
            msa.say("MAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\nDATA").await;
            msa.hears("250 ok\n250 ok\n354 go").await;
            msa.say(&format!("{number}\n.")).await;
            msa.hears(&format!("250 queued {number}")).await;
        }
        msa.say("QUIT").await;
        msa.hears("221 bye").await;
        assert_eq!(msa.line().await, None);
    };
    tokio::join!(server, client);
    let (recorded, _) = node.recorded().await;
    assert_eq!(recorded.session.outcome.as_deref(), Some("delivered"));
}

#[tokio::test]
async fn rset_for_ever_ends_in_a_reply() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let (mut msa, mut peer) = relaying(&node, &mx).await;
    let server = async {
        let mut heard = 0;
        while let Some(line) = peer.line().await {
            if line != "RSET" {
                break;
            }
            heard += 1;
            peer.say("250 ok").await;
        }
        assert!(heard <= MAX_FRUITLESS + 1, "{heard} passed");
    };
    let client = async {
        for _ in 0..2 * MAX_FRUITLESS {
            msa.send_in_pieces(b"RSET\r\n", 6).await;
            match msa.line().await.as_deref() {
                Some("250 ok") => {}
                last => return assert_eq!(last, Some("421 4.7.0 too many commands without a message")),
            }
        }
        panic!("nobody ended it");
    };
    tokio::join!(server, client);
}

/// One more door of this node.
async fn door_of(node: &Node, tenant: &str, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let tenant = TenantName::new(tenant).unwrap();
    tokio::spawn(door::serve_fixed(Arc::clone(&node.proxy), listener, tenant, None, to));
    at
}

#[tokio::test]
async fn a_thousand_connections_of_one_tenant_are_nobody_elses_matter() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let door = door_of(&node, "crowd", mx.address).await;
    // The backlog of the door may be shorter: not all of them are connected.
    let mut crowd = JoinSet::new();
    for _ in 0..1_000 {
        crowd.spawn(async move {
            let _held = TcpStream::connect(door).await;
            std::future::pending::<()>().await;
        });
    }
    // As many as one tenant may have sessions; the rest waits.
    let mut taken = Vec::new();
    for _ in 0..50 {
        taken.push(mx.dialled().await);
    }
    let other = door_of(&node, "other", mx.address).await;
    let mut other = Peer::new(TcpStream::connect(other).await.unwrap());
    // The next whom the MX hears of is the other tenant's.
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 for the other").await;
    other.hears("220 for the other").await;
    other.say("QUIT").await;
    peer.hears("QUIT").await;
    peer.say("221 bye").await;
    other.hears("221 bye").await;
    let one_more = tokio::time::timeout(Duration::ZERO, mx.dialled()).await;
    assert!(one_more.is_err(), "the crowd has more than its share");
}
