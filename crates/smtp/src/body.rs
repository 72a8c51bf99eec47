//! Message content on the wire.
//!
//! ```text
//!   relay:   wire ─▶ DataScanner ─▶ the same wire bytes, end recognised, nothing illegal passed on
//!   server:  wire ─▶ DataDecoder ─▶ content (dots unstuffed)
//!   client:  content ─▶ DataEncoder ─▶ wire (dots stuffed, end written on request)
//!   BDAT:    BdatCounter says how many of the next bytes are the chunk
//! ```
//!
//! A message ends at CRLF `.` CRLF and nowhere else. Bare CR and bare LF are faults of the whole
//! message (CVE-2023-51764..66): what follows is swallowed up to the legal end, never passed on.
//! Every other byte, NUL included, is content.

use memchr::memchr2;

/// A line end that RFC 5321 §2.3.8 forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BareLineEnd {
    /// CR that no LF follows.
    #[error("bare CR in the message")]
    Cr,
    /// LF that no CR precedes.
    #[error("bare LF in the message")]
    Lf,
}

/// Where in a line the scanner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    LineStart,
    /// Behind a dot that began the line.
    Dot,
    /// Behind a CR that followed such a dot.
    DotCr,
    Text,
    /// Behind a CR in or after text.
    Cr,
}

/// What one call of [`DataScanner::scan`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Goes out first: a CR that the call before held back.
    pub lead: &'static [u8],
    /// Goes out next; empty once a fault was found. A CR at its end is held back until its LF is
    /// seen, so that no illegal line end is ever passed on.
    pub pass: &'a [u8],
    /// How many bytes of the input belong to this message. Less than the input only at the end.
    pub taken: usize,
    /// The legal end was seen; it is part of `pass`.
    pub end: bool,
}

/// Content is looked at in blocks, of which most have nothing to be found in; where one has, in smaller ones, and byte by byte in the smallest.
const BLOCKS: [usize; 3] = [1_024, 256, QUIET];
/// Less than this is not worth it.
const QUIET: usize = 64;

/// Whether every CR of the block stands before an LF (or at its end), every LF behind a CR, and no dot at the beginning of a line, `before` being what stands
/// in front of it. Without branches, so that the compiler compares many bytes at once.
fn is_quiet(before: u8, block: &[u8]) -> bool {
    let Some((first, rest)) = block.split_first() else { return true };
    let odd = |before: u8, byte: u8| {
        let (cr, lf) = (u8::from(before == b'\r'), u8::from(byte == b'\n'));
        (cr ^ lf) | (u8::from(before == b'\n') & u8::from(byte == b'.'))
    };
    block.iter().zip(rest).fold(odd(before, *first), |all, (before, byte)| all | odd(*before, *byte)) == 0
}

/// How many bytes at the beginning are quiet, as far as blocks tell: within as many as the smallest behind them there is something to be found.
fn quiet_length(mut before: u8, bytes: &[u8]) -> usize {
    let mut at = 0;
    for size in BLOCKS {
        while bytes.len() - at >= QUIET {
            let block = &bytes[at..bytes.len().min(at + size)];
            if !is_quiet(before, block) {
                break;
            }
            at += block.len();
            before = bytes[at - 1];
        }
    }
    at
}

/// Recognises the end of a message without changing it.
#[derive(Debug, Clone)]
pub struct DataScanner {
    at: At,
    fault: Option<BareLineEnd>,
}

impl Default for DataScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl DataScanner {
    /// A scanner for the bytes behind `DATA` CRLF.
    pub fn new() -> Self {
        Self { at: At::LineStart, fault: None }
    }

    /// The first fault seen. The message must be refused, and the hop after us must not get an
    /// end of data.
    pub fn fault(&self) -> Option<BareLineEnd> {
        self.fault
    }

