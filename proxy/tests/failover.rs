//! Another leg, over sockets: an MX that refuses one of two addresses at each step, and mail of one account that leaves from elsewhere.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use std::net::IpAddr;

use support::{Mx, Node, Peer, Plan, address, rules};
use tokio::net::TcpStream;
use warren_proxy::egress::view::Health;
use warren_proxy::egress::{Pool, Rule, Rules, View, WarmUp};
use warren_wire::MaybeTls;

type Server = Peer<MaybeTls<TcpStream>>;

const LISTED: &str = "554 5.7.1 Service unavailable; Client host [127.0.0.9] blocked using zen.spamhaus.org";
/// What the MX offers, and the MSA is offered.
const OFFER: &str = "250-mx\n250-PIPELINING\n250 CHUNKING";
const MESSAGE: &str = "MAIL FROM:<alice@acme.example>\nRCPT TO:<bob@mx.example>\nDATA";

fn ip(last: u8) -> IpAddr {
    address(last).0
}

/// The MX takes a message from this address, from its greeting on.
async fn takes_it(mx: &Mx, from: u8, name: &str) {
    let (mut peer, came) = mx.dialled().await;
    assert_eq!(came, ip(from));
    greets(&mut peer, name).await;
    peer.hears(MESSAGE.lines().next().unwrap()).await;
    peer.say("250 2.1.0 ok").await;
    peer.hears("RCPT TO:<bob@mx.example>\nDATA").await;
    peer.say("250 2.1.5 ok\n354 go").await;
    peer.hears("hello\n.").await;
    peer.say("250 2.0.0 queued").await;
    peer.is_left().await;
}

async fn greets(peer: &mut Server, name: &str) {
    peer.say("220 mx ESMTP").await;
    peer.hears(&format!("EHLO {name}")).await;
    peer.say(OFFER).await;
}

/// The MX takes the session, and turns its message away.
async fn turns_away(mx: &Mx) -> Server {
    let (mut peer, from) = mx.dialled().await;
    assert_eq!(from, ip(9));
    greets(&mut peer, "out.example").await;
    peer.hears("MAIL FROM:<alice@acme.example>").await;
    peer.say(LISTED).await;
    peer
}

/// An MSA that has the answer to its EHLO.
async fn greeted(node: &Node) -> Peer<TcpStream> {
    let mut msa = node.msa().await;
    msa.hears("220 mx ESMTP").await;
    msa.say("EHLO msa").await;
    msa.hears(OFFER).await;
    msa
}

/// The same, which hears that its message is turned away.
async fn is_turned_away(node: &Node) -> Peer<TcpStream> {
    let mut msa = greeted(node).await;
    msa.say("MAIL FROM:<alice@acme.example>").await;
    msa.hears(LISTED).await;
    msa
}

/// What an MSA sees of all this: a message that is delivered.
async fn delivers(node: &Node) {
    sends(greeted(node).await).await;
}

async fn sends(mut msa: Peer<TcpStream>) {
    msa.say(MESSAGE).await;
    msa.hears("250 2.1.0 ok\n250 2.1.5 ok\n354 go").await;
    msa.say("hello\n.").await;
    msa.hears("250 2.0.0 queued").await;
    msa.leaves().await;
}

/// Whether the address rests towards somebody, by the policy's own view.
fn rests(view: &View, last: u8) -> bool {
    view.destinations.iter().any(|found| found.address == address(last) && found.health == Health::Rested)
}

