//! A message's file, byte for byte, and how a later envelope comes into it.
//!
//! ```text
//!   0      64                        each at a multiple of 64
//!   ├ head ┼ content …… ┼ ┼ head, envelope ┼ ┼ head, envelope of a later attempt ┼
//!     ╰ length and checksum   ╰ number, length and checksum: the highest number that is whole holds
//! ```
//!
//! - Empty, or with zeros for a head: no message yet. Content begins behind the place of the head, so that no content can pass for
//!   one; nor can text in an envelope for another, as a head ends with a newline, which JSON escapes.
//! - The head is written last. What a killed process leaves either has none, or is whole.
//! - One sync covers all of it. After a loss of power any part may be missing: the checksums tell.
//! - A later envelope never overwrites the one that holds, nor, until that one is on stable storage, any other. It goes in front of it if
//!   there is room, else behind, so that all of them together take at most three times what the largest takes.

use crate::error::is_shortage;
use crate::{Envelope, MessageId};
use crc32fast::Hasher;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Length of a head: a line of text, for whoever looks into `corrupt/`.
pub(crate) const HEAD: usize = 64;
const HEAD_LENGTH: u64 = HEAD as u64;
/// What all envelopes of a file take at most.
const ENVELOPES: u64 = envelopes(Envelope::LIMIT as u64);
const PIECE: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Content,
    Envelope,
}

/// What stands before content, or before an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    kind: Kind,
    /// Of an envelope: how many there were before it.
    number: u32,
    length: u64,
    checksum: u32,
}

impl Kind {
    /// Also the version of the format.
    const fn name(self) -> &'static str {
        match self {
            Self::Content => "warren-mail1",
            Self::Envelope => "envelope1",
        }
    }
}

impl Head {
    fn encode(self) -> [u8; HEAD] {
        let Self { kind, number, length, checksum } = self;
        let text = format!("{:12} {number:08x} {length:016x} {checksum:08x}", kind.name());
        let text = format!("{text} {:08x}", crc32fast::hash(text.as_bytes()));
        let mut line = [b' '; HEAD];
        line[..text.len()].copy_from_slice(text.as_bytes());
        line[HEAD - 1] = b'\n';
        line
    }

    fn decode(kind: Kind, line: &[u8]) -> Option<Self> {
        let hex = |from: usize, to: usize| u64::from_str_radix(std::str::from_utf8(line.get(from..to)?).ok()?, 16).ok();
        let small = |from, to| u32::try_from(hex(from, to)?).ok();
        let head = Self { kind, number: small(13, 21)?, length: hex(22, 38)?, checksum: small(39, 47)? };
        // There is one way to write it.
        (head.encode() == line).then_some(head)
    }
}

/// The checksum of content. It begins with the id: what an older file left on the disk is never taken for this one's.
pub(crate) fn checksum(id: &MessageId) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(id.as_str().as_bytes());
    hasher
}

/// What stands at the beginning of a file with this content.
pub(crate) fn head(length: u64, checksum: Hasher) -> [u8; HEAD] {
    Head { kind: Kind::Content, number: 0, length, checksum: checksum.finalize() }.encode()
}

/// An envelope with its head.
pub(crate) fn record(number: u32, envelope: &[u8]) -> Vec<u8> {
    let checksum = crc32fast::hash(envelope);
    let head = Head { kind: Kind::Envelope, number, length: envelope.len() as u64, checksum };
    [&head.encode(), envelope].concat()
}

/// Where the first envelope goes behind content of this length.
pub(crate) fn first_envelope(content: u64) -> u64 {
    (HEAD_LENGTH + content).next_multiple_of(HEAD_LENGTH)
}

/// What all envelopes of a file take at most, if none is longer than that.
const fn envelopes(longest: u64) -> u64 {
    3 * (longest + 2 * HEAD_LENGTH)
}

/// How long a file with this content gets at most, if no envelope is longer than that.
pub(crate) fn longest_file(content: u64, envelope: usize) -> u64 {
    first_envelope(content).saturating_add(envelopes(envelope as u64))
}

/// The longest envelope for which there is room beside this content, in a file of at most `limit` bytes.
pub(crate) fn room_for_envelope(content: u64, limit: u64) -> usize {
    let each = limit.saturating_sub(first_envelope(content)) / 3;
    usize::try_from(each.saturating_sub(2 * HEAD_LENGTH)).unwrap_or(usize::MAX)
}

/// The length of a file's content and its checksum, if it has a head.
pub(crate) fn content_head(file: &File) -> io::Result<(u64, u32)> {
    let mut line = [0; HEAD];
    file.read_exact_at(&mut line, 0)?;
    let head = Head::decode(Kind::Content, &line).ok_or(io::ErrorKind::InvalidData)?;
    Ok((head.length, head.checksum))
}

/// Why a file is no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It never was one: nobody was told that it is.
    Unfinished,
    /// It was one once, and is no more than a rest that may go.
    Removed,
    /// It may have been one: what is wrong with it.
    Corrupt(String),
    /// This process lacks what it takes to look, by the system's number: nothing is known of it.
    NotNow(i32),
}

