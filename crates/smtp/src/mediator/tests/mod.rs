//! Dialogues: what comes in from both sides, what goes out to both, byte by byte if need be.
//!
//! A dialogue is text. `C` the client sends, `S` the server sends, `c` the client gets, `s` the server gets, `!` the driver does or
//! is asked to do. `\n` in the text stands for CRLF unless a line is quoted as raw bytes by [`Talk`]'s methods.

mod chaos;
mod client_tls;
mod content;
mod dialogues;
mod failover;
mod floods;
mod hand_over;
mod held;
mod keeping;
mod meanwhile;
mod outbound;
mod redial;
mod relay;
mod silence;
mod stand_in;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::{ForwardPath, Reply, ReversePath};

/// The driver: writes down what it hears, and decides as it was told to.
pub(super) struct Scribe {
    pub(super) events: Vec<String>,
    /// About a MAIL or RCPT, as it was written.
    pub(super) judge: fn(&str) -> Judgement,
    /// About a refusal.
    pub(super) fail_over: fn(&Reply) -> bool,
    /// How the next legs are opened; past them, as the settings say.
    pub(super) legs: VecDeque<Leg>,
    /// Whether connections are kept.
    pub(super) keeps: bool,
}

impl Default for Scribe {
    fn default() -> Self {
        let (events, legs) = (Vec::new(), VecDeque::new());
        Self { events, judge: |_| Judgement::Pass, fail_over: |_| false, legs, keeps: false }
    }
}

impl Observer for Scribe {
    fn event(&mut self, _: Instant, event: Event<'_>) {
        // How replies are cut into pieces is no part of a dialogue.
        if !matches!(event, Event::Heard { .. }) {
            self.events.push(show(&event));
        }
    }
}

impl Policy for Scribe {
    fn mail(&mut self, _: &ReversePath, line: &[u8]) -> Judgement {
        (self.judge)(&String::from_utf8_lossy(line))
    }

    fn rcpt(&mut self, _: &ForwardPath, line: &[u8]) -> Judgement {
        (self.judge)(&String::from_utf8_lossy(line))
    }

    fn fail_over(&mut self, _: Topic, reply: &Reply) -> bool {
        (self.fail_over)(reply)
    }

    fn keep(&mut self) -> bool {
        self.keeps
    }

    fn leg(&mut self) -> Option<Leg> {
        self.legs.pop_front()
    }
}

/// A mediator between two scripted sides.
pub(super) struct Talk {
    pub(super) mediator: Mediator,
    pub(super) now: Instant,
    pub(super) host: Scribe,
    /// How many bytes at a time.
    pub(super) chunk: usize,
    /// What the server got of content before it was queued; `None`: it takes nothing at once.
    pub(super) direct: Option<Vec<u8>>,
    /// The connection that was kept, or is to be taken over.
    pub(super) kept: Option<Kept>,
}

pub(super) fn leg(tls: TlsPolicy) -> Leg {
    Leg { ehlo_name: "out.example".into(), tls }
}

pub(super) fn outbound(tls: TlsPolicy) -> Outbound {
    Outbound { leg: leg(tls), deadlines: Arc::default() }
}

impl Talk {
    pub(super) fn outbound(tls: TlsPolicy) -> Self {
        let now = Instant::now();
        Self::new(Mediator::outbound(outbound(tls), now), now)
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
        talk.host.events.clear();
        talk
    }

    pub(super) fn new(mediator: Mediator, now: Instant) -> Self {
        Self { mediator, now, host: Scribe::default(), chunk: usize::MAX, direct: None, kept: None }
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
        assert!(rest.starts_with(text), "expected: {line}\nbut there is: {rest:?}\nevents: {:#?}", self.host.events);
        out.wrote(text.len());
    }

