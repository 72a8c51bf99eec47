//! What the recipients' domains ask of TLS, asked in whole sessions: real handshakes, notes of a resolver, a refusal for each recipient, reports.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use support::{CELL, Mx, Node, Peer, Plan, Shows, address};
use tokio::net::TcpStream;
use warren_config::{TlsPolicy, TlsRule};
use warren_proxy::egress::{Budget, Limits, Rules};
use warren_proxy::names::{self, NameNote, Note};
use warren_proxy::tls::{Tlsa, TlsaFound};
use warren_session::TlsFacts;
use warren_session::reader::Recorded;
use warren_tlsrpt::PolicyType;
use warren_wire::MaybeTls;

/// A proxy with a cell's door that leads to `mx`, and trusts it.
async fn towards(mx: &Mx, rules: Vec<TlsRule>) -> Node {
    asking_for(mx, rules, TlsPolicy::Opportunistic).await
}

/// The same, that asks for this where no rule says otherwise.
async fn asking_for(mx: &Mx, rules: Vec<TlsRule>, default: TlsPolicy) -> Node {
    let budget = Budget { sessions: 50, sessions_per_minute: 10_000 };
    let one = Rules::plain([address(9)], budget, Limits { sessions: 100, per_tenant: 50 });
    let plan = Plan::new().tls(default).tls_rules(rules).trusting(mx).told_of_names().egress(one);
    plan.reporting().start(mx.address).await
}

/// TLS of the last leg, as recorded.
fn facts(recorded: &Recorded) -> Option<TlsFacts> {
    let leg = recorded.legs.last().unwrap();
    leg.tls.as_ref().map(|tls| serde_json::from_str(tls).unwrap())
}

/// Speaks for an MX with TLS: until QUIT every command is fine.
async fn encrypted(mx: &Mx) {
    let (mut peer, _) = mx.dialled().await;
    peer.greets("250-mx\n250 STARTTLS").await;
    until_quit(peer.starts_tls(&mx.tls, "250 fine").await).await;
}

/// Speaks for an MX without.
async fn plain(mx: &Mx) {
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 mx").await;
    until_quit(peer).await;
}

async fn until_quit(mut peer: Peer<MaybeTls<TcpStream>>) {
    while let Some(line) = peer.line().await {
        peer.say("250 fine").await;
        if line == "QUIT" {
            return;
        }
    }
}

/// An MSA that tries somebody at each of these domains, and hears these codes.
async fn tries(node: &Node, domains: &[(&str, &str)]) {
    let recipients: Vec<_> = domains.iter().map(|(domain, expected)| (format!("b@{domain}"), *expected)).collect();
    tries_each(node, &recipients).await;
}

/// The same with whole recipients.
async fn tries_each(node: &Node, recipients: &[(String, &str)]) {
    let mut msa = node.msa().await;
    msa.is_greeted("250 fine").await;
    msa.say("MAIL FROM:<a@acme.example>").await;
    msa.hears("250 fine").await;
    for (to, expected) in recipients {
        msa.say(&format!("RCPT TO:<{to}>")).await;
        let reply = msa.line().await.unwrap();
        assert!(reply.starts_with(expected), "{to}: {reply}");
    }
    msa.say("QUIT").await;
    msa.hears("250 fine").await;
}

#[tokio::test]
async fn what_the_resolver_told_is_known_before_the_runtime_looks() {
    let mx = Mx::new().await;
    let node = towards(&mx, Vec::new()).await;
    let (cell, address) = (CELL, node.mx.ip());
    let note = NameNote { cell, domain: None, mx: "mx.example".into(), address, secure: false, ttl_s: 60 };
    let resolver = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let note = serde_json::to_vec(&Note::Name(note)).unwrap();
    resolver.send_to(&note, node.directory.path().join(names::SOCKET_NAME)).unwrap();
    // Nothing was awaited: as on a session's thread, whose poll is another than the socket's.
    assert_eq!(node.proxy.names_of(CELL, address).len(), 1);
}

