//! Doors against BIND, which signs: what counts as secure, what resolves, and what the proxy is told.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::Arc,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};
use tempfile::TempDir;
use tokio::net::{UdpSocket, UnixDatagram};
use warren_config::{Dnssec, Resolver};
use warren_lab::signed::{Signed, Signing, Zone};
use warren_launcher_api::CellId;

use super::tests::{ask, question, sockets};
use super::{Doors, Notes, Policies, Upstream, sts::fetch::Fetcher};
use crate::{
    names::{Name, Names, Note},
    tls::TlsaFound,
};

const CELL: CellId = CellId(7);
const DIGEST: &str = "8cb0fc6c527506a053f4f14c8464bebbd6dede2738d11468dd953d7d6a3021f1";

/// A domain with one MX of its own that has an address and a TLSA record.
fn mail(name: &str, signing: Signing) -> Zone {
    let records = format!(
        "@ MX 10 mx.{name}.\nmx A 198.51.100.1\n_25._tcp.mx TLSA 3 1 1 {DIGEST}\n\
         implicit A 198.51.100.2\n_25._tcp.implicit TLSA 3 1 1 {DIGEST}\n"
    );
    Zone::new(name, signing, &records)
}

fn zones() -> Vec<Zone> {
    use Signing::{Expired, Forged, Right, Stripped, Unsigned};
    vec![
        Zone::new("", Right, ""),
        Zone::new("test", Right, ""),
        mail("secure.test", Right),
        mail("insecure.test", Unsigned),
        mail("forged.test", Forged),
        mail("stripped.test", Stripped),
        mail("expired.test", Expired),
        Zone::new(
            "mixed.test",
            Right,
            "@ MX 10 mx.insecure.test.\nalias MX 10 other.mixed.test.\nother CNAME mx.secure.test.\n\
             away MX 10 elsewhere.mixed.test.\nelsewhere CNAME mx.insecure.test.\n*.wild MX 10 mx.secure.test.\n\
             bare MX 10 bare-mx.mixed.test.\nbare-mx A 198.51.100.3\n",
        ),
        Zone::new("named.insecure.test", Unsigned, "@ MX 10 mx.secure.test.\n"),
        Zone::new("dark.test", Right, "@ MX 10 mx.dark.test.\nmx A 198.51.100.4\n"),
        Zone::new("_tcp.mx.dark.test", Stripped, &format!("_25 TLSA 3 1 1 {DIGEST}\n")),
        hostile(),
        Zone::new(
            "crowd.test",
            Unsigned,
            &(0..1_500).map(|n| format!("@ MX {n} mx{n}.crowd.test.\n")).collect::<String>(),
        ),
    ]
}

fn hostile() -> Zone {
    let mut records = String::from("loop CNAME pool\npool CNAME loop\nself CNAME self\nmx.loop MX 10 loop\n");
    for n in 0..200 {
        records += &format!("huge TXT \"{n} {}\"\n", "x".repeat(250));
    }
    for n in 0..40 {
        records += &format!("chain{n} CNAME chain{}\n_25._tcp.many TLSA 3 1 1 {n:064x}\n", n + 1);
    }
    records += "chain40 A 198.51.100.5\nmany A 198.51.100.6\n*.star A 198.51.100.7\n";
    Zone::new("hostile.test", Signing::Right, &records)
}

/// BIND, and the door of one cell that asks it.
struct World {
    door: SocketAddr,
    notes: UnixDatagram,
    names: Names,
    doors: Doors,
    _directory: TempDir,
    signed: Signed,
}

fn free() -> SocketAddrV4 {
    match sockets(None).0 {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!("asked for IPv4"),
    }
}

impl World {
    async fn new(dnssec: Dnssec) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("named");
        std::fs::create_dir(&home).unwrap();
        let package = warren_lab::mta::cache().unwrap().join("bind9");
        assert!(package.exists(), "run tests/lab/packages");
        let signed = Signed::start(&package, &home, free(), &zones(), &[]).unwrap();
        let socket: PathBuf = directory.path().join("names.sock");
        let notes = UnixDatagram::bind(&socket).unwrap();
        let config = Resolver {
            nameservers: vec![signed.address.into()],
            dnssec,
            trust_anchors: Some(signed.anchors.clone()),
            policy_ca: None,
        };
        let policies = Arc::new(Policies::new(Fetcher::new(None, Vec::new()).unwrap(), None));
        let mut doors = Doors::new(Upstream::new(&config).unwrap(), policies, Notes::new(socket));
        let (door, udp, tcp) = sockets(None);
        doors.open(CELL, 1, udp, tcp).await.unwrap();
        Self { door, notes, names: Names::default(), doors, _directory: directory, signed }
    }

    async fn ask(&self, owner: &str, kind: RecordType) -> Message {
        ask(self.door, &question(owner, kind, Some(4096))).await
    }

    async fn code(&self, owner: &str, kind: RecordType) -> ResponseCode {
        self.ask(owner, kind).await.metadata.response_code
    }

    /// Asks as an MSA does for the mail of `domain`, and gives what the proxy then knows of the address.
    async fn deliver(&mut self, domain: &str) -> Vec<Name> {
        let mx = self.ask(&format!("{domain}."), RecordType::MX).await;
        let exchange = mx.answers.iter().find_map(|record| match &record.data {
            RData::MX(mx) => Some(mx.exchange.to_ascii()),
            _ => None,
        });
        let host = exchange.unwrap_or_else(|| format!("{domain}."));
        let answer = self.ask(&host, RecordType::A).await;
        let allowed = |kind| matches!(kind, RecordType::A | RecordType::CNAME);
        assert!(answer.answers.iter().all(|record| allowed(record.record_type())), "signatures are kept from it");
        let Some(address) = answer.answers.iter().find_map(|record| record.data.ip_addr()) else { return Vec::new() };
        let now = std::time::Instant::now();
        let mut buffer = vec![0; crate::names::MAX_NOTE];
        while let Ok(length) = self.notes.try_recv(&mut buffer) {
            self.names.note(serde_json::from_slice::<Note>(&buffer[..length]).unwrap(), now);
        }
        let judged = self.names.judge_by(CELL, address, domain, None, now);
        judged.into_iter().collect()
    }

    /// Whether the address is secure, and what TLSA records there are.
    async fn trust(&mut self, domain: &str) -> (bool, TlsaFound) {
        let [name] = &self.deliver(domain).await[..] else { panic!("{domain}: no name") };
        (name.secure, (*name.tlsa).clone())
    }
}

