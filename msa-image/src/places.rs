//! How many sessions fit into the descriptors that this process may have: who comes beyond is told so, instead of meeting a lack of them in
//! the middle of a message.

use rustix::process::{Resource, getrlimit};

/// What the process has open for itself: its three sockets, the control connection, the queue's directory and lock, the runtime's own, and files
/// that are looked through.
const OWN: u64 = 24;
/// What a session takes at most: its socket, the content of its message, and a question to the resolver or a file that is being written beside it.
const OF_A_SESSION: u64 = 3;
/// Sessions among which somebody may still come in, with as many descriptors as one likes: what the memory of a container is for.
const MOST: u64 = 150;
/// Deliveries.
const MOST_OUT: u64 = 40;

/// Sessions at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// In and out, beyond which nobody comes in.
    pub all: usize,
    /// Out: at most half, so that deliveries shut nobody out. They begin however many came in, and have descriptors beside those.
    pub out: usize,
}

impl Places {
    /// With so many descriptors.
    #[must_use]
    pub fn within(descriptors: u64) -> Self {
        let fit = descriptors.saturating_sub(OWN) / OF_A_SESSION;
        let out = (fit / 3).clamp(1, MOST_OUT);
        let all = fit.saturating_sub(out).clamp(2, MOST);
        let small = |number| usize::try_from(number).expect("a small number");
        Self { all: small(all), out: small(out) }
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
        assert_eq!(Places::within(594), Places { all: 150, out: 40 });
        assert_eq!(Places::within(64), Places { all: 9, out: 4 });
        assert_eq!(Places::within(0), Places { all: 2, out: 1 });
        for descriptors in 33..2_000 {
            // Whoever could come in did, and then all deliveries began.
            let Places { all, out } = Places::within(descriptors);
            assert!(out <= all / 2 && (all + out) as u64 * OF_A_SESSION + OWN <= descriptors, "{descriptors}");
        }
    }
}
