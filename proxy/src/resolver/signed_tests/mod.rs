//! Doors against BIND, which signs: what counts as secure, what resolves, and what the proxy is told.

mod deep;
mod forgers;
mod trust;

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
    use Signing::{Expired, Forged, Hashed, OptOut, Right, Stripped, Unsigned};
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
        Zone::new("named.insecure.test", Unsigned, "@ MX 10 mx.secure.test.\nalias CNAME mx.secure.test.\n"),
        Zone::new("dark.test", Right, "@ MX 10 mx.dark.test.\nmx A 198.51.100.4\n"),
        Zone::new("_tcp.mx.dark.test", Stripped, &format!("_25 TLSA 3 1 1 {DIGEST}\n")),
        Zone::new("deep.test", Right, ""),
        Zone::new(
            &format!("{}deep.test", "x.".repeat(deep::LABELS)),
            Unsigned,
            "one A 198.51.100.11\ntwo A 198.51.100.12\n",
        ),
        Zone::new("optout.test", OptOut, ""),
        mail("secure.optout.test", Right),
        mail("plain.optout.test", Unsigned),
        hostile(),
        wild("wild.test", Right),
        wild("hashed.test", Hashed),
        Zone::new(
            "crowd.test",
            Unsigned,
            &(0..1_500).map(|n| format!("@ MX {n} mx{n}.crowd.test.\n")).collect::<String>(),
        ),
    ]
}

/// A zone with wildcards, and names below them that are there.
fn wild(name: &str, signing: Signing) -> Zone {
    let records = format!(
        "*.sub MX 10 mx.secure.test.\nall MX 10 mx.all\nmx.all A 198.51.100.8\n*._tcp.mx.all TLSA 3 1 1 {DIGEST}\n\
         alias MX 10 mx.alias\n*.alias CNAME mx.secure.test.\n\
         *.over A 198.51.100.9\nhost.over A 198.51.100.10\n_25._tcp.host.over TLSA 3 1 1 {DIGEST}\nover MX 10 host.over\n"
    );
    Zone::new(name, signing, &records)
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
        let config =
            Resolver { nameservers: vec![signed.address.into()], dnssec, trust_anchors: Some(signed.anchors.clone()) };
        let policies = Arc::new(Policies::new(Fetcher::new(None, Vec::new()).unwrap(), None));
        let mut doors = Doors::new(Upstream::new(&config).unwrap(), policies, Notes::new(socket));
        let (door, udp, tcp) = sockets(None);
        doors.open(CELL, udp, tcp).await.unwrap();
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
        self.hear();
        let judged = self.names.judge_by(CELL, address, domain, None, std::time::Instant::now());
        judged.into_iter().collect()
    }

    /// Reads the notes, as the proxy does all the time.
    fn hear(&mut self) {
        let mut buffer = vec![0; crate::names::MAX_NOTE];
        while let Ok(length) = self.notes.try_recv(&mut buffer) {
            let note = serde_json::from_slice::<Note>(&buffer[..length]).unwrap();
            self.names.note(note, std::time::Instant::now());
        }
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

/// Passes questions on to BIND, as `asking` leaves them, and answers, as `forge` does.
async fn between(
    to: SocketAddrV4,
    asking: impl Fn(&mut Message) + Send + 'static,
    forge: impl Fn(&mut Message) + Send + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut asked = Message::from_vec(&buffer[..length]).unwrap();
            asking(&mut asked);
            let mut answer = ask(to.into(), &asked).await;
            forge(&mut answer);
            answer.metadata.id = asked.metadata.id;
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

/// Passes on only what a router of old knows.
async fn router(to: SocketAddrV4) -> SocketAddr {
    between(to, |asked| asked.edns = None, |_| {}).await
}

impl World {
    /// From now on, somebody on the way to BIND does this to answers.
    async fn forged(&self, forge: impl Fn(&mut Message) + Send + 'static) {
        let nameserver = between(self.signed.address, |_| {}, forge).await;
        let anchors = Some(self.signed.anchors.clone());
        let config = Resolver { nameservers: vec![nameserver], dnssec: Dnssec::Require, trust_anchors: anchors };
        self.doors.asking().replace(Upstream::new(&config).unwrap());
    }

    /// What BIND says, signatures included.
    async fn bind(&self, owner: &str, kind: RecordType) -> Message {
        let mut question = question(owner, kind, Some(4096));
        question.edns.as_mut().unwrap().set_dnssec_ok(true);
        ask(self.signed.address.into(), &question).await
    }
}

/// Whether an answer is to this question.
fn to(answer: &Message, owner: &str, kind: RecordType) -> bool {
    answer.queries[0].query_type == kind && answer.queries[0].name.to_lowercase().to_ascii() == owner
}
