//! When descriptors are short: crowds are told so, others are served, nobody else is blamed, and it is over when some are free again.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Mx, Node, Peer, address};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use warren_config::{TenantName, TlsPolicy};
use warren_proxy::door;
use warren_proxy::egress::{Budget, Limits, Rules};

const SOON: Duration = Duration::from_secs(10);
/// Connections that a tenant's door takes in: twice its sessions.
const CROWD: usize = 100;

/// The limit is this process's: one test at a time, and what a test had is closed before the next one begins.
fn alone(test: impl Future<Output = ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

fn limit_descriptors(soft: u64) -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), ..before }).unwrap();
    before
}

/// A proxy as it is under a limit of descriptors; this process, which is also the MSAs and the MX, has more.
async fn node_within(descriptors: u64, mx: &Mx) -> Node {
    let before = limit_descriptors(descriptors);
    let budget = Budget { sessions: 1_000, sessions_per_minute: 100_000 };
    let limits = Limits { sessions: 1_000, per_tenant: u32::try_from(CROWD / 2).unwrap() };
    let rules = Rules::plain([address(9)], budget, limits);
    let node = Node::by(mx.address, rules).await;
    setrlimit(Resource::Nofile, before).unwrap();
    node
}

/// The door of one more tenant.
async fn door_of(node: &Node, tenant: &str, mx: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let tenant = TenantName::new(tenant).unwrap();
    (at, tokio::spawn(door::serve_fixed(Arc::clone(&node.proxy), listener, tenant, None, mx)))
}

async fn crowd(door: SocketAddr) -> Vec<Peer<TcpStream>> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(Peer::new(TcpStream::connect(door).await.unwrap()));
    }
    crowd
}

#[test]
fn crowds_are_told_so_and_the_next_tenant_is_served() {
    alone(crowds());
}

async fn crowds() {
    let mx = Mx::new().await;
    let address = mx.address;
    let node = node_within(512, &mx).await;
    let greeting = tokio::spawn(async move {
        let mut inside = Vec::new();
        loop {
            let (mut peer, _) = mx.dialled().await;
            peer.say("220 mx").await;
            inside.push(peer);
        }
    });
    let mut crowds = Vec::new();
    for name in ["one", "two", "three"] {
        let (at, serving) = door_of(&node, name, address).await;
        crowds.push((crowd(at).await, at, serving));
    }
    for (crowd, _, _) in &mut crowds[1..] {
        let last = crowd.last_mut().unwrap();
        last.hears("421 4.3.2 too few descriptors for more sessions here; try again later").await;
        assert_eq!(last.line().await, None);
    }
    let mut next = node.msa().await;
    next.hears("220 mx").await;
    let again = crowds[2].1;
    crowds.iter_mut().for_each(|(crowd, _, _)| crowd.clear());
    let recovered = async {
        loop {
            let mut one = Peer::new(TcpStream::connect(again).await.unwrap());
            if one.line().await.unwrap() == "220 mx" {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, recovered).await.expect("those who left left their room");
    crowds.into_iter().for_each(|(_, _, serving)| serving.abort());
    greeting.abort();
    // Its files too.
    node.all_recorded().await;
}

/// All that there are.
fn use_up(like: &OwnedFd) -> Vec<OwnedFd> {
    std::iter::from_fn(|| like.try_clone().ok()).collect()
}

/// A whole session: the proxy has closed both of its connections.
async fn served(node: &Node, mx: &Mx) {
    let (mut msa, (mut peer, _)) = tokio::join!(node.msa(), mx.dialled());
    peer.say("220 mx").await;
    msa.hears("220 mx").await;
    msa.say("QUIT").await;
    peer.hears("QUIT").await;
    peer.say("221 bye").await;
    msa.hears("221 bye").await;
    assert_eq!((msa.line().await, peer.line().await), (None, None));
}

#[test]
fn a_lack_of_descriptors_is_no_egress_addresss_fault() {
    alone(lack());
}

async fn lack() {
    let mx = Mx::new().await;
    let node = Node::towards(mx.address, TlsPolicy::Off).await;
    let (at, serving) = door_of(&node, "other", mx.address).await;
    served(&node, &mx).await;
    // Who writes it down opens what it needs for that before the count begins.
    node.flush().await;
    let [first, second] = [TcpSocket::new_v4(), TcpSocket::new_v4()].map(Result::unwrap);
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let before = limit_descriptors(256);
    let mut all = use_up(&null);
    // One is left, and `accept` takes it.
    all.pop();
    let mut msa = Peer::new(first.connect(at).await.unwrap());
    msa.hears("421 4.3.2 no connection can be made here now: Too many open files (os error 24)").await;
    assert_eq!(msa.line().await, None);
    // None is left: who comes now waits in the backlog until there is one.
    all.extend(use_up(&null));
    let mut msa = Peer::new(second.connect(at).await.unwrap());
    drop(all);
    setrlimit(Resource::Nofile, before).unwrap();
    let (mut peer, _) = mx.dialled().await;
    peer.say("220 mx").await;
    msa.hears("220 mx").await;
    served(&node, &mx).await;
    serving.abort();
    node.all_recorded().await;
}
