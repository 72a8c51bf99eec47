//! Frames: what a session hands over at once, in one piece from its own buffer to the desk, the spool file and the store.
//!
//! ```text
//!   magic 4 │ check 4 │ length 4 │ records 4 │ session 10 │ records, `length` bytes
//!           └ CRC-32 of all behind it
//! ```
//!
//! A frame is read whole or not at all. Behind a damaged one the next is found by its magic.

use crate::{Record, SessionId, code, id};

/// Begins every frame. Its last byte is the version of the encoding: an older one's frames count as damage.
const MAGIC: [u8; 4] = [0xf7, b'W', b'S', 1];
/// Bytes in front of a frame's records.
pub(crate) const HEADER: usize = 16 + id::BYTES;
/// Longest frame believed in. A full buffer and the largest record stay far below.
pub(crate) const FRAME_LIMIT: usize = 1 << 20;

/// Bytes that a bundle has room for, from its first frame on. All have the same, and that is much: an allocator keeps blocks of middling sizes, a few of each for
/// each thread, and gives large ones back. What is not written to takes no memory.
const ROOM: usize = 1 << 20;

/// Fills in the header of `frame`, whose first [`HEADER`] bytes are kept free for it.
pub(crate) fn seal(frame: &mut [u8], session: SessionId, records: u32) {
    let length = u32::try_from(frame.len() - HEADER).expect("what one session hands over is bounded");
    frame[8..12].copy_from_slice(&length.to_le_bytes());
    frame[12..16].copy_from_slice(&records.to_le_bytes());
    frame[16..HEADER].copy_from_slice(&session.to_bytes());
    let check = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&check.to_le_bytes());
    frame[..4].copy_from_slice(&MAGIC);
}

/// What one session handed over at once.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    session: SessionId,
    count: u32,
    /// All of it, with its header.
    whole: &'a [u8],
}

/// What stands at the beginning of some bytes.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    Frame(Frame<'a>),
    /// A frame may begin here, and goes on behind the end.
    Cut,
    Damage,
}

impl<'a> Frame<'a> {
    /// Looks at the beginning of bytes that may be anything.
    pub(crate) fn find(bytes: &'a [u8]) -> Found<'a> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Found::Damage;
        }
        let Some(header) = Header::of(bytes) else { return Found::Cut };
        if header.length > FRAME_LIMIT {
            return Found::Damage;
        }
        let Some(whole) = bytes.get(..HEADER + header.length) else { return Found::Cut };
        if crc32fast::hash(&whole[8..]) != header.check {
            return Found::Damage;
        }
        Found::Frame(Self { session: header.session, count: header.records, whole })
    }

    /// The first of frames that are known to be whole.
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::of(bytes)?;
        let whole = bytes.get(..HEADER + header.length)?;
        Some(Self { session: header.session, count: header.records, whole })
    }

    /// Whose records these are.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Its records, in the order in which they were told.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let (session, mut rest) = (self.session, &self.whole[HEADER..]);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let record = code::read(&mut rest, session);
            if record.is_none() {
                // What is whole was written by a program like this one: only a fault of its code leads here.
                tracing::error!(%session, bytes = rest.len(), "session records that cannot be read");
            }
            record
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.whole.len()
    }
}

struct Header {
    check: u32,
    length: usize,
    records: u32,
    session: SessionId,
}

impl Header {
    fn of(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER>()?;
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut session = [0; id::BYTES];
        session.copy_from_slice(&header[16..]);
        Some(Self {
            check: number(4),
            length: usize::try_from(number(8)).ok()?,
            records: number(12),
            session: SessionId::from_bytes(session),
        })
    }
}

/// Where the next frame may begin, behind the first byte of `bytes`.
pub(crate) fn next_magic(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.get(1..)?;
    rest.windows(MAGIC.len()).position(|window| window == MAGIC).map(|at| at + 1)
}

/// Whole frames, one behind the other.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    bytes: Vec<u8>,
    records: u64,
}

