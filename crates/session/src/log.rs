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

mod timing;

use std::{borrow::Cow, sync::Arc};

use crate::{
    Dir, Event, Exchange, Mail, Message, Outcome, PolicyFacts, Recipient, Record, SessionEnd, SessionId, SessionStart,
    TlsFacts,
    desk::Desk,
    detect::Finding,
    record::{Dialled, LegNews},
    sheet::Sheet,
    text::{bounded, said},
};
use timing::Timing;
pub use timing::Word;

/// Legs whose commands are remembered.
const LEGS_LIMIT: usize = 4;

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
    /// Of the leg that is spoken of.
    to_mx: Timing,
    /// Of others, which most sessions do not have.
    others: Vec<Timing>,
    to_proxy: Timing,
}

impl SessionLog {
    pub(crate) fn begin(desk: Option<Arc<Desk>>, start: SessionStart) -> Self {
        let id = start.id;
        let to = desk.map(|desk| (desk, Sheet::new(id)));
        let (to_mx, to_proxy) = Default::default();
        let mut log = Self { to, id, seq: 0, events: 0, to_mx, others: Vec::new(), to_proxy };
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

    /// Nothing is dialled: the connection of the session `before` goes on.
    pub fn taken_over(&mut self, leg: u16, before: SessionId) {
        self.write(&Record::Leg(leg, LegNews::TakenOver(before)));
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
        let text = bounded(text);
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
        let text = if &*verb == "AUTH" && code == 334 { "[redacted]".into() } else { bounded(lines) };
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

    /// Records a mail that was delivered, and its recipients; once.
    pub fn mail(&mut self, mail: Mail<'_>) {
        self.write(&Record::Mail(mail));
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
        if self.to_mx.leg != leg {
            match self.others.iter_mut().find(|timing| timing.leg == leg) {
                Some(timing) => std::mem::swap(&mut self.to_mx, timing),
                None => {
                    let before = std::mem::replace(&mut self.to_mx, Timing { leg, ..Timing::default() });
                    self.set_aside(before);
                }
            }
        }
        &mut self.to_mx
    }

    fn set_aside(&mut self, timing: Timing) {
        // Legs are counted from 1.
        if timing.leg == 0 {
            return;
        }
        if self.others.len() + 1 >= LEGS_LIMIT
            && let Some((oldest, _)) = self.others.iter().enumerate().min_by_key(|(_, timing)| timing.leg)
        {
            self.others.swap_remove(oldest);
        }
        self.others.push(timing);
    }
}

impl Drop for SessionLog {
    fn drop(&mut self) {
        if let Some((desk, sheet)) = &self.to {
            sheet.finish(desk);
        }
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
    let [b'2' | b'4' | b'5', b'.', rest @ ..] = text.as_bytes() else { return None };
    let (subject, rest) = number(rest)?;
    let (detail, rest) = number(rest.strip_prefix(b".")?)?;
    let end = 2 + subject + 1 + detail;
    matches!(rest.first(), None | Some(b' ' | b'\n')).then(|| &text[..end])
}

/// How many digits of a number there are, one to three, and what is behind them.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=3).contains(&digits).then(|| (digits, &bytes[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Door, log::timing::IN_FLIGHT_KEPT};

    fn log() -> SessionLog {
        let start = SessionStart {
            id: SessionId::new(),
            tenant: "acme".parse().unwrap(),
            cell: None,
            door: Door::Redirect,
            mx: ([192, 0, 2, 1], 25).into(),
            mx_name: None,
            mx_operator: None,
            at: std::time::SystemTime::now(),
        };
        SessionLog::begin(None, start)
    }

    #[test]
    fn a_session_that_waits_keeps_room_for_a_mail_to_the_mx_and_no_more() {
        let mut log = log();
        log.of_leg(1).quiet_since = 7;
        for dir in [Dir::CommandEnded, Dir::CommandPassed] {
            (0..50).for_each(|n| log.command(1, n, dir, b"NOOP"));
        }
        for dir in [Dir::AnsweredByProxy, Dir::ReplyPassed] {
            (0..50).for_each(|n| _ = log.reply(1, n, dir, 250, "ok"));
        }
        log.command(1, 60, Dir::CommandPassed, b"NOOP");
        log.reply(1, 60, Dir::ReplyPassed, 250, "ok");
        assert_eq!((log.to_proxy.waiting.capacity(), log.others.capacity()), (0, 0));
        assert!(log.to_mx.waiting.capacity() <= IN_FLIGHT_KEPT);
    }

    #[test]
    fn legs_beyond_the_last_few_are_forgotten() {
        let mut log = log();
        for leg in 1..=10 {
            log.of_leg(leg).quiet_since = u64::from(leg);
        }
        assert_eq!([7, 8, 9, 10].map(|leg| log.of_leg(leg).quiet_since), [7, 8, 9, 10]);
        assert_eq!((log.of_leg(6).quiet_since, log.others.len()), (0, LEGS_LIMIT - 1));
        assert_eq!(log.of_leg(10).quiet_since, 10, "the oldest went");
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
