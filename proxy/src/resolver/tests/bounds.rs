//! What one cell can take.

use std::time::Duration;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use warren_launcher_api::CellId;

use super::{CELL, LONG, World, ask, ask_tcp, authority, question, sockets};
use crate::resolver::door;

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
    world.doors.open(CellId(8), udp, tcp).await.unwrap();
    let answer = timeout(Duration::from_secs(2), ask(neighbour, &question("bare.example.", RecordType::A, None))).await;
    assert_eq!(answer.expect("at once").answers.len(), 1);
    let dropped = [("type", "other"), ("outcome", "dropped")];
    assert!(world.told().await.value("warren_resolver_questions_total", &dropped) > Some(0.0));
    // Connections beyond the bound wait until one ends.
    let mut last = idle.pop().unwrap();
    let asked = question("bare.example.", RecordType::A, None);
    idle.clear();
    assert_eq!(timeout(LONG, ask_tcp(&mut last, &asked)).await.unwrap().answers.len(), 1);
}

#[tokio::test]
async fn who_has_all_places_gives_one_up_for_a_neighbour() {
    let mut world = World::new(authority().await).await;
    world.doors.close(CELL).await;
    world.doors.of_few_questions(8);
    let ((hog, hog_udp, hog_tcp), (neighbour, udp, tcp)) = (sockets(None), sockets(None));
    world.doors.open(CELL, hog_udp, hog_tcp).await.unwrap();
    world.doors.open(CellId(8), udp, tcp).await.unwrap();
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = question("silent.example.", RecordType::MX, None).to_vec().unwrap();
    for _ in 0..9 {
        flood.send_to(&silent, hog).await.unwrap();
    }
    // One of them finds no place: the others have all there are.
    let mut buffer = [0; 512];
    let failed = async |buffer: &mut [u8]| {
        let length = timeout(Duration::from_secs(2), flood.recv(buffer)).await.expect("at once").unwrap();
        Message::from_vec(&buffer[..length]).unwrap().metadata.response_code
    };
    assert_eq!(failed(&mut buffer).await, ResponseCode::ServFail);
    let answer = ask(neighbour, &question("bare.example.", RecordType::A, None)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1));
    assert_eq!(failed(&mut buffer).await, ResponseCode::ServFail, "that one gave up its place");
    let dropped = [("type", "MX"), ("outcome", "dropped")];
    assert_eq!(world.told().await.value("warren_resolver_questions_total", &dropped), Some(2.0));
}

#[tokio::test]
async fn connections_of_many_cells_leave_room_for_the_next() {
    let mut world = World::new(authority().await).await;
    world.doors.close(CELL).await;
    world.doors.of_few_descriptors(100);
    let mut open = Vec::new();
    for n in 0..10 {
        let (address, udp, tcp) = sockets(None);
        world.doors.open(CellId(100 + n), udp, tcp).await.unwrap();
        for _ in 0..door::MAX_CONNECTIONS {
            open.push(TcpStream::connect(address).await.unwrap());
        }
    }
    let asked = question("bare.example.", RecordType::A, None);
    // Of the last crowd one was let in; who was not has been closed.
    assert_eq!(ask_tcp(&mut open[9 * door::MAX_CONNECTIONS], &asked).await.answers.len(), 1);
    assert_eq!(timeout(LONG, open.last_mut().unwrap().read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    let (address, udp, tcp) = sockets(None);
    world.doors.open(CellId(110), udp, tcp).await.unwrap();
    let mut next = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask_tcp(&mut next, &asked).await.answers.len(), 1);
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
    let told = world.told().await;
    let of = |outcome| told.value("warren_resolver_questions_total", &[("type", "TXT"), ("outcome", outcome)]);
    assert_eq!((of("refused"), of("nothing")), (Some(f64::from(refused)), Some(f64::from(300 - refused))));
    assert_eq!(world.ask("bare.example.", RecordType::A).await.answers.len(), 1, "another domain");
    assert_eq!(world.ask("mx1.shop.example.", RecordType::A).await.answers.len(), 2);
}
