//! What one session writes with: it numbers exchanges, redacts credentials, and measures how long the MX took.
//!
//! ```text
//! let mut log = recorder.session(SessionStart { … });
//! log.dialled(1, Dialled { … });
//! log.connected(1, at_us);
//! log.command(1, at_us, Dir::CommandPassed, b"RCPT TO:<bob@mx.example>");
//! log.reply(1, at_us, Dir::ReplyPassed, 250, "2.1.5 Ok");
//! log.end(at_us, Outcome::Delivered, bytes);
//! ```

use std::{borrow::Cow, collections::VecDeque, fmt, ops::Deref, sync::Arc};

use crate::{
    Dir, Event, Exchange, Message, Outcome, PolicyFacts, Recipient, Record, SessionEnd, SessionId, SessionStart,
    TlsFacts,
    desk::Desk,
    detect::Finding,
    record::{Dialled, LegNews},
    sheet::Sheet,
    text::said,
};

/// Commands in flight that are remembered for timing. A longer pipeline is timed wrongly rather than remembered.
const IN_FLIGHT_LIMIT: usize = 1_000;
/// Room for commands in flight that a session keeps while it waits.
const IN_FLIGHT_KEPT: usize = 4;
/// Legs whose commands are remembered.
const LEGS_LIMIT: usize = 4;
/// Longest verb kept.
const VERB_LIMIT: usize = 20;

/// A reply of the MX, matched to its command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// The verb it answers; `.` is the end of data, empty the greeting.
    pub verb: Word,
    /// Since the command was sent or the previous reply came, whichever was later.
    pub took_us: u64,
}

/// The writing end of one session's log. Nothing here waits for anything.
#[derive(Debug)]
pub struct SessionLog {
    /// None: recording is off, and only times are kept.
    to: Option<(Arc<Desk>, Arc<Sheet>)>,
    id: SessionId,
    seq: u32,
    events: u32,
    /// By leg; the newest last.
    to_mx: VecDeque<Timing>,
    to_proxy: Timing,
}

impl SessionLog {
    pub(crate) fn begin(desk: Option<Arc<Desk>>, start: SessionStart) -> Self {
        let id = start.id;
        let to = desk.map(|desk| (desk, Sheet::new(id)));
        let mut log = Self { to, id, seq: 0, events: 0, to_mx: VecDeque::new(), to_proxy: Timing::default() };
        log.write(&Record::Start(Cow::Owned(start)));
        log
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// A dial begins. Each has its own commands that wait for a reply.
    pub fn dialled(&mut self, leg: u16, dialled: Dialled<'_>) {
        self.of_leg(leg).quiet_since = dialled.at_us;
        self.write(&Record::Leg(leg, LegNews::Dialled(dialled)));
    }

    /// Its connection stands.
    pub fn connected(&mut self, leg: u16, at_us: u64) {
        let timing = self.of_leg(leg);
        timing.quiet_since = timing.quiet_since.max(at_us);
        self.write(&Record::Leg(leg, LegNews::Connected(at_us)));
    }

    /// TLS is established on it.
    pub fn secured(&mut self, leg: u16, facts: &TlsFacts) {
        self.write(&Record::Leg(leg, LegNews::Secured(Cow::Borrowed(facts))));
    }

    /// The MX announced its extensions; the last time counts.
    pub fn offered(&mut self, leg: u16, lines: &[String]) {
        self.write(&Record::Leg(leg, LegNews::Offered(Cow::Borrowed(lines))));
    }

    /// It failed, or something was wrong with it.
    pub fn failed(&mut self, leg: u16, error: &str) {
        self.write(&Record::Leg(leg, LegNews::Failed(error)));
    }

    /// What its TLS was worth to each recipient domain; all of them every time.
    pub fn judged(&mut self, leg: u16, policies: &[PolicyFacts]) {
        self.write(&Record::Leg(leg, LegNews::Judged(Cow::Borrowed(policies))));
    }

    /// Records a command line, without its CRLF. `.` stands for the end of data.
    pub fn command(&mut self, leg: u16, at_us: u64, dir: Dir, line: &[u8]) {
        let verb = Word::of(line);
        self.timing(leg, dir).sent(verb, at_us);
        let text = redacted(&verb, line).map_or_else(|| said(line), Cow::Owned);
        self.exchange(Exchange { seq: 0, leg, at_us, dir, verb: &verb, code: None, text: &text, took_us: None });
    }

    /// Records what happened between what was said.
    pub fn note(&mut self, leg: u16, at_us: u64, text: &str) {
        let text = said(text.as_bytes());
        self.exchange(Exchange {
            seq: 0,
            leg,
            at_us,
            dir: Dir::Noted,
            verb: "",
            code: None,
            text: &text,
            took_us: None,
        });
    }

    /// Records a whole reply: its lines without their codes, separated by `\n`. Says what a reply of the MX answers, and how long it
    /// took.
    pub fn reply(&mut self, leg: u16, at_us: u64, dir: Dir, code: u16, lines: &str) -> Option<Timed> {
        let (verb, took_us) = self.timing(leg, dir).answered(at_us);
        let text = if &*verb == "AUTH" && code == 334 { "[redacted]".into() } else { said(lines.as_bytes()) };
        let took_us = dir.from_mx().then_some(took_us);
        self.exchange(Exchange { seq: 0, leg, at_us, dir, verb: &verb, code: Some(code), text: &text, took_us });
        took_us.map(|took_us| Timed { verb, took_us })
    }

    /// Records something that was noticed about the MX.
    pub fn event(&mut self, leg: u16, at_us: u64, operator: &str, finding: &Finding) {
        self.events = self.events.saturating_add(1);
        let Finding { kind, egress, verb, code, list, evidence } = finding;
        let evidence = evidence.to_string();
        self.write(&Record::Event(Event {
            n: self.events,
            leg,
            at_us,
            kind: *kind,
            operator,
            egress: *egress,
            verb,
            code: *code,
            list: list.as_deref(),
            evidence: &evidence,
        }));
    }

    /// Records a mail transaction; again when more is known of it.
    pub fn message(&mut self, message: &Message) {
        self.write(&Record::Message(Cow::Borrowed(message)));
    }

    /// Records a recipient; again when more is known of it.
    pub fn recipient(&mut self, recipient: Recipient<'_>) {
        self.write(&Record::Recipient(recipient));
    }

    /// Records the end.
    pub fn end(mut self, at_us: u64, outcome: Outcome, bytes: u64) {
        self.write(&Record::End(SessionEnd { at_us, outcome, bytes }));
    }

    fn exchange(&mut self, exchange: Exchange<'_>) {
        self.seq = self.seq.saturating_add(1);
        self.write(&Record::Exchange(Exchange { seq: self.seq, ..exchange }));
    }

    fn write(&mut self, record: &Record<'_>) {
        if let Some((desk, sheet)) = &self.to {
            sheet.write(record, desk);
        }
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
                // Most sessions have one leg.
                self.to_mx.reserve_exact(1);
                self.to_mx.push_back(Timing { leg, ..Timing::default() });
                self.to_mx.len() - 1
            }
        };
        &mut self.to_mx[place]
    }
}

