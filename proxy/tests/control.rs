//! The real `warren-proxy`, asked over its socket: what an operator does by hand holds through reloads, `kill -9` and damaged databases.
//!
//! Needs root, who alone may ask.

#![allow(clippy::unwrap_used, missing_docs, reason = "what cannot go on has failed, and nobody imports a test")]

mod program;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;
use program::{FIRST, Node, SECOND, ip, until};
use warren_control::egress::{EgressReply, EgressRequest, HealthState, Row};
use warren_metrics::{Page, parse};

fn rest(address: &str, destination: Option<&str>) -> EgressRequest {
    EgressRequest::Rest { address: ip(address), destination: destination.map(str::to_owned) }
}

fn restore(address: &str, destination: Option<&str>) -> EgressRequest {
    EgressRequest::Restore { address: ip(address), destination: destination.map(str::to_owned) }
}

/// Whether one address rests towards all in the database, and one towards a destination.
fn saved(node: &Node) -> bool {
    let one =
        |all: &serde_json::Value| all.as_array().map(Vec::len).or(all.as_object().map(serde_json::Map::len)) == Some(1);
    node.state().is_some_and(|state| one(&state["by_hand"]) && one(&state["marks"]))
}

#[test]
fn what_is_done_by_hand_holds_through_kill_9_and_reload() {
    let node = Node::new("");
    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Healthy, false));
    assert_eq!(proxy.changes(&rest(FIRST, None)), ["127.0.0.9 rests: by hand"]);
    assert_eq!(proxy.changes(&rest(FIRST, None)), [""; 0], "it rests already");
    assert_eq!(proxy.changes(&rest(SECOND, Some("Gmail.com"))), ["127.0.0.10 rests for google.com: by hand"]);
    let stranger = proxy.ask(&rest("127.0.0.77", None));
    assert!(matches!(&stranger, EgressReply::Refused { reason } if reason.contains("not in [egress] addresses")));

    assert_eq!(proxy.explain("mx.example.org").chosen, Some(ip(SECOND)));
    let told = proxy.explain("aspmx.l.google.com");
    assert_eq!((told.chosen, told.destination.as_str()), (None, "google.com"));
    assert_eq!(told.why, "every egress address rests for this destination");

    until("what was done is saved", || saved(&node));
    proxy.signal(Signal::SIGKILL);
    drop(proxy);

    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Rested, true));
    assert_eq!(proxy.destination(SECOND, "google.com"), Some((HealthState::Rested, true)));
    node.configure("pools = { letters = [\"127.0.0.10\"] }\nrules = [{ pool = \"letters\", tenants = [\"acme\"] }]");
    proxy.signal(Signal::SIGHUP);
    until("the rule is in force", || proxy.picture().iter().any(|row| matches!(row, Row::Rule(_))));
    assert_eq!(proxy.address(FIRST), (HealthState::Rested, true), "a reload keeps what stays");
    let told = proxy.explain("mx.example.org");
    assert_eq!((told.rule.as_deref(), told.pool.as_deref()), (Some("rule 1"), Some("letters")));

    assert_eq!(proxy.changes(&restore(FIRST, None)), ["127.0.0.9 is used again"]);
    assert_eq!(proxy.changes(&restore(SECOND, Some("google.com"))), ["127.0.0.10 is used again for google.com"]);
    let log = proxy.end();
    assert!(log.contains("an egress address is used again") && log.contains("destination=\"google.com\""), "{log}");

    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Healthy, false), "the last state is saved at the end");
    assert_eq!(proxy.destination(SECOND, "google.com"), None);
    proxy.end();
}

#[test]
fn a_broken_database_is_said_and_stops_nothing() {
    let node = Node::new("");
    fs::create_dir(node.folder.path().join("sessions")).unwrap();
    fs::write(node.database(), "this is no database ".repeat(400)).unwrap();
    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Healthy, false));
    proxy.changes(&rest(FIRST, None));
    let log = proxy.end();
    assert!(log.contains("is damaged") && log.contains("egress.db.damaged"), "{log}");
    let proxy = node.start();
    assert_eq!(proxy.address(FIRST), (HealthState::Rested, true), "the new database works");
    proxy.end();
}

#[test]
fn a_configuration_that_is_broken_at_reload_changes_nothing() {
    let node = Node::new("");
    let proxy = node.start();
    node.configure("rules = [{ pool = \"nowhere\" }]");
    proxy.signal(Signal::SIGHUP);
    node.configure("names = { \"127.0.0.9\" = \"out1.example.net\" }");
    proxy.signal(Signal::SIGHUP);
    let name = || {
        proxy.picture().into_iter().find_map(|row| match row {
            Row::Address(row) if row.address == ip(FIRST) => Some(row.name),
            _ => None,
        })
    };
    until("the name is in force", || name().as_deref() == Some("out1.example.net"));
    proxy.end();
}

/// What a scraper is told there, if anything.
fn scraped(port: u16) -> Option<Page> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    parse(answer.split_once("\r\n\r\n")?.1).ok()
}

#[test]
fn a_standalone_proxy_answers_scrapers_itself() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let node = Node::new(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\""));
    let proxy = node.start();
    proxy.changes(&rest(FIRST, None));
    let mut page = None;
    until("scrapers are answered", || {
        page = scraped(port);
        page.is_some()
    });
    let page = page.unwrap();
    let rested = |address| page.value("warren_egress_address_rested", &[("address", address)]);
    assert_eq!((rested(FIRST), rested(SECOND)), (Some(1.0), Some(0.0)));
    assert_eq!(page.value("warren_up", &[("program", "proxy")]), Some(1.0));
    proxy.end();
}
