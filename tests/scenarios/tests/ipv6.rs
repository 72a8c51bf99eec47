//! IPv6: out of a cell, out of an MTA beside the proxy, and to none of the addresses that IPv6 has for what nobody may dial.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use warren_lab::config::MtaKind;
use warren_lab::{Lab, LabConfig, map};
use warren_scenarios::beside::{Beside, Redirecting, nft};
use warren_scenarios::corpus::note;
use warren_scenarios::{Dialogue, Node, Setup, inside, readme};

const LONG: Duration = Duration::from_secs(60);

/// Where the lab's `plain` lives.
fn plain() -> Ipv6Addr {
    map::twin([198, 51, 100, 31].into())
}

#[test]
fn a_cell_delivers_over_ipv6_and_reaches_nothing_it_must_not() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let node = Node::start(&lab, &Setup { ipv6: true, idle: LONG, ..Setup::default() });
    let alice = "alice@acme.example";
    for domain in ["six.example", "both.example"] {
        let sent = node.submit(alice, alice, &[&format!("bob@{domain}")], 587, &note(alice, domain));
        assert!(sent.accepted, "{}", sent.text);
        let fits = |m: &warren_lab::Message| m.header("Subject").as_deref() == Some(domain);
        lab.mailbox(domain, "bob").wait_for(fits, LONG).unwrap_or_else(|e| panic!("{e}\n{}", node.log()));
    }
    // It came from the node's own address of that family, through TLS like any other.
    let log = lab.persona_log("plain").unwrap();
    assert!(log.iter().any(|entry| entry.peer.ip() == map::twin(map::NODE[0])), "{log:?}");
    node.wait_until("the records", || {
        let there = |row: &str| row.contains(&plain().to_string()) && row.contains("TLSv1.3");
        node.ask(&["sessions"]).lines().any(there).then_some(())
    });

    // The MSA's own place in the network, and what it must not reach from there.
    let cell = PathBuf::from(format!("/proc/{}/ns/net", node.pids("warren-msa")[0]));
    for (to, what) in [
        ("::1", "address of this node"),
        ("::ffff:127.0.0.1", "address of this node"),
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::7f00:1", "address of this node"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b:1::9.9.9.9", "NAT64"),
        ("2002:7f00:1::1", "address of this node"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("2002:c0a8:101::1", "private"),
        ("2001:0:7f00:1::", "Teredo"),
        ("fc00::1", "unique local"),
        ("fd12:3456:789a::1", "unique local"),
        ("fec0::1", "site-local"),
        ("2001:db8:77::1", "documentation"),
        ("2001:db8:113::10", "address of this node"),
    ] {
        let to: Ipv6Addr = to.parse().unwrap();
        let (_, greeting) = inside(&cell, || Dialogue::open(SocketAddr::from((to, 25)))).unwrap();
        assert!(greeting.starts_with("421 4.4.1") && greeting.contains(what), "{to}: {greeting}");
    }
    // Link-local addresses need a link to be said at all; the cell has one.
    let scoped = SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 25, 0, 1));
    let (_, greeting) = inside(&cell, || Dialogue::open(scoped)).unwrap();
    assert!(greeting.starts_with("421 4.4.1") && greeting.contains("link-local"), "{greeting}");
    // An address of the world that does not answer is no different from one that does not exist.
    let nobody = map::twin([198, 51, 100, 30].into());
    let (_, greeting) = inside(&cell, || Dialogue::open(SocketAddr::from((nobody, 25)))).unwrap();
    assert!(greeting.starts_with("421 4.4.1") && greeting.contains("refused"), "{greeting}");
    node.stop();
}

#[test]
fn a_standalone_proxy_takes_redirected_ipv6() {
    let lab = Lab::start_with(&LabConfig { mtas: vec![MtaKind::Exim], ..LabConfig::default() }).unwrap();
    let host = lab.namespace("exim").unwrap();
    let own = map::twin(MtaKind::Exim.address());
    let config = Redirecting { hostname: "mx1.exim.example", own: own.into(), egress: "", standalone: "", rest: "" };
    let proxy = Beside::start(&host, &[], &config.toml());
    // As the README has it: "IPv6 is the same with".
    let rules =
        readme::redirect().replace("table ip ", "table ip6 ").replace("ip daddr != 127.0.0.0/8", "ip6 daddr != ::1");
    nft(&host, &rules);
    let replies = inside(&host, || {
        let (mut smtp, greeting) = Dialogue::open(SocketAddr::from((plain(), 25)))?;
        let hello = smtp.say("EHLO mx1.exim.example")?;
        let mut replies = smtp.mail("alice@exim.example", &["bob@six.example"], &note("alice@exim.example", "six"))?;
        smtp.say("QUIT")?;
        replies.splice(..0, [greeting, hello]);
        Ok::<_, std::io::Error>(replies)
    })
    .unwrap();
    assert!(replies[0].starts_with("220 mx1.plain.example"), "the MX itself greets: {replies:?}");
    assert!(!replies[1].contains("STARTTLS"), "the proxy has done that: {replies:?}");
    assert!(replies.last().unwrap().starts_with("250"), "{replies:?}");
    lab.mailbox("six.example", "bob").wait_for(|_| true, LONG).unwrap();
    let transcript = proxy.transcript(&plain().to_string(), ">|  QUIT");
    assert!(transcript.contains(&own.to_string()) && transcript.contains("TLSv1.3"), "{transcript}");
    // What is refused is refused here, too.
    let (_, greeting) = inside(&host, || Dialogue::open("[2001:db8:113::77]:25".parse().unwrap())).unwrap();
    assert!(greeting.starts_with("421 4.4.1") && greeting.contains("documentation"), "{greeting}");
}
