//! What a node counts, as scrapers are told it: by the command, and by HTTP.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpStream;

use warren_lab::{Lab, LabConfig};
use warren_metrics::{Page, parse};
use warren_scenarios::corpus::note;
use warren_scenarios::{Node, Setup, inside};

const ALICE: &str = "alice@acme.example";

fn by_command(node: &Node<'_>) -> Page {
    parse(&node.ask(&["metrics"])).unwrap()
}

/// Answer to `GET /metrics`, asked on the node: its head and its page.
fn by_http(lab: &Lab) -> (String, Page) {
    let answer = inside(&lab.namespace("node").unwrap(), || -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9587")?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), parse(body).unwrap())
}

#[test]
fn what_happens_is_counted_and_told() {
    let lab = Lab::start_with(&LabConfig::personas_only()).unwrap();
    let extra = "[metrics]\nlisten = \"127.0.0.1:9587\"\n".into();
    let node = Node::start(&lab, &Setup { extra, ..Setup::default() });
    let before = by_command(&node);
    for program in ["platform", "proxy", "resolver", "receiver"] {
        assert_eq!(before.value("warren_up", &[("program", program)]), Some(1.0));
    }
    assert_eq!(before.value("warren_tenants", &[("state", "asleep")]), Some(2.0));

    let send = |to: &str| node.submit(ALICE, ALICE, &[to], 587, &note(ALICE, "counted"));
    assert!(send("dave@plain.example").accepted && send("dave@tarpit.example").accepted);
    assert!(!node.submit_as(ALICE, "guess", ALICE, &["dave@plain.example"], 587, &note(ALICE, "no")).accepted);
    let told = node.inject("x@client.example", &["nobody@acme.example"], &note("x@client.example", "in")).unwrap();
    assert!(told[1].starts_with("550 5.1.1"), "{told:?}");
    let told = node.inject("x@client.example", &["archive@acme.example"], &note("x@client.example", "on")).unwrap();
    assert!(told.last().unwrap().starts_with("250 "), "{told:?}");

    let count = |page: &Page, name: &str, labels: &[(&str, &str)]| page.value(name, labels).unwrap_or(0.0);
    let after = node.wait_until("the deliveries to be counted", || {
        let page = by_command(&node);
        let delivered = [("operator", "other"), ("verdict", "delivered")];
        let tarpit = [("operator", "other"), ("kind", "tarpit")];
        let all = count(&page, "warren_proxy_messages_total", &delivered) >= 3.0
            && count(&page, "warren_proxy_events_total", &tarpit) >= 1.0;
        all.then_some(page)
    });
    for (name, labels, number) in [
        ("warren_submissions_total", &[][..], 2.0),
        ("warren_frontdoor_authentications_total", &[("result", "right")], 1.0),
        // Her second login is known from the first.
        ("warren_frontdoor_authentications_total", &[("result", "remembered")], 1.0),
        ("warren_frontdoor_authentications_total", &[("result", "wrong")], 1.0),
        ("warren_recipients_asked_total", &[("verdict", "no_such_user")], 1.0),
        ("warren_records_dropped_total", &[], 0.0),
        ("warren_config_good", &[], 1.0),
        ("warren_launcher_up", &[], 1.0),
        ("warren_launcher_doors_held", &[("program", "proxy")], 1.0),
        ("warren_launcher_doors_held", &[("program", "resolver")], 1.0),
        ("warren_launcher_start_failures_total", &[], 0.0),
        ("warren_receiver_recipients_total", &[("code", "550")], 1.0),
        ("warren_receiver_recipients_total", &[("code", "250")], 1.0),
        ("warren_receiver_messages_total", &[("code", "250")], 1.0),
        ("warren_receiver_unanswered_total", &[], 0.0),
    ] {
        assert_eq!(after.value(name, labels), Some(number), "{name} {labels:?}");
    }
    let starts = |slot| count(&after, "warren_starts_total", &[("reason", "connection"), ("slot", slot)]);
    assert!(starts("warm") + starts("none") >= 1.0, "{after:?}");
    assert!(count(&after, "warren_proxy_connections_total", &[]) >= 2.0);
    assert!(count(&after, "warren_resolver_questions_total", &[("type", "MX"), ("outcome", "records")]) >= 2.0);
    assert!(
        count(&after, "warren_resolver_doors", &[]) >= 1.0 && count(&after, "warren_launcher_containers", &[]) >= 1.0
    );
    assert!(count(&after, "warren_launcher_slots_made_total", &[]) >= 1.0);

    // The same, by HTTP.
    let (head, page) = by_http(&lab);
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/openmetrics-text"), "{head}");
    assert_eq!(page.outline(), after.outline());
    assert_eq!(page.value("warren_submissions_total", &[]), Some(2.0));
    node.stop();
}
