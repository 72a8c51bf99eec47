//! Doors on loopback sockets, an authority made by hand, and a test that plays proxy and launcher.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, CNAME, MX, SOA, TXT},
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket, UnixDatagram},
    time::timeout,
};
use warren_launcher_api::{CellId, Event, Request, Role, VERSION};
use warren_packet::{PacketListener, aio::AsyncListener};

use super::{Doors, Notes, Policies, Upstream, answer, door, launcher, sts::fetch::Fetcher};
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
        doors.open(CELL, 1, udp, tcp).await.unwrap();
        Self { doors, door, directory, notes }
    }

    async fn ask(&self, owner: &str, kind: RecordType) -> Message {
        ask(self.door, &question(owner, kind, Some(4096))).await
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

fn noted(domain: &str, host: &str, last: u8) -> (Option<String>, String, String) {
    (Some(domain.into()), host.into(), format!("192.0.2.{last}"))
}

#[tokio::test]
async fn the_proxy_knows_a_name_before_the_msa_has_the_address() {
    let world = World::new(authority().await).await;
    let answer = world.ask("Shop.Example.", RecordType::MX).await;
    assert_eq!(answer.metadata.id, 0x1234);
    assert_eq!(answer.queries[0].name.to_ascii(), "Shop.Example.", "spelt as asked");
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(world.noted(), []);
    assert_eq!(world.ask("mx1.shop.example.", RecordType::A).await.answers.len(), 2);
    assert_eq!(
        world.noted(),
        [noted("shop.example", "mx1.shop.example", 1), noted("shop.example", "mx1.shop.example", 2)]
    );
    // An MSA with a cache asks for no address again.
    world.ask("other.example.", RecordType::MX).await;
    let mut later = world.noted();
    later.sort();
    assert_eq!(later, [noted("other.example", "mx1.shop.example", 1), noted("other.example", "mx1.shop.example", 2)]);
}

#[tokio::test]
async fn domains_without_mx_and_domains_without_mail() {
    let world = World::new(authority().await).await;
    let none = world.ask("bare.example.", RecordType::MX).await;
    assert_eq!(
        (none.metadata.response_code, none.answers.len(), none.authorities.len()),
        (ResponseCode::NoError, 0, 1)
    );
    world.ask("bare.example.", RecordType::A).await;
    assert_eq!(world.noted(), [noted("bare.example", "bare.example", 3)]);
    assert_eq!(world.ask("closed.example.", RecordType::MX).await.answers.len(), 1);
    let alias = world.ask("alias.example.", RecordType::A).await;
    assert_eq!(alias.answers.iter().map(Record::record_type).collect::<Vec<_>>(), [RecordType::CNAME, RecordType::A]);
    assert_eq!(world.noted(), [(None, "alias.example".into(), "192.0.2.3".into())]);
}

#[tokio::test]
async fn failures_are_passed_on_as_what_they_are() {
    let world = World::new(authority().await).await;
    let nothing = world.ask("nowhere.example.", RecordType::A).await;
    assert_eq!(nothing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(nothing.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(world.ask("fail.example.", RecordType::MX).await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(world.noted(), []);
}

#[tokio::test]
async fn a_dead_or_silent_nameserver_is_a_failure_not_an_absence() {
    let (nobody, udp, tcp) = sockets(None);
    drop((udp, tcp));
    let world = World::new(nobody).await;
    assert_eq!(world.ask("shop.example.", RecordType::MX).await.metadata.response_code, ResponseCode::ServFail);
    let world = World::new(authority().await).await;
    assert_eq!(world.ask("silent.example.", RecordType::MX).await.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_an_msa_has_no_use_for_is_kept_from_it() {
    let world = World::new(authority().await).await;
    for (owner, kind, code) in [
        ("_25._tcp.mx1.shop.example.", RecordType::TLSA, ResponseCode::NoError),
        ("shop.example.", RecordType::ANY, ResponseCode::Refused),
        ("shop.example.", RecordType::AXFR, ResponseCode::Refused),
        ("shop.example.", RecordType::HTTPS, ResponseCode::NotImp),
        ("shop.example.", RecordType::NULL, ResponseCode::NotImp),
    ] {
        let answer = world.ask(owner, kind).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{kind}");
    }
    let mut chaos = question("version.bind.", RecordType::TXT, None);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(ask(world.door, &chaos).await.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn nonsense_is_refused_or_ignored() {
    let world = World::new(authority().await).await;
    let good = question("bare.example.", RecordType::A, None);
    let mut cut = good.to_vec().unwrap();
    cut.truncate(20);
    assert_eq!(ask_bytes(world.door, &cut).await.0.metadata.response_code, ResponseCode::FormErr);
    let mut two = good.clone();
    two.queries.push(two.queries[0].clone());
    assert_eq!(ask(world.door, &two).await.metadata.response_code, ResponseCode::FormErr);
    let mut notify = good.clone();
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(ask(world.door, &notify).await.metadata.response_code, ResponseCode::NotImp);
    // Nobody answers an answer, nor less than a header: what is answered next is the question sent last.
    let mut response = good.to_vec().unwrap();
    response[2] |= 0x80;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&response, world.door).await.unwrap();
    socket.send_to(b"\x12\x34", world.door).await.unwrap();
    socket.send_to(&question("mx1.shop.example.", RecordType::A, None).to_vec().unwrap(), world.door).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(LONG, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().answers.len(), 2);
}

#[tokio::test]
async fn answers_fit_what_the_client_can_take() {
    let world = World::new(authority().await).await;
    let ask_long = |edns| question("long.example.", RecordType::TXT, edns).to_vec().unwrap();
    for (edns, whole) in
        [(None, false), (Some(512), false), (Some(100), false), (Some(1232), true), (Some(65_535), true)]
    {
        let (answer, length) = ask_bytes(world.door, &ask_long(edns)).await;
        assert_eq!(
            (answer.metadata.truncation, answer.answers.len()),
            if whole { (false, 5) } else { (true, 0) },
            "{edns:?}"
        );
        assert_eq!(answer.edns.is_some(), edns.is_some());
        assert!(whole || length <= 512);
    }
    let mut stream = TcpStream::connect(world.door).await.unwrap();
    for _ in 0..3 {
        let answer = ask_tcp(&mut stream, &question("long.example.", RecordType::TXT, None)).await;
        assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 5));
    }
}

#[test]
fn hostile_answers_are_cut_to_the_most_preferred() {
    let many: Vec<_> = (0..1_500).rev().map(|n| mx("flood.example.", n, &format!("mx{n}.flood.example."))).collect();
    let kept = answer::bounded(many, RecordType::MX);
    assert_eq!(kept.len(), answer::MAX_MX);
    assert!(matches!(&kept[0].data, RData::MX(mx) if mx.preference == 0));
    let chain: Vec<_> = (0..200).map(|_| record("c.example.", RData::CNAME(CNAME(name("c.example."))))).collect();
    assert_eq!(answer::bounded(chain, RecordType::A).len(), answer::MAX_OTHERS);
    let wide: Vec<_> = (0..=255).map(|n| a("wide.example.", n)).collect();
    assert_eq!(answer::bounded(wide, RecordType::A).len(), answer::MAX_ADDRESSES);
}

#[tokio::test]
async fn a_flood_in_one_cell_leaves_the_others_alone() {
    let mut world = World::new(authority().await).await;
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..20 * door::MAX_QUESTIONS {
        let mut question = question("silent.example.", RecordType::MX, None);
        question.metadata.id = u16::try_from(n).unwrap();
        flood.send_to(&question.to_vec().unwrap(), world.door).await.unwrap();
    }
    let mut idle = Vec::new();
    for _ in 0..2 * door::MAX_CONNECTIONS {
        idle.push(TcpStream::connect(world.door).await.unwrap());
    }
    let (neighbour, udp, tcp) = sockets(None);
    world.doors.open(CellId(8), 1, udp, tcp).await.unwrap();
    let answer = timeout(Duration::from_secs(2), ask(neighbour, &question("bare.example.", RecordType::A, None))).await;
    assert_eq!(answer.expect("at once").answers.len(), 1);
    // Connections beyond the bound wait until one ends.
    let mut last = idle.pop().unwrap();
    let asked = question("bare.example.", RecordType::A, None);
    idle.clear();
    assert_eq!(timeout(LONG, ask_tcp(&mut last, &asked)).await.unwrap().answers.len(), 1);
}

#[tokio::test]
async fn questions_are_answered_while_the_proxy_is_away_and_noted_when_it_is_back() {
    let mut world = World::new(authority().await).await;
    let path = world.directory.path().join("names.sock");
    std::fs::remove_file(&path).unwrap();
    world.notes = UnixDatagram::unbound().unwrap();
    assert_eq!(world.ask("bare.example.", RecordType::A).await.answers.len(), 1);
    world.notes = UnixDatagram::bind(&path).unwrap();
    let back = timeout(LONG, async {
        while world.noted().is_empty() {
            world.ask("bare.example.", RecordType::A).await;
        }
    });
    back.await.expect("the new socket is found");
    // A proxy that does not read holds answers up a little, then not at all.
    for _ in 0..2_000 {
        assert_eq!(world.ask("bare.example.", RecordType::A).await.answers.len(), 1);
    }
}

#[tokio::test]
async fn doors_come_from_the_launcher_and_survive_it() {
    let mut world = World::new(authority().await).await;
    world.doors.close_all().await;
    let path = world.directory.path().join("launcher.sock");
    let listener = AsyncListener::new(PacketListener::listen(&path).unwrap()).unwrap();
    let World { mut doors, directory: _directory, .. } = world;
    let socket = path.clone();
    let holding = tokio::spawn(async move { launcher::hold(&mut doors, &socket).await });
    let asked = question("bare.example.", RecordType::A, None);
    let mut address = None;
    for _ in 0..2 {
        let connection = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        let (hello, _): (Request, _) = connection.recv().await.unwrap().unwrap();
        assert_eq!(hello, Request::Hello { role: Role::Resolver, version: VERSION });
        connection.send(&Event::Welcome { version: VERSION }, &[]).await.unwrap();
        // The same address again: the earlier door is closed with the Welcome.
        let in_use = |at| std::net::UdpSocket::bind(at).is_err() || std::net::TcpListener::bind(at).is_err();
        let closed = async {
            while address.is_some_and(in_use) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LONG, closed).await.unwrap();
        let (door, udp, tcp) = sockets(address);
        address = Some(door);
        let event = Event::Door { seq: 1, cell: CELL, generation: 1, tenant: None };
        connection.send(&event, &[udp.as_fd(), tcp.as_fd()]).await.unwrap();
        drop((udp, tcp));
        let (ack, _): (Request, _) = connection.recv().await.unwrap().unwrap();
        assert_eq!(ack, Request::Ack { through: 1 });
        assert_eq!(ask(door, &asked).await.answers.len(), 1);
        drop(connection);
        assert_eq!(ask(door, &asked).await.answers.len(), 1, "the door outlives the launcher");
    }
    holding.abort();
}

#[tokio::test]
async fn an_older_generation_replaces_nothing_and_a_closed_door_is_closed() {
    let mut world = World::new(authority().await).await;
    let (late, udp, tcp) = sockets(None);
    world.doors.open(CELL, 1, udp, tcp).await.unwrap();
    assert!(TcpStream::connect(late).await.is_err());
    assert_eq!(world.ask("bare.example.", RecordType::A).await.answers.len(), 1);
    let (newer, udp, tcp) = sockets(None);
    world.doors.open(CELL, 2, udp, tcp).await.unwrap();
    assert!(TcpStream::connect(world.door).await.is_err());
    assert_eq!(ask(newer, &question("bare.example.", RecordType::A, None)).await.answers.len(), 1);
    world.doors.close(CELL).await;
    assert!(TcpStream::connect(newer).await.is_err());
    assert_eq!(world.doors.count(), 0);
}

#[tokio::test]
async fn connections_of_many_cells_leave_room_for_the_next() {
    let mut world = World::new(authority().await).await;
    world.doors.close_all().await;
    world.doors.of_few_descriptors(100);
    let mut open = Vec::new();
    for n in 0..10 {
        let (address, udp, tcp) = sockets(None);
        world.doors.open(CellId(100 + n), 1, udp, tcp).await.unwrap();
        for _ in 0..door::MAX_CONNECTIONS {
            open.push(TcpStream::connect(address).await.unwrap());
        }
    }
    let asked = question("bare.example.", RecordType::A, None);
    // Of the last crowd one was let in; who was not has been closed.
    assert_eq!(ask_tcp(&mut open[9 * door::MAX_CONNECTIONS], &asked).await.answers.len(), 1);
    assert_eq!(timeout(LONG, open.last_mut().unwrap().read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    let (address, udp, tcp) = sockets(None);
    world.doors.open(CellId(110), 1, udp, tcp).await.unwrap();
    let mut next = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask_tcp(&mut next, &asked).await.answers.len(), 1);
}

/// The silence of one nameserver must not hold a thread: thousands of doors share few.
#[tokio::test]
async fn many_doors_fit_one_process() {
    let mut world = World::new(authority().await).await;
    let mut doors = Vec::new();
    for n in 0..200 {
        let (address, udp, tcp) = sockets(None);
        world.doors.open(CellId(100 + n), 1, udp, tcp).await.unwrap();
        doors.push(address);
    }
    let asked = Arc::new(question("bare.example.", RecordType::A, None));
    for address in doors {
        assert_eq!(ask(address, &asked).await.answers.len(), 1);
    }
}

#[tokio::test]
async fn a_tunnel_is_refused_and_mail_is_not() {
    let world = World::new(authority().await).await;
    world.ask("shop.example.", RecordType::MX).await;
    let mut refused = 0;
    for n in 0..300 {
        let answer = world.ask(&format!("{n:060}.tunnel.example."), RecordType::TXT).await;
        match answer.metadata.response_code {
            ResponseCode::Refused => refused += 1,
            ResponseCode::NXDomain => assert_eq!(refused, 0, "not again in this minute"),
            other => panic!("{other}"),
        }
    }
    assert!(refused > 0);
    assert_eq!(world.ask("bare.example.", RecordType::A).await.answers.len(), 1, "another domain");
    assert_eq!(world.ask("mx1.shop.example.", RecordType::A).await.answers.len(), 2);
}
