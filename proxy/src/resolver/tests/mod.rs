//! Doors on loopback sockets, an authority made by hand, and tests that play proxy and launcher.

mod answers;
mod bounds;
mod doors;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, MX, SOA, TXT},
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket, UnixDatagram},
    time::timeout,
};
use warren_launcher_api::CellId;
use warren_metrics::{Page, http::Source};

use super::{Doors, Notes, Policies, Upstream, sts::fetch::Fetcher};
use crate::names::Note;

const CELL: CellId = CellId(7);
const LONG: Duration = Duration::from_secs(20);

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 300, data)
}

fn mx(owner: &str, preference: u16, host: &str) -> Record {
    record(owner, RData::MX(MX::new(preference, name(host))))
}

fn a(owner: &str, last: u8) -> Record {
    record(owner, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
}

/// An authority and recursor in one: what it does not know does not exist, `fail.` fails, `silent.` says nothing.
async fn authority() -> SocketAddr {
    let chunk = |n: u8| record("long.example.", RData::TXT(TXT::new(vec![format!("{n}{}", "x".repeat(200))])));
    let mut records = vec![
        mx("shop.example.", 10, "Mx1.Shop.example."),
        mx("shop.example.", 20, "mx2.shop.example."),
        mx("other.example.", 10, "mx1.shop.example."),
        mx("closed.example.", 0, "."),
        a("mx1.shop.example.", 1),
        a("mx1.shop.example.", 2),
        a("bare.example.", 3),
        record("alias.example.", RData::CNAME(CNAME(name("bare.example.")))),
    ];
    records.extend((0..5).map(chunk));
    authority_of(records).await
}

/// One that knows these records.
pub(super) async fn authority_of(records: Vec<Record>) -> SocketAddr {
    let mut zone: HashMap<(Name, RecordType), Vec<Record>> = HashMap::new();
    for record in records {
        zone.entry((record.name.clone(), record.record_type())).or_default().push(record);
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let query = question.queries[0].clone();
            let owner = query.name.to_lowercase();
            let mut reply = Message::response(question.metadata.id, OpCode::Query);
            reply.metadata.recursion_available = true;
            reply.metadata.authentic_data = true;
            match owner.to_ascii().as_str() {
                "silent.example." | "_mta-sts.hush.example." => continue,
                "fail.example." => reply.metadata.response_code = ResponseCode::ServFail,
                _ => {
                    let alias = zone.get(&(owner.clone(), RecordType::CNAME));
                    let records = zone.get(&(owner.clone(), query.query_type)).or(alias);
                    reply.answers = records.cloned().unwrap_or_default();
                    let known = zone.keys().any(|(name, _)| *name == owner);
                    if records.is_none() {
                        let soa = SOA::new(name("ns.example."), name("hostmaster.example."), 1, 3600, 600, 86400, 60);
                        reply.authorities.push(record("example.", RData::SOA(soa)));
                        reply.metadata.response_code =
                            if known { ResponseCode::NoError } else { ResponseCode::NXDomain };
                    }
                }
            }
            reply.queries.push(query);
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

/// A resolver with the door of one cell, and the proxy's end of the notes.
struct World {
    doors: Doors,
    door: SocketAddr,
    directory: TempDir,
    notes: UnixDatagram,
}

/// The configuration that asks one nameserver.
fn asking(nameserver: SocketAddr) -> warren_config::Resolver {
    warren_config::Resolver { nameservers: vec![nameserver], dnssec: warren_config::Dnssec::Auto, trust_anchors: None }
}

/// Two sockets on one free port.
pub(super) fn sockets(at: Option<SocketAddr>) -> (SocketAddr, OwnedFd, OwnedFd) {
    for _ in 0..100 {
        let tcp = std::net::TcpListener::bind(at.unwrap_or(([127, 0, 0, 1], 0).into())).unwrap();
        let address = tcp.local_addr().unwrap();
        if let Ok(udp) = std::net::UdpSocket::bind(address) {
            return (address, udp.into(), tcp.into());
        }
    }
    panic!("no free port for both");
}

impl World {
    async fn new(nameserver: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket: PathBuf = directory.path().join("names.sock");
        let notes = UnixDatagram::bind(&socket).unwrap();
        let policies = Arc::new(Policies::new(Fetcher::new(None, Vec::new()).unwrap(), None));
        let mut doors = Doors::new(Upstream::new(&asking(nameserver)).unwrap(), policies, Notes::new(socket));
        let (door, udp, tcp) = sockets(None);
        doors.open(CELL, udp, tcp).await.unwrap();
        Self { doors, door, directory, notes }
    }

    async fn ask(&self, owner: &str, kind: RecordType) -> Message {
        ask(self.door, &question(owner, kind, Some(4096))).await
    }

    /// What scrapers would be told.
    async fn told(&self) -> Page {
        self.doors.asking().page().await
    }

    /// The notes that have arrived: (domain, host, address).
    fn noted(&self) -> Vec<(Option<String>, String, String)> {
        let mut buffer = [0; 4096];
        let mut noted = Vec::new();
        while let Ok(length) = self.notes.try_recv(&mut buffer) {
            let note = serde_json::from_slice(&buffer[..length]).unwrap();
            let Note::Name(note) = note else { continue };
            assert_eq!((note.cell, note.secure), (CELL, false));
            assert!(note.ttl_s > 0 && note.ttl_s <= 300);
            noted.push((note.domain, note.mx, note.address.to_string()));
        }
        noted
    }
}

pub(super) fn question(owner: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.metadata.authentic_data = true;
    message.queries.push(Query::query(name(owner), kind));
    message.edns = edns.map(|size| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns
    });
    message
}

pub(super) async fn ask(door: SocketAddr, question: &Message) -> Message {
    let (bytes, _) = ask_bytes(door, &question.to_vec().unwrap()).await;
    bytes
}

async fn ask_bytes(door: SocketAddr, bytes: &[u8]) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, door).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let (length, from) = timeout(LONG, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(from, door);
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert!(!answer.metadata.authentic_data, "AD is hidden");
    (answer, length)
}

async fn ask_tcp(stream: &mut TcpStream, question: &Message) -> Message {
    let bytes = question.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}
