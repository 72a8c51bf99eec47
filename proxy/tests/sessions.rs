//! Sessions through the proxy, over sockets: the cases that the design names, and what is recorded of them.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use support::{Mx, Node, Plan};
use warren_config::TlsPolicy;

#[tokio::test]
async fn a_message_leaves_under_tls_1_3_and_is_recorded() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Opportunistic).await;
    let server = async {
        let (mut peer, from) = mx.dialled().await;
        assert_eq!(from.to_string(), "127.0.0.9");
        peer.say("220 mx.example ESMTP").await;
        peer.hears("EHLO out.example").await;
        peer.say("250-mx.example\n250-PIPELINING\n250-8BITMIME\n250 STARTTLS").await;
        peer.hears("STARTTLS").await;
        peer.say("220 2.0.0 go").await;
        let mut peer = peer.accept_tls(&mx.tls).await;
        peer.hears("EHLO out.example").await;
        peer.say("250-mx.example\n250-PIPELINING\n250-SIZE 1000000\n250 AUTH PLAIN").await;
        peer.hears("MAIL FROM:<alice@acme.example>\nRCPT TO:<bob@mx.example>\nRCPT TO:<nobody@mx.example>\nDATA").await;
        peer.say("250 2.1.0 ok\n250 2.1.5 ok\n550 5.1.1 no such user\n354 go").await;
        peer.hears("Message-ID: <1@acme.example>\nSubject: hello\n\n..a dot\n.").await;
        peer.say("250 2.0.0 queued as 1").await;
        peer.hears("QUIT").await;
        peer.say("221 2.0.0 bye").await;
        assert_eq!(peer.line().await, None);
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.hears("220 mx.example ESMTP").await;
        msa.say("EHLO msa.acme.example").await;
        msa.hears("250-mx.example\n250-PIPELINING\n250 SIZE 1000000").await;
        msa.say("MAIL FROM:<alice@acme.example>\nRCPT TO:<bob@mx.example>\nRCPT TO:<nobody@mx.example>\nDATA").await;
        msa.hears("250 2.1.0 ok\n250 2.1.5 ok\n550 5.1.1 no such user\n354 go").await;
        msa.say("Message-ID: <1@acme.example>\nSubject: hello\n\n..a dot\n.").await;
        msa.hears("250 2.0.0 queued as 1").await;
        msa.say("QUIT").await;
        msa.hears("221 2.0.0 bye").await;
        assert_eq!(msa.line().await, None);
    };
    tokio::join!(server, client);
    let (recorded, transcript) = node.recorded().await;
    let session = &recorded.session;
    assert_eq!(
        (session.tenant.as_str(), session.outcome.as_deref(), recorded.legs[0].tls_version.as_deref()),
        ("acme", Some("partly"), Some("TLSv1.3")),
        "{transcript}"
    );
    assert_eq!(recorded.legs[0].egress, "127.0.0.9");
    assert!(recorded.legs[0].connected_us.is_some() && recorded.legs[0].decision.contains("\"pool\":\"default\""));
    assert!(recorded.legs[0].tls.as_ref().unwrap().contains("mx.example"), "the certificate's names");
    let message = &recorded.messages[0];
    assert_eq!(
        (message.reverse_path.as_str(), message.message_id.as_deref()),
        ("alice@acme.example", Some("<1@acme.example>"))
    );
    assert_eq!((message.class.as_str(), message.code), ("delivered", Some(250)));
    let mut fates: Vec<_> = recorded.recipients.iter().map(|r| (r.forward_path.as_str(), r.class.as_str())).collect();
    fates.sort_unstable();
    assert_eq!(fates, [("bob@mx.example", "delivered"), ("nobody@mx.example", "unknown_user")]);
    for line in [
        "|>  STARTTLS",
        "|<  220 2.0.0 go",
        "->  MAIL FROM:<alice@acme.example>",
        "<-  550 5.1.1 no such user",
        "->  QUIT",
    ] {
        assert!(transcript.contains(line), "{line} is missing in:\n{transcript}");
    }
}

#[tokio::test]
async fn opportunistic_tls_that_fails_is_followed_by_a_dial_in_the_clear() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Opportunistic).await;
    let server = async {
        let (mut peer, first) = mx.dialled().await;
        peer.greets("250-mx\n250 STARTTLS").await;
        peer.hears("STARTTLS").await;
        peer.say("220 go").await;
        // The head of the ClientHello.
        assert_eq!(peer.exactly(2).await, [0x16, 0x03]);
        peer.say("500 this is no TLS").await;
        peer.rest().await;
        let (mut peer, second) = mx.dialled().await;
        assert_eq!(first, second, "the budget of that address has a place for it");
        peer.greets("250-mx\n250-SIZE 5\n250 STARTTLS").await;
        peer.is_left().await;
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.is_greeted("250-mx\n250 SIZE 5").await;
        msa.leaves().await;
    };
    tokio::join!(server, client);
    let (recorded, transcript) = node.recorded().await;
    assert_eq!(recorded.legs.len(), 2, "{transcript}");
    assert!(recorded.legs[0].error.is_some() && recorded.legs[1].error.is_none(), "{transcript}");
    assert_eq!(recorded.session.outcome.as_deref(), Some("unused"));
}

