//! Connections to MXs that outlive their session.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use std::time::Duration;

use support::{Mx, Node, Peer, Plan, address};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use warren_config::TlsPolicy;
use warren_proxy::egress::{Budget, Limits, Rules};
use warren_proxy::settings::Settings;
use warren_session::reader::Recorded;
use warren_wire::MaybeTls;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);
const OFFER: &str = "250-mx.example\n250 PIPELINING";

/// With one address, or the next session would leave from another.
fn plan() -> Plan {
    by(Budget { sessions: 50, sessions_per_minute: 10_000 }).keeping(LONG)
}

fn by(budget: Budget) -> Plan {
    Plan::new().egress(Rules::plain([address(9)], budget, Limits { sessions: 50, per_tenant: 50 }))
}

/// The MX takes a message from a client that said nothing else since its EHLO.
async fn takes<S: AsyncRead + AsyncWrite + Unpin>(mx: &mut Peer<S>) {
    mx.hears("MAIL FROM:<alice@acme.example>\nRCPT TO:<bob@mx.example>\nDATA").await;
    mx.say("250 2.1.0 ok\n250 2.1.5 ok\n354 go").await;
    mx.hears("Subject: hello\n\nhello\n.").await;
    mx.say("250 2.0.0 taken").await;
}

/// The MSA is greeted, and says EHLO.
async fn greeted(msa: &mut Peer<TcpStream>, greeting: &str) {
    msa.hears(greeting).await;
    msa.say("EHLO msa.acme.example").await;
    msa.hears(OFFER).await;
}

/// The MSA sends a message, and hears that it was taken.
async fn sends(msa: &mut Peer<TcpStream>) {
    msa.say("MAIL FROM:<alice@acme.example>\nRCPT TO:<bob@mx.example>\nDATA").await;
    msa.hears("250 2.1.0 ok\n250 2.1.5 ok\n354 go").await;
    msa.say("Subject: hello\n\nhello\n.").await;
    msa.hears("250 2.0.0 taken").await;
}

async fn quits(mut msa: Peer<TcpStream>) {
    msa.say("QUIT").await;
    msa.hears("221 2.0.0 bye").await;
    assert_eq!(msa.line().await, None);
}

/// A whole session of the MSA.
async fn session(node: &Node, greeting: &str) {
    let mut msa = node.msa().await;
    greeted(&mut msa, greeting).await;
    sends(&mut msa).await;
    quits(msa).await;
}

async fn oldest_first(node: Node) -> Vec<(Recorded, String)> {
    let mut all = node.all_recorded().await;
    all.sort_by(|(one, _), (other, _)| one.session.id.cmp(&other.session.id));
    all
}

const FIRST: &str = "220 mx.example ESMTP ready";
const LATER: &str = "220 mx.example ESMTP";

/// The MX's first connection, up to its EHLO.
async fn opened(mx: &Mx) -> Peer<MaybeTls<TcpStream>> {
    let (mut peer, _) = mx.dialled().await;
    peer.say(FIRST).await;
    peer.hears("EHLO out.example").await;
    peer.say(OFFER).await;
    peer
}

#[tokio::test]
async fn sessions_follow_each_other_on_one_connection_and_each_has_its_record() {
    let mx = Mx::new().await;
    let node = plan().start(mx.address).await;
    let server = async {
        let mut peer = opened(&mx).await;
        for _ in 0..3 {
            takes(&mut peer).await;
        }
        peer
    };
    let client = async {
        session(&node, FIRST).await;
        session(&node, LATER).await;
        session(&node, LATER).await;
    };
    let (mut peer, ()) = tokio::join!(server, client);
    let page = warren_proxy::metrics::page(&node.proxy);
    let counted = |name| page.value(name, &[]);
    assert_eq!(counted("warren_proxy_connections_total"), Some(1.0));
    assert_eq!(counted("warren_proxy_connections_taken_over_total"), Some(2.0));
    // Going down, it is left in order.
    let ((), ()) = tokio::join!(node.proxy.drain(LONG), async {
        peer.hears("QUIT").await;
        assert_eq!(peer.line().await, None);
    });
    let all = oldest_first(node).await;
    assert_eq!(all.len(), 3);
    for (n, (recorded, transcript)) in all.iter().enumerate() {
        assert_eq!(recorded.session.outcome.as_deref(), Some("delivered"), "{transcript}");
        assert_eq!((recorded.legs.len(), recorded.legs[0].connected_us.is_some()), (1, n == 0), "{transcript}");
        assert_eq!(recorded.messages.len(), 1, "{transcript}");
        assert!(transcript.contains(">|  QUIT") && transcript.contains("<|  221 2.0.0 bye"), "{transcript}");
    }
    let from = |n: usize| all[n].0.legs[0].taken_from.as_deref();
    assert_eq!((from(0), from(1)), (None, Some(&*all[0].0.session.id)));
    assert_eq!(from(2), Some(&*all[1].0.session.id));
    let (before, transcript) = (&all[0].0.session.id, &all[1].1);
    assert!(transcript.contains(&format!("taken over from session {before}, in the clear")), "{transcript}");
}

