//! Names with many labels, and nameservers that are far away.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::RecordType,
};
use tokio::net::UdpSocket;
use warren_config::{Dnssec, Resolver};

use super::{World, ask, between};
use crate::resolver::{Upstream, answer::Found, tests::name};

/// Between a signed zone and an unsigned one: as many as the reverse names of IPv6 addresses have.
pub(super) const LABELS: usize = 30;
/// So far away, thirty answers one after the other are too late.
const AWAY: Duration = Duration::from_millis(270);

/// What was asked for.
type Asked = Arc<Mutex<HashSet<(String, RecordType)>>>;

/// BIND, far away behind a cache.
async fn far(to: SocketAddrV4, asked: Asked) -> SocketAddr {
    let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let Query { name, query_type, .. } = &question.queries[0];
            let news = asked.lock().unwrap().insert((name.to_lowercase().to_ascii(), *query_type));
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                if news {
                    tokio::time::sleep(AWAY).await;
                }
                let answer = ask(to.into(), &question).await;
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            });
        }
    });
    address
}

#[tokio::test]
async fn a_deep_name_is_looked_up_in_time_and_its_labels_are_remembered() {
    let world = World::new(Dnssec::Auto).await;
    let asked = Asked::default();
    let nameserver = far(world.signed.address, Arc::clone(&asked)).await;
    let anchors = Some(world.signed.anchors.clone());
    let config = Resolver { nameservers: vec![nameserver], dnssec: Dnssec::Require, trust_anchors: anchors };
    world.doors.asking().replace(Upstream::new(&config).unwrap());
    let zone = format!("{}deep.test.", "x.".repeat(LABELS));
    assert_eq!(world.code(&format!("one.{zone}"), RecordType::A).await, ResponseCode::NoError);
    let above = |asked: &Asked| {
        let mut asked = std::mem::take(&mut *asked.lock().unwrap());
        asked.retain(|(name, kind)| {
            *kind == RecordType::DS && name.ends_with("x.deep.test.") && name.len() < zone.len()
        });
        asked.len()
    };
    assert_eq!(above(&asked), LABELS - 1);
    assert_eq!(world.code(&format!("two.{zone}"), RecordType::A).await, ResponseCode::NoError);
    assert_eq!(above(&asked), 0, "they are remembered");
}

/// The library would look for the end of trust anew for every name, and ask for NS records label by label to find it.
#[tokio::test]
async fn below_a_delegation_that_is_known_to_be_unsigned_a_look_up_is_one_question() {
    let world = World::new(Dnssec::Auto).await;
    let all = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&all);
    let note = move |question: &mut Message| {
        let Query { name, query_type, .. } = &question.queries[0];
        asked.lock().unwrap().push((name.to_lowercase().to_ascii(), *query_type));
    };
    let nameserver = between(world.signed.address, note, |_| {}).await;
    let anchors = Some(world.signed.anchors.clone());
    let config = Resolver { nameservers: vec![nameserver], dnssec: Dnssec::Require, trust_anchors: anchors };
    let upstream = Upstream::new(&config).unwrap();
    let find = async |owner: &str, kind| {
        let answer = upstream.find(&name(owner), kind).await;
        assert!(!answer.secure);
        let mut asked = std::mem::take(&mut *all.lock().unwrap());
        // Not whether signatures pass.
        asked.retain(|(name, _)| name.ends_with("insecure.test."));
        (matches!(answer.found, Found::Records(_)), asked)
    };
    let (found, first) = find("mx.insecure.test.", RecordType::A).await;
    assert!(found && first.len() > 3, "{first:?}");
    for (owner, kind, there) in [
        ("insecure.test.", RecordType::MX, true),
        ("a.b.c.d.e.f.g.insecure.test.", RecordType::A, false),
        ("named.insecure.test.", RecordType::MX, true),
        ("named.insecure.test.", RecordType::A, false),
    ] {
        assert_eq!(find(owner, kind).await, (there, vec![(owner.to_owned(), kind)]));
    }
    let secure = upstream.find(&name("mx.secure.test."), RecordType::A).await;
    assert!(secure.secure, "beside it all is as before");
}

#[tokio::test]
async fn a_name_has_forty_labels_at_most() {
    let world = World::new(Dnssec::Auto).await;
    let of = |labels: usize| format!("{}deep.test.", "y.".repeat(labels - 2));
    assert_eq!(world.code(&of(40), RecordType::A).await, ResponseCode::NXDomain);
    assert_eq!(world.code(&of(41), RecordType::A).await, ResponseCode::ServFail);
}