#[tokio::test]
async fn replies_injected_behind_the_220_are_never_believed() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Opportunistic).await;
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.greets("250-mx\n250 STARTTLS").await;
        peer.hears("STARTTLS").await;
        // One segment: an attacker in the middle cannot speak TLS, but could speak before it.
        peer.send(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n").await;
        let mut peer = peer.accept_tls(&mx.tls).await;
        peer.hears("EHLO out.example").await;
        peer.say("250-mx\n250 SIZE 7").await;
        peer.is_left().await;
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.is_greeted("250-mx\n250 SIZE 7").await;
        msa.leaves().await;
    };
    tokio::join!(server, client);
    let (recorded, transcript) = node.recorded().await;
    assert!(recorded.legs[0].error.as_ref().unwrap().contains("behind the 220"), "{transcript}");
}

#[tokio::test]
async fn a_truncated_message_is_never_completed() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.greets("250 mx").await;
        peer.hears("MAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\nDATA").await;
        peer.say("250 ok\n250 ok\n354 go").await;
        assert_eq!(peer.rest().await, b"half of it\r\n", "no end of data, no QUIT");
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.is_greeted("250 mx").await;
        msa.say("MAIL FROM:<a@b.example>\nRCPT TO:<c@d.example>\nDATA").await;
        msa.hears("250 ok\n250 ok\n354 go").await;
        msa.say("half of it").await;
    };
    tokio::join!(server, client);
    let (recorded, transcript) = node.recorded().await;
    assert_eq!(recorded.recipients[0].class, "network", "{transcript}");
    assert_eq!(recorded.session.outcome.as_deref(), Some("msa_lost"), "{transcript}");
}

#[tokio::test]
async fn an_mx_that_leaves_at_any_step_is_a_temporary_failure() {
    for (step, expected) in [
        ("greeting", "421 4.4.2 lost the connection to the server"),
        ("ehlo", "421 4.4.2 lost the connection to the server"),
        ("mail", "421 4.4.2 lost the connection to the server"),
        ("content", "421 4.4.2 lost the connection to the server"),
        ("dot", "421 4.4.2 lost the connection to the server"),
    ] {
        let mx = Mx::new().await;
        let node = Node::towards(mx.address, TlsPolicy::Off).await;
        let server = async {
            let (mut peer, _) = mx.dialled().await;
            if step == "greeting" {
                return;
            }
            peer.say("220 mx").await;
            peer.hears("EHLO out.example").await;
            if step == "ehlo" {
                return;
            }
            peer.say("250 mx").await;
            peer.hears("MAIL FROM:<a@b.example>").await;
            if step == "mail" {
                return;
            }
            peer.say("250 ok").await;
            peer.hears("RCPT TO:<c@d.example>\nDATA").await;
            peer.say("250 ok\n354 go").await;
            peer.hears("hello").await;
            if step == "content" {
                return;
            }
            peer.hears(".").await;
        };
        let client = async {
            let mut msa = node.msa().await;
            let script = ["220 mx", "EHLO msa", "250 mx", "MAIL FROM:<a@b.example>", "250 ok"];
            for pair in script.chunks(2) {
                match msa.line().await {
                    Some(line) if line == pair[0] => {}
                    line => return line,
                }
                match pair.get(1) {
                    Some(command) => msa.say(command).await,
                    None => msa.say("RCPT TO:<c@d.example>\nDATA").await,
                }
            }
            msa.hears("250 ok\n354 go").await;
            msa.say("hello\n.").await;
            msa.line().await
        };
        let ((), last) = tokio::join!(server, client);
        assert_eq!(last.as_deref(), Some(expected), "at {step}");
        let (recorded, transcript) = node.recorded().await;
        assert_eq!(recorded.session.outcome.as_deref(), Some("mx_lost"), "at {step}:\n{transcript}");
    }
}

#[tokio::test]
async fn an_mx_that_cannot_be_reached_is_421_and_recorded() {
    let closed = Mx::new().await.address;
    let node = Node::towards(closed, TlsPolicy::Opportunistic).await;
    let mut msa = node.msa().await;
    msa.hears(&format!("421 4.4.1 {closed}: connection refused")).await;
    assert_eq!(msa.line().await, None);
    let (recorded, _) = node.recorded().await;
    assert_eq!(recorded.session.outcome.as_deref(), Some("unreachable"));
    assert!(recorded.legs[0].error.as_ref().unwrap().ends_with("connection refused"));
    assert_eq!(recorded.legs[0].connected_us, None);
}