#[tokio::test]
async fn tls_is_the_same_and_stands_in_each_record() {
    let mx = Mx::new().await;
    let node = plan().tls(TlsPolicy::Verify).trusting(&mx).told_of_names().start(mx.address).await;
    node.serves(&["mx.example"], false).await;
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.say(FIRST).await;
        peer.hears("EHLO out.example").await;
        peer.say("250-mx.example\n250-PIPELINING\n250 STARTTLS").await;
        peer.hears("STARTTLS").await;
        peer.say("220 go").await;
        let mut peer = peer.accept_tls(&mx.tls).await;
        peer.hears("EHLO out.example").await;
        peer.say(OFFER).await;
        takes(&mut peer).await;
        takes(&mut peer).await;
        peer
    };
    let client = async {
        session(&node, FIRST).await;
        session(&node, LATER).await;
    };
    let (_peer, ()) = tokio::join!(server, client);
    for (recorded, transcript) in node.all_recorded().await {
        let leg = &recorded.legs[0];
        assert_eq!((leg.tls_version.as_deref(), leg.tls_trusted), (Some("TLSv1.3"), Some(true)), "{transcript}");
        assert!(
            leg.tls.as_ref().unwrap().contains("\"satisfied\":true"),
            "judged for each session's recipients: {leg:?}"
        );
    }
}

#[tokio::test]
async fn one_that_nobody_needs_is_left_in_time() {
    let mx = Mx::new().await;
    let node = plan().keeping(Duration::from_millis(200)).start(mx.address).await;
    let proxy = std::sync::Arc::clone(&node.proxy);
    let time = tokio::spawn(async move { proxy.keep_time().await });
    let left = Notify::new();
    let server = async {
        for _ in 0..2 {
            let mut peer = opened(&mx).await;
            takes(&mut peer).await;
            peer.hears("QUIT").await;
            assert_eq!(peer.line().await, None);
            left.notify_one();
        }
    };
    let client = async {
        session(&node, FIRST).await;
        left.notified().await;
        session(&node, FIRST).await;
    };
    tokio::join!(server, client);
    time.abort();
}

#[tokio::test]
async fn one_that_the_mx_closed_is_no_failure_of_the_next_session() {
    let mx = Mx::new().await;
    let node = plan().start(mx.address).await;
    let (over, closed) = (Notify::new(), Notify::new());
    let server = async {
        let mut peer = opened(&mx).await;
        takes(&mut peer).await;
        over.notified().await;
        peer.say("421 4.4.2 idle for too long").await;
        drop(peer);
        closed.notify_one();
        let mut peer = opened(&mx).await;
        takes(&mut peer).await;
        peer.hears("MAIL FROM:<alice@acme.example>\nRCPT TO:<bob@mx.example>\nDATA").await;
        peer.say("421 4.7.0 too many messages").await;
        drop(peer);
        let mut peer = opened(&mx).await;
        takes(&mut peer).await;
        // The session is not where it began.
        peer.hears("QUIT").await;
        peer.say("221 2.0.0 bye").await;
    };
    let client = async {
        session(&node, FIRST).await;
        over.notify_one();
        closed.notified().await;
        session(&node, FIRST).await;
        // Asked again elsewhere; the MSA sees nothing of it.
        session(&node, LATER).await;
    };
    tokio::join!(server, client);
    let all = oldest_first(node).await;
    let (last, transcript) = &all[2];
    assert_eq!((last.session.outcome.as_deref(), last.legs.len()), (Some("delivered"), 2), "{transcript}");
    assert_eq!(last.recipients.len(), 1, "{transcript}");
    assert_eq!(last.recipients[0].class, "delivered", "{transcript}");
    assert!(
        transcript.contains("==  the connection that was taken over is of no use any more: 421 4.7.0 too many"),
        "{transcript}"
    );
}