fn records() -> TlsaFound {
    TlsaFound::Records(vec![format!("3 1 1 {DIGEST}").parse().unwrap()])
}

#[tokio::test]
async fn tlsa_records_go_to_the_proxy_if_all_of_the_way_is_signed() {
    let mut world = World::new(Dnssec::Auto).await;
    assert_eq!(world.trust("secure.test").await, (true, records()));
    assert_eq!(world.trust("implicit.secure.test").await, (true, records()), "a domain without MX is its own");
    assert!(!world.trust("x.wild.mixed.test").await.0, "what comes of a wildcard resolves, and that is all");
    assert_eq!(world.trust("alias.mixed.test").await, (true, records()), "records at the end of the alias");
    assert_eq!(world.trust("bare.mixed.test").await, (true, TlsaFound::None), "proven not to be there");
    assert_eq!(world.trust("insecure.test").await, (false, TlsaFound::None));
    assert_eq!(world.trust("implicit.insecure.test").await, (false, TlsaFound::None));
    assert_eq!(world.trust("mixed.test").await, (false, TlsaFound::None), "the host is not signed");
    assert_eq!(world.trust("away.mixed.test").await, (false, TlsaFound::None), "nor is where the alias leads");
    assert!(!world.trust("named.insecure.test").await.0, "nor are the MX records");
    // Nothing of it is shown to the MSA.
    let hidden = world.ask("_25._tcp.mx.secure.test.", RecordType::TLSA).await;
    assert_eq!((hidden.metadata.response_code, hidden.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn where_tlsa_records_cannot_be_had_the_proxy_is_told_so() {
    let mut world = World::new(Dnssec::Auto).await;
    assert_eq!(world.trust("dark.test").await, (true, TlsaFound::Failed));
}

#[tokio::test]
async fn what_is_forged_does_not_resolve() {
    let mut world = World::new(Dnssec::Auto).await;
    for domain in ["forged.test", "stripped.test", "expired.test"] {
        assert_eq!(world.code(&format!("{domain}."), RecordType::MX).await, ResponseCode::ServFail, "{domain}");
        assert_eq!(world.code(&format!("mx.{domain}."), RecordType::A).await, ResponseCode::ServFail, "{domain}");
        assert_eq!(world.deliver(domain).await, []);
    }
    for (owner, code) in [
        ("nothing.secure.test.", ResponseCode::NXDomain),
        ("nothing.insecure.test.", ResponseCode::NXDomain),
        ("nothing.", ResponseCode::NXDomain),
        ("mx.secure.test.", ResponseCode::NoError),
    ] {
        for _ in 0..2 {
            let answer = world.ask(owner, RecordType::MX).await;
            assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{owner}");
        }
    }
}

#[tokio::test]
async fn hostile_zones_are_bounded() {
    let mut world = World::new(Dnssec::Auto).await;
    for owner in ["loop.hostile.test.", "self.hostile.test.", "chain0.hostile.test."] {
        let answer = world.ask(owner, RecordType::A).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::ServFail, 0), "{owner}");
    }
    let flood = world.ask("crowd.test.", RecordType::MX).await;
    assert_eq!(flood.answers.len(), super::answer::MAX_MX, "the most preferred of 1,500");
    let huge = world.ask("huge.hostile.test.", RecordType::TXT).await;
    assert!(huge.metadata.truncation && huge.answers.is_empty());
    assert_eq!(world.trust("many.hostile.test").await, (true, TlsaFound::Failed), "more records than are looked at");
    for n in 0..20 {
        let answer = world.ask(&format!("x{n}.star.hostile.test."), RecordType::A).await;
        assert_eq!(answer.answers.len(), 1);
    }
}

/// Passes questions on, and of the answers only what a router of old knows.
async fn router(to: SocketAddrV4) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut asked = Message::from_vec(&buffer[..length]).unwrap();
            asked.edns = None;
            let mut answer = ask(to.into(), &asked).await;
            answer.metadata.id = asked.metadata.id;
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn behind_a_router_that_strips_signatures_everything_is_insecure_and_resolves() {
    let mut world = World::new(Dnssec::Auto).await;
    let stripping = router(world.signed.address).await;
    assert_eq!(world.trust("secure.test").await, (true, records()));
    for (mode, resolves) in [(Dnssec::Auto, true), (Dnssec::Require, false), (Dnssec::Off, true)] {
        let config = Resolver {
            nameservers: vec![stripping],
            dnssec: mode,
            trust_anchors: Some(world.signed.anchors.clone()),
            policy_ca: None,
        };
        world.doors.asking().replace(Upstream::new(&config).unwrap());
        if resolves {
            assert!(!world.trust("secure.test").await.0, "{mode:?}");
        } else {
            assert_eq!(world.code("secure.test.", RecordType::MX).await, ResponseCode::ServFail);
        }
    }
}