impl Unreadable {
    pub(crate) fn because(doing: &str, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) if is_shortage(error) => Self::NotNow(number),
            _ => Self::Corrupt(format!("{doing}: {error}")),
        }
    }
}

/// A message's file as it was found.
#[derive(Debug)]
pub(crate) struct Mail {
    /// The envelope that holds.
    pub(crate) envelope: Envelope,
    /// Where that is.
    at: u64,
    number: u32,
    /// Where it ends.
    until: u64,
    checksum: u32,
    /// The file's length.
    length: u64,
}

/// How the next envelope comes into a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: u64,
    /// It overwrites older ones. One of those may be the only one on stable storage, so the file is synced first.
    pub(crate) sync_first: bool,
}

impl Mail {
    /// Reads all but the content.
    pub(crate) fn read(id: &MessageId, file: &File) -> Result<Self, Unreadable> {
        let corrupt = |error: io::Error| Unreadable::because("it cannot be read", &error);
        let found = file.metadata().map_err(corrupt)?;
        if !found.is_file() {
            return Err(Unreadable::Corrupt("it is no file".to_owned()));
        }
        let length = found.len();
        if length < HEAD_LENGTH {
            return Err(Unreadable::Unfinished);
        }
        let mut line = [0; HEAD];
        file.read_exact_at(&mut line, 0).map_err(corrupt)?;
        if line == [0; HEAD] {
            return Err(Unreadable::Unfinished);
        }
        let head = Head::decode(Kind::Content, &line)
            .ok_or_else(|| Unreadable::Corrupt("its first line is damaged".to_owned()))?;
        if head.length > length - HEAD_LENGTH {
            let why = format!("its content has {} bytes instead of {}", length - HEAD_LENGTH, head.length);
            return Err(Unreadable::Corrupt(why));
        }
        let first = first_envelope(head.length);
        let envelopes = length.saturating_sub(first);
        if envelopes > ENVELOPES {
            return Err(Unreadable::Corrupt(format!("its envelopes are over {ENVELOPES} bytes")));
        }
        let mut envelopes = vec![0; usize::try_from(envelopes).expect("bounded above")];
        file.read_exact_at(&mut envelopes, first).map_err(corrupt)?;
        let (at, record, envelope) = last_whole(id, &envelopes).map_err(Unreadable::Corrupt)?;
        if envelope.content.bytes != head.length {
            let why = format!("its content has {} bytes instead of {}", head.length, envelope.content.bytes);
            return Err(Unreadable::Corrupt(why));
        }
        let (at, number, checksum) = (first + at, record.number, head.checksum);
        Ok(Self { envelope, at, number, until: at + HEAD_LENGTH + record.length, checksum, length })
    }

    /// Its envelope is the one that it came with: nothing says that it was ever whole on stable storage.
    pub(crate) fn is_new(&self) -> bool {
        self.number == 0
    }

    /// Reads the content, and compares the checksum.
    pub(crate) fn verify(&self, file: &File) -> Result<(), Unreadable> {
        let mut hasher = checksum(&self.envelope.id);
        let mut piece = vec![0; PIECE];
        let (mut at, end) = (HEAD_LENGTH, HEAD_LENGTH + self.envelope.content.bytes);
        while at < end {
            let length = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            file.read_exact_at(&mut piece[..length], at)
                .map_err(|error| Unreadable::because("its content cannot be read", &error))?;
            hasher.update(&piece[..length]);
            at += length as u64;
        }
        if hasher.finalize() == self.checksum {
            return Ok(());
        }
        // When the power fails before a message is accepted, it may look like this. So may a damage: it is kept for a human.
        Err(Unreadable::Corrupt("its content is not what came in".to_owned()))
    }

    /// The next envelope's number.
    pub(crate) fn next_number(&self) -> u32 {
        self.number.saturating_add(1)
    }

    /// Where the next envelope of so many bytes goes.
    pub(crate) fn place(&self, envelope: usize) -> Place {
        let first = first_envelope(self.envelope.content.bytes);
        let fits = first + HEAD_LENGTH + envelope as u64 <= self.at;
        let at = if fits { first } else { self.until.next_multiple_of(HEAD_LENGTH) };
        Place { at, sync_first: at < self.length }
    }

    /// By how much the file has grown since it was read.
    pub(crate) fn growth(&self, length: u64) -> u64 {
        length.saturating_sub(self.length)
    }
}

