//! Which command a reply answers, and how long that took.

use std::{collections::VecDeque, fmt, ops::Deref};

/// Commands in flight that are remembered for timing. A longer pipeline is timed wrongly rather than remembered.
const IN_FLIGHT_LIMIT: usize = 1_000;
/// Room for commands in flight to the MX that a session keeps while it waits: each mail has as many again.
pub(super) const IN_FLIGHT_KEPT: usize = 4;
/// Longest verb kept.
const VERB_LIMIT: usize = 20;

/// A verb, in upper case. Not a `String`: every command and reply has one.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Word {
    length: u8,
    letters: [u8; VERB_LIMIT],
}

impl Word {
    /// One in upper case, no longer than any that is kept.
    const fn usual(verb: &str) -> Self {
        let (verb, mut letters, mut n) = (verb.as_bytes(), [0; VERB_LIMIT], 0);
        while n < verb.len() {
            letters[n] = verb[n];
            n += 1;
        }
        Self { length: n as u8, letters }
    }

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

/// Verbs that sessions consist of; the end of data among them, and those of every mail first.
const USUAL: [Word; 15] = [
    Word::usual("."),
    Word::usual("MAIL"),
    Word::usual("RCPT"),
    Word::usual("DATA"),
    Word::usual("BDAT"),
    Word::usual("RSET"),
    Word::usual("QUIT"),
    Word::usual("NOOP"),
    Word::usual("EHLO"),
    Word::usual("HELO"),
    Word::usual("STARTTLS"),
    Word::usual("AUTH"),
    Word::usual("VRFY"),
    Word::usual("LHLO"),
    Word::usual("XCLIENT"),
];

/// A command in flight: its verb by its place among the usual ones, and when it was sent. A session that waits keeps room for some.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent(u64);

impl Sent {
    const ODD: u64 = 0xff;

    fn new(verb: &Word, at_us: u64) -> Self {
        let place = USUAL.iter().position(|usual| usual == verb).map_or(Self::ODD, |place| place as u64);
        // Two thousand years fit.
        Self(at_us << 8 | place)
    }

    fn at_us(self) -> u64 {
        self.0 >> 8
    }

    /// `None`: an unusual one.
    fn verb(self) -> Option<Word> {
        let place = usize::try_from(self.0 & Self::ODD).ok()?;
        USUAL.get(place).copied()
    }
}

/// Matches replies to commands, in order.
#[derive(Debug, Default)]
pub(super) struct Timing {
    pub(super) leg: u16,
    pub(super) waiting: VecDeque<Sent>,
    /// Those among them that are unusual.
    pub(super) odd: Option<Box<Odd>>,
    /// When the connection stood or the last reply came: nobody answers a command before the one in front of it.
    pub(super) quiet_since: u64,
}

#[derive(Debug, Default)]
pub(super) struct Odd(VecDeque<Word>);

impl Timing {
    pub(super) fn sent(&mut self, verb: Word, at_us: u64) {
        if self.waiting.len() < IN_FLIGHT_LIMIT {
            let sent = Sent::new(&verb, at_us);
            self.waiting.push_back(sent);
            if sent.verb().is_none() {
                self.odd.get_or_insert_default().0.push_back(verb);
            }
        }
    }

    pub(super) fn answered(&mut self, at_us: u64) -> (Word, u64) {
        // A reply that answers nothing is the greeting, or a server's last words.
        let (verb, sent_us) = match self.waiting.pop_front() {
            Some(sent) => (sent.verb().or_else(|| self.odd.as_mut()?.0.pop_front()), sent.at_us()),
            None => (None, self.quiet_since),
        };
        let verb = verb.unwrap_or_default();
        // Few commands end at the proxy.
        let kept = if self.leg == 0 { 0 } else { IN_FLIGHT_KEPT };
        if self.waiting.is_empty() && self.waiting.capacity() > kept {
            // A session that waits owns no more than it needs.
            (self.waiting, self.odd) = (VecDeque::new(), None);
        }
        let took_us = at_us.saturating_sub(sent_us.max(self.quiet_since));
        self.quiet_since = at_us;
        (verb, took_us)
    }
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
    fn unusual_verbs_keep_their_place() {
        let mut timing = Timing { leg: 1, ..Timing::default() };
        let verbs = ["MAIL", "XYZZY", ".", "PLUGH", "QUIT"].map(|verb| Word::of(verb.as_bytes()));
        (1..).zip(verbs).for_each(|(at_us, verb)| timing.sent(verb, at_us * 100));
        for (at_us, verb) in (1..).zip(verbs) {
            assert_eq!(timing.answered(at_us * 100 + 10), (verb, 10));
        }
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
}
