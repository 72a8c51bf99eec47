//! More sessions than there are places for: nobody is turned away.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use std::time::Duration;

use support::{Mx, Node, Peer};
use tokio::net::TcpStream;

/// How long sessions wait for their turn.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session that is greeted by the MX and goes on.
async fn greeted(node: &Node, mx: &Mx) -> (Peer<TcpStream>, Peer<warren_wire::MaybeTls<TcpStream>>) {
    let mut msa = node.msa().await;
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 mx").await;
    msa.hears("220 mx").await;
    (msa, peer)
}

async fn quit(msa: &mut Peer<TcpStream>, peer: &mut Peer<warren_wire::MaybeTls<TcpStream>>) {
    msa.say("QUIT").await;
    peer.hears("QUIT").await;
    peer.say("221 bye").await;
    msa.hears("221 bye").await;
}

#[tokio::test]
async fn a_session_without_a_place_is_greeted_and_its_messages_are_delayed() {
    let mx = Mx::new().await;
    let node = Node::of_one_session(mx.address, Duration::from_millis(10)).await;
    let (mut first, mut peer) = greeted(&node, &mx).await;
    let mut second = node.msa().await;
    second.hears("220 [127.0.0.1] ESMTP").await;
    second.say("EHLO msa").await;
    second.hears("250-[127.0.0.1]\n250-PIPELINING\n250-8BITMIME\n250-SMTPUTF8\n250-DSN\n250-ENHANCEDSTATUSCODES").await;
    second.hears("250-CHUNKING\n250-BINARYMIME\n250-REQUIRETLS\n250-SIZE\n250 DELIVERBY").await;
    second.say("MAIL FROM:<alice@acme.example>\nRCPT TO:<bob@mx.example>\nDATA").await;
    let busy = "451 4.3.2 too many sessions at once; try again later";
    second.hears(&[busy; 3].join("\n")).await;
    second.say("QUIT").await;
    second.hears("221 2.0.0 bye").await;
    assert_eq!(second.line().await, None);
    quit(&mut first, &mut peer).await;
    let all = node.all_recorded().await;
    let (put_off, transcript) = &all[0];
    assert_eq!(put_off.session.outcome.as_deref(), Some("deferred"), "{transcript}");
    assert!(put_off.legs.is_empty() && transcript.contains(&format!("<|  {busy}")), "{transcript}");
    // There is no leg to store the decision with, and it is stored.
    let decision =
        "no egress address: no turn in time: default, pool default, suspicion low; 127.0.0.9: 1 of 50 sessions";
    assert!(transcript.contains(decision), "{transcript}");
    assert_eq!(all[1].0.session.outcome.as_deref(), Some("unused"));
}

#[tokio::test]
async fn whoever_waits_has_the_place_when_it_is_free() {
    let mx = Mx::new().await;
    let node = Node::of_one_session(mx.address, PATIENCE).await;
    let (mut first, mut peer) = greeted(&node, &mx).await;
    // Somebody waits and goes: the MX never hears of him.
    let gone = node.msa().await;
    drop(gone);
    let mut second = node.msa().await;
    quit(&mut first, &mut peer).await;
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 mx again").await;
    second.hears("220 mx again").await;
    quit(&mut second, &mut peer).await;
    assert_eq!(node.all_recorded().await.len(), 3);
}
