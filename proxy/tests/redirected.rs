//! A proxy beside an MTA whose nftables rule is wrong: it leaves nobody out, so that the proxy's own connections come back to it. And a host whose ports are
//! used up.
//!
//! Needs root.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use support::{Peer, Plan};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use warren_config::{RedirectMode, Standalone, TenantName};
use warren_proxy::dial::{DialError, dial};
use warren_proxy::egress::{Budget, EgressAddr, Limits, Rules};
use warren_proxy::standalone::{self, Visitors};

const SOON: Duration = Duration::from_secs(10);
const HOST: &str = "198.51.100.10";

fn run(program: &str, arguments: &str) {
    let done = Command::new(program).args(arguments.split(' ')).stdin(Stdio::null()).status().unwrap();
    assert!(done.success(), "{program} {arguments}");
}

/// Runs `test` in a network of this thread's own, where all of 198.51.100.0/24 is this host, as far as the kernel goes.
fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
    run("ip", "link set lo up");
    run("ip", &format!("addr add {HOST}/24 dev lo"));
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
}

#[test]
fn the_proxys_own_connections_are_refused_when_they_come_back() {
    alone(|| async {
        run("nft", "add table ip beside");
        run("nft", "add chain ip beside output { type nat hook output priority -100 ; }");
        run("nft", "add rule ip beside output tcp dport 25 redirect to :10025");
        let mx: SocketAddr = "198.51.100.25:25".parse().unwrap();
        let budget = Budget { sessions: 50, sessions_per_minute: 10_000 };
        let egress = EgressAddr(HOST.parse().unwrap());
        let rules = Rules::plain([egress], budget, Limits { sessions: 50, per_tenant: 50 });
        let node = Plan::new().allow(&["198.51.100.0/24"]).egress(rules).patience(SOON).start(mx).await;
        let acme = TenantName::new("acme").unwrap();
        let wanted = Standalone {
            listen: vec!["127.0.0.1:10025".parse().unwrap()],
            mode: RedirectMode::Redirect,
            tenants: BTreeMap::from([(egress.0, acme)]),
            tls: None,
            resolver: BTreeMap::new(),
        };
        let listener = standalone::open(&wanted).unwrap().remove(0);
        let visitors = Arc::new(Visitors::new(&node.proxy, wanted));
        let serving = tokio::spawn(standalone::serve(Arc::clone(&node.proxy), listener, visitors));

        // The MTA has the same address as the proxy.
        let mta = TcpSocket::new_v4().unwrap();
        mta.bind(SocketAddr::new(egress.0, 0)).unwrap();
        let mut mta = Peer::new(mta.connect(mx).await.unwrap());
        mta.hears("421 4.4.6 the proxy's own connections are redirected to it").await;
        serving.abort();
        let sessions = node.all_recorded().await;
        assert_eq!(sessions.len(), 1, "each dial was a session of its own");
    });
}

/// The kernel gives one port to connections with different destinations, and the MTA and the proxy have one address.
#[test]
fn an_mta_may_have_the_port_of_a_leg_to_another_mx() {
    alone(|| async {
        run("nft", "add table ip beside");
        run("nft", "add chain ip beside output { type nat hook output priority -100 ; }");
        run("nft", "add rule ip beside output meta mark 1 tcp dport 25 redirect to :10025");
        let [one, other] = ["198.51.100.25:25", "198.51.100.26:25"].map(|at| at.parse::<SocketAddr>().unwrap());
        let [one_mx, other_mx] = [TcpListener::bind(one).await.unwrap(), TcpListener::bind(other).await.unwrap()];
        let egress = EgressAddr(HOST.parse().unwrap());
        let budget = Budget { sessions: 50, sessions_per_minute: 10_000 };
        let rules = Rules::plain([egress], budget, Limits { sessions: 50, per_tenant: 50 });
        let node = Plan::new().allow(&["198.51.100.0/24"]).egress(rules).patience(SOON).start(one).await;
        let wanted = Standalone {
            listen: vec!["127.0.0.1:10025".parse().unwrap()],
            mode: RedirectMode::Redirect,
            tenants: BTreeMap::from([(egress.0, TenantName::new("acme").unwrap())]),
            tls: None,
            resolver: BTreeMap::new(),
        };
        let listener = standalone::open(&wanted).unwrap().remove(0);
        let visitors = Arc::new(Visitors::new(&node.proxy, wanted));
        let serving = tokio::spawn(standalone::serve(Arc::clone(&node.proxy), listener, visitors));

        let (_first, _) = mta_from(41_000, one);
        let (_leg, leg_from) = timeout(SOON, one_mx.accept()).await.unwrap().unwrap();
        assert_ne!(leg_from.port(), 41_000);
        let (second, from) = mta_from(leg_from.port(), other);
        assert_eq!(from, leg_from);
        let (leg, _) = timeout(SOON, other_mx.accept()).await.expect("it is no loop").unwrap();
        Peer::new(leg).say("220 mx ESMTP").await;
        Peer::new(second).hears("220 mx ESMTP").await;
        serving.abort();
    });
}

/// An MTA's connection, from a port that the kernel is made to choose, and where it came from. The proxy has seen nothing of it yet.
fn mta_from(port: u16, to: SocketAddr) -> (TcpStream, SocketAddr) {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    std::fs::write(range, format!("{port} {port}")).unwrap();
    let mta = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    mta.set_mark(1).unwrap();
    mta.connect(&to.into()).unwrap();
    std::fs::write(range, "50000 50999").unwrap();
    mta.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(mta.into()).unwrap();
    let from = stream.local_addr().unwrap();
    (stream, from)
}

#[test]
fn ports_that_are_used_up_are_those_towards_one_mx() {
    alone(|| async {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50001").unwrap();
        let [one, other] = ["198.51.100.25:25", "198.51.100.26:25"].map(|at| at.parse::<SocketAddr>().unwrap());
        let _listening = [TcpListener::bind(one).await.unwrap(), TcpListener::bind(other).await.unwrap()];
        let from = EgressAddr(HOST.parse().unwrap());
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(dial(from, one, SOON, None).await.unwrap());
        }
        let used_up = dial(from, one, SOON, None).await;
        assert!(matches!(used_up, Err(DialError::Ports { .. })), "{used_up:?}");
        // The address is as good as before.
        open.push(dial(from, other, SOON, None).await.unwrap());
    });
}