impl Drop for SessionLog {
    fn drop(&mut self) {
        if let Some((desk, sheet)) = &self.to {
            sheet.finish(desk);
        }
    }
}

/// A verb, in upper case. Not a `String`: every command and reply has one.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Word {
    length: u8,
    letters: [u8; VERB_LIMIT],
}

impl Word {
    /// The verb of a command line; what is not ASCII shows as `?`.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t' | b':' | b'\r' | b'\n'));
        let word = &line[..end.unwrap_or(line.len()).min(VERB_LIMIT)];
        let mut letters = [0; VERB_LIMIT];
        for (letter, byte) in letters.iter_mut().zip(word) {
            *letter = if byte.is_ascii() && *byte != 0 { byte.to_ascii_uppercase() } else { b'?' };
        }
        Self { length: word.len() as u8, letters }
    }
}

impl Deref for Word {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.letters[..usize::from(self.length)]).expect("letters are ASCII")
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Matches replies to commands, in order.
#[derive(Debug, Default)]
struct Timing {
    leg: u16,
    waiting: VecDeque<(Word, u64)>,
    /// When the connection stood or the last reply came: nobody answers a command before the one in front of it.
    quiet_since: u64,
}

impl Timing {
    fn sent(&mut self, verb: Word, at_us: u64) {
        if self.waiting.len() < IN_FLIGHT_LIMIT {
            self.waiting.push_back((verb, at_us));
        }
    }

    fn answered(&mut self, at_us: u64) -> (Word, u64) {
        // A reply that answers nothing is the greeting, or a server's last words.
        let (verb, sent_us) = self.waiting.pop_front().unwrap_or((Word::default(), self.quiet_since));
        if self.waiting.is_empty() && self.waiting.capacity() > IN_FLIGHT_KEPT {
            // A session that waits owns no more than it needs.
            self.waiting = VecDeque::new();
        }
        let took_us = at_us.saturating_sub(sent_us.max(self.quiet_since));
        self.quiet_since = at_us;
        (verb, took_us)
    }
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
        let [mail, rcpt, data] = [&b"MAIL"[..], b"RCPT", b"DATA"].map(Word::of);
        assert_eq!(timing.answered(250), (Word::default(), 150), "greeting: since the connection stood");
        timing.sent(mail, 300);
        timing.sent(rcpt, 310);
        assert_eq!(timing.answered(700), (mail, 400));
        assert_eq!(timing.answered(750), (rcpt, 50), "not 440: it stood behind MAIL");
        timing.sent(data, 2_000);
        assert_eq!(timing.answered(2_100), (data, 100));
    }

    #[test]
    fn a_flood_of_commands_is_not_remembered() {
        let mut timing = Timing::default();
        for _ in 0..10 * IN_FLIGHT_LIMIT {
            timing.sent(Word::of(b"NOOP"), 1);
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
            (b"n\xc3\xb6\0p x", "N???P"),
        ] {
            assert_eq!(&*Word::of(line), expected);
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