#[tokio::test]
async fn a_listed_address_is_replaced_within_the_session() {
    for step in ["greeting", "ehlo", "mail", "rcpt"] {
        let mx = Mx::new().await;
        let node = Node::by(mx.address, rules(100)).await;
        let server = async {
            let (mut peer, from) = mx.dialled().await;
            assert_eq!(from, ip(9));
            match step {
                "greeting" => peer.say(LISTED).await,
                "ehlo" => {
                    peer.say("220 mx ESMTP").await;
                    peer.hears("EHLO out.example").await;
                    peer.say(LISTED).await;
                }
                "mail" => {
                    greets(&mut peer, "out.example").await;
                    peer.hears(MESSAGE).await;
                    peer.say(LISTED).await;
                }
                _ => {
                    greets(&mut peer, "out.example").await;
                    peer.hears(MESSAGE).await;
                    peer.say(&format!("250 2.1.0 ok\n{LISTED}\n354 go")).await;
                }
            }
            takes_it(&mx, 10, "out10.example").await;
            // The first one has its farewell, or, having been asked for content, none.
            let last = peer.rest().await;
            let quit = !matches!(step, "mail" | "rcpt");
            assert_eq!(String::from_utf8_lossy(&last), if quit { "QUIT\r\n" } else { "" }, "at {step}");
        };
        tokio::join!(server, delivers(&node));
        assert!(rests(&node.proxy.departures().view(), 9) && !rests(&node.proxy.departures().view(), 10));
        let (recorded, transcript) = node.recorded().await;
        assert_eq!(recorded.session.outcome.as_deref(), Some("delivered"), "at {step}:\n{transcript}");
        let legs: Vec<_> = recorded.legs.iter().map(|leg| leg.egress.as_str()).collect();
        assert_eq!(legs, ["127.0.0.9", "127.0.0.10"], "at {step}");
        assert!(recorded.legs.iter().all(|leg| leg.decision.contains("\"candidates\"")), "{:?}", recorded.legs);
        assert!(transcript.contains("|<  554 5.7.1 Service unavailable"), "at {step}:\n{transcript}");
        let fates: Vec<_> =
            recorded.recipients.iter().map(|one| (one.forward_path.as_str(), one.class.as_str())).collect();
        assert_eq!(fates, [("bob@mx.example", "delivered")], "at {step}:\n{transcript}");
        assert_eq!(recorded.messages.len(), 1, "at {step}:\n{transcript}");
    }
}