impl Bundle {
    /// These records; those of one session that come one after the other share a frame.
    pub fn of<'a>(records: impl IntoIterator<Item = (SessionId, Record<'a>)>) -> Self {
        let mut bundle = Self::default();
        let mut records = records.into_iter().peekable();
        while let Some((session, record)) = records.next() {
            let (mut frame, mut count) = (vec![0; HEADER], 1);
            code::write(&mut frame, &record);
            while let Some((_, record)) = records.next_if(|(next, _)| *next == session && frame.len() < FRAME_LIMIT / 2)
            {
                code::write(&mut frame, &record);
                count += 1;
            }
            seal(&mut frame, session, count);
            bundle.push(&frame, count);
        }
        bundle
    }

    /// What each session handed over, in order.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        frames(&self.bytes)
    }

    /// How many records there are.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// How many bytes they take.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All frames, in pieces of at most `limit` bytes or of one frame, each with its records.
    pub(crate) fn pieces(&self, limit: usize) -> impl Iterator<Item = (&[u8], u64)> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (length, records) = head(rest, limit);
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            (!piece.is_empty()).then_some((piece, records))
        })
    }

    /// Forgets the first `length` bytes, whole frames with so many records.
    pub(crate) fn drop_front(&mut self, length: usize, records: u64) {
        self.bytes.drain(..length);
        self.records -= records;
    }

    /// Adds a sealed frame.
    pub(crate) fn push(&mut self, frame: &[u8], records: u32) {
        self.write(frame);
        self.records += u64::from(records);
    }

    pub(crate) fn push_frame(&mut self, frame: &Frame<'_>) {
        self.push(frame.whole, frame.count);
    }

    /// Moves all of `other` behind these, and keeps its place for as much again: who fills it has it at hand.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.write(&other.bytes);
        self.records += other.records;
        other.clear();
    }

    fn write(&mut self, frames: &[u8]) {
        if self.bytes.capacity() == 0 && !frames.is_empty() {
            self.bytes.reserve(frames.len().max(ROOM));
        }
        self.bytes.extend_from_slice(frames);
    }

    /// The frames within the first `limit` bytes, but one at least; the others stay.
    pub(crate) fn take(&mut self, limit: usize) -> Self {
        if self.len() <= limit {
            return std::mem::take(self);
        }
        let (end, records) = head(&self.bytes, limit);
        let mut rest = Self::default();
        rest.write(&self.bytes[end..]);
        rest.records = self.records - records;
        self.bytes.truncate(end);
        self.records = records;
        std::mem::replace(self, rest)
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.records = 0;
    }

    /// The place that there is, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives back what a burst took.
    pub(crate) fn shrink(&mut self) {
        if self.bytes.capacity() > ROOM && self.bytes.len() <= ROOM {
            let bytes = std::mem::take(&mut self.bytes);
            self.write(&bytes);
        }
    }
}

/// Frames that are known to be whole.
fn frames(mut rest: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let frame = Frame::first(rest)?;
        rest = &rest[frame.len()..];
        Some(frame)
    })
}

/// How many of the first bytes are whole frames, at most `limit` or one frame, and how many records they have.
fn head(bytes: &[u8], limit: usize) -> (usize, u64) {
    let (mut length, mut records) = (0, 0);
    for frame in frames(bytes) {
        if length > 0 && length + frame.len() > limit {
            break;
        }
        length += frame.len();
        records += u64::from(frame.count);
    }
    (length, records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, SessionEnd};

    fn end(n: u64) -> (SessionId, Record<'static>) {
        let id = SessionId::at(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 31), 7);
        (id, Record::End(SessionEnd { at_us: n, outcome: Outcome::Unused, bytes: n }))
    }

    fn ends(bundle: &Bundle) -> Vec<u64> {
        let records = bundle.frames().flat_map(|frame| frame.records());
        records.map(|record| if let Record::End(end) = record { end.at_us } else { panic!("{record:?}") }).collect()
    }

    fn many(count: u64) -> Bundle {
        let mut all = Bundle::default();
        (0..count).for_each(|n| all.append(&mut Bundle::of([end(n)])));
        all
    }

    #[test]
    fn what_is_taken_and_what_stays_is_all() {
        let mut rest = many(100);
        let (all, one) = (rest.clone(), rest.len() / 100);
        let mut taken = Vec::new();
        while !rest.is_empty() {
            let some = rest.take(one * 7 + 1);
            assert!(some.len() <= one * 7 + 1 && some.records() <= 7);
            taken.extend(ends(&some));
        }
        assert_eq!((taken, rest.records()), (ends(&all), 0));
        assert_eq!(many(3).take(1).records(), 1, "one at least");
        assert_eq!(
            all.pieces(one * 7 + 1).map(|(piece, records)| (piece.len() / one) as u64 - records).sum::<u64>(),
            0
        );
        assert_eq!(all.pieces(1).map(|(piece, _)| piece).collect::<Vec<_>>().concat(), all.bytes());
        let mut rest = all.clone();
        rest.drop_front(3 * one, 3);
        assert_eq!(ends(&rest), ends(&all)[3..]);
    }

    #[test]
    fn whoever_fills_a_bundle_keeps_its_place() {
        let (mut pending, mut filled) = (Bundle::default(), many(100));
        let (place, all) = (filled.capacity(), ends(&filled));
        pending.append(&mut filled);
        assert_eq!((ends(&pending), filled.len(), filled.capacity()), (all, 0, place));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let bundle = many(1);
        for at in 0..bundle.len() {
            let mut bytes = bundle.bytes().to_vec();
            assert!(matches!(Frame::find(&bytes[..at]), Found::Cut), "{at}");
            bytes[at] ^= 1;
            assert!(!matches!(Frame::find(&bytes), Found::Frame(_)), "{at}");
        }
    }
}
