//! How many sessions fit into the descriptors that this process may have: who comes beyond is told so, instead of meeting a lack of them in
//! the middle of a message.

use rustix::process::{Resource, getrlimit};

/// What the process has open for itself: its three sockets, the control connection, the queue's directory and lock, the runtime's own, and files
/// that are looked through.
const OWN: u64 = 24;
/// What a session takes at most: its socket, the content of its message, and a question to the resolver or a file that is being written beside it.
const OF_A_SESSION: u64 = 3;
/// Sessions in and out, with as many descriptors as one likes: what the memory of a container is for.
const MOST: u64 = 150;
/// Of these, deliveries.
const MOST_OUT: usize = 40;

/// Sessions at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// In and out.
    pub all: usize,
    /// Out: at most half, so that deliveries shut nobody out.
    pub out: usize,
}

impl Places {
    /// With so many descriptors.
    #[must_use]
    pub fn within(descriptors: u64) -> Self {
        let all = (descriptors.saturating_sub(OWN) / OF_A_SESSION).clamp(2, MOST);
        let all = usize::try_from(all).expect("a small number");
        Self { all, out: (all / 2).min(MOST_OUT) }
    }

    /// In this process.
    #[must_use]
    pub fn here() -> Self {
        Self::within(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_fit_their_descriptors() {
        assert_eq!(Places::within(1_024), Places { all: 150, out: 40 });
        assert_eq!(Places::within(u64::MAX), Places { all: 150, out: 40 });
        assert_eq!(Places::within(64), Places { all: 13, out: 6 });
        assert_eq!(Places::within(0), Places { all: 2, out: 1 });
        for descriptors in 32..2_000 {
            assert!(Places::within(descriptors).all as u64 * OF_A_SESSION + OWN <= descriptors, "{descriptors}");
        }
    }
}
