//! The `next-due` file: when the tenant must be woken, for whoever looks after a crash.
//!
//! ASCII decimal unix milliseconds and a newline, beside the queue directory; absent when nothing is due. The platform
//! learns the same time over the control channel; this file is what remains when nobody listened, or the power failed.
//!
//! While the MSA is up the file may be too early, never too late: before a message is acknowledged the file says a time no later
//! than the message's ([`NextDue::no_later_than`]: once in the life of a process, two syncs, which the MSA makes when the first MAIL comes so that
//! no message waits for them), and on falling asleep it gets the exact time ([`NextDue::exactly`]). Too early costs one needless start; too late
//! would be forgotten mail.

use crate::QueueError;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Its name in the volume.
pub const NEXT_DUE_FILE: &str = "next-due";
const TEMPORARY: &str = ".next-due.tmp";

/// The writer of the file.
#[derive(Debug)]
pub struct NextDue {
    volume: PathBuf,
    /// What the file says; `None` when that is not known (another process wrote it, or a write failed).
    written: Mutex<Option<Option<u64>>>,
}

impl NextDue {
    /// The file of this volume; nothing is touched yet.
    #[must_use]
    pub fn new(volume: &Path) -> Self {
        Self { volume: volume.to_owned(), written: Mutex::new(None) }
    }

    /// Makes sure that the file on stable storage says a time that is not after `due_ms`.
    ///
    /// # Errors
    /// When the volume cannot be written: the caller has not accepted anything yet.
    pub fn no_later_than(&self, due_ms: u64) -> Result<(), QueueError> {
        self.update(|written| match written {
            Some(Some(at)) if at <= due_ms => None,
            _ => Some(Some(due_ms)),
        })
    }

    /// Whether [`Self::no_later_than`] has nothing to do for this time, or somebody does it. Never waits.
    #[must_use]
    pub fn is_no_later_than(&self, due_ms: u64) -> bool {
        let Ok(written) = self.written.try_lock() else { return true };
        matches!(*written, Some(Some(at)) if at <= due_ms)
    }

    /// Writes the file, or removes it when nothing is due.
    ///
    /// # Errors
    /// When the volume cannot be written; the file may then be too early.
    pub fn exactly(&self, due_ms: Option<u64>) -> Result<(), QueueError> {
        self.update(|written| (written != Some(due_ms)).then_some(due_ms))
    }

    fn update(&self, decide: impl Fn(Option<Option<u64>>) -> Option<Option<u64>>) -> Result<(), QueueError> {
        let mut written = self.written.lock().expect("no holder of this lock panics");
        let Some(wanted) = decide(*written) else { return Ok(()) };
        *written = None;
        write(&self.volume, wanted)?;
        *written = Some(wanted);
        Ok(())
    }
}

fn write(volume: &Path, due_ms: Option<u64>) -> Result<(), QueueError> {
    let target = volume.join(NEXT_DUE_FILE);
    let Some(due_ms) = due_ms else {
        // Not synced: a removal that is lost makes the file too early, which is harmless.
        return match fs::remove_file(&target) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(QueueError::of("removing next-due", error)),
            _ => Ok(()),
        };
    };
    let temporary = volume.join(TEMPORARY);
    let replace = || {
        let mut file = File::create(&temporary)?;
        file.write_all(format!("{due_ms}\n").as_bytes())?;
        file.sync_data()?;
        fs::rename(&temporary, &target)?;
        File::open(volume)?.sync_all()
    };
    replace().map_err(|error| QueueError::of("writing next-due", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_while_awake_exact_when_asleep() {
        let volume = tempfile::tempdir().unwrap();
        let file = volume.path().join(NEXT_DUE_FILE);
        let read = || fs::read_to_string(&file).unwrap();
        let due = NextDue::new(volume.path());
        due.exactly(None).unwrap();
        assert!(!due.is_no_later_than(u64::MAX));
        due.no_later_than(1_790_000_000_123).unwrap();
        assert_eq!(read(), "1790000000123\n");
        due.no_later_than(1_790_000_000_500).unwrap();
        assert_eq!(read(), "1790000000123\n", "early enough already");
        assert!(due.is_no_later_than(1_790_000_000_123) && !due.is_no_later_than(1_790_000_000_122));
        due.no_later_than(17).unwrap();
        due.exactly(Some(99)).unwrap();
        assert_eq!(read(), "99\n");
        due.exactly(None).unwrap();
        assert!(!file.exists() && fs::read_dir(volume.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_file_of_another_life_is_not_trusted() {
        let volume = tempfile::tempdir().unwrap();
        fs::write(volume.path().join(NEXT_DUE_FILE), "999999999999999\n").unwrap();
        NextDue::new(volume.path()).no_later_than(5).unwrap();
        assert_eq!(fs::read_to_string(volume.path().join(NEXT_DUE_FILE)).unwrap(), "5\n");
    }
}
