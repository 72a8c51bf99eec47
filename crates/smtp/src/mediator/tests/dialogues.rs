//! The table of dialogues, without sockets. `proxy/tests/dialogues.rs` plays the same over them.

use super::{Action, Talk, TlsPolicy};

#[path = "../../../dialogues/table.rs"]
mod table;

use table::{Dialogue, Step};

#[test]
fn in_one_segment() {
    for dialogue in table::outbound() {
        play(&dialogue, usize::MAX);
    }
}

#[test]
fn byte_by_byte_and_in_small_pieces() {
    for dialogue in table::outbound().iter().filter(|dialogue| dialogue.divisible) {
        for chunk in [1, 2, 3, 5, 7] {
            play(dialogue, chunk);
        }
    }
}

fn play(dialogue: &Dialogue, chunk: usize) {
    let tls = match dialogue.tls {
        "require" => TlsPolicy::Require,
        "verify" => TlsPolicy::Verify,
        _ => TlsPolicy::Opportunistic,
    };
    let mut talk = Talk::outbound(tls);
    talk.chunk = chunk;
    // What is written at once cannot be withdrawn.
    let (mut client, mut server) = (Vec::new(), Vec::new());
    for step in &dialogue.steps {
        let at = || format!("{}, {chunk} bytes at a time, at {step:?}", dialogue.name);
        match step {
            Step::ClientSends(bytes) => talk.client(bytes),
            Step::ServerSends(bytes) => talk.server(bytes),
            Step::ClientGets(bytes) => {
                client.extend(talk.told_client().as_bytes());
                assert_eq!(text(client.get(..bytes.len()).unwrap_or(&client)), text(bytes), "{}", at());
                client.drain(..bytes.len());
            }
            Step::ServerGets(bytes) => {
                server.extend(talk.told_server().as_bytes());
                assert_eq!(text(server.get(..bytes.len()).unwrap_or(&server)), text(bytes), "{}", at());
                server.drain(..bytes.len());
            }
            Step::Driver("drop server") => {
                server.extend(talk.told_server().as_bytes());
                assert!(!text(&server).contains("\r\n.\r\n"), "{}", at());
                server.clear();
                assert_eq!(talk.mediator.next_action(), Some(Action::DropServer), "{}", at());
            }
            Step::Driver("server resets" | "server closes its direction") => talk.driver("server closes"),
            Step::Driver("client resets" | "client closes its direction") => talk.driver("client closes"),
            Step::Driver("handshake alert" | "handshake stalls") => talk.driver("handshake fails"),
            Step::Driver(what @ ("handshake" | "handshake verified")) => {
                let proves = matches!(dialogue.shows, "trusted" | "TLS 1.2");
                assert_eq!(what.ends_with("verified"), proves, "{}: what it shows", dialogue.name);
                talk.driver(what);
            }
            // What is in the clear behind TLS is nothing that a driver reads.
            Step::Driver(what) if what.starts_with("forges ") => talk.driver("server closes"),
            Step::Driver(what) => talk.driver(what),
        }
    }
    client.extend(talk.told_client().as_bytes());
    assert_eq!(text(&client), "", "{}: told the client more than was expected", dialogue.name);
    assert_eq!(talk.actions(), [], "{}", dialogue.name);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
