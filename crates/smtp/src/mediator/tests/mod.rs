//! Dialogues: what comes in from both sides, what goes out to both, byte by byte if need be.
//!
//! A dialogue is text. `C` the client sends, `S` the server sends, `c` the client gets, `s` the server gets, `!` the driver does or
//! is asked to do. `\n` in the text stands for CRLF unless a line is quoted as raw bytes by [`Talk`]'s methods.

mod chaos;
mod content;
mod hand_over;
mod outbound;
mod relay;
mod silence;
mod stand_in;

use std::time::{Duration, Instant};

use super::*;
use crate::Reply;

/// A mediator between two scripted sides.
pub(super) struct Talk<P: Policy = Transparent> {
    pub(super) mediator: Mediator<P>,
    pub(super) now: Instant,
    pub(super) events: Vec<String>,
    /// How many bytes at a time.
    pub(super) chunk: usize,
}

pub(super) fn outbound(tls: TlsPolicy) -> Outbound {
    Outbound { ehlo_name: "out.example".into(), tls, deadlines: Deadlines::default() }
}

impl Talk {
    pub(super) fn outbound(tls: TlsPolicy) -> Self {
        let now = Instant::now();
        Self::new(Mediator::outbound(outbound(tls), Transparent, now), now)
    }

    /// Past EHLO, relaying in the clear.
    pub(super) fn relaying() -> Self {
        let mut talk = Self::outbound(TlsPolicy::Off);
        talk.run(
            "!dial
            S 220 mx ESMTP
            c 220 mx ESMTP
            C EHLO msa
            s EHLO out.example
            S 250-mx
            S 250-PIPELINING
            S 250 CHUNKING
            c 250-mx
            c 250-PIPELINING
            c 250 CHUNKING",
        );
        talk.events.clear();
        talk
    }
}

impl<P: Policy> Talk<P> {
    pub(super) fn new(mediator: Mediator<P>, now: Instant) -> Self {
        Self { mediator, now, events: Vec::new(), chunk: usize::MAX }
    }

    /// Runs a dialogue; every line must hold.
    pub(super) fn run(&mut self, dialogue: &str) {
        for line in dialogue.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (who, text) = line.split_at(1);
            let text = text.strip_prefix(' ').unwrap_or(text);
            match who {
                "C" => self.client(format!("{text}\r\n").as_bytes()),
                "S" => self.server(format!("{text}\r\n").as_bytes()),
                "c" => self.expect(line, &format!("{text}\r\n"), true),
                "s" => self.expect(line, &format!("{text}\r\n"), false),
                "!" => self.driver(text),
                other => panic!("{other} is nobody"),
            }
        }
        assert_eq!(self.told_client(), "", "told the client more than was expected");
        assert_eq!(self.told_server(), "", "told the server more than was expected");
    }

    fn expect(&mut self, line: &str, text: &str, client: bool) {
        let out = if client { &mut self.mediator.to_client } else { &mut self.mediator.to_server };
        let rest = String::from_utf8_lossy(out.bytes()).into_owned();
        assert!(rest.starts_with(text), "expected: {line}\nbut there is: {rest:?}\nevents: {:#?}", self.events);
        out.wrote(text.len());
    }

    fn driver(&mut self, what: &str) {
        let (mediator, now) = (&mut self.mediator, self.now);
        let events = &mut self.events;
        let mut observer = |_: Instant, event: Event<'_>| events.push(show(&event));
        match what {
            "dial" => {
                assert_eq!(mediator.next_action(), Some(Action::Dial));
                mediator.connected(now);
            }
            "dial fails" => {
                assert_eq!(mediator.next_action(), Some(Action::Dial));
                mediator.not_connected(now, Reply::new(421, (4, 4, 1), "no way"), &mut observer);
            }
            "handshake" | "handshake verified" => {
                assert_eq!(mediator.next_action(), Some(Action::Handshake));
                mediator.handshake_done(now, what.ends_with("verified"), &mut observer);
            }
            "handshake fails" => {
                assert_eq!(mediator.next_action(), Some(Action::Handshake));
                mediator.handshake_failed(now, &mut observer);
            }
            "drop server" => assert_eq!(mediator.next_action(), Some(Action::DropServer)),
            "close server" => assert_eq!(mediator.next_action(), Some(Action::CloseServer)),
            "close client" => assert_eq!(mediator.next_action(), Some(Action::CloseClient)),
            "nothing" => assert_eq!(mediator.next_action(), None),
            "server closes" => mediator.server_closed(now, &mut observer),
            "client closes" => mediator.client_closed(now, &mut observer),
            "drain" => mediator.drain(now, &mut observer),
            other => panic!("no driver does {other}"),
        }
    }

    pub(super) fn client(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(self.chunk) {
            let events = &mut self.events;
            self.mediator.client_bytes(self.now, bytes, &mut |_: Instant, event: Event<'_>| events.push(show(&event)));
        }
    }

    pub(super) fn server(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(self.chunk) {
            let events = &mut self.events;
            self.mediator.server_bytes(self.now, bytes, &mut |_: Instant, event: Event<'_>| events.push(show(&event)));
        }
    }

    /// Time passes up to the deadline, which must be this far away.
    pub(super) fn silence(&mut self, expected: Duration) {
        let deadline = self.mediator.deadline().expect("somebody is waited for");
        assert_eq!(deadline.saturating_duration_since(self.now), expected);
        self.now = deadline;
        let events = &mut self.events;
        self.mediator.tick(self.now, &mut |_: Instant, event: Event<'_>| events.push(show(&event)));
    }

    pub(super) fn told_client(&mut self) -> String {
        take(&mut self.mediator.to_client)
    }

    pub(super) fn told_server(&mut self) -> String {
        take(&mut self.mediator.to_server)
    }

    pub(super) fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.mediator.next_action()).collect()
    }

    pub(super) fn told(&self, event: &str) -> bool {
        self.events.iter().any(|told| told == event)
    }
}

fn take(out: &mut Outgoing) -> String {
    let text = String::from_utf8_lossy(out.bytes()).into_owned();
    out.wrote(text.len());
    out.clear();
    text
}

/// An event as one line.
pub(super) fn show(event: &Event<'_>) -> String {
    match event {
        Event::Command { flow, line, .. } => format!("{flow} {}", String::from_utf8_lossy(line)),
        Event::Reply { flow, reply, .. } => format!("{flow} {reply}"),
        Event::Mail(path) => format!("mail <{path}>"),
        Event::Rcpt(path) => format!("rcpt <{path}>"),
        Event::Content(bytes) => format!("content {}", bytes.len()),
        Event::ContentEnd => "content end".into(),
        Event::Offered { name, lines } => format!("offered {name}: {}", lines.join(", ")),
        Event::Injected { bytes } => format!("injected {bytes}"),
        Event::Ended(ending) => format!("ended {ending:?}"),
    }
}
