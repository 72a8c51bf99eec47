//! What an answer at a door waits for, and what the proxy is told.

use hickory_proto::{op::ResponseCode, rr::RecordType};
use tokio::{net::UnixDatagram, time::timeout};
use warren_launcher_api::CellId;

use super::{LONG, World};
use crate::{
    names::{MAX_NOTE, Note},
    resolver::{
        Doors, Notes,
        sts::now_s,
        tests::{ask, question, sockets},
    },
    tls::{StsFound, StsMode, StsPolicy},
};

#[tokio::test]
async fn an_answer_waits_a_moment_for_a_policy_and_a_late_one_is_told_later() {
    let world = World::new().await;
    let socket = world.directory.path().join("names.sock");
    let notes = UnixDatagram::bind(&socket).unwrap();
    let mut doors = Doors::new(world.upstream.clone(), world.policies_of_the_patient(LONG), Notes::new(socket));
    let (door, udp, tcp) = sockets(None);
    doors.open(CellId(7), udp, tcp).await.unwrap();
    let mx = |domain: &str| question(&format!("{domain}.example."), RecordType::MX, None);
    let next = async || {
        let mut buffer = vec![0; MAX_NOTE];
        let length = timeout(LONG, notes.recv(&mut buffer)).await.unwrap().unwrap();
        match serde_json::from_slice::<Note>(&buffer[..length]).unwrap() {
            Note::Sts(note) => (note.domain, matches!(note.found, StsFound::Policy(_))),
            other => panic!("{other:?}"),
        }
    };
    ask(door, &mx("chunked")).await;
    let mut buffer = vec![0; MAX_NOTE];
    assert!(notes.try_recv(&mut buffer).is_ok(), "a policy in time comes before the answer");
    world.open.send_replace(false);
    ask(door, &mx("good")).await;
    assert_eq!(world.requests(), 2);
    assert!(notes.try_recv(&mut buffer).is_err(), "the host has not answered");
    world.open.send_replace(true);
    assert_eq!(next().await, ("good.example".into(), true));
    ask(door, &mx("spf")).await;
    assert_eq!(next().await, ("spf.example".into(), false), "that there is none is told, too");
}

#[tokio::test]
async fn a_policy_that_is_known_holds_while_somebody_holds_dns_up() {
    let world = World::new().await;
    let socket = world.directory.path().join("names.sock");
    let notes = UnixDatagram::bind(&socket).unwrap();
    let policies = world.policies();
    let policy =
        StsPolicy { mode: StsMode::Enforce, mx: vec!["mx.hush.example".into()], max_age_s: 600, id: "1".into() };
    policies.book().fetched("hush.example", "1", Ok(policy.clone()), now_s());
    let mut doors = Doors::new(world.upstream.clone(), policies, Notes::new(socket));
    let (door, udp, tcp) = sockets(None);
    doors.open(CellId(7), udp, tcp).await.unwrap();
    ask(door, &question("hush.example.", RecordType::MX, None)).await;
    let mut buffer = vec![0; MAX_NOTE];
    let length = notes.try_recv(&mut buffer).expect("before the answer");
    let Note::Sts(note) = serde_json::from_slice(&buffer[..length]).unwrap() else { panic!("another note") };
    assert_eq!((&*note.domain, note.found), ("hush.example", StsFound::Policy(policy)));
}

#[tokio::test]
async fn an_answer_that_the_proxy_has_to_know_about_waits_for_it() {
    let world = World::new().await;
    let socket = world.directory.path().join("names.sock");
    let mut doors = Doors::new(world.upstream.clone(), world.policies(), Notes::new(socket.clone()));
    let (door, udp, tcp) = sockets(None);
    doors.open(CellId(7), udp, tcp).await.unwrap();
    let code = async |domain: &str| ask(door, &question(domain, RecordType::MX, None)).await.metadata.response_code;
    assert_eq!(code("good.example.").await, ResponseCode::ServFail, "nobody told the proxy of its policy");
    assert_eq!(code("spf.example.").await, ResponseCode::NoError, "nothing hangs on this");
    let _notes = UnixDatagram::bind(&socket).unwrap();
    timeout(LONG, async { while code("good.example.").await != ResponseCode::NoError {} }).await.unwrap();
}