#[tokio::test]
async fn at_data_it_is_too_late_and_the_next_session_leaves_from_elsewhere() {
    let mx = Mx::new().await;
    let node = Node::by(mx.address, rules(100)).await;
    let server = async {
        let (mut peer, from) = mx.dialled().await;
        assert_eq!(from, ip(9));
        greets(&mut peer, "out.example").await;
        peer.hears(MESSAGE).await;
        peer.say(&format!("250 2.1.0 ok\n250 2.1.5 ok\n{LISTED}")).await;
        peer.is_left().await;
        takes_it(&mx, 10, "out10.example").await;
    };
    let client = async {
        let mut msa = greeted(&node).await;
        msa.say(MESSAGE).await;
        msa.hears(&format!("250 2.1.0 ok\n250 2.1.5 ok\n{LISTED}")).await;
        msa.leaves().await;
        delivers(&node).await;
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn both_addresses_listed_and_the_first_refusal_passes() {
    let mx = Mx::new().await;
    let node = Node::by(mx.address, rules(100)).await;
    let server = async {
        let mut first = turns_away(&mx).await;
        let (mut second, from) = mx.dialled().await;
        assert_eq!(from, ip(10));
        second.say("554 5.7.1 Service unavailable; client [127.0.0.10] blocked using list.example").await;
        assert_eq!(second.rest().await, b"");
        // The first goes on.
        first.is_left().await;
    };
    let client = async { is_turned_away(&node).await.leaves().await };
    tokio::join!(server, client);
    let view = node.proxy.departures().view();
    assert!(rests(&view, 9) && rests(&view, 10), "what each of them was told");
    let (recorded, transcript) = node.recorded().await;
    assert_eq!(recorded.session.outcome.as_deref(), Some("refused"), "{transcript}");
    assert_eq!(recorded.messages[0].class, "block_listed");
}

#[tokio::test]
async fn after_a_failover_of_no_use_the_next_message_leaves_from_elsewhere() {
    let mx = Mx::new().await;
    let node = Node::by(mx.address, rules(100)).await;
    let server = async {
        let mut first = turns_away(&mx).await;
        let (mut second, from) = mx.dialled().await;
        assert_eq!(from, ip(10));
        second.say("421 4.3.2 busy").await;
        assert_eq!(second.rest().await, b"");
        // The first went on, but its address rests: it gets no other message.
        takes_it(&mx, 10, "out10.example").await;
        assert_eq!(first.rest().await, b"QUIT\r\n");
    };
    let client = async {
        let msa = is_turned_away(&node).await;
        let there = |last| {
            node.proxy.departures().view().addresses.iter().find(|row| row.address == address(last)).unwrap().sessions
        };
        assert_eq!((there(9), there(10)), (1, 0), "the place is where the connection is");
        sends(msa).await;
    };
    tokio::join!(server, client);
    let proxy = std::sync::Arc::clone(&node.proxy);
    let (recorded, transcript) = node.recorded().await;
    assert_eq!(proxy.departures().view().sessions, 0, "no place is left behind");
    assert_eq!(recorded.session.outcome.as_deref(), Some("delivered"), "{transcript}");
}

/// What one suspect's message is, and what the MX thinks of it.
const SPAM: &str = "MAIL FROM:<spammer@acme.example>\nRCPT TO:<bob@mx.example>\nBDAT 3 LAST";
const CALLED_SPAM: &str = "250 2.1.0 ok\n250 2.1.5 ok\n554 5.7.1 message rejected as spam";

/// What is said about one account's mail while the MSA is at the next one's already.
#[tokio::test]
async fn an_answer_counts_for_the_account_that_it_is_about() {
    let mx = Mx::new().await;
    let node = Node::by(mx.address, rules(100)).await;
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        greets(&mut peer, "out.example").await;
        for _ in 0..3 {
            peer.hears(SPAM).await;
            assert_eq!(peer.exactly(3).await, b"buy");
            peer.hears("MAIL FROM:<alice@acme.example>\nRSET").await;
            peer.say(&format!("{CALLED_SPAM}\n250 2.1.0 ok\n250 2.0.0 reset")).await;
        }
        peer.is_left().await;
    };
    let client = async {
        let mut msa = greeted(&node).await;
        for _ in 0..3 {
            msa.say(SPAM).await;
            msa.send(b"buy").await;
            msa.say("MAIL FROM:<alice@acme.example>\nRSET").await;
            msa.hears(&format!("{CALLED_SPAM}\n250 2.1.0 ok\n250 2.0.0 reset")).await;
        }
        msa.leaves().await;
    };
    tokio::join!(server, client);
    let suspect: Vec<_> =
        node.proxy.departures().view().senders.into_iter().filter_map(|sender| sender.account).collect();
    assert_eq!(suspect, ["spammer@acme.example"]);
}

/// The MSA is at another sender's message already when the first one's is refused: both would go along.
#[tokio::test]
async fn no_suspects_message_goes_around_a_block_neither_first_nor_behind_anothers() {
    const SUSPECT: &str = "spammer@acme.example";
    const CLEAN: &str = "SRS0=m=t=x.example=y@acme.example";
    for (first, second, moves) in [(SUSPECT, CLEAN, false), (CLEAN, SUSPECT, false), (CLEAN, CLEAN, true)] {
        let mx = Mx::new().await;
        let node = Node::by(mx.address, rules(100)).await;
        let both = format!(
            "MAIL FROM:<{first}>\nRCPT TO:<bob@mx.example>\nRSET\nMAIL FROM:<{second}>\nRCPT TO:<bob@mx.example>"
        );
        let refused = format!("{LISTED}\n503 5.5.1 MAIL first\n250 2.0.0 reset\n250 2.1.0 ok\n250 2.1.5 ok");
        let taken = "250 2.1.0 ok\n250 2.1.5 ok\n250 2.0.0 reset\n250 2.1.0 ok\n250 2.1.5 ok";
        let server = async {
            let (mut peer, _) = mx.dialled().await;
            greets(&mut peer, "out.example").await;
            for _ in 0..3 {
                peer.hears(SPAM).await;
                assert_eq!(peer.exactly(3).await, b"buy");
                peer.say(CALLED_SPAM).await;
            }
            peer.hears(&both).await;
            peer.say(&refused).await;
            let mut last = peer;
            if moves {
                let (mut other, from) = mx.dialled().await;
                assert_eq!(from, ip(10));
                greets(&mut other, "out10.example").await;
                other.hears(&both).await;
                other.say(taken).await;
                last = other;
            }
            last.is_left().await;
        };
        let client = async {
            let mut msa = greeted(&node).await;
            for _ in 0..3 {
                msa.say(SPAM).await;
                msa.send(b"buy").await;
                msa.hears(CALLED_SPAM).await;
            }
            msa.say(&both).await;
            msa.hears(if moves { taken } else { &refused }).await;
            msa.leaves().await;
        };
        tokio::join!(server, client);
        let (recorded, transcript) = node.recorded().await;
        assert_eq!(recorded.legs.len(), if moves { 2 } else { 1 }, "{transcript}");
    }
}

#[tokio::test]
async fn as_many_messages_go_elsewhere_as_may_be_sent_from_there() {
    // Two of them today: of three that are refused the first stays where it is.
    for messages in [2, 3] {
        let mx = Mx::new().await;
        let warm_up = [(address(10), WarmUp { since: std::time::SystemTime::now(), daily: [2].into() })].into();
        let node = Node::by(mx.address, Rules { warm_up, ..rules(100) }).await;
        let each = |what: &str, times: usize| vec![what.to_owned(); times];
        let (mail, refused) = ("MAIL FROM:<alice@acme.example>\nRSET", format!("{LISTED}\n250 2.0.0 reset"));
        let taken = "250 2.1.0 ok\n250 2.0.0 reset";
        let server = async {
            let (mut first, _) = mx.dialled().await;
            greets(&mut first, "out.example").await;
            first.hears(&each(mail, messages).join("\n")).await;
            first.say(&each(&refused, messages).join("\n")).await;
            let (mut other, from) = mx.dialled().await;
            assert_eq!(from, ip(10));
            greets(&mut other, "out10.example").await;
            other.hears(&each(mail, 2).join("\n")).await;
            other.say(&each(taken, 2).join("\n")).await;
            other.is_left().await;
        };
        let client = async {
            let mut msa = greeted(&node).await;
            msa.say(&each(mail, messages).join("\n")).await;
            msa.hears(&[each(&refused, messages - 2), each(taken, 2)].concat().join("\n")).await;
            msa.leaves().await;
        };
        tokio::join!(server, client);
        let view = node.proxy.departures().view();
        let there = view.destinations.iter().find(|found| found.address == address(10));
        assert_eq!(there.and_then(|found| found.warming), Some((2, 2)), "of {messages} messages");
    }
}

/// Alice's mail and what is forwarded leave from pools of their own.
fn by_account() -> Rules {
    let pool = |name: &str, last| Pool { name: name.into(), addresses: vec![address(last)] };
    Rules {
        pools: vec![pool("default", 9), pool("people", 10), pool("forwarded", 11)],
        rules: vec![
            Rule { pool: "people".into(), accounts: vec!["alice@acme.example".into()], ..Rule::default() },
            Rule {
                pool: "forwarded".into(),
                class: Some(warren_proxy::egress::MailClass::Forwarded),
                ..Rule::default()
            },
        ],
        warm_up: [(address(10), WarmUp { since: std::time::SystemTime::now(), daily: [5].into() })].into(),
        ..rules(100)
    }
}

#[tokio::test]
async fn mail_leaves_from_the_pool_of_its_account_and_class() {
    let mx = Mx::new().await;
    let node = Node::by(mx.address, by_account()).await;
    let mails = [("bob@acme.example", 9), ("alice@acme.example", 10), ("SRS0=m=t=x.example=y@acme.example", 11)];
    let server = async {
        let mut before: Option<Server> = None;
        for (from, last) in mails {
            let (mut peer, came) = mx.dialled().await;
            assert_eq!(came, ip(last), "{from}");
            if let Some(mut left) = before {
                assert_eq!(left.rest().await, b"QUIT\r\n");
            }
            greets(&mut peer, if last == 9 { "out.example".to_owned() } else { format!("out{last}.example") }.as_str())
                .await;
            peer.hears(&format!("MAIL FROM:<{from}>")).await;
            peer.say("250 2.1.0 ok").await;
            peer.hears("RSET").await;
            peer.say("250 2.0.0 reset").await;
            before = Some(peer);
        }
        let mut peer = before.unwrap();
        peer.is_left().await;
    };
    let client = async {
        let mut msa = greeted(&node).await;
        for (from, _) in mails {
            msa.say(&format!("MAIL FROM:<{from}>\nRSET")).await;
            msa.hears("250 2.1.0 ok\n250 2.0.0 reset").await;
        }
        msa.leaves().await;
    };
    tokio::join!(server, client);
    let view = node.proxy.departures().view();
    let today = |last| view.destinations.iter().find(|row| row.address == address(last)).unwrap().warming;
    assert_eq!(today(10), Some((1, 5)), "a message that was dialled again counts where it left from");
    let (recorded, transcript) = node.recorded().await;
    assert_eq!(recorded.legs.len(), 3, "{transcript}");
    assert!(recorded.legs[1].decision.contains("\"pool\":\"people\""), "{:?}", recorded.legs[1].decision);
    assert_eq!(recorded.messages.len(), 3, "{transcript}");
}

#[tokio::test]
async fn an_address_that_rests_still_rests_after_a_restart() {
    let mx = Mx::new().await;
    let node = Node::by(mx.address, rules(100)).await;
    let server = async {
        let (mut peer, _) = mx.dialled().await;
        peer.say(LISTED).await;
        takes_it(&mx, 10, "out10.example").await;
    };
    tokio::join!(server, delivers(&node));
    let state = node.proxy.departures().state();
    let again = Plan::new().remembering(state).start(mx.address).await;
    assert!(rests(&again.proxy.departures().view(), 9));
    tokio::join!(takes_it(&mx, 10, "out10.example"), delivers(&again));
}
