//! How much the queue holds, and how much it may.
//!
//! Every message counts with the length of its file and [`OVERHEAD`], from its first byte until it is removed; spares, which are empty,
//! do not. Mail from outside is refused before it would pass the limit; the reports that a message leads to are not, as they come in its
//! place, nor is what is noted about attempts.
//!
//! A message's file may be limited, too (RLIMIT_FSIZE). A message comes in only if everything that will be noted about its recipients finds room behind it: what
//! cannot be noted of a delivery is delivered again.

use crate::layout::{longest_file, room_for_envelope};
use crate::store::MAIL;
use crate::{Envelope, MessageId, QueueError};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a message takes beside what it was written with: a block for what is noted about attempts, and what is lost at the end of its last.
pub(crate) const OVERHEAD: u64 = 8 * 1024;

/// Bytes held and allowed.
#[derive(Debug)]
pub(crate) struct Room {
    used: AtomicU64,
    limit: AtomicU64,
    /// What one file may have.
    file: AtomicU64,
}

impl Room {
    /// What a directory holds; and the spares that are in it.
    pub(crate) fn of(directory: &Path) -> std::io::Result<(Self, Vec<MessageId>)> {
        let (mut used, mut spares) = (0, Vec::new());
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Some((id, kind)) = name.split_once('.') else { continue };
            if ![MAIL, "msg", "msg.new"].contains(&kind) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            match id.parse() {
                Ok(id) if kind == MAIL && metadata.len() == 0 && metadata.is_file() => spares.push(id),
                _ => used += held(metadata.len()),
            }
        }
        let [limit, file] = [u64::MAX; 2].map(AtomicU64::new);
        Ok((Self { used: AtomicU64::new(used), limit, file }, spares))
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn allow(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.used().saturating_add(OVERHEAD).saturating_add(bytes) <= self.limit.load(Ordering::Relaxed)
    }

    /// Takes room for `bytes`, if there is.
    pub(crate) fn take(&self, bytes: u64) -> Result<(), QueueError> {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(QueueError::of("keeping within the queue's limit", ErrorKind::QuotaExceeded.into())),
        }
    }

    pub(crate) fn allow_file(&self, bytes: u64) {
        self.file.store(bytes, Ordering::Relaxed);
    }

    /// Whether a file may hold so much content.
    pub(crate) fn may_hold(&self, content: u64) -> Result<(), QueueError> {
        self.room_in_file(content, 0).map(|_| ())
    }

    /// Whether a file may hold this content with an envelope, so long now, and all that will be noted in it.
    pub(crate) fn may_hold_all(&self, content: u64, envelope: &Envelope, encoded: usize) -> Result<(), QueueError> {
        let (bytes, recipients) = (envelope.longest(encoded), envelope.recipients.len().max(1));
        let limit = self.room_in_file(content, bytes / recipients)?.min(Envelope::LIMIT);
        if bytes > limit { Err(QueueError::EnvelopeTooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// The longest envelope that a file has room for beside content, if that is no shorter than `least`.
    fn room_in_file(&self, content: u64, least: usize) -> Result<usize, QueueError> {
        let file = self.file.load(Ordering::Relaxed);
        if longest_file(content, least) > file {
            return Err(QueueError::of("keeping within what a file may hold", ErrorKind::FileTooLarge.into()));
        }
        Ok(room_for_envelope(content, file))
    }

    /// Takes room whether there is or not.
    pub(crate) fn take_anyway(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // It always is `Some`.
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Removes a message's file and gives back what it held.
    pub(crate) fn remove(&self, file: &Path) -> std::io::Result<()> {
        let held = held(fs::symlink_metadata(file)?.len());
        fs::remove_file(file)?;
        self.give_back(held);
        Ok(())
    }
}

/// What a file of this length holds.
fn held(length: u64) -> u64 {
    if length == 0 { 0 } else { length + OVERHEAD }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Queue, envelope};

    #[test]
    fn full_means_full_and_removal_makes_room() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let put = |bytes: usize| {
            let mut incoming = queue.begin(1)?;
            incoming.write(&vec![b'x'; bytes])?;
            incoming.commit(envelope::sample(1))
        };
        let first = put(60_000).unwrap();
        // Head, envelope, and what is between.
        let beside = queue.used() - 60_000 - OVERHEAD;
        assert!((600..2_000).contains(&beside), "{beside}");
        queue.allow(100_000 + 2 * (OVERHEAD + beside));
        assert!(queue.fits(40_000 + beside) && !queue.fits(40_001 + beside));
        let error = put(40_064).unwrap_err();
        assert!(matches!(error, QueueError::Full { .. }), "{error}");
        assert_eq!(queue.used(), 60_000 + OVERHEAD + beside, "what was refused holds nothing");
        let second = put(40_000).unwrap();
        let full = queue.used();
        assert!(full + 64 > 100_000 + 2 * (OVERHEAD + beside) && put(1).is_err());
        // A report comes all the same, and so does what is noted about an attempt.
        let mut report = queue.begin(1).unwrap();
        report.come_in_anyway();
        report.write(b"report").unwrap();
        let mut report = report.commit(envelope::sample(1)).unwrap();
        let before = queue.used();
        report.envid = Some("x".repeat(10_000));
        queue.update(&report).unwrap();
        assert!(queue.used() > before + 10_000);
        queue.remove(&report.id).unwrap();
        assert_eq!(queue.used(), full);
        queue.remove(&first.id).unwrap();
        queue.remove(&first.id).unwrap();
        put(60_000).unwrap();
        assert_eq!(queue.used(), full);
        // Spares hold nothing.
        queue.make_spares(1).unwrap();
        drop(queue);
        let queue = Queue::open(volume.path()).unwrap();
        assert_eq!(queue.used(), full, "counted anew at the next start");
        queue.remove(&second.id).unwrap();
        assert_eq!(queue.used(), 60_000 + OVERHEAD + beside);
    }
}
