//! Who burns the processor. Pure: measurements and times come in, decisions go out.
//!
//! ```text
//! credit:  earns SHARE of a processor, up to BURST;  pays what is used
//!   below nothing          ─▶ stands back: runs when nobody else wants to
//!   half of BURST again    ─▶ is like everybody
//! ```
//! A weight alone divides a busy processor fairly over time, and still lets everybody wait some milliseconds at every turn while
//! somebody else's slice lasts. Who stands back (SCHED_IDLE) gives way at once, and loses nothing when the processor is free.

use std::collections::BTreeMap;
use std::time::Duration;

use warren_launcher_api::{CellId, TenantName};

/// Of one processor, for as long as one likes: more than a busy mail queue takes.
const SHARE: f64 = 0.25;
/// Processor time that may be used at once: some hundred messages. Until it is used up the others wait at every turn, so it is short; whoever
/// stands back without need loses nothing as long as the processor has time for everybody.
const BURST: f64 = 0.5;
/// Tenants that are remembered after their container, so that coming again is no way to a new credit.
const REMEMBERED: usize = 10_000;

/// What is known of a running container.
#[derive(Debug)]
struct Runner {
    tenant: TenantName,
    credit: f64,
    used: Duration,
    at: Duration,
    stands_back: bool,
}

/// Everybody's pace.
#[derive(Debug, Default)]
pub struct Pace {
    runners: BTreeMap<CellId, Runner>,
    /// Credits below [`BURST`] of tenants without a container, with the time when they were so.
    before: BTreeMap<TenantName, (f64, Duration)>,
}

impl Pace {
    /// Takes what a container has used in its life, at a time since any fixed moment, and says whether it must stand back from now on
    /// (`true`) or no more (`false`). A new watcher finds old lives: who burnt stands back for once more, and is then released, also if
    /// the watcher before it had not come to that.
    pub fn measured(&mut self, cell: CellId, tenant: &TenantName, used: Duration, now: Duration) -> Option<bool> {
        let before = &mut self.before;
        let runner = self.runners.entry(cell).or_insert_with(|| {
            let (credit, at) = before.remove(tenant).unwrap_or((BURST, now));
            Runner { tenant: tenant.clone(), credit, used: Duration::ZERO, at, stands_back: false }
        });
        let spent = used.saturating_sub(runner.used).as_secs_f64();
        let earned = now.saturating_sub(runner.at).as_secs_f64() * SHARE;
        // Nobody goes so deep that it takes for ever to come back.
        runner.credit = (runner.credit + earned - spent).clamp(-BURST, BURST);
        (runner.used, runner.at) = (used, now);
        let wanted = if runner.stands_back { runner.credit < BURST / 2.0 } else { runner.credit < 0.0 };
        (wanted != runner.stands_back).then(|| {
            runner.stands_back = wanted;
            wanted
        })
    }

    /// Those who stand back now: they are to be measured at every look.
    pub fn standing_back(&self) -> Vec<CellId> {
        self.runners.iter().filter(|(_, runner)| runner.stands_back).map(|(cell, _)| *cell).collect()
    }

    /// Drops those that are gone, not what their tenants owe.
    pub fn keep(&mut self, is_there: impl Fn(CellId) -> bool) {
        let gone: Vec<CellId> = self.runners.keys().copied().filter(|cell| !is_there(*cell)).collect();
        for runner in gone.into_iter().filter_map(|cell| self.runners.remove(&cell)) {
            if runner.credit < BURST {
                self.before.insert(runner.tenant, (runner.credit, runner.at));
            }
        }
        while self.before.len() > REMEMBERED {
            // Whoever left first has earned most since.
            let first = self.before.iter().min_by_key(|(_, (_, at))| *at).map(|(tenant, _)| tenant.clone());
            first.map(|tenant| self.before.remove(&tenant));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: CellId = CellId(7);

    fn tenant() -> TenantName {
        TenantName::new("acme").unwrap()
    }

    /// Uses this share of a processor for so many seconds, from these totals on; answers the decisions with their times.
    fn run(pace: &mut Pace, share: f64, seconds: u32, from: &mut (f64, f64)) -> Vec<(u32, bool)> {
        let step = |half: u32| {
            from.0 += share / 2.0;
            from.1 += 0.5;
            let (used, now) = (Duration::from_secs_f64(from.0), Duration::from_secs_f64(from.1));
            pace.measured(CELL, &tenant(), used, now).map(|back| (half / 2, back))
        };
        (0..seconds * 2).filter_map(step).collect()
    }

    #[test]
    fn whoever_burns_stands_back_until_it_has_rested() {
        let (mut pace, mut at) = (Pace::default(), (0.0, 0.0));
        assert_eq!(run(&mut pace, 0.2, 600, &mut at), [], "its share, for as long as it likes");
        let decisions = run(&mut pace, 2.0, 60, &mut at);
        assert_eq!(decisions, [(0, true)], "two processors cost the burst in a quarter of a second");
        assert_eq!(pace.standing_back(), [CELL]);
        assert_eq!(run(&mut pace, 0.0, 60, &mut at), [(2, false)], "at most three seconds of rest");
        assert_eq!(pace.standing_back(), []);
    }

    #[test]
    fn coming_again_is_no_way_to_a_new_credit() {
        let (mut pace, mut at) = (Pace::default(), (0.0, 0.0));
        run(&mut pace, 1.0, 60, &mut at);
        pace.keep(|_| false);
        let soon = Duration::from_secs_f64(at.1 + 1.0);
        assert_eq!(pace.measured(CellId(8), &tenant(), Duration::ZERO, soon), Some(true));
        pace.keep(|_| false);
        let later = soon + Duration::from_secs(60);
        assert_eq!(pace.measured(CellId(9), &tenant(), Duration::ZERO, later), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut pace = Pace::default();
        for n in 0..REMEMBERED as u64 + 10 {
            let name = TenantName::new(&format!("t{n}")).unwrap();
            pace.measured(CellId(n), &name, Duration::from_secs(1), Duration::from_secs(n));
        }
        pace.keep(|_| false);
        assert_eq!(pace.before.len(), REMEMBERED);
        assert!(!pace.before.contains_key(&TenantName::new("t0").unwrap()));
    }
}