#[tokio::test]
async fn a_recipient_without_a_domain_is_judged_by_the_default() {
    const NOT_OFFERED: &str = "451 4.7.5 TLS policy here: the MX does not offer STARTTLS";
    const NO_NAME: &str = "451 4.7.5 TLS policy here: the MX's name is not known";
    for (default, secured, expected) in [
        (TlsPolicy::Opportunistic, false, "250"),
        (TlsPolicy::Require, false, NOT_OFFERED),
        (TlsPolicy::Require, true, "250"),
        (TlsPolicy::Verify, true, NO_NAME),
    ] {
        let mx = Mx::new().await;
        // The connection is as good as its domain wants it.
        let lax = TlsRule { domains: vec!["lax.example".into()], policy: TlsPolicy::Opportunistic };
        let node = asking_for(&mx, vec![lax], default).await;
        node.serves(&["lax.example"], false).await;
        let server = async { if secured { encrypted(&mx).await } else { plain(&mx).await } };
        let bare = ["postmaster", "b@[127.0.0.1]", "b@[IPv6:::1]"].map(|to| (to.to_owned(), expected));
        let recipients = [&[("b@lax.example".to_owned(), "250")], &bare[..]].concat();
        tokio::join!(server, tries_each(&node, &recipients));
        let (_, day) = node.reported().await;
        let reported: Vec<_> = day.domains.keys().map(String::as_str).collect();
        assert_eq!(reported, ["lax.example"], "nobody is told about an address");
    }
}

#[tokio::test]
async fn a_certificate_that_is_no_good_delays_who_wants_a_good_one_and_nobody_else() {
    for (shows, expected) in [
        (Shows::Trusted, "250"),
        (Shows::Tls12, "250"),
        (Shows::Expired, "451 4.7.5 TLS policy here: invalid peer certificate: certificate expired"),
        (Shows::WrongName, "451 4.7.5 TLS policy here: invalid peer certificate: certificate not valid for name"),
    ] {
        let mx = Mx::showing(shows).await;
        let rule = |domain: &str, policy| TlsRule { domains: vec![domain.into()], policy };
        let rules = [("require.example", TlsPolicy::Require), ("verify.example", TlsPolicy::Verify)];
        let node = towards(&mx, rules.map(|(domain, policy)| rule(domain, policy)).to_vec()).await;
        node.serves(&["lax.example", "require.example", "verify.example"], false).await;
        let recipients = [("lax.example", "250"), ("require.example", "250"), ("verify.example", expected)];
        tokio::join!(encrypted(&mx), tries(&node, &recipients));
        let (sessions, _) = node.reported().await;
        let version = if shows == Shows::Tls12 { "TLSv1.2" } else { "TLSv1.3" };
        assert_eq!(facts(&sessions[0].0).unwrap().version, version, "{shows:?}");
    }
}

#[tokio::test]
async fn each_recipient_is_judged_by_its_own_domain() {
    let mx = Mx::new().await;
    let strict = TlsRule { domains: vec!["strict.example".into()], policy: TlsPolicy::Verify };
    let node = towards(&mx, vec![strict]).await;
    node.enforces("good.example", "mx.example").await;
    node.enforces("moved.example", "*.elsewhere.example").await;
    node.serves(&["good.example", "moved.example", "plain.example", "strict.example"], false).await;
    let recipients = [
        ("good.example", "250"),
        (
            "moved.example",
            "451 4.7.5 TLS policy of the recipient's domain: its MTA-STS policy does not name mx.example",
        ),
        ("plain.example", "250"),
        ("strict.example", "250"),
        ("MOVED.example", "451 4.7.5"),
    ];
    tokio::join!(encrypted(&mx), tries(&node, &recipients));
    let (sessions, day) = node.reported().await;
    let policies: Vec<_> = facts(&sessions[0].0)
        .unwrap()
        .policies
        .into_iter()
        .map(|one| (one.domain, one.policy, one.satisfied))
        .collect();
    let expected = [
        ("good.example", "mta-sts enforce", true),
        ("moved.example", "mta-sts enforce", false),
        ("plain.example", "opportunistic", true),
        ("strict.example", "configured verify", true),
    ];
    assert_eq!(policies, expected.map(|(domain, policy, good)| (domain.to_owned(), policy.to_owned(), good)));
    assert_eq!((day.sessions(), day.domains.len()), ((3, 1), 4), "a domain and a connection count once");
    let moved = &day.domains["moved.example"][0];
    assert_eq!((moved.policy.policy_type, &moved.policy.mx_host[0][..]), (PolicyType::Sts, "*.elsewhere.example"));
    let details = &moved.failure_details[0];
    assert_eq!(details.sending_mta_ip.as_deref(), Some("127.0.0.9"));
    assert_eq!(details.receiving_mx_hostname.as_deref(), Some("mx.example"));
}

