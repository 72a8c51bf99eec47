//! Who is over. Pure: measurements come in, names go out.

use std::collections::BTreeMap;
use std::fmt;

use warren_launcher_api::CellId;

use super::measure::Usage;

/// What a volume may exceed its limit by before its container is ended: an MSA that keeps its queue within the limit by itself also
/// writes envelopes and directories.
fn margin(limit: u64) -> u64 {
    limit / 8 + (4 << 20)
}

/// Where a container is ended.
pub fn most(limit: u64) -> u64 {
    limit.saturating_add(margin(limit))
}

/// Why a container must be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// More than its limit and the margin.
    Limit(u64),
    /// A tree that cannot be measured: deeper than any mail program makes it.
    Depth,
    /// The file system's reserve is touched, and nobody grew faster.
    Reserve,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Limit(limit) => write!(f, "its volume is over its limit of {limit} bytes"),
            Why::Depth => f.write_str("its volume has directories too deep to be measured"),
            Why::Reserve => f.write_str("the disk is nearly full and its volume grew fastest"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When it was first looked at.
    first: u64,
    /// The last time.
    now: u64,
    /// Since the time before that.
    grown: u64,
}

/// What is known of running containers.
#[derive(Debug, Default)]
pub struct Judge {
    seen: BTreeMap<CellId, Seen>,
}

impl Judge {
    /// Takes a measurement and says whether its container must go. One that was over when it started and has not grown may go on: it has
    /// to run for its queue to become shorter.
    pub fn measured(&mut self, cell: CellId, usage: Usage, limit: u64) -> Option<Why> {
        let bytes = usage.bytes;
        let seen = self.seen.entry(cell).or_insert(Seen { first: bytes, now: bytes, grown: 0 });
        seen.grown = bytes.saturating_sub(seen.now);
        seen.now = bytes;
        // What it shrank by it may not grow by again while it is over.
        seen.first = seen.first.min(bytes.max(limit));
        let allowed = most(limit).max(seen.first.saturating_add(margin(limit)));
        match (usage.too_deep, bytes > allowed) {
            (true, _) => Some(Why::Depth),
            (false, true) => Some(Why::Limit(limit)),
            (false, false) => None,
        }
    }

    /// Who grew most from its last look but one to its last, and what it holds.
    pub fn fastest(&self) -> Option<(CellId, u64)> {
        let growing = self.seen.iter().filter(|(_, seen)| seen.grown > 0);
        growing.max_by_key(|(_, seen)| seen.grown).map(|(cell, seen)| (*cell, seen.now))
    }

    /// Drops one.
    pub fn forget(&mut self, cell: CellId) {
        self.seen.remove(&cell);
    }

    /// Drops those that are gone.
    pub fn keep(&mut self, is_there: impl Fn(CellId) -> bool) {
        self.seen.retain(|cell, _| is_there(*cell));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 64 << 20;

    fn holds(bytes: u64) -> Usage {
        Usage { bytes, too_deep: false }
    }

    #[test]
    fn over_the_limit_and_the_margin() {
        let mut judge = Judge::default();
        assert_eq!(judge.measured(CellId(1), holds(LIMIT), LIMIT), None);
        assert_eq!(judge.measured(CellId(1), holds(most(LIMIT)), LIMIT), None);
        assert_eq!(judge.measured(CellId(1), holds(most(LIMIT) + 1), LIMIT), Some(Why::Limit(LIMIT)));
        assert_eq!(judge.measured(CellId(2), Usage { bytes: 1, too_deep: true }, LIMIT), Some(Why::Depth));
    }

    #[test]
    fn who_was_over_may_shrink_but_not_grow() {
        let mut judge = Judge::default();
        let over = 3 * LIMIT;
        assert_eq!(judge.measured(CellId(1), holds(over), LIMIT), None);
        assert_eq!(judge.measured(CellId(1), holds(over - (32 << 20)), LIMIT), None);
        assert_eq!(judge.measured(CellId(1), holds(over), LIMIT), Some(Why::Limit(LIMIT)));
        assert_eq!(judge.measured(CellId(1), holds(LIMIT / 2), LIMIT), None);
        assert_eq!(judge.measured(CellId(1), holds(most(LIMIT)), LIMIT), None, "its whole limit again");
    }

    #[test]
    fn the_fastest_grower() {
        let mut judge = Judge::default();
        for (cell, before, after) in [(1, 0, 5), (2, 1000, 1003), (3, 50, 90), (4, 100, 0)] {
            judge.measured(CellId(cell), holds(before), LIMIT);
            judge.measured(CellId(cell), holds(after), LIMIT);
        }
        assert_eq!(judge.fastest(), Some((CellId(3), 90)));
        judge.forget(CellId(3));
        judge.keep(|cell| cell != CellId(1));
        assert_eq!(judge.fastest(), Some((CellId(2), 1003)));
    }
}