#[tokio::test]
async fn a_session_that_was_refused_something_leaves_nothing_behind() {
    let mx = Mx::new().await;
    let node = plan().start(mx.address).await;
    let server = async {
        let mut peer = opened(&mx).await;
        peer.hears("MAIL FROM:<eve@acme.example>").await;
        peer.say("550 5.7.1 not you").await;
        takes(&mut peer).await;
        peer.hears("QUIT").await;
        peer.say("221 2.0.0 bye").await;
        let mut peer = opened(&mx).await;
        takes(&mut peer).await;
        peer
    };
    let client = async {
        let mut msa = node.msa().await;
        greeted(&mut msa, FIRST).await;
        msa.say("MAIL FROM:<eve@acme.example>").await;
        msa.hears("550 5.7.1 not you").await;
        sends(&mut msa).await;
        quits(msa).await;
        session(&node, FIRST).await;
    };
    let (_peer, ()) = tokio::join!(server, client);
}

#[tokio::test]
async fn after_enough_messages_it_is_left() {
    let mx = Mx::new().await;
    let node = plan().of_messages(2).start(mx.address).await;
    let server = async {
        for _ in 0..2 {
            let mut peer = opened(&mx).await;
            takes(&mut peer).await;
            takes(&mut peer).await;
            peer.hears("QUIT").await;
            peer.say("221 2.0.0 bye").await;
        }
    };
    let client = async {
        for _ in 0..2 {
            session(&node, FIRST).await;
            session(&node, LATER).await;
        }
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn an_idle_connection_is_no_way_around_a_budget() {
    let mx = Mx::new().await;
    let node = by(Budget { sessions: 1, sessions_per_minute: 10_000 }).keeping(LONG).start(mx.address).await;
    let server = async {
        let mut first = opened(&mx).await;
        takes(&mut first).await;
        // Somebody waits for the place: it is not kept.
        first.hears("QUIT").await;
        let mut second = opened(&mx).await;
        takes(&mut second).await;
        takes(&mut second).await;
        second
    };
    let client = async {
        let mut one = node.msa().await;
        greeted(&mut one, FIRST).await;
        sends(&mut one).await;
        let mut other = node.msa().await;
        node.waits_for_a_turn().await;
        quits(one).await;
        greeted(&mut other, FIRST).await;
        sends(&mut other).await;
        quits(other).await;
        // Nobody waited.
        session(&node, LATER).await;
    };
    let (_peer, ()) = tokio::join!(server, client);
}

/// A session that cannot use it does not wait beside it either: it is left first.
#[tokio::test]
async fn one_of_other_settings_is_not_taken_over_and_goes_before_the_budget_is_exceeded() {
    let mx = Mx::new().await;
    let node = by(Budget { sessions: 1, sessions_per_minute: 10_000 }).keeping(LONG).start(mx.address).await;
    let server = async {
        let mut old = opened(&mx).await;
        takes(&mut old).await;
        // Nobody says anything on the new one yet: whoever dials has left the old one before.
        old.hears("QUIT").await;
        assert_eq!(old.line().await, None);
        let mut new = opened(&mx).await;
        takes(&mut new).await;
        new
    };
    let client = async {
        session(&node, FIRST).await;
        let settings = Settings::clone(&node.proxy.settings());
        node.proxy.reload(settings, node.proxy.departures().look(|policy, _| policy.rules().clone()));
        session(&node, FIRST).await;
    };
    let (_new, ()) = tokio::join!(server, client);
}
