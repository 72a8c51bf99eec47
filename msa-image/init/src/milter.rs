//! The milter protocol, version 6, as far as Postfix and Sendmail speak it to one who adds and changes nothing: a machine without a socket.
//!
//! ```text
//!   MTA ── options ─▶ what we want to be told
//!       ── macros, MAIL ─▶ Event::Mail     ◀─ go on, or a refusal
//!       ── header fields, end ─▶ Event::Content ◀─ go on, or a refusal
//! ```
//!
//! A packet is its length (four bytes, big-endian), a command byte and data; texts in it end with NUL. It is told whose message it is by the
//! macro `{auth_authen}`, and keeps the fields that say who wrote it.

use thiserror::Error;
use warren_msa::mail::author::AUTHOR_FIELDS;
use warren_msa::mail::header::{Header, HeaderReader, MAX_HEADER};

/// The longest packet: more than Postfix's longest header field (`header_size_limit`), and its pieces of a body.
const MAX_PACKET: usize = 256 * 1024;
const VERSION: u32 = 6;

/// Steps that we need not be told of (SMFIP_NO…): CONNECT, HELO, RCPT, body, end of header, unknown commands, DATA.
const UNINTERESTING: u32 = 0x01 | 0x02 | 0x08 | 0x10 | 0x40 | 0x100 | 0x200;
/// Header fields want no answer (SMFIP_NR_HDR).
const SILENT_HEADER: u32 = 0x80;

const GO_ON: u8 = b'c';
const REFUSE: u8 = b'y';
const AUTHENTICATED: &[u8] = b"{auth_authen}";

/// What the MTA waits for an [`answer`](Milter::answer) to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// MAIL, with the size that the client announced.
    Mail {
        /// In bytes; 0 if it said none.
        size: u64,
    },
    /// The message is whole.
    Content,
}

/// Nothing sensible can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Broken {
    /// A packet over [`MAX_PACKET`], or without a command.
    #[error("a milter packet of {0} bytes")]
    Length(usize),
    /// A packet whose data is not what its command asks for.
    #[error("a milter packet of kind {0:#04x} cannot be read")]
    Data(u8),
}

/// The fields that say who wrote a message cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the fields that name its author cannot be read")]
pub struct Unreadable;

/// One connection of the MTA.
#[derive(Debug, Default)]
pub struct Milter {
    input: Vec<u8>,
    output: Vec<u8>,
    silent_header: bool,
    /// What the macros of the MAIL to come have said.
    told: Option<String>,
    login: Option<String>,
    /// The author's fields as they would stand in a message.
    fields: Vec<u8>,
    count: usize,
    over: bool,
    gone: bool,
}

impl Milter {
    /// Takes in what the MTA said.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// What it said that wants a decision; `None`: more must come first.
    ///
    /// # Errors
    /// For good.
    pub fn next_event(&mut self) -> Result<Option<Event>, Broken> {
        while let Some(packet) = self.packet()? {
            let (Some(command), data) = (packet.first().copied(), packet.get(1..).unwrap_or_default()) else {
                return Err(Broken::Length(0));
            };
            if let Some(event) = self.take(command, data).ok_or(Broken::Data(command))? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Answers the last event: go on, or refuse with this reply (`550 5.7.1 text`), which must not contain `%`.
    pub fn answer(&mut self, refusal: Option<&str>) {
        match refusal {
            None => self.say(GO_ON, b""),
            Some(reply) => self.say(REFUSE, &[reply.as_bytes(), b"\0"].concat()),
        }
    }

    /// What is to be said to the MTA.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether the MTA said goodbye.
    pub fn is_over(&self) -> bool {
        self.gone
    }

    /// Whose message it is.
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// Those fields of the message that say who wrote it.
    ///
    /// # Errors
    /// When there is no telling where one ends and the next begins.
    pub fn authors(&self) -> Result<Header, Unreadable> {
        let mut reader = HeaderReader::default();
        let whole = [&self.fields, b"\r\n".as_slice()].concat();
        let split = reader.push(&whole).ok().flatten().ok_or(Unreadable)?;
        let as_told = !self.over && split.rest == b"\r\n" && split.header.fields().len() == self.count;
        if as_told { Ok(split.header) } else { Err(Unreadable) }
    }

    fn packet(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        let Some((length, rest)) = self.input.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if !(1..=MAX_PACKET).contains(&length) {
            return Err(Broken::Length(length));
        }
        let Some(packet) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.input.drain(..4 + length);
        Ok(Some(packet))
    }

    /// `None`: it cannot be read.
    fn take(&mut self, command: u8, data: &[u8]) -> Option<Option<Event>> {
        match command {
            b'O' => self.options(data)?,
            b'D' => self.macros(data)?,
            b'M' => {
                self.forget();
                self.login = self.told.take();
                return Some(Some(Event::Mail { size: announced(data)? }));
            }
            b'L' => {
                self.field(data)?;
                if !self.silent_header {
                    self.say(GO_ON, b"");
                }
            }
            b'E' => return Some(Some(Event::Content)),
            // The message is given up; the session is over, and the connection goes on.
            b'A' | b'K' => self.forget(),
            b'Q' => self.gone = true,
            // CONNECT, HELO, RCPT, DATA, end of header, body, unknown: of MTAs that cannot keep them to themselves.
            b'C' | b'H' | b'R' | b'T' | b'N' | b'B' | b'U' => self.say(GO_ON, b""),
            _ => return None,
        }
        Some(None)
    }

    fn options(&mut self, data: &[u8]) -> Option<()> {
        let number = |at: usize| Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?));
        let (version, steps) = (number(0)?, number(8)?);
        let wanted = steps & (UNINTERESTING | SILENT_HEADER);
        self.silent_header = wanted & SILENT_HEADER != 0;
        let told = [version.min(VERSION), 0, wanted].map(u32::to_be_bytes).concat();
        self.say(b'O', &told);
        Some(())
    }

