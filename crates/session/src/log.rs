//! What one session writes with: it numbers exchanges, redacts credentials, and measures how long the MX took.
//!
//! ```text
//! let mut log = recorder.session(SessionStart { … });
//! log.leg(leg);
//! log.command(1, at_us, Dir::CommandPassed, b"RCPT TO:<bob@mx.example>");
//! log.reply(1, at_us, Dir::ReplyPassed, 250, "2.1.5 Ok");
//! log.end(at_us, Outcome::Delivered, bytes);
//! ```

use std::collections::VecDeque;

use crate::{
    Dir, Event, Exchange, Leg, Message, Outcome, Recipient, Record, Recorder, SessionEnd, SessionId, SessionStart,
    Text, detect::Finding,
};

/// Commands in flight that are remembered for timing. A longer pipeline is timed wrongly rather than remembered.
const IN_FLIGHT_LIMIT: usize = 1_000;
/// Legs whose commands are remembered.
const LEGS_LIMIT: usize = 4;
/// Longest verb kept.
const VERB_LIMIT: usize = 20;

/// A reply of the MX, matched to its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// The verb it answers, in upper case; `.` is the end of data, empty the greeting.
    pub verb: String,
    /// Since the command was sent or the previous reply came, whichever was later.
    pub took_us: u64,
}

/// The writing end of one session's log. Nothing here waits for anything.
#[derive(Debug)]
pub struct SessionLog {
    recorder: Recorder,
    id: SessionId,
    seq: u32,
    events: u32,
    /// By leg; the newest last.
    to_mx: VecDeque<Timing>,
    to_proxy: Timing,
}

impl SessionLog {
    pub(crate) fn begin(recorder: Recorder, start: SessionStart) -> Self {
        let id = start.id;
        recorder.record(Record::Start(start));
        Self { recorder, id, seq: 0, events: 0, to_mx: VecDeque::new(), to_proxy: Timing::default() }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Records a dial; again when more is known of it. Each has its own commands that wait for a reply.
    pub fn leg(&mut self, leg: Leg) {
        let timing = self.of_leg(leg.n);
        timing.quiet_since = timing.quiet_since.max(leg.connected_us.unwrap_or(leg.started_us));
        self.recorder.record(Record::Leg(Box::new(leg)));
    }

    /// Records a command line, without its CRLF. `.` stands for the end of data.
    pub fn command(&mut self, leg: u16, at_us: u64, dir: Dir, line: &[u8]) {
        let verb = verb(line);
        let text = match redacted(&verb, line) {
            Some(harmless) => Text::from(harmless),
            None => Text::new(line),
        };
        self.timing(leg, dir).sent(verb.clone(), at_us);
        self.exchange(Exchange {
            id: self.id,
            seq: 0,
            leg,
            at_us,
            dir,
            verb,
            code: None,
            enhanced: None,
            text,
            took_us: None,
        });
    }

    /// Records what happened between what was said.
    pub fn note(&mut self, leg: u16, at_us: u64, text: &str) {
        self.exchange(Exchange {
            id: self.id,
            seq: 0,
            leg,
            at_us,
            dir: Dir::Noted,
            verb: String::new(),
            code: None,
            enhanced: None,
            text: Text::from(text),
            took_us: None,
        });
    }

    /// Records a whole reply: its lines without their codes, separated by `\n`. Says what a reply of the MX answers, and how long it
    /// took.
    pub fn reply(&mut self, leg: u16, at_us: u64, dir: Dir, code: u16, lines: &str) -> Option<Timed> {
        let (verb, took_us) = self.timing(leg, dir).answered(at_us);
        let text = if verb == "AUTH" && code == 334 { Text::from("[redacted]") } else { Text::from(lines) };
        let enhanced = enhanced(lines).map(str::to_owned);
        let took_us = dir.from_mx().then_some(took_us);
        let timed = took_us.map(|took_us| Timed { verb: verb.clone(), took_us });
        self.exchange(Exchange {
            id: self.id,
            seq: 0,
            leg,
            at_us,
            dir,
            verb,
            code: Some(code),
            enhanced,
            text,
            took_us,
        });
        timed
    }

    /// Records something that was noticed about the MX.
    pub fn event(&mut self, leg: u16, at_us: u64, operator: &str, finding: Finding) {
        self.events = self.events.saturating_add(1);
        let Finding { kind, egress, verb, code, list, evidence } = finding;
        let operator = operator.to_owned();
        let event =
            Event { id: self.id, n: self.events, leg, at_us, kind, operator, egress, verb, code, list, evidence };
        self.recorder.record(Record::Event(Box::new(event)));
    }

    /// Records a mail transaction; again when more is known of it.
    pub fn message(&mut self, message: Message) {
        self.recorder.record(Record::Message(message));
    }

    /// Records a recipient; again when more is known of it.
    pub fn recipient(&mut self, recipient: Recipient) {
        self.recorder.record(Record::Recipient(recipient));
    }

    /// Records the end.
    pub fn end(self, at_us: u64, outcome: Outcome, bytes: u64) {
        self.recorder.record(Record::End(SessionEnd { id: self.id, at_us, outcome, bytes }));
    }

    fn exchange(&mut self, exchange: Exchange) {
        self.seq = self.seq.saturating_add(1);
        self.recorder.record(Record::Exchange(Exchange { seq: self.seq, ..exchange }));
    }

    fn timing(&mut self, leg: u16, dir: Dir) -> &mut Timing {
        if dir.reaches_mx() || dir.from_mx() { self.of_leg(leg) } else { &mut self.to_proxy }
    }

    /// A session has a leg, one that it came from or may go back to, and no business with those before.
    fn of_leg(&mut self, leg: u16) -> &mut Timing {
        let place = match self.to_mx.iter().position(|timing| timing.leg == leg) {
            Some(place) => place,
            None => {
                if self.to_mx.len() >= LEGS_LIMIT {
                    self.to_mx.pop_front();
                }
                self.to_mx.push_back(Timing { leg, ..Timing::default() });
                self.to_mx.len() - 1
            }
        };
        &mut self.to_mx[place]
    }
}

/// Matches replies to commands, in order.
#[derive(Debug, Default)]
struct Timing {
    leg: u16,
    waiting: VecDeque<(String, u64)>,
    /// When the connection stood or the last reply came: nobody answers a command before the one in front of it.
    quiet_since: u64,
}

impl Timing {
    fn sent(&mut self, verb: String, at_us: u64) {
        if self.waiting.len() < IN_FLIGHT_LIMIT {
            self.waiting.push_back((verb, at_us));
        }
    }

