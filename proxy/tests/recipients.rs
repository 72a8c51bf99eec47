//! What each recipient's domain asks of TLS, where nobody told which MX it is: MAIL waits for the first of them.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use support::{Mx, Plan};
use warren_config::{TlsPolicy, TlsRule};

fn strict() -> Vec<TlsRule> {
    vec![TlsRule { domains: vec!["strict.example".into()], policy: TlsPolicy::Require }]
}

#[tokio::test]
async fn a_recipient_whose_domain_asks_for_more_is_delayed_alone() {
    let mx = Mx::new().await;
    let node = Plan::new().tls(TlsPolicy::Opportunistic).tls_rules(strict()).start(mx.address).await;
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.greets("250-mx\n250 PIPELINING").await;
        peer.hears("MAIL FROM:<a@acme.example>").await;
        peer.say("250 2.1.0 ok").await;
        peer.hears("RCPT TO:<c@mx.example>\nDATA").await;
        peer.say("250 2.1.5 ok\n354 go").await;
        peer.hears("hello\n.").await;
        peer.say("250 2.0.0 queued").await;
        peer.is_left().await;
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.is_greeted("250-mx\n250 PIPELINING").await;
        msa.say("MAIL FROM:<a@acme.example>\nRCPT TO:<b@strict.example>\nRCPT TO:<c@mx.example>").await;
        msa.say("RCPT TO:<d@strict.example>\nDATA").await;
        msa.hears("250 2.1.0 ok").await;
        let refused = msa.line().await.unwrap();
        assert!(refused.starts_with("451 4.7.5 TLS policy here"), "{refused}");
        msa.hears(&format!("250 2.1.5 ok\n{refused}\n354 go")).await;
        msa.say("hello\n.").await;
        msa.hears("250 2.0.0 queued").await;
        msa.leaves().await;
    };
    tokio::join!(server, client);
    let (recorded, transcript) = node.recorded().await;
    assert_eq!(recorded.session.outcome.as_deref(), Some("partly"), "{transcript}");
    let mut fates: Vec<_> =
        recorded.recipients.iter().map(|one| (one.forward_path.as_str(), one.class.as_str())).collect();
    fates.sort_unstable();
    assert_eq!(fates, [("b@strict.example", "tls"), ("c@mx.example", "delivered"), ("d@strict.example", "tls")]);
}

#[tokio::test]
async fn tls_that_nobody_wanted_is_done_for_whoever_does() {
    let mx = Mx::new().await;
    let node = Plan::new().tls_rules(strict()).start(mx.address).await;
    let server = async {
        let (mut first, _) = mx.dialled().await;
        first.greets("250-mx\n250 STARTTLS").await;
        first.hears("QUIT").await;
        let (mut peer, _) = mx.dialled().await;
        peer.greets("250-mx\n250 STARTTLS").await;
        let mut peer = peer.starts_tls(&mx.tls, "250-mx\n250 SIZE").await;
        peer.hears("MAIL FROM:<a@acme.example>").await;
        peer.say("250 2.1.0 ok").await;
        peer.hears("RCPT TO:<b@strict.example>").await;
        peer.say("250 2.1.5 ok").await;
        peer.is_left().await;
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.is_greeted("250 mx").await;
        msa.say("MAIL FROM:<a@acme.example>").await;
        msa.hears("250 2.1.0 ok").await;
        msa.say("RCPT TO:<b@strict.example>").await;
        msa.hears("250 2.1.5 ok").await;
        msa.leaves().await;
    };
    tokio::join!(server, client);
    let (recorded, transcript) = node.recorded().await;
    assert_eq!(recorded.legs.len(), 2, "{transcript}");
    assert!(recorded.legs[0].tls.is_none() && recorded.legs[1].tls.is_some(), "{transcript}");
}