    /// The macros of a step. Those of MAIL say who sends, or by their silence that nobody knows.
    fn macros(&mut self, data: &[u8]) -> Option<()> {
        let (step, rest) = data.split_first()?;
        if *step == b'M' {
            let texts = texts(rest)?;
            let mut pairs = texts.chunks_exact(2);
            let login = pairs.find(|pair| pair[0] == AUTHENTICATED).map(|pair| String::from_utf8(pair[1].to_vec()));
            self.told = login.transpose().ok()?;
        }
        Some(())
    }

    fn field(&mut self, data: &[u8]) -> Option<()> {
        let texts = texts(data)?;
        let [name, value] = texts.as_slice() else { return None };
        let of_author = AUTHOR_FIELDS.iter().find(|field| name.trim_ascii().eq_ignore_ascii_case(field.as_bytes()));
        let Some(name) = of_author else { return Some(()) };
        self.count += 1;
        self.over |= self.fields.len() + name.len() + value.len() > MAX_HEADER / 2;
        if !self.over {
            self.fields.extend_from_slice(name.as_bytes());
            self.fields.extend_from_slice(b": ");
            // Folds come with LF.
            for (number, line) in value.split(|byte| *byte == b'\n').enumerate() {
                if number > 0 {
                    self.fields.extend_from_slice(b"\r\n");
                }
                self.fields.extend_from_slice(line);
            }
            self.fields.extend_from_slice(b"\r\n");
        }
        Some(())
    }

    fn forget(&mut self) {
        self.login = None;
        self.fields.clear();
        self.count = 0;
        self.over = false;
    }

    fn say(&mut self, command: u8, data: &[u8]) {
        let length = u32::try_from(data.len() + 1).expect("what we say is short");
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.push(command);
        self.output.extend_from_slice(data);
    }
}

/// Texts, each ended by NUL.
fn texts(data: &[u8]) -> Option<Vec<&[u8]>> {
    if data.is_empty() {
        return Some(Vec::new());
    }
    Some(data.strip_suffix(b"\0")?.split(|byte| *byte == 0).collect())
}

