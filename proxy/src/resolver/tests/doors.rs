//! Where doors come from, and what they outlive.

use std::{os::fd::AsFd, sync::Arc};

use hickory_proto::rr::RecordType;
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, UnixDatagram},
    time::timeout,
};
use warren_launcher_api::{CellId, Event, Request, Role, VERSION};
use warren_packet::{PacketListener, aio::AsyncListener};

use super::{CELL, LONG, World, ask, authority, question, sockets};
use crate::resolver::{door, launcher};

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
    let mut waiting: Vec<TcpStream> = Vec::new();
    for _ in 0..2 {
        let connection = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        let (hello, _): (Request, _) = connection.recv().await.unwrap().unwrap();
        assert_eq!(hello, Request::Hello { role: Role::Resolver, version: VERSION });
        connection.send(&Event::Welcome { version: VERSION }, &[]).await.unwrap();
        // The earlier door is closed with the Welcome: who still waits in it is turned away, and its address is free.
        if let Some(mut last) = waiting.pop() {
            assert_eq!(timeout(LONG, last.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
        }
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
        waiting.clear();
        for _ in 0..=door::MAX_CONNECTIONS {
            waiting.push(TcpStream::connect(address.unwrap()).await.unwrap());
        }
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
    assert_eq!(world.told().await.value("warren_resolver_doors", &[]), Some(0.0));
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