    /// Looks at the next bytes. After the end take a new scanner: this one remembers its fault.
    pub fn scan<'a>(&mut self, input: &'a [u8]) -> Scan<'a> {
        let faulty_before = self.fault.is_some();
        let held = matches!(self.at, At::Cr | At::DotCr) && !input.is_empty();
        let mut at = 0;
        let mut end = false;
        // Up to here everything was legal.
        let mut legal = None;
        // Up to here bytes are looked at one by one; for longer where blocks were of no use before.
        let (mut loud, mut longer) = (0, QUIET);
        while at < input.len() && !end {
            if at >= loud
                && input.len() - at >= QUIET
                && let Some(before) = self.before()
            {
                let quiet = quiet_length(before, &input[at..]);
                at += quiet;
                longer = if quiet > 0 { QUIET } else { BLOCKS[0].min(2 * longer) };
                loud = at + longer;
                if quiet > 0 {
                    self.at = match input[at - 1] {
                        b'\n' => At::LineStart,
                        b'\r' => At::Cr,
                        _ => At::Text,
                    };
                    continue;
                }
            }
            if self.at == At::Text {
                match memchr2(b'\r', b'\n', &input[at..]) {
                    Some(offset) => at += offset,
                    None => {
                        at = input.len();
                        break;
                    }
                }
            }
            let (next, fault) = self.step(input[at]);
            if let Some(fault) = fault {
                // The CR itself may stand in the input, one byte back, or be the one held.
                legal.get_or_insert(if fault == BareLineEnd::Cr { at.saturating_sub(1) } else { at });
                if self.fault.is_none() {
                    self.fault = Some(fault);
                }
            }
            end = next.is_none();
            self.at = next.unwrap_or(At::LineStart);
            at += 1;
        }
        let ends_in_cr = matches!(self.at, At::Cr | At::DotCr);
        let mut passed = legal.unwrap_or(if ends_in_cr { at.saturating_sub(1) } else { at });
        // A held CR whose LF did not come is not passed on.
        let held_was_bare = held && !matches!(input[0], b'\n');
        if faulty_before || held_was_bare {
            passed = 0;
        }
        let lead: &'static [u8] = if held && !faulty_before && !held_was_bare { b"\r" } else { b"" };
        Scan { lead, pass: &input[..passed], taken: at, end }
    }

    /// The byte that stands before the next one, or one that means as much; none behind a dot that may be the end.
    fn before(&self) -> Option<u8> {
        match self.at {
            At::LineStart => Some(b'\n'),
            At::Cr => Some(b'\r'),
            At::Text => Some(b' '),
            At::Dot | At::DotCr => None,
        }
    }

    /// One byte: the next position (`None`: the legal end) and the fault that this byte reveals.
    fn step(&self, byte: u8) -> (Option<At>, Option<BareLineEnd>) {
        match (self.at, byte) {
            (At::Cr, b'\n') => (Some(At::LineStart), None),
            (At::DotCr, b'\n') => (None, None),
            (At::Cr | At::DotCr, b'\r') => (Some(At::Cr), Some(BareLineEnd::Cr)),
            (At::Cr | At::DotCr, _) => (Some(At::Text), Some(BareLineEnd::Cr)),
            (At::Dot, b'\r') => (Some(At::DotCr), None),
            (_, b'\r') => (Some(At::Cr), None),
            // A bare LF begins no line: what follows it is still the same line.
            (_, b'\n') => (Some(At::Text), Some(BareLineEnd::Lf)),
            (At::LineStart, b'.') => (Some(At::Dot), None),
            (_, _) => (Some(At::Text), None),
        }
    }
}

/// Turns the wire form of a message into its content.
#[derive(Debug, Clone, Default)]
pub struct DataDecoder {
    scanner: DataScanner,
    unstuff: Unstuffer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Unstuffer {
    #[default]
    LineStart,
    /// A dot at the start of a line is withheld: stuffing, or the end.
    Dot,
    DotCr,
    Text,
    Cr,
}

impl DataDecoder {
    /// A decoder for the bytes behind `DATA` CRLF.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the content of the next bytes to `out`; says how many bytes belong to the message
    /// and whether it ended. With a [`fault`](Self::fault) nothing more is appended.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, bool) {
        let scan = self.scanner.scan(input);
        let (lead, pass, taken, end) = (scan.lead, scan.pass, scan.taken, scan.end);
        self.append(lead, out);
        self.append(pass, out);
        if end {
            self.unstuff = Unstuffer::LineStart;
        }
        (taken, end)
    }

    /// The first fault seen.
    pub fn fault(&self) -> Option<BareLineEnd> {
        self.scanner.fault()
    }

