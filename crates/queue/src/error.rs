//! What can go wrong, by what the caller should do about it.

use std::io;
use thiserror::Error;

/// A failure of the queue: nothing was accepted. Every variant but [`TooLarge`](Self::TooLarge) is temporary for the sender.
#[derive(Debug, Error)]
pub enum QueueError {
    /// No room: disk, quota or inodes. Answer `452 4.3.1`.
    #[error("no room while {doing}: {source}")]
    Full {
        /// What was being tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No file may be as large as this message's would be. Answer `552 5.3.4`.
    #[error("larger than a file may be, while {doing}: {source}")]
    TooLarge {
        /// What was being tried.
        doing: &'static str,
        /// What the system said, or would have said.
        source: io::Error,
    },
    /// Another process owns the queue directory.
    #[error("the queue {directory} is in use by another process")]
    InUse {
        /// The directory whose lock is held.
        directory: String,
    },
    /// The envelope may come to more than the queue would read back, or than fits into a file beside this content, and with fewer recipients
    /// would not. Refuse the transaction (`452 4.5.3`).
    #[error("an envelope of up to {bytes} bytes is over the limit of {limit}")]
    EnvelopeTooLarge {
        /// What it may come to, with what is noted of attempts.
        bytes: usize,
        /// [`crate::Envelope::LIMIT`], or what there is room for.
        limit: usize,
    },
    /// Anything else, a read-only or failing disk above all. Answer `451 4.3.0`.
    #[error("failed while {doing}: {source}")]
    Io {
        /// What was being tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl QueueError {
    /// Sorts a system error by what the caller can tell its peer.
    pub(crate) fn of(doing: &'static str, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded => Self::Full { doing, source },
            FileTooLarge => Self::TooLarge { doing, source },
            _ => Self::Io { doing, source },
        }
    }
}

/// Whether it is this process that lacks something for a moment, descriptors above all: nothing is said about the file.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    const EINTR: i32 = 4;
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(EINTR | ENOMEM | ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Unreadable;

    #[test]
    fn what_this_process_lacks_says_nothing_about_a_file() {
        for (number, lacks) in [(24, true), (23, true), (12, true), (4, true), (5, false), (13, false), (2, false)] {
            let error = io::Error::from_raw_os_error(number);
            let unreadable = Unreadable::because("it cannot be opened", &error);
            assert_eq!(unreadable == Unreadable::NotNow(number), lacks, "{unreadable:?}");
            assert_eq!(matches!(unreadable, Unreadable::Corrupt(_)), !lacks, "{unreadable:?}");
        }
    }

    #[test]
    fn no_room_is_told_apart() {
        for (number, full) in [(28, true), (122, true), (27, false), (5, false), (30, false)] {
            let error = QueueError::of("testing", io::Error::from_raw_os_error(number));
            assert_eq!(matches!(error, QueueError::Full { .. }), full, "errno {number}");
            assert_eq!(matches!(error, QueueError::TooLarge { .. }), number == 27, "errno {number}");
        }
    }
}
