//! MXs that somebody on the way says cannot be reached: an ICMP message of a router, or the node's own routes. The MSA hears of it at once, and tries its next MX.
//!
//! ```text
//!   node 203.0.113.10 ───▶ router 203.0.113.1 ──▶ 198.51.100.1 unreachable, .2 prohibited, .3 nowhere
//!     its own routes: 198.51.100.4 unreachable, .5 prohibited
//! ```
//!
//! Needs root.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use support::Plan;
use warren_proxy::egress::{Budget, EgressAddr, Limits, Rules};

/// Dials are given up after ten seconds here: whoever is told knows before.
const AT_ONCE: Duration = Duration::from_secs(5);

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

/// A network namespace of its own for this thread, and what it starts. It ends with the last of them.
fn alone() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
    ip("link set lo up");
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// This thread is the node; behind its only link is the router, as long as what is returned is kept.
fn network() -> File {
    let router = std::thread::spawn(|| {
        let namespace = alone();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        namespace
    });
    let router = router.join().unwrap();
    let node = alone();
    ip(&format!("link add up0 type veth peer name down0 netns /proc/{}/fd/{}", std::process::id(), router.as_raw_fd()));
    ip("addr add 203.0.113.10/24 dev up0");
    ip("addr add 2001:db8:113::10/64 dev up0 nodad");
    ip("link set up0 up");
    setns(&router, CloneFlags::CLONE_NEWNET).unwrap();
    ip("addr add 203.0.113.1/24 dev down0");
    ip("addr add 2001:db8:113::1/64 dev down0 nodad");
    ip("link set down0 up");
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    ip("route add unreachable 198.51.100.1");
    ip("route add prohibit 198.51.100.2");
    // A router may say so a few times in a second only.
    std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").unwrap();
    std::fs::write("/proc/sys/net/ipv6/icmp/ratelimit", "0").unwrap();
    ip("route add unreachable 2001:db8:51::1");
    setns(&node, CloneFlags::CLONE_NEWNET).unwrap();
    ip("route add default via 203.0.113.1");
    ip("route add default via 2001:db8:113::1");
    ip("route add unreachable 198.51.100.4");
    ip("route add prohibit 198.51.100.5");
    router
}

#[test]
fn whoever_cannot_be_reached_is_given_up_at_once_with_the_reason() {
    let _router = network();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (mx, reason) in [
        ("198.51.100.1:25", "no route to host"),
        ("198.51.100.2:25", "no route to host"),
        ("198.51.100.3:25", "network unreachable"),
        ("198.51.100.4:25", "no route to host"),
        ("198.51.100.5:25", "prohibited by a route or a firewall of this host"),
        ("[2001:db8:51::1]:25", "network unreachable"),
    ] {
        runtime.block_on(refused(mx.parse().unwrap(), reason));
    }
}

async fn refused(mx: SocketAddr, reason: &str) {
    let addresses = ["203.0.113.10", "2001:db8:113::10"].map(|address| EgressAddr(address.parse().unwrap()));
    let budget = Budget { sessions: 50, sessions_per_minute: 10_000 };
    let rules = Rules::plain(addresses, budget, Limits { sessions: 50, per_tenant: 50 });
    let networks = ["198.51.100.0/24", "2001:db8:51::/64"];
    let node = Plan::new().allow(&networks).egress(rules).patience(AT_ONCE).start(mx).await;
    let began = Instant::now();
    let mut msa = node.msa().await;
    let (heard, end) = (msa.line().await, msa.line().await);
    assert!(began.elapsed() < AT_ONCE, "{mx} took {:?}", began.elapsed());
    let (recorded, transcript) = node.recorded().await;
    let told = format!("421 4.4.1 {mx}: {reason}");
    assert_eq!((heard, end), (Some(told), None), "{:?}", recorded.legs);
    assert_eq!(recorded.session.outcome.as_deref(), Some("unreachable"), "{mx}:\n{transcript}");
    assert!(recorded.legs[0].error.as_deref().is_some_and(|error| error.contains(reason)), "{:?}", recorded.legs);
}