/// The envelope with the highest number of those that are whole, and where it is.
fn last_whole(id: &MessageId, bytes: &[u8]) -> Result<(u64, Head, Envelope), String> {
    let mut whole: Vec<(usize, Head, &[u8])> = Vec::new();
    for at in (0..bytes.len()).step_by(HEAD) {
        let Some(line) = bytes.get(at..at + HEAD) else { break };
        let Some(head) = Head::decode(Kind::Envelope, line) else { continue };
        let body = usize::try_from(head.length).ok().and_then(|length| bytes[at + HEAD..].get(..length));
        if let Some(body) = body.filter(|body| crc32fast::hash(body) == head.checksum) {
            whole.push((at, head, body));
        }
    }
    whole.sort_by_key(|(_, head, _)| std::cmp::Reverse(head.number));
    // Another file's may be left on the disk where this one has not been written yet. Of its own the last one holds, or none: one that is not
    // understood may tell of deliveries.
    let (at, head, body) = whole
        .into_iter()
        .find(|(_, _, body)| Envelope::belongs_to(id, body))
        .ok_or_else(|| "its envelope is damaged".to_owned())?;
    Envelope::decode(id, body).map(|envelope| (at as u64, head, envelope))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope;
    use proptest::prelude::*;
    use std::io::Write;

    const CONTENT: &[u8] = b"Subject: whole\r\n\r\nBody.\r\n";

    fn sample() -> Envelope {
        let mut envelope = envelope::sample(1_000);
        envelope.content.bytes = CONTENT.len() as u64;
        envelope
    }

    fn whole() -> Vec<u8> {
        let envelope = sample();
        let mut hasher = checksum(&envelope.id);
        hasher.update(CONTENT);
        let mut bytes = [&head(CONTENT.len() as u64, hasher), CONTENT].concat();
        bytes.resize(usize::try_from(first_envelope(CONTENT.len() as u64)).unwrap(), 0);
        bytes.extend(record(0, &envelope.encode().unwrap()));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Envelope, Unreadable> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mail = Mail::read(&sample().id, &file)?;
        mail.verify(&file).map(|()| mail.envelope)
    }

    #[test]
    fn a_whole_file_is_read_and_is_text() {
        assert_eq!(read(&whole()), Ok(sample()));
        assert!(whole().starts_with(b"warren-mail1 00000000 0000000000000019 "));
        assert_eq!(whole()[HEAD - 1], b'\n');
    }

    #[test]
    fn another_messages_file_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&whole()).unwrap();
        assert!(matches!(Mail::read(&MessageId::make(9, 9), &file), Err(Unreadable::Corrupt(_))));
    }

    #[test]
    fn content_never_passes_for_a_message() {
        // A client sends a whole file as content, in every way that it may lie, and the process is killed before the end.
        for shift in 0..=HEAD {
            let bytes = [&[0; HEAD], vec![b'x'; shift].as_slice(), &whole()].concat();
            assert_eq!(read(&bytes), Err(Unreadable::Unfinished));
        }
    }

    #[test]
    fn text_in_an_envelope_never_passes_for_another() {
        let mut envelope = sample();
        let mut forged = sample();
        forged.reverse_path = "mallory@elsewhere.example".into();
        let forged = String::from_utf8(record(7, &forged.encode().unwrap())).unwrap();
        let mut bytes = whole();
        for shift in 0..HEAD {
            envelope.envid = Some(format!("{}{forged}", "x".repeat(shift)));
            bytes.truncate(usize::try_from(first_envelope(CONTENT.len() as u64)).unwrap());
            bytes.extend(record(0, &envelope.encode().unwrap()));
            assert_eq!(read(&bytes), Ok(envelope.clone()), "{shift}");
        }
    }

    #[test]
    fn an_envelope_that_another_file_left_on_the_disk_is_passed_over() {
        let mut other = envelope::sample(5_000);
        other.content.bytes = CONTENT.len() as u64;
        let mut bytes = whole();
        bytes.resize(bytes.len().next_multiple_of(HEAD), 0);
        bytes.extend(record(9, &other.encode().unwrap()));
        assert_eq!(read(&bytes), Ok(sample()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = whole();
        let padding = HEAD + CONTENT.len()..usize::try_from(first_envelope(CONTENT.len() as u64)).unwrap();
        for at in (0..whole.len()).filter(|at| !padding.contains(at)) {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                assert!(matches!(read(&bytes), Err(Unreadable::Corrupt(_))), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_file_cut_short_anywhere_is_no_message() {
        let whole = whole();
        for length in 0..whole.len() {
            let found = read(&whole[..length]);
            if length < HEAD {
                assert_eq!(found, Err(Unreadable::Unfinished), "{length}");
            } else {
                assert!(matches!(found, Err(Unreadable::Corrupt(_))), "{length}");
            }
        }
    }

    #[test]
    fn a_file_without_end_is_not_read_into_memory() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&whole(), 0).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(matches!(Mail::read(&sample().id, &file), Err(Unreadable::Corrupt(_))));
    }

    #[test]
    fn a_directory_in_a_files_place_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let file = File::open(directory.path()).unwrap();
        assert!(matches!(Mail::read(&sample().id, &file), Err(Unreadable::Corrupt(_))));
    }

    proptest! {
        #[test]
        fn junk_in_several_places_is_never_other_content(places in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..40)) {
            let mut bytes = whole();
            for (at, byte) in places {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(envelope) = read(&bytes) {
                prop_assert_eq!(envelope, sample());
                prop_assert_eq!(&bytes[HEAD..HEAD + CONTENT.len()], CONTENT);
            }
        }
    }
}