#[tokio::test]
async fn an_internal_address_is_not_dialled() {
    let mx = Mx::new().await;
    let node = Plan::new().tls(TlsPolicy::Opportunistic).allow(&[]).start(mx.address).await;
    let mut msa = node.msa().await;
    let reply = msa.line().await.unwrap();
    assert!(reply.starts_with("421 4.4.1 127.0.0.1 is not dialled"), "{reply}");
    let (recorded, _) = node.recorded().await;
    assert_eq!((recorded.session.outcome.as_deref(), recorded.legs.len()), (Some("forbidden"), 0));
}

#[tokio::test]
async fn a_large_message_streams_through_unchanged() {
    const SIZE: usize = 8 << 20;
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Opportunistic).await;
    let content: Vec<u8> = (0..SIZE / 64).flat_map(|n| format!("{n:<62}\r\n").into_bytes()).collect();
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.greets("250-mx\n250 STARTTLS").await;
        let mut peer = peer.starts_tls(&mx.tls, "250-mx\n250-PIPELINING\n250 CHUNKING").await;
        peer.hears("MAIL FROM:<>\nRCPT TO:<c@d.example>\nDATA").await;
        peer.say("250 ok\n250 ok\n354 go").await;
        let came = peer.exactly(content.len() + 3).await;
        assert!(came[..content.len()] == content[..] && came.ends_with(b".\r\n"));
        peer.say("250 queued").await;
        peer.hears(&format!("MAIL FROM:<>\nRCPT TO:<c@d.example>\nBDAT {} LAST", content.len())).await;
        assert!(peer.exactly(content.len()).await == content);
        peer.say("250 ok\n250 ok\n250 queued again").await;
        peer.is_left().await;
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.is_greeted("250-mx\n250-PIPELINING\n250 CHUNKING").await;
        msa.say("MAIL FROM:<>\nRCPT TO:<c@d.example>\nDATA").await;
        msa.hears("250 ok\n250 ok\n354 go").await;
        msa.send(&content).await;
        msa.say(".").await;
        msa.hears("250 queued").await;
        msa.say(&format!("MAIL FROM:<>\nRCPT TO:<c@d.example>\nBDAT {} LAST", content.len())).await;
        msa.send(&content).await;
        msa.hears("250 ok\n250 ok\n250 queued again").await;
        msa.leaves().await;
    };
    tokio::join!(server, client);
    let (recorded, _) = node.recorded().await;
    assert_eq!(recorded.session.outcome.as_deref(), Some("delivered"));
    assert_eq!(recorded.session.bytes, Some(2 * content.len() as i64 + 3));
    assert_eq!(recorded.messages.len(), 2);
}

#[tokio::test]
async fn tls_that_is_required_and_not_offered_is_421() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Require).await;
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.greets("250 mx").await;
        peer.hears("QUIT").await;
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.is_greeted("421 4.7.4 TLS is required and the server does not offer it").await;
        assert_eq!(msa.line().await, None);
    };
    tokio::join!(server, client);
    let (recorded, _) = node.recorded().await;
    assert_eq!(recorded.session.outcome.as_deref(), Some("tls_failed"));
}

#[tokio::test]
async fn draining_lets_the_message_finish() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let proxy = std::sync::Arc::clone(&node.proxy);
    let (asked, drain) = tokio::sync::oneshot::channel::<()>();
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.greets("250 mx").await;
        peer.hears("MAIL FROM:<>\nRCPT TO:<c@d.example>\nDATA").await;
        peer.say("250 ok\n250 ok\n354 go").await;
        peer.hears("x\n.").await;
        peer.say("250 queued").await;
        peer.hears("QUIT").await;
    };
    let client = async {
        let mut msa = node.msa().await;
        msa.is_greeted("250 mx").await;
        msa.say("MAIL FROM:<>\nRCPT TO:<c@d.example>\nDATA").await;
        msa.hears("250 ok\n250 ok\n354 go").await;
        asked.send(()).unwrap();
        msa.say("x\n.").await;
        msa.hears("250 queued\n421 4.3.2 going down; try again").await;
        assert_eq!(msa.line().await, None);
    };
    let draining = async {
        drain.await.unwrap();
        proxy.drain(std::time::Duration::from_secs(10)).await;
    };
    tokio::join!(server, client, draining);
    let (recorded, _) = node.recorded().await;
    assert_eq!(recorded.session.outcome.as_deref(), Some("delivered"));
}
