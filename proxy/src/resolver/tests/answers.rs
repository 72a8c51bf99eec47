//! What questions are answered, and what the proxy is told.

use std::time::Duration;

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType, rdata::CNAME},
};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{LONG, World, a, ask, ask_bytes, ask_tcp, authority, mx, name, question, record, sockets};
use crate::resolver::answer::{self, Found};

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
    world.ask("nowhere.example.", RecordType::A).await;
    world.ask("bare.example.", RecordType::A).await;
    world.ask("_25._tcp.bare.example.", RecordType::TLSA).await;
    let told = world.told().await;
    let questions = |kind, outcome| {
        told.value("warren_resolver_questions_total", &[("type", kind), ("outcome", outcome)]).unwrap_or_default()
    };
    let counted = [("A", "nothing"), ("A", "records"), ("MX", "failed"), ("other", "unserved"), ("MX", "records")];
    assert_eq!(counted.map(|(kind, outcome)| questions(kind, outcome)), [2.0, 1.0, 1.0, 1.0, 0.0]);
    let lookups = |result| told.value("warren_resolver_lookups_total", &[("result", result)]);
    assert_eq!(["cached", "bogus"].map(lookups), [Some(1.0), Some(0.0)]);
    assert!(lookups("answered") >= Some(2.0) && lookups("failed") >= Some(1.0));
    assert_eq!(told.value("warren_resolver_notes_total", &[("result", "done")]), Some(1.0));
}

/// RFC 9520: who asks again at once is not asked for once more, whoever it is.
#[tokio::test]
async fn what_failed_a_moment_ago_is_not_asked_again() {
    let world = World::new(authority().await).await;
    let lookups = async |result| {
        let told = world.told().await;
        told.value("warren_resolver_lookups_total", &[("result", result)]).unwrap_or_default()
    };
    let fails = async |kind| {
        assert_eq!(world.ask("fail.example.", kind).await.metadata.response_code, ResponseCode::ServFail);
    };
    fails(RecordType::MX).await;
    // On a machine that takes a second for each, the rest is longer than that soon.
    let mut asked = 1.0;
    while lookups("resting").await < 1.0 && asked < 6.0 {
        fails(RecordType::MX).await;
        asked += 1.0;
    }
    assert_eq!((lookups("resting").await, lookups("failed").await), (1.0, asked - 1.0));
    fails(RecordType::A).await;
    assert_eq!(lookups("failed").await, asked, "that is another question");
}

/// A question that its asker does not wait for has not failed.
#[tokio::test]
async fn who_gives_up_spoils_nobodys_answer() {
    let world = World::new(authority().await).await;
    let upstream = world.doors.asking().upstream();
    let silent = name("silent.example.");
    assert!(timeout(Duration::from_millis(50), upstream.find(&silent, RecordType::MX)).await.is_err());
    let mut asking = std::pin::pin!(upstream.find(&silent, RecordType::MX));
    assert!(timeout(Duration::from_millis(50), &mut asking).await.is_err(), "it is asked, not taken for failed");
    let resting = [("result", "resting")];
    assert_eq!(world.told().await.value("warren_resolver_lookups_total", &resting), Some(0.0));
    assert!(matches!(asking.await.found, Found::Failed));
    assert!(matches!(upstream.find(&silent, RecordType::MX).await.found, Found::Failed));
    assert_eq!(world.told().await.value("warren_resolver_lookups_total", &resting), Some(1.0));
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
