//! Who is over. Pure: measurements come in, names go out.

use std::collections::BTreeMap;
use std::fmt;

use warren_launcher_api::{CellId, TenantName};

use super::measure::Usage;

/// What a volume may exceed its limit by before its container is ended: an MSA that keeps its queue within the limit by itself also
/// writes envelopes and directories.
fn margin(limit: u64) -> u64 {
    limit / 8 + (4 << 20)
}

/// Where a container is ended.
fn most(limit: u64) -> u64 {
    limit.saturating_add(margin(limit))
}

/// How far is measured: enough to see whether one that is over grows.
pub fn ceiling(limit: u64) -> u64 {
    most(limit).saturating_mul(4)
}

/// Why a container must be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// More than its limit and the margin.
    Limit(u64),
    /// It cannot be measured: very much over, or deeper than any mail program makes it.
    Beyond,
    /// The file system's reserve is touched, and nobody grew faster.
    Reserve,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Limit(limit) => write!(f, "its volume is over its limit of {limit} bytes"),
            Why::Beyond => f.write_str("its volume holds far too much, or directories too deep to be measured"),
            Why::Reserve => f.write_str("the disk is nearly full and its volume grew fastest"),
        }
    }
}

/// What a volume that was over when its container started may grow by: what an MSA writes while it delivers.
const SLACK: u64 = 1 << 20;
/// Tenants that are remembered to be over. Whoever is forgotten is ended once more.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Clone)]
struct Seen {
    tenant: TenantName,
    limit: u64,
    /// The last time.
    now: u64,
    /// Since the time before that.
    grown: u64,
}

/// What is known of running containers, and of tenants whose volume was over when their last one ended.
#[derive(Debug, Default)]
pub struct Judge {
    seen: BTreeMap<CellId, Seen>,
    over: BTreeMap<TenantName, u64>,
}

impl Judge {
    /// Takes a measurement and says whether its container must go. A tenant that was over when its last container ended may run again as
    /// long as its volume does not grow: its queue becomes shorter only that way.
    pub fn measured(&mut self, cell: CellId, tenant: &TenantName, usage: Usage, limit: u64) -> Option<Why> {
        let bytes = usage.bytes;
        let fresh = || Seen { tenant: tenant.clone(), limit, now: bytes, grown: 0 };
        let seen = self.seen.entry(cell).or_insert_with(fresh);
        seen.grown = bytes.saturating_sub(seen.now);
        seen.now = bytes;
        if usage.more {
            return Some(Why::Beyond);
        }
        let Some(before) = self.over.get_mut(tenant) else {
            return (bytes > most(limit)).then_some(Why::Limit(limit));
        };
        // What it shrank by it may not grow by again.
        *before = bytes.min(*before);
        let allowed = most(limit).max(before.saturating_add(SLACK));
        (bytes > allowed).then_some(Why::Limit(limit))
    }

    /// Who grew most from its last look but one to its last, and what it holds.
    pub fn fastest(&self) -> Option<(CellId, u64)> {
        let growing = self.seen.iter().filter(|(_, seen)| seen.grown > 0);
        growing.max_by_key(|(_, seen)| seen.grown).map(|(cell, seen)| (*cell, seen.now))
    }

    /// It is being ended.
    pub fn forget(&mut self, cell: CellId) {
        if let Some(seen) = self.seen.remove(&cell) {
            self.remember(&seen);
        }
    }

    /// Drops those that are gone.
    pub fn keep(&mut self, is_there: impl Fn(CellId) -> bool) {
        let gone: Vec<CellId> = self.seen.keys().copied().filter(|cell| !is_there(*cell)).collect();
        gone.into_iter().for_each(|cell| self.forget(cell));
    }

    fn remember(&mut self, seen: &Seen) {
        if seen.now <= seen.limit {
            self.over.remove(&seen.tenant);
        } else {
            if self.over.len() >= REMEMBERED {
                self.over.pop_first();
            }
            self.over.insert(seen.tenant.clone(), seen.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 64 << 20;

    fn holds(bytes: u64) -> Usage {
        Usage { bytes, more: false }
    }

    fn name(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    #[test]
    fn over_the_limit_and_the_margin() {
        let (mut judge, hog) = (Judge::default(), name("hog"));
        assert_eq!(judge.measured(CellId(1), &hog, holds(LIMIT), LIMIT), None);
        assert_eq!(judge.measured(CellId(1), &hog, holds(most(LIMIT)), LIMIT), None);
        assert_eq!(judge.measured(CellId(1), &hog, holds(most(LIMIT) + 1), LIMIT), Some(Why::Limit(LIMIT)));
        let deep = Usage { bytes: 1, more: true };
        assert_eq!(judge.measured(CellId(2), &name("deep"), deep, LIMIT), Some(Why::Beyond));
        // Quicker than the first look is no way round it.
        assert_eq!(judge.measured(CellId(3), &name("quick"), holds(9 * LIMIT), LIMIT), Some(Why::Limit(LIMIT)));
    }

    #[test]
    fn who_was_over_may_shrink_but_not_grow() {
        let (mut judge, hog) = (Judge::default(), name("hog"));
        let over = 3 * LIMIT;
        assert!(judge.measured(CellId(1), &hog, holds(over), LIMIT).is_some());
        judge.forget(CellId(1));
        assert_eq!(judge.measured(CellId(2), &hog, holds(over + SLACK), LIMIT), None);
        assert_eq!(judge.measured(CellId(2), &hog, holds(over - (32 << 20)), LIMIT), None);
        assert_eq!(judge.measured(CellId(2), &hog, holds(over), LIMIT), Some(Why::Limit(LIMIT)));
        judge.forget(CellId(2));
        assert_eq!(judge.measured(CellId(3), &hog, holds(LIMIT / 2), LIMIT), None);
        judge.keep(|_| false);
        // Its whole limit again, and nothing of its past.
        assert_eq!(judge.measured(CellId(4), &hog, holds(most(LIMIT)), LIMIT), None);
        assert!(judge.measured(CellId(4), &hog, holds(over), LIMIT).is_some());
    }

    #[test]
    fn the_fastest_grower() {
        let mut judge = Judge::default();
        for (cell, before, after) in [(1, 0, 5), (2, 1000, 1003), (3, 50, 90), (4, 100, 0)] {
            let tenant = name(&format!("t{cell}"));
            judge.measured(CellId(cell), &tenant, holds(before), LIMIT);
            judge.measured(CellId(cell), &tenant, holds(after), LIMIT);
        }
        assert_eq!(judge.fastest(), Some((CellId(3), 90)));
        judge.forget(CellId(3));
        judge.keep(|cell| cell != CellId(1));
        assert_eq!(judge.fastest(), Some((CellId(2), 1003)));
    }
}
