//! Where doors come from, and what they outlive.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use hickory_proto::{op::Message, rr::RecordType};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpStream, UdpSocket, UnixDatagram},
    time::timeout,
};
use warren_launcher_api::{CellId, Event, Request, Role, VERSION};
use warren_packet::{PacketListener, aio::AsyncListener};

use super::{CELL, LONG, World, ask, ask_tcp, authority, question, sockets};
use crate::resolver::launcher;

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
    world.doors.close(CELL).await;
    let path = world.directory.path().join("launcher.sock");
    let listener = AsyncListener::new(PacketListener::listen(&path).unwrap()).unwrap();
    let World { mut doors, directory: _directory, .. } = world;
    let socket = path.clone();
    let holding = tokio::spawn(async move { launcher::hold(&mut doors, &socket).await });
    let asked = question("bare.example.", RecordType::A, None);
    let mut before: Option<(SocketAddr, TcpStream)> = None;
    for _ in 0..3 {
        let connection = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        let (hello, _): (Request, _) = connection.recv().await.unwrap().unwrap();
        assert_eq!(hello, Request::Hello { role: Role::Resolver, version: VERSION });
        connection.send(&Event::Welcome { version: VERSION }, &[]).await.unwrap();
        if let Some((door, _)) = &before {
            assert_eq!(ask(*door, &asked).await.answers.len(), 1, "a new launcher alone closes no door");
        }
        let (door, udp, tcp) = sockets(None);
        let event = Event::Door { seq: 1, cell: CELL, generation: 1, tenant: None };
        connection.send(&event, &[udp.as_fd(), tcp.as_fd()]).await.unwrap();
        drop((udp, tcp));
        let (ack, _): (Request, _) = connection.recv().await.unwrap().unwrap();
        assert_eq!(ack, Request::Ack { through: 1 });
        assert_eq!(ask(door, &asked).await.answers.len(), 1);
        if let Some((last, mut talk)) = before {
            assert!(TcpStream::connect(last).await.is_err(), "it is closed when there is another");
            assert_eq!(ask_tcp(&mut talk, &asked).await.answers.len(), 1, "who was taken in there goes on");
        }
        connection.send(&Event::AllTold { seq: 2 }, &[]).await.unwrap();
        drop(connection);
        assert_eq!(ask(door, &asked).await.answers.len(), 1, "the door outlives the launcher");
        let mut talk = TcpStream::connect(door).await.unwrap();
        assert_eq!(ask_tcp(&mut talk, &asked).await.answers.len(), 1);
        before = Some((door, talk));
    }
    holding.abort();
}

/// Two sockets that others may share their port with, as the launcher makes them.
fn sharing(at: Option<SocketAddr>) -> (SocketAddr, OwnedFd, OwnedFd) {
    let socket = |at: SocketAddr, kind| {
        let socket = Socket::new(Domain::IPV4, kind, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&at.into())?;
        std::io::Result::Ok(socket)
    };
    for _ in 0..100 {
        let tcp = socket(at.unwrap_or(([127, 0, 0, 1], 0).into()), Type::STREAM).unwrap();
        let address = tcp.local_addr().unwrap().as_socket().unwrap();
        if let Ok(udp) = socket(address, Type::DGRAM) {
            tcp.listen(16).unwrap();
            return (address, udp.into(), tcp.into());
        }
    }
    panic!("no free port for both");
}

#[tokio::test]
async fn no_question_is_lost_when_a_door_gets_other_sockets() {
    let mut world = World::new(authority().await).await;
    let (at, udp, tcp) = sharing(None);
    world.doors.open(CellId(8), udp, tcp).await.unwrap();
    let asker = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    asker.set_nonblocking(true).unwrap();
    asker.connect(at).unwrap();
    let hears = UdpSocket::from_std(asker.try_clone().unwrap()).unwrap();
    for round in 0..50_u16 {
        let mut asked = question("bare.example.", RecordType::A, None);
        asked.metadata.id = round;
        // It is in the socket of before, and its door's task has no turn until it is given others.
        asker.send(&asked.to_vec().unwrap()).unwrap();
        let (_, udp, tcp) = sharing(Some(at));
        world.doors.open(CellId(8), udp, tcp).await.unwrap();
        let mut answer = [0; 512];
        let length = timeout(LONG, hears.recv(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(Message::from_vec(&answer[..length]).unwrap().metadata.id, round);
    }
}

#[tokio::test]
async fn a_door_that_is_given_the_sockets_that_it_has_goes_on() {
    let mut world = World::new(authority().await).await;
    let (at, udp, tcp) = sharing(None);
    let again = |udp: &OwnedFd, tcp: &OwnedFd| (udp.try_clone().unwrap(), tcp.try_clone().unwrap());
    let first = again(&udp, &tcp);
    world.doors.open(CellId(8), first.0, first.1).await.unwrap();
    for _ in 0..3 {
        let same = again(&udp, &tcp);
        world.doors.open(CellId(8), same.0, same.1).await.unwrap();
        let asked = question("bare.example.", RecordType::A, None);
        assert_eq!(ask(at, &asked).await.answers.len(), 1);
        assert_eq!(ask_tcp(&mut TcpStream::connect(at).await.unwrap(), &asked).await.answers.len(), 1);
    }
}

#[tokio::test]
async fn a_closed_door_is_closed() {
    let mut world = World::new(authority().await).await;
    assert_eq!(world.ask("bare.example.", RecordType::A).await.answers.len(), 1);
    world.doors.close(CELL).await;
    assert!(TcpStream::connect(world.door).await.is_err());
    assert_eq!(world.doors.count(), 0);
    assert_eq!(world.told().await.value("warren_resolver_doors", &[]), Some(0.0));
}

/// The silence of one nameserver must not hold a thread: thousands of doors share few.
#[tokio::test]
async fn many_doors_fit_one_process() {
    let mut world = World::new(authority().await).await;
    let mut doors = Vec::new();
    for n in 0..200 {
        let (address, udp, tcp) = sockets(None);
        world.doors.open(CellId(100 + n), udp, tcp).await.unwrap();
        doors.push(address);
    }
    let asked = Arc::new(question("bare.example.", RecordType::A, None));
    for address in doors {
        assert_eq!(ask(address, &asked).await.answers.len(), 1);
    }
}
