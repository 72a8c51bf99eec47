//! How much the queue holds, and how much it may.
//!
//! Every message counts with the length of its content and [`OVERHEAD`], from its first byte until it is removed. Mail from outside is
//! refused before it would pass the limit; the reports that a message leads to are not, as they come in its place.

use crate::QueueError;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a message takes beside its content: a block for the envelope, and half a block lost at each end of two files.
pub(crate) const OVERHEAD: u64 = 8 * 1024;

/// Bytes held and allowed.
#[derive(Debug)]
pub(crate) struct Room {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Room {
    /// What a directory holds.
    pub(crate) fn of(directory: &Path) -> std::io::Result<Self> {
        let mut used = 0;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.ends_with(".msg") || name.ends_with(".msg.new")) {
                used += entry.metadata().map_or(0, |metadata| metadata.len()) + OVERHEAD;
            }
        }
        Ok(Self { used: AtomicU64::new(used), limit: AtomicU64::new(u64::MAX) })
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

    /// Takes room whether there is or not.
    pub(crate) fn take_anyway(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // It always is `Some`.
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Removes a content file and gives back what it held.
    pub(crate) fn remove(&self, content: &Path) -> std::io::Result<()> {
        let held = fs::symlink_metadata(content)?.len() + OVERHEAD;
        fs::remove_file(content)?;
        self.give_back(held);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Queue, envelope};

    #[test]
    fn full_means_full_and_removal_makes_room() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        queue.allow(100_000 + 2 * OVERHEAD);
        let put = |bytes: usize| {
            let mut incoming = queue.begin(1)?;
            incoming.write(&vec![b'x'; bytes])?;
            incoming.commit(envelope::sample(1))
        };
        let first = put(60_000).unwrap();
        assert!(queue.fits(40_000) && !queue.fits(40_001));
        let error = put(40_001).unwrap_err();
        assert!(matches!(error, QueueError::Full { .. }), "{error}");
        assert_eq!(queue.used(), 60_000 + OVERHEAD, "what was refused holds nothing");
        put(40_000).unwrap();
        assert!(put(1).is_err());
        // A report comes all the same.
        let mut report = queue.begin(1).unwrap();
        report.come_in_anyway();
        report.write(b"report").unwrap();
        let report = report.commit(envelope::sample(1)).unwrap();
        queue.remove(&report.id).unwrap();
        queue.remove(&first.id).unwrap();
        queue.remove(&first.id).unwrap();
        assert_eq!(queue.used(), 40_000 + OVERHEAD);
        put(60_000).unwrap();
        drop(queue);
        assert_eq!(
            Queue::open(volume.path()).unwrap().used(),
            100_000 + 2 * OVERHEAD,
            "counted anew at the next start"
        );
    }
}