    /// `wire` is legal here: every CR is followed by its LF, now or in the next call.
    fn append(&mut self, wire: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        while at < wire.len() {
            match (self.unstuff, wire[at]) {
                (Unstuffer::Text, _) => {
                    let end = memchr::memchr(b'\r', &wire[at..]).map_or(wire.len(), |offset| at + offset);
                    out.extend_from_slice(&wire[at..end]);
                    at = end;
                    if at == wire.len() {
                        return;
                    }
                    out.push(b'\r');
                    self.unstuff = Unstuffer::Cr;
                }
                (Unstuffer::Cr, byte) => {
                    out.push(byte);
                    self.unstuff = Unstuffer::LineStart;
                }
                (Unstuffer::LineStart, b'.') => self.unstuff = Unstuffer::Dot,
                (Unstuffer::Dot, b'\r') => self.unstuff = Unstuffer::DotCr,
                // CRLF . CRLF: the end, which is no content.
                (Unstuffer::DotCr, _) => self.unstuff = Unstuffer::LineStart,
                (Unstuffer::LineStart, b'\r') => {
                    out.push(b'\r');
                    self.unstuff = Unstuffer::Cr;
                }
                (Unstuffer::LineStart | Unstuffer::Dot, byte) => {
                    out.push(byte);
                    self.unstuff = Unstuffer::Text;
                }
            }
            at += 1;
        }
    }
}

/// Turns content into its wire form.
#[derive(Debug, Clone)]
pub struct DataEncoder {
    at: At,
}

impl Default for DataEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl DataEncoder {
    /// An encoder at the start of a message.
    pub fn new() -> Self {
        Self { at: At::LineStart }
    }

    /// Appends the wire form of the next content. Content with a bare line end is refused: such a
    /// message cannot be sent by DATA, and must not be ended.
    pub fn encode(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), BareLineEnd> {
        let mut at = 0;
        while at < content.len() {
            if self.at == At::Cr && content[at] != b'\n' {
                return Err(BareLineEnd::Cr);
            }
            if self.at == At::LineStart && content[at] == b'.' {
                out.push(b'.');
            }
            let stop = memchr2(b'\r', b'\n', &content[at..]).map(|offset| at + offset);
            let Some(stop) = stop else {
                out.extend_from_slice(&content[at..]);
                self.at = At::Text;
                return Ok(());
            };
            out.extend_from_slice(&content[at..=stop]);
            match (content[stop], stop == at && self.at == At::Cr) {
                (b'\r', _) => self.at = At::Cr,
                (_, true) => self.at = At::LineStart,
                (_, false) => {
                    out.pop();
                    return Err(BareLineEnd::Lf);
                }
            }
            at = stop + 1;
        }
        Ok(())
    }

    /// Appends the end of data; a last line without CRLF gets one.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), BareLineEnd> {
        match self.at {
            At::LineStart => out.extend_from_slice(b".\r\n"),
            At::Cr | At::DotCr => return Err(BareLineEnd::Cr),
            At::Text | At::Dot => out.extend_from_slice(b"\r\n.\r\n"),
        }
        Ok(())
    }
}

/// Finds bare line ends in content that no dot ends (BDAT), split anywhere.
#[derive(Debug, Clone, Default)]
pub struct LineEndCheck {
    after_cr: bool,
}

impl LineEndCheck {
    /// A check at the start of a message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next content.
    pub fn check(&mut self, content: &[u8]) -> Result<(), BareLineEnd> {
        let mut at = 0;
        while at < content.len() {
            if self.after_cr {
                if content[at] != b'\n' {
                    return Err(BareLineEnd::Cr);
                }
                self.after_cr = false;
                at += 1;
                continue;
            }
            match memchr2(b'\r', b'\n', &content[at..]).map(|offset| at + offset) {
                None => return Ok(()),
                Some(stop) if content[stop] == b'\n' => return Err(BareLineEnd::Lf),
                Some(stop) => {
                    self.after_cr = true;
                    at = stop + 1;
                }
            }
        }
        Ok(())
    }

    /// Looks at the end of the message.
    pub fn finish(&self) -> Result<(), BareLineEnd> {
        if self.after_cr { Err(BareLineEnd::Cr) } else { Ok(()) }
    }
}

/// Counts the bytes of one BDAT chunk (RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BdatCounter {
    left: u64,
}

impl BdatCounter {
    /// A counter for a chunk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { left: size }
    }

    /// How many of the next `available` bytes are chunk; they count as taken.
    pub fn take(&mut self, available: usize) -> usize {
        let taken = usize::try_from(self.left).map_or(available, |left| left.min(available));
        self.left -= taken as u64;
        taken
    }

    /// Bytes still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether the whole chunk was taken.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