/// The SIZE that MAIL gives (RFC 1870).
fn announced(data: &[u8]) -> Option<u64> {
    let size = |text: &&[u8]| {
        let (key, value) = std::str::from_utf8(text).ok()?.split_once('=')?;
        key.eq_ignore_ascii_case("SIZE").then(|| value.parse().ok()).flatten()
    };
    Some(texts(data)?.iter().skip(1).find_map(size).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(command: u8, data: &[u8]) -> Vec<u8> {
        let mut milter = Milter::default();
        milter.say(command, data);
        milter.take_output()
    }

    fn options(steps: u32) -> Vec<u8> {
        packet(b'O', &[6, 0x1ff, steps].map(u32::to_be_bytes).concat())
    }

    fn mail(login: &str) -> Vec<u8> {
        let macros = format!("Mi\0QUEUEID\0{{auth_type}}\0XCLIENT\0{{auth_authen}}\0{login}\0");
        [packet(b'D', macros.as_bytes()), packet(b'M', b"<alice@acme.example>\0SIZE=1234\0BODY=8BITMIME\0")].concat()
    }

    fn field(name: &str, value: &str) -> Vec<u8> {
        packet(b'L', format!("{name}\0{value}\0").as_bytes())
    }

    fn events(milter: &mut Milter, bytes: &[u8]) -> Vec<Event> {
        milter.receive(bytes);
        let mut events = Vec::new();
        while let Some(event) = milter.next_event().unwrap() {
            milter.answer(None);
            events.push(event);
        }
        events
    }

    #[test]
    fn a_message_as_postfix_tells_it() {
        let mut milter = Milter::default();
        assert_eq!(events(&mut milter, &options(0x1f_ffff)), []);
        assert_eq!(milter.take_output(), options_reply(UNINTERESTING | SILENT_HEADER));
        assert_eq!(events(&mut milter, &mail("alice@acme.example")), [Event::Mail { size: 1234 }]);
        assert_eq!(milter.take_output(), packet(b'c', b""));
        let message = [
            field("Subject", "hi"),
            field("from", "Alice\n <alice@acme.example>"),
            field("SENDER ", "bob@acme.example"),
            packet(b'E', b""),
        ];
        assert_eq!(events(&mut milter, &message.concat()), [Event::Content]);
        assert_eq!(milter.take_output(), packet(b'c', b""), "header fields are not answered");
        assert_eq!(milter.login(), Some("alice@acme.example"));
        let authors = milter.authors().unwrap();
        assert_eq!(authors.bytes(), b"From: Alice\r\n <alice@acme.example>\r\nSender: bob@acme.example\r\n");

        // The next one of the session is somebody else's, or nobody's.
        events(&mut milter, &[packet(b'A', b""), mail("carol@acme.example")].concat());
        assert_eq!((milter.login(), milter.authors().unwrap()), (Some("carol@acme.example"), Header::default()));
        events(&mut milter, &packet(b'M', b"<x@y>\0"));
        assert_eq!(milter.login(), None);
        assert!(!milter.is_over());
        events(&mut milter, &packet(b'Q', b""));
        assert!(milter.is_over());
    }

    fn options_reply(steps: u32) -> Vec<u8> {
        packet(b'O', &[6, 0, steps].map(u32::to_be_bytes).concat())
    }

    #[test]
    fn one_that_keeps_nothing_to_itself_is_answered_each_time() {
        let mut milter = Milter::default();
        events(&mut milter, &options(0));
        assert_eq!(milter.take_output(), options_reply(0));
        let steps = [packet(b'C', b"x\0U"), packet(b'H', b"x\0"), packet(b'R', b"<x@y>\0"), field("A", "b")];
        events(&mut milter, &steps.concat());
        assert_eq!(milter.take_output(), packet(b'c', b"").repeat(4));
    }

    #[test]
    fn refusals_are_replies() {
        let mut milter = Milter::default();
        milter.answer(Some("452 4.3.1 no room at present"));
        assert_eq!(milter.take_output(), packet(b'y', b"452 4.3.1 no room at present\0"));
    }

    #[test]
    fn fields_that_run_into_each_other_are_no_authors() {
        for value in ["alice@acme.example\nSender: eve@evil.example", "alice@acme.example\n\nx", "alice@acme.example\n"]
        {
            let mut milter = Milter::default();
            events(&mut milter, &field("From", value));
            assert_eq!(milter.authors(), Err(Unreadable), "{value:?}");
        }
        let mut milter = Milter::default();
        for _ in 0..3 {
            events(&mut milter, &field("From", &"x".repeat(MAX_HEADER / 4)));
        }
        assert_eq!(milter.authors(), Err(Unreadable), "too long");
        assert!(milter.fields.len() <= MAX_HEADER / 2 + 100);
    }

    #[test]
    fn nonsense_ends_it() {
        for (bytes, broken) in [
            (vec![0, 0, 0, 0], Broken::Length(0)),
            (vec![0, 0xff, 0, 0], Broken::Length(0xff_0000)),
            (packet(b'Z', b""), Broken::Data(b'Z')),
            (packet(b'O', b"short"), Broken::Data(b'O')),
            (packet(b'L', b"From\0unfinished"), Broken::Data(b'L')),
            (packet(b'L', b"From\0a\0b\0"), Broken::Data(b'L')),
            (packet(b'D', b""), Broken::Data(b'D')),
            (packet(b'D', b"M{auth_authen}\0\xff\0"), Broken::Data(b'D')),
        ] {
            let mut milter = Milter::default();
            milter.receive(&bytes);
            assert_eq!(milter.next_event(), Err(broken), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn cut_anywhere_it_says_the_same(cuts in proptest::collection::vec(1usize..40, 1..20)) {
            let whole = [options(0x1f_ffff), mail("a@b"), field("From", "a@b"), packet(b'E', b""), packet(b'Q', b"")].concat();
            let (mut milter, mut seen, mut rest) = (Milter::default(), Vec::new(), whole.as_slice());
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                seen.extend(events(&mut milter, piece));
                rest = behind;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(seen, [Event::Mail { size: 1234 }, Event::Content]);
            prop_assert!(milter.is_over());
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut milter = Milter::default();
            milter.receive(&bytes);
            while let Ok(Some(_)) = milter.next_event() {
                milter.answer(None);
            }
        }
    }
}