    fn driver(&mut self, what: &str) {
        let (mediator, now, host) = (&mut self.mediator, self.now, &mut self.host);
        match what {
            "dial" => {
                assert_eq!(mediator.next_action(), Some(Action::Dial));
                mediator.connected(now, host);
            }
            "dial fails" => {
                assert_eq!(mediator.next_action(), Some(Action::Dial));
                mediator.not_connected(now, Reply::new(421, (4, 4, 1), "no way"), host);
            }
            "handshake" | "handshake verified" => {
                assert_eq!(mediator.next_action(), Some(Action::Handshake));
                mediator.handshake_done(now, what.ends_with("verified"), host);
            }
            "handshake fails" => {
                assert_eq!(mediator.next_action(), Some(Action::Handshake));
                mediator.handshake_failed(now, host);
            }
            "secure client" => {
                assert_eq!(mediator.next_action(), Some(Action::SecureClient));
                mediator.client_secured(now, host);
            }
            "securing client fails" => {
                assert_eq!(mediator.next_action(), Some(Action::SecureClient));
                mediator.client_not_secured(now, host);
            }
            "keep server" => {
                assert_eq!(mediator.next_action(), Some(Action::KeepServer));
                self.kept = mediator.kept();
            }
            "take over" => {
                assert_eq!(mediator.next_action(), Some(Action::Dial));
                mediator.taken_over(now, self.kept.take().expect("kept"), host);
            }
            "drop server" => assert_eq!(mediator.next_action(), Some(Action::DropServer)),
            "set aside" => assert_eq!(mediator.next_action(), Some(Action::SetAside)),
            "take back" => assert_eq!(mediator.next_action(), Some(Action::TakeBack)),
            "leave aside" => assert_eq!(mediator.next_action(), Some(Action::LeaveAside { quit: false })),
            "quit aside" => assert_eq!(mediator.next_action(), Some(Action::LeaveAside { quit: true })),
            "close server" => assert_eq!(mediator.next_action(), Some(Action::CloseServer)),
            "close client" => assert_eq!(mediator.next_action(), Some(Action::CloseClient)),
            "nothing" => assert_eq!(mediator.next_action(), None),
            "server closes" => mediator.server_closed(now, host),
            "client closes" => mediator.client_closed(now, host),
            "drain" => mediator.drain(now, host),
            other => panic!("no driver does {other}"),
        }
    }

    pub(super) fn client(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(self.chunk) {
            let (content, rest) = self.mediator.client_content(self.now, bytes, &mut self.host);
            // A server that takes half of it.
            let half = if self.direct.is_some() { content.len() / 2 } else { 0 };
            let (through, late) = content.split_at(half);
            if let Some(direct) = &mut self.direct {
                direct.extend_from_slice(through);
            }
            self.mediator.to_server.push(late);
            self.mediator.client_bytes(self.now, rest, &mut self.host);
        }
    }

    pub(super) fn server(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(self.chunk) {
            self.mediator.server_bytes(self.now, bytes, &mut self.host);
        }
    }

    /// Time passes up to the deadline, which must be this far away.
    pub(super) fn silence(&mut self, expected: Duration) {
        let deadline = self.mediator.deadline().expect("somebody is waited for");
        assert_eq!(deadline.saturating_duration_since(self.now), expected);
        self.now = deadline;
        self.mediator.tick(self.now, &mut self.host);
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
        self.host.events.iter().any(|told| told == event)
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
        Event::Heard { bytes } => format!("heard {bytes}"),
        Event::Injected { bytes } => format!("injected {bytes}"),
        Event::Stale { reply } => format!("stale {reply}"),
        Event::Pipelined { bytes } => format!("pipelined {bytes}"),
        Event::Moving { topic, reply } => {
            let why = reply.map_or_else(|| "wanted".to_owned(), Reply::to_string);
            let at = match topic {
                Topic::Command(verb) => verb.to_string(),
                other => format!("{other:?}"),
            };
            format!("moving at {at}: {why}")
        }
        Event::Moved { .. } => "moved".into(),
        Event::Stayed => "stayed".into(),
        Event::Ended(ending) => format!("ended {ending:?}"),
    }
}
