//! Doors from a launcher: held, bound, closed, and asked for again when the launcher was away.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod support;

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use support::{Peer, Plan};
use tokio::net::{TcpStream, UnixDatagram};
use tokio::time::timeout;
use warren_launcher_api::{CellId, Event, Request, Role, SOCKET_NAME, TenantName, VERSION};
use warren_packet::PacketListener;
use warren_packet::aio::{AsyncListener, AsyncPackets};
use warren_proxy::names::{self, NameNote, Note};
use warren_proxy::workers::Workers;

const SOON: Duration = Duration::from_secs(10);
const CELL: CellId = CellId(7);

/// A launcher's end of the connection, past Hello.
async fn connected(listener: &AsyncListener) -> AsyncPackets {
    let packets = timeout(SOON, listener.accept()).await.expect("the proxy connects").unwrap();
    let (hello, _): (Request, _) = timeout(SOON, packets.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(hello, Request::Hello { role: Role::Proxy, version: VERSION });
    packets
}

/// The same, past Welcome.
async fn welcomed(listener: &AsyncListener) -> AsyncPackets {
    let packets = connected(listener).await;
    packets.send(&Event::Welcome { version: VERSION }, &[]).await.unwrap();
    packets
}

/// Sends one door message and waits until the proxy has dealt with it.
async fn tell(packets: &AsyncPackets, event: &Event, door: Option<&std::net::TcpListener>, seq: u64) {
    let descriptors: Vec<_> = door.iter().map(|door| door.as_fd()).collect();
    packets.send(event, &descriptors).await.unwrap();
    let (ack, _): (Request, _) = timeout(SOON, packets.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!(ack, Request::Ack { through: seq });
}

fn door() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_door_serves_the_tenant_that_its_cell_is_bound_to() {
    // Nothing internal may be dialled, so that the session ends with what it learnt from its door.
    let node = Plan::new().allow(&[]).start("127.0.0.1:1".parse().unwrap()).await;
    let listener =
        AsyncListener::new(PacketListener::listen(node.directory.path().join(SOCKET_NAME)).unwrap()).unwrap();
    let (proxy, socket) = (Arc::clone(&node.proxy), node.directory.path().join(SOCKET_NAME));
    let holding =
        tokio::spawn(async move { match warren_proxy::launcher::hold(proxy, Workers::here(), &socket).await {} });
    let launcher = welcomed(&listener).await;

    let (exit, at) = door();
    tell(&launcher, &Event::Door { seq: 1, cell: CELL, generation: 1, tenant: None }, Some(&exit), 1).await;
    drop(exit);
    let note =
        NameNote { cell: CELL, domain: None, mx: "mx.example".into(), address: at.ip(), secure: false, ttl_s: 60 };
    let resolver = UnixDatagram::unbound().unwrap();
    resolver.connect(node.directory.path().join(names::SOCKET_NAME)).unwrap();
    resolver.send(&serde_json::to_vec(&Note::Name(note)).unwrap()).await.unwrap();

    let mut msa = Peer::new(TcpStream::connect(at).await.unwrap());
    assert!(
        timeout(Duration::from_millis(100), msa.line()).await.is_err(),
        "nobody is served before it is known who it is"
    );
    let acme = TenantName::new("acme").unwrap();
    tell(&launcher, &Event::Bound { seq: 2, cell: CELL, tenant: acme }, None, 2).await;
    msa.hears("421 4.4.1 127.0.0.1 is not dialled: address of this node").await;

    tell(&launcher, &Event::Gone { seq: 3, cell: CELL }, None, 3).await;
    assert!(TcpStream::connect(at).await.is_err(), "the door is closed");

    holding.abort();
    let (recorded, transcript) = node.recorded().await;
    let session = &recorded.session;
    assert_eq!(
        (session.tenant.as_str(), session.cell, session.mx_name.as_deref(), session.outcome.as_deref()),
        ("acme", Some(7), Some("mx.example"), Some("forbidden")),
        "{transcript}"
    );
}

#[tokio::test]
async fn a_launcher_that_comes_back_makes_the_doors_anew() {
    let node = Plan::new().allow(&[]).start("127.0.0.1:1".parse().unwrap()).await;
    let path = node.directory.path().join(SOCKET_NAME);
    let (proxy, socket) = (Arc::clone(&node.proxy), path.clone());
    // There is no launcher yet: that is nothing to end for.
    let holding =
        tokio::spawn(async move { match warren_proxy::launcher::hold(proxy, Workers::here(), &socket).await {} });
    let listener = AsyncListener::new(PacketListener::listen(&path).unwrap()).unwrap();
    let launcher = welcomed(&listener).await;
    let (first, at) = door();
    let acme = Some(TenantName::new("acme").unwrap());
    tell(&launcher, &Event::Door { seq: 1, cell: CELL, generation: 1, tenant: acme.clone() }, Some(&first), 1).await;
    drop(first);
    let (stale, stale_at) = door();
    tell(&launcher, &Event::Door { seq: 2, cell: CELL, generation: 1, tenant: acme.clone() }, Some(&stale), 2).await;
    drop(stale);
    assert!(TcpStream::connect(stale_at).await.is_err(), "a late message about an old door changes nothing");
    let (other, other_at) = door();
    tell(&launcher, &Event::Door { seq: 3, cell: CellId(8), generation: 1, tenant: acme.clone() }, Some(&other), 3)
        .await;
    drop(other);

    drop(launcher);
    TcpStream::connect(at).await.expect("without a launcher mail goes on");
    // The listening socket outlives the launcher: who connects to it is not welcomed by anybody, or by another version.
    let nobody = connected(&listener).await;
    TcpStream::connect(at).await.expect("a connection alone closes no door");
    drop(nobody);
    let other = connected(&listener).await;
    other.send(&Event::Welcome { version: VERSION + 1 }, &[]).await.unwrap();
    assert!(timeout(SOON, other.recv::<Request>()).await.unwrap().unwrap().is_none(), "it is left");
    TcpStream::connect(at).await.expect("nor does a launcher that is not understood");
    let launcher = welcomed(&listener).await;
    let (second, new_at) = door();
    tell(&launcher, &Event::Door { seq: 1, cell: CELL, generation: 2, tenant: acme }, Some(&second), 1).await;
    drop(second);
    assert!(TcpStream::connect(at).await.is_err(), "the door of before is closed when there is another");
    let mut msa = Peer::new(TcpStream::connect(new_at).await.unwrap());
    assert!(msa.line().await.unwrap().starts_with("421 4.4.1 127.0.0.1 is not dialled"));
    let mut waits = Peer::new(TcpStream::connect(other_at).await.unwrap());
    assert!(waits.line().await.unwrap().starts_with("421 4.4.1 "), "a door whose turn has not come is served");
    tell(&launcher, &Event::AllTold { seq: 2 }, None, 2).await;
    assert!(TcpStream::connect(other_at).await.is_err(), "its cell is gone");
    let at = new_at;
    holding.abort();
    assert!(holding.await.unwrap_err().is_cancelled());
    // Its tasks end when they are next looked at.
    let closed = async {
        while TcpStream::connect(at).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, closed).await.expect("whoever stops holding doors closes them");
}