#[tokio::test]
async fn the_mx_is_asked_for_by_its_own_name_and_the_next_session_resumes() {
    let mx = Mx::new().await;
    let node = towards(&mx, Vec::new()).await;
    node.serves(&["customer.example"], false).await;
    for _ in 0..2 {
        tokio::join!(encrypted(&mx), tries(&node, &[("customer.example", "250")]));
    }
    let (sessions, _) = node.reported().await;
    let known = sessions.iter().map(|(recorded, _)| facts(recorded).unwrap());
    let known: Vec<_> = known.map(|tls| (tls.sni, tls.resumed)).collect();
    let name = || Some("mx.example".to_owned());
    assert_eq!(known, [(name(), true), (name(), false)], "the newest first");
}

#[tokio::test]
async fn records_of_a_signed_zone_decide_and_their_absence_of_an_answer_defers() {
    let mx = Mx::new().await;
    let full = |der: &[u8]| Tlsa { usage: 3, selector: 0, matching: 0, data: der.to_vec() };
    let right = TlsaFound::Records(vec![full(&mx.certificate)]);
    let wrong = TlsaFound::Records(vec![Tlsa { matching: 1, data: vec![7; 32], ..full(&[]) }]);
    for (found, secure, expected) in [
        (right, true, "250"),
        (wrong.clone(), true, "451 4.7.5"),
        (TlsaFound::Failed, true, "451 4.7.5"),
        (wrong, false, "250"),
    ] {
        let node = towards(&mx, Vec::new()).await;
        node.tlsa(found.clone()).await;
        node.serves(&["signed.example"], secure).await;
        let recipients = [("signed.example", expected)];
        tokio::join!(encrypted(&mx), tries(&node, &recipients));
        let (sessions, day) = node.reported().await;
        let policy = &facts(&sessions[0].0).unwrap().policies[0];
        assert_eq!((policy.policy == "dane", policy.satisfied), (secure, expected == "250"), "{found:?}");
        let kind = if secure { PolicyType::Tlsa } else { PolicyType::NoPolicyFound };
        assert_eq!(day.domains["signed.example"][0].policy.policy_type, kind);
    }
}

#[tokio::test]
async fn in_the_clear_only_those_pass_who_let_it() {
    let mx = Mx::new().await;
    let node = towards(&mx, Vec::new()).await;
    node.enforces("good.example", "mx.example").await;
    node.serves(&["good.example", "plain.example"], false).await;
    let recipients = [("good.example", "451 4.7.5"), ("plain.example", "250")];
    tokio::join!(plain(&mx), tries(&node, &recipients));
    let (sessions, day) = node.reported().await;
    assert_eq!(facts(&sessions[0].0), None);
    assert_eq!(day.sessions(), (0, 2));
    for domain in ["good.example", "plain.example"] {
        let details = &day.domains[domain][0].failure_details[0];
        assert_eq!(details.result_type, warren_tlsrpt::ResultType::StarttlsNotSupported);
    }
}

#[tokio::test]
async fn where_nobody_may_go_in_the_clear_the_session_ends_and_that_is_reported() {
    let mx = Mx::new().await;
    let node = towards(&mx, Vec::new()).await;
    node.enforces("good.example", "mx.example").await;
    node.serves(&["good.example"], false).await;
    let msa = async {
        let mut msa = node.msa().await;
        msa.hears("220 mx").await;
        msa.say("EHLO msa").await;
        let reply = msa.line().await.unwrap();
        assert!(reply.starts_with("421 4.7."), "{reply}");
    };
    tokio::join!(plain(&mx), msa);
    let (_, day) = node.reported().await;
    assert_eq!(day.sessions(), (0, 1));
    assert_eq!(day.domains["good.example"][0].policy.policy_type, PolicyType::Sts);
}
