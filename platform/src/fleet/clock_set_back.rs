//! The wall clock is set back: what was due in five minutes is due in five minutes still, not in five minutes and all the hours that the
//! clock went back. A clock that was years ahead when the machine started would otherwise let mail sleep for years.
//!
//! One that is set ahead needs nothing: what is due by it then is due, as after a suspend of the machine, and starts for deferred mail are bounded.

use std::time::Duration;

use super::{
    registers::Fleet,
    words::{Mark, Now, Step},
};

/// Less than this is not worth moving anything: mail may be so much later.
const SLACK: Duration = Duration::from_secs(5);

impl Fleet {
    /// Holds the wall clock against the monotonic one since the last event.
    pub(super) fn notice_clock(&mut self, now: Now, steps: &mut Vec<Step>) {
        let Some(last) = self.last.replace(now) else { return };
        let passed = now.since_start.saturating_sub(last.since_start);
        let should_be = last.unix_ms.saturating_add(ms(passed));
        let back = should_be.saturating_sub(now.unix_ms);
        if back > ms(SLACK) {
            self.bring_forward(back, steps);
        }
    }

    fn bring_forward(&mut self, by_ms: u64, steps: &mut Vec<Step>) {
        self.due = self.due.iter().map(|(due, tenant)| (due.saturating_sub(by_ms), tenant.clone())).collect();
        for (tenant, burrow) in &mut self.burrows {
            if let Some(due) = &mut burrow.due {
                *due = due.saturating_sub(by_ms);
                steps.push(Step::Remember(tenant.clone(), Mark::Due(Some(*due))));
            }
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::machine_tests::{T0, at, tenant};
    use super::super::policy::Policy;
    use super::super::words::{Answer, Event, Waiter};
    use super::*;

    const HOURS: u64 = 6 * 3_600_000;

    fn fleet_with_mail_due_at(times: &[u64]) -> Fleet {
        let mut fleet = Fleet::new(Policy::default());
        fleet.on(Event::LauncherBack(vec![]), at(0));
        for (n, ms) in (0..).zip(times) {
            fleet.on(Event::Due { tenant: tenant(n), due: Some(T0 + ms) }, at(0));
        }
        fleet
    }

    fn starts(steps: &[Step]) -> usize {
        steps.iter().filter(|step| matches!(step, Step::Start(_))).count()
    }

    /// The wall clock stands so much behind.
    fn behind(ms: u64, by_ms: u64) -> Now {
        Now { unix_ms: at(ms).unix_ms - by_ms, ..at(ms) }
    }

    #[test]
    fn mail_waits_as_long_as_it_would_have() {
        let mut fleet = fleet_with_mail_due_at(&[60_000]);
        let steps = fleet.on(Event::Tick, behind(10_000, HOURS));
        let due = T0 + 60_000 - HOURS;
        assert_eq!(steps, [Step::Remember(tenant(0), Mark::Due(Some(due)))], "a restart knows it as well");
        assert_eq!(fleet.next_due(), Some(due));
        assert_eq!(fleet.on(Event::Tick, behind(59_999, HOURS)), []);
        assert_eq!(fleet.on(Event::Tick, behind(60_000, HOURS)), [Step::Start(tenant(0))]);
    }

    #[test]
    fn mail_of_a_clock_that_was_years_ahead_does_not_sleep_for_years() {
        let years = 10 * 365 * 24 * 3_600_000;
        let mut fleet = fleet_with_mail_due_at(&[60_000, 120_000]);
        fleet.on(Event::Tick, behind(1_000, years));
        assert_eq!(starts(&fleet.on(Event::Tick, behind(60_000, years))), 1);
        assert_eq!(starts(&fleet.on(Event::Tick, behind(120_000, years))), 1);
    }

    #[test]
    fn a_suspended_tenants_mail_moves_as_well() {
        let mut fleet = fleet_with_mail_due_at(&[60_000]);
        fleet.on(Event::Suspended(tenant(0)), at(1));
        fleet.on(Event::Tick, behind(10_000, HOURS));
        fleet.on(Event::Resumed(tenant(0)), behind(11_000, HOURS));
        assert_eq!(fleet.next_due(), Some(T0 + 60_000 - HOURS));
    }

    #[test]
    fn a_clock_that_is_corrected_by_little_moves_nothing() {
        let mut fleet = fleet_with_mail_due_at(&[60_000]);
        assert_eq!(fleet.on(Event::Tick, behind(1_000, 4_999)), []);
        assert_eq!(fleet.next_due(), Some(T0 + 60_000));
    }

    #[test]
    fn a_clock_set_ahead_brings_no_storm_and_costs_no_client_its_patience() {
        let times: Vec<u64> = (1..=100).map(|n| n * 60_000).collect();
        let mut fleet = fleet_with_mail_due_at(&times);
        let ahead = |ms| Now { unix_ms: at(ms).unix_ms + HOURS, ..at(ms) };
        assert_eq!(starts(&fleet.on(Event::Tick, ahead(1_000))), Policy::default().parallel_mail_starts());
        // Somebody who waits for a tenant does so by the other clock, and is served before mail.
        let by = Duration::from_secs(30);
        let wanted = Event::Wanted { tenant: tenant(200), waiter: Waiter(1), by, stale: None };
        assert_eq!(fleet.on(wanted, ahead(1_001)), [Step::Start(tenant(200))]);
        let again = Now { unix_ms: ahead(2_000).unix_ms + HOURS, ..ahead(2_000) };
        let refused = |step: &Step| matches!(step, Step::Answer(_, Answer::Refused(_)));
        assert!(!fleet.on(Event::Tick, again).iter().any(refused));
    }
}
