//! The proxy as a gateway for other hosts, with nftables' `tproxy`, set up by the commands of `proxy/README.md`: the mail server's route leads
//! through it, and neither side sees an address that is not the other's.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use warren_lab::{Lab, LabConfig, map};
use warren_scenarios::beside::{Beside, PORT, ip, run};
use warren_scenarios::corpus::note;
use warren_scenarios::{Dialogue, inside, readme};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn other_hosts_send_through_tproxy() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let (gateway, client) = (lab.node_ns(), lab.namespace("client").unwrap());
    let own: [IpAddr; 2] = [map::NODE[0].into(), map::twin(map::NODE[0]).into()];
    let tenant: [IpAddr; 2] = [map::CLIENT.into(), map::twin(map::CLIENT).into()];
    let commands = readme::commands("**tproxy** keeps the destination");
    let [routes, rules, start] = commands[..] else { panic!("not three: {commands:#?}") };
    let (_, start) = start.split_once("--init-groups ").unwrap();
    let privileges: Vec<&str> = start.split_once(" warren-proxy ").unwrap().0.split(' ').collect();
    let proxy = Beside::start(
        &gateway,
        &privileges,
        &format!(
            r#"hostname = "mail.warren.example"
[egress]
addresses = ["{}", "{}"]
allow_networks = ["198.51.100.0/24", "2001:db8:51::/64"]
[proxy.standalone]
listen = ["127.0.0.1:{PORT}", "[::1]:{PORT}"]
mode = "tproxy"
tenants = {{ "{}" = "office", "{}" = "office" }}
"#,
            own[0], own[1], tenant[0], tenant[1]
        ),
    );
    run(&gateway, routes);
    run(&gateway, rules);
    // The mail server's way into the world leads through the gateway.
    let plain = map::personas(&LabConfig::personas_only()).into_iter().find(|p| p.name == "plain").unwrap().address;
    let mxs: [IpAddr; 2] = [plain.into(), map::twin(plain).into()];
    ip(&client, &format!("route add {} via {}", mxs[0], own[0]));
    ip(&client, &format!("-6 route add {} via {}", mxs[1], own[1]));
    for (at, user) in ["four", "six"].into_iter().enumerate() {
        let replies = inside(&client, || {
            let (mut smtp, greeting) = Dialogue::open(SocketAddr::from((mxs[at], 25)))?;
            let hello = smtp.say("EHLO client.lab.example")?;
            let to = format!("{user}@plain.example");
            let mut replies = smtp.mail("alice@lab.example", &[&to], &note("alice@lab.example", user))?;
            smtp.say("QUIT")?;
            replies.splice(..0, [greeting, hello]);
            Ok::<_, std::io::Error>(replies)
        })
        .unwrap_or_else(|e| panic!("{user}: {e}\n{}", proxy.log()));
        assert!(replies[0].starts_with("220 mx1.plain.example"), "the MX itself greets: {replies:?}");
        assert!(!replies[1].contains("STARTTLS"), "the proxy has done that: {replies:?}");
        assert!(replies.last().unwrap().starts_with("250"), "{replies:?}");
        lab.mailbox("plain.example", user).wait_for(|_| true, LONG).unwrap();
        let transcript = proxy.transcript(&mxs[at].to_string(), ">|  QUIT");
        for part in ["office", &own[at].to_string(), "TLSv1.3"] {
            assert!(transcript.contains(part), "no {part:?} in\n{transcript}");
        }
    }
    // The MX knows the gateway's addresses only.
    let log = lab.persona_log("plain").unwrap();
    assert!(log.iter().all(|entry| own.contains(&entry.peer.ip())), "{log:?}");
    // A host that is nobody's tenant, and a connection to the gateway's own port 25, get nowhere through it.
    let stranger = map::twin(map::NODE[0]);
    let refused = inside(&client, || Dialogue::open(SocketAddr::from((stranger, 25)))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