    fn answered(&mut self, at_us: u64) -> (String, u64) {
        // A reply that answers nothing is the greeting, or a server's last words.
        let (verb, sent_us) = self.waiting.pop_front().unwrap_or((String::new(), self.quiet_since));
        if self.waiting.is_empty() {
            // A session that waits owns no more than it needs.
            self.waiting = VecDeque::new();
        }
        let took_us = at_us.saturating_sub(sent_us.max(self.quiet_since));
        self.quiet_since = at_us;
        (verb, took_us)
    }
}

/// The verb of a command, in upper case.
fn verb(line: &[u8]) -> String {
    let word = line.split(|byte| matches!(byte, b' ' | b'\t' | b':' | b'\r' | b'\n')).next().unwrap_or_default();
    String::from_utf8_lossy(&word[..word.len().min(VERB_LIMIT)]).to_ascii_uppercase()
}

/// What may be kept of a command that carries credentials.
fn redacted(verb: &str, line: &[u8]) -> Option<String> {
    if verb != "AUTH" {
        return None;
    }
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let kept: Vec<&str> = words.by_ref().take(2).collect();
    Some(if words.next().is_some() { format!("{} [redacted]", kept.join(" ")) } else { kept.join(" ") })
}

/// The enhanced status code (RFC 2034) in front of a reply's text.
#[must_use]
pub fn enhanced(text: &str) -> Option<&str> {
    let word = text.split([' ', '\n']).next()?;
    let mut parts = word.split('.');
    let class = parts.next()?;
    let number =
        |part: Option<&str>| part.is_some_and(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()));
    let well_formed =
        matches!(class, "2" | "4" | "5") && number(parts.next()) && number(parts.next()) && parts.next().is_none();
    well_formed.then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_timed_from_its_command_or_the_reply_before_it() {
        let mut timing = Timing { quiet_since: 100, ..Timing::default() };
        assert_eq!(timing.answered(250), (String::new(), 150), "greeting: since the connection stood");
        timing.sent("MAIL".into(), 300);
        timing.sent("RCPT".into(), 310);
        assert_eq!(timing.answered(700), ("MAIL".into(), 400));
        assert_eq!(timing.answered(750), ("RCPT".into(), 50), "not 440: it stood behind MAIL");
        timing.sent("DATA".into(), 2_000);
        assert_eq!(timing.answered(2_100), ("DATA".into(), 100));
    }

    #[test]
    fn a_flood_of_commands_is_not_remembered() {
        let mut timing = Timing::default();
        for _ in 0..10 * IN_FLIGHT_LIMIT {
            timing.sent("NOOP".into(), 1);
        }
        assert_eq!(timing.waiting.len(), IN_FLIGHT_LIMIT);
    }

    #[test]
    fn verbs_are_cut_out() {
        for (line, expected) in [
            (&b"mail FROM:<a@b>"[..], "MAIL"),
            (b"RCPT TO:<a@b>", "RCPT"),
            (b".", "."),
            (b"", ""),
            (b"XXXXXXXXXXXXXXXXXXXXXXXXXXXXXX", "XXXXXXXXXXXXXXXXXXXX"),
        ] {
            assert_eq!(verb(line), expected);
        }
    }

    #[test]
    fn credentials_are_not_kept() {
        assert_eq!(redacted("AUTH", b"AUTH PLAIN AGFsaWNlAHNlY3JldA=="), Some("AUTH PLAIN [redacted]".into()));
        assert_eq!(redacted("AUTH", b"auth login"), Some("auth login".into()));
        assert_eq!(redacted("MAIL", b"MAIL FROM:<a@b>"), None);
    }

    #[test]
    fn enhanced_codes_are_recognised() {
        assert_eq!(enhanced("5.7.606 Access denied"), Some("5.7.606"));
        assert_eq!(enhanced("2.1.5\nx"), Some("2.1.5"));
        for text in ["", "Ok", "3.0.0 x", "5.7 x", "5.7.1.2 x", "5..1 x", "5.7.1234 x", "1.2.3 x"] {
            assert_eq!(enhanced(text), None, "{text}");
        }
    }
}
