//! The life of every tenant, as a machine without a socket or a clock.
//!
//! ```text
//!            wanted / due               started
//!   Asleep ───────────────▶ Starting ───────────▶ Awake
//!     ▲  ▲                   │ failed               │ it says so, its control ends, we ask it to
//!     │  └── until passed ── Failed ◀── crashed ──┐ ▼
//!     └──────────────── exited ──────────────── Draining
//! ```
//!
//! Events and the time go in by [`Fleet::on`], [`Step`]s come out; the performer carries them out and reports back. What it
//! promises, whatever the order of events: a tenant never has two starts in flight nor two cells that it calls its own;
//! every waiter is answered exactly once, at the latest by its deadline; starts are bounded, and those that a
//! client waits for go before those for deferred mail.
//!
//! A tenant that is asleep and has nothing due has no entry here at all. How one goes stands in `going`; here is how it comes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use warren_launcher_api::{CellId, TenantName};

pub use super::registers::Fleet;
use super::{
    policy::Policy,
    words::{Answer, Census, Event, Life, Mark, Now, Refusal, Step, Waiter},
};

impl Fleet {
    /// Everybody asleep, no launcher yet.
    pub fn new(policy: Policy) -> Fleet {
        Fleet {
            policy,
            launcher: false,
            burrows: HashMap::new(),
            cells: HashMap::new(),
            waiting: HashMap::new(),
            deadlines: BTreeSet::new(),
            timers: BTreeSet::new(),
            due: BTreeSet::new(),
            for_clients: VecDeque::new(),
            for_mail: VecDeque::new(),
            in_flight: BTreeMap::new(),
            suspended: BTreeSet::new(),
            last: None,
        }
    }

    /// Takes in an event; gives what to do about it, in order.
    pub fn on(&mut self, event: Event, now: Now) -> Vec<Step> {
        let mut steps = Vec::new();
        self.notice_clock(now, &mut steps);
        match event {
            Event::Wanted { tenant, waiter, by, stale } => self.wanted(tenant, waiter, by, stale, now, &mut steps),
            Event::Unwanted { tenant, waiter, by } => self.unwanted(tenant, waiter, by, now, &mut steps),
            Event::Cancelled(waiter) => self.cancelled(waiter),
            Event::Started { tenant, cell } => self.started(tenant, cell, now, &mut steps),
            Event::StartFailed { tenant } => self.start_failed(&tenant, now, &mut steps),
            Event::Sleeping { cell, due } => self.sleeping(cell, due, now),
            Event::ControlLost(cell) => self.draining(cell, now, self.policy.farewell),
            Event::Exited(cell) => self.exited(cell, now, &mut steps),
            Event::Due { tenant, due } => self.set_due(tenant, due, now, &mut steps),
            Event::LauncherLost => self.launcher_lost(),
            Event::LauncherBack(cells) => self.launcher_back(cells, now, &mut steps),
            Event::Renew(tenant) => self.renew(&tenant, now, &mut steps),
            Event::Removed(tenant) => self.removed(&tenant, now, &mut steps),
            Event::Suspended(tenant) => self.suspend(tenant, now, &mut steps),
            Event::Resumed(tenant) => self.resume(&tenant),
            Event::Tick => {}
        }
        self.tick(now, &mut steps);
        self.pump(&mut steps);
        steps
    }

    /// When [`Event::Tick`] is wanted next, in monotonic time.
    pub fn next_deadline(&self) -> Option<Duration> {
        let first = |a: Option<Duration>, b: Option<Duration>| [a, b].into_iter().flatten().min();
        first(self.deadlines.first().map(|d| d.0), self.timers.first().map(|t| t.0))
    }

    /// When the next sleeping tenant is due, in unix milliseconds.
    pub fn next_due(&self) -> Option<u64> {
        self.due.first().map(|d| d.0)
    }

    /// Where a tenant is in its life, and when it is due.
    pub fn life(&self, tenant: &TenantName) -> (Life, Option<u64>) {
        self.burrows.get(tenant).map_or((Life::Asleep, None), |b| (b.life, b.due))
    }

    /// The tenant of a cell.
    pub fn tenant(&self, cell: CellId) -> Option<&TenantName> {
        self.cells.get(&cell)
    }

    /// Who has waited longest for the tenant.
    pub fn first_waiter(&self, tenant: &TenantName) -> Option<Waiter> {
        self.burrows.get(tenant).and_then(|burrow| burrow.waiters.first().copied())
    }

    /// How many nobody can wake.
    pub fn suspended(&self) -> u64 {
        self.suspended.len() as u64
    }

    /// Whether nobody can wake it.
    pub fn is_suspended(&self, tenant: &TenantName) -> bool {
        self.suspended.contains(tenant)
    }

    /// Whether the launcher is there.
    pub fn has_launcher(&self) -> bool {
        self.launcher
    }

    /// How many are where.
    pub fn census(&self) -> Census {
        let mut census = Census { due: self.due.len() as u64, ..Census::default() };
        for burrow in self.burrows.values() {
            match burrow.life {
                Life::Asleep => {}
                Life::Queued | Life::Starting => census.starting += 1,
                Life::Awake { .. } => census.awake += 1,
                Life::Draining { .. } => census.draining += 1,
                Life::Failed { .. } => census.failed += 1,
            }
        }
        census
    }

    fn wanted(
        &mut self,
        tenant: TenantName,
        waiter: Waiter,
        by: Duration,
        stale: Option<CellId>,
        now: Now,
        steps: &mut Vec<Step>,
    ) {
        // Only the cell's own tenant can make it drain.
        if let Some(cell) = stale.filter(|c| self.cells.get(c) == Some(&tenant)) {
            self.draining(cell, now, self.policy.farewell);
        }
        if self.suspended.contains(&tenant) {
            return steps.push(Step::Answer(waiter, Answer::Refused(Refusal::Suspended)));
        }
        let (crowded, most) = (self.waiting.len() >= self.policy.waiters, self.policy.waiters_per_tenant);
        let burrow = self.burrow(&tenant);
        burrow.removed = false;
        let refusal = match burrow.life {
            Life::Awake { cell, .. } => return steps.push(Step::Answer(waiter, Answer::Awake(cell))),
            Life::Failed { until } if until >= by => Some(Refusal::Failed),
            _ if crowded || burrow.waiters.len() >= most => Some(Refusal::Crowded),
            _ => None,
        };
        match refusal {
            Some(refusal) => steps.push(Step::Answer(waiter, Answer::Refused(refusal))),
            None => {
                self.burrow(&tenant).waiters.push(waiter);
                self.enlist(waiter, &tenant, by);
                if matches!(self.life(&tenant).0, Life::Asleep | Life::Queued) {
                    self.queue(&tenant, true);
                }
            }
        }
        self.tidy(&tenant);
    }

    fn unwanted(&mut self, tenant: TenantName, waiter: Waiter, by: Duration, now: Now, steps: &mut Vec<Step>) {
        match self.life(&tenant).0 {
            Life::Asleep | Life::Failed { .. } => steps.push(Step::Answer(waiter, Answer::Asleep)),
            // Suspended meanwhile: it drains as soon as it is there.
            Life::Queued | Life::Starting if !self.suspended.contains(&tenant) => {
                steps.push(Step::Answer(waiter, Answer::Refused(Refusal::Starting)));
            }
            Life::Queued | Life::Starting | Life::Awake { .. } | Life::Draining { .. } => {
                let most = self.policy.waiters_per_tenant;
                let burrow = self.burrow(&tenant);
                if burrow.sleepers.len() >= most {
                    return steps.push(Step::Answer(waiter, Answer::Refused(Refusal::Crowded)));
                }
                burrow.sleepers.push(waiter);
                self.enlist(waiter, &tenant, by);
                self.renew(&tenant, now, steps);
            }
        }
    }

    fn cancelled(&mut self, waiter: Waiter) {
        if let Some((tenant, by)) = self.waiting.remove(&waiter) {
            self.deadlines.remove(&(by, waiter));
            let burrow = self.burrow(&tenant);
            burrow.waiters.retain(|w| *w != waiter);
            burrow.sleepers.retain(|w| *w != waiter);
            self.tidy(&tenant);
        }
    }

    fn started(&mut self, tenant: TenantName, cell: CellId, now: Now, steps: &mut Vec<Step>) {
        // A start that nobody waits for any more (the launcher was lost and listed its cells since) is not ours.
        if self.in_flight.remove(&tenant).is_none() {
            if self.cells.get(&cell) != Some(&tenant) {
                steps.extend([Step::Stop(cell), Step::Forget(cell)]);
            }
            return;
        }
        self.awake(tenant, cell, now, steps);
    }

    fn awake(&mut self, tenant: TenantName, cell: CellId, now: Now, steps: &mut Vec<Step>) {
        self.in_flight.remove(&tenant);
        self.cells.insert(cell, tenant.clone());
        self.drop_due(&tenant);
        let burrow = self.burrow(&tenant);
        burrow.life = Life::Awake { cell, since: now.since_start };
        let (waiters, removed) = (std::mem::take(&mut burrow.waiters), burrow.removed);
        steps.push(Step::Remember(tenant.clone(), Mark::Awake));
        self.answer_all(waiters, Answer::Awake(cell), steps);
        if removed || self.suspended.contains(&tenant) {
            self.renew(&tenant, now, steps);
        }
    }

    fn start_failed(&mut self, tenant: &TenantName, now: Now, steps: &mut Vec<Step>) {
        if self.in_flight.remove(tenant).is_some() {
            self.fail(tenant, now, steps);
        }
    }

    /// Backs off. Those who wait longer than that go on waiting.
    pub(super) fn fail(&mut self, tenant: &TenantName, now: Now, steps: &mut Vec<Step>) {
        let burrow = self.burrow(tenant);
        burrow.failures = burrow.failures.saturating_add(1);
        let failures = burrow.failures;
        let until = now.since_start + self.policy.backoff(failures);
        let burrow = self.burrow(tenant);
        burrow.life = Life::Failed { until };
        let (waiters, sleepers) = (std::mem::take(&mut burrow.waiters), std::mem::take(&mut burrow.sleepers));
        self.timers.insert((until, tenant.clone()));
        self.answer_all(sleepers, Answer::Asleep, steps);
        let (stay, go): (Vec<_>, Vec<_>) =
            waiters.into_iter().partition(|w| self.waiting.get(w).is_some_and(|(_, by)| until < *by));
        self.burrow(tenant).waiters = stay;
        self.answer_all(go, Answer::Refused(Refusal::Failed), steps);
    }

    fn set_due(&mut self, tenant: TenantName, due: Option<u64>, now: Now, steps: &mut Vec<Step>) {
        let due = due.map(|due| self.policy.clamp_due(due, now.unix_ms));
        match self.life(&tenant).0 {
            // It will tell by itself.
            Life::Awake { .. } | Life::Draining { .. } => {}
            Life::Queued | Life::Starting => self.burrow(&tenant).due = due,
            Life::Asleep | Life::Failed { .. } => {
                self.drop_due(&tenant);
                self.burrow(&tenant).due = due;
                steps.push(Step::Remember(tenant.clone(), Mark::Due(due)));
                if self.life(&tenant).0 == Life::Asleep {
                    self.lie_down(&tenant);
                }
            }
        }
    }

    fn launcher_lost(&mut self) {
        self.launcher = false;
        for (tenant, for_client) in std::mem::take(&mut self.in_flight) {
            self.queue(&tenant, for_client);
        }
    }

    fn launcher_back(&mut self, cells: Vec<(CellId, TenantName)>, now: Now, steps: &mut Vec<Step>) {
        self.launcher = true;
        let there: BTreeSet<CellId> = cells.iter().map(|c| c.0).collect();
        let gone: Vec<CellId> = self.cells.keys().filter(|c| !there.contains(c)).copied().collect();
        for cell in gone {
            self.exited(cell, now, steps);
        }
        for (cell, tenant) in cells {
            match (self.cells.contains_key(&cell), self.life(&tenant).0) {
                // An order to end it may have been lost with the launcher.
                (true, Life::Draining { until: None, .. }) => steps.push(Step::Stop(cell)),
                (true, _) => {}
                (false, Life::Awake { .. } | Life::Draining { .. }) => steps.push(Step::Stop(cell)),
                (false, life) => {
                    if let Life::Failed { until } = life {
                        self.timers.remove(&(until, tenant.clone()));
                    }
                    steps.push(Step::Adopt(tenant.clone(), cell));
                    self.awake(tenant, cell, now, steps);
                }
            }
        }
    }

    fn tick(&mut self, now: Now, steps: &mut Vec<Step>) {
        while let Some((_, waiter)) = self.deadlines.first().copied().filter(|d| d.0 <= now.since_start) {
            self.cancelled(waiter);
            steps.push(Step::Answer(waiter, Answer::Refused(Refusal::Late)));
        }
        while self.timers.first().is_some_and(|t| t.0 <= now.since_start) {
            let Some((_, tenant)) = self.timers.pop_first() else { break };
            match &mut self.burrow(&tenant).life {
                Life::Draining { cell, until, .. } => {
                    *until = None;
                    steps.push(Step::Stop(*cell));
                }
                life @ Life::Failed { .. } => {
                    *life = Life::Asleep;
                    self.lie_down(&tenant);
                }
                _ => {}
            }
        }
        while self.due.first().is_some_and(|d| d.0 <= now.unix_ms) {
            let Some((_, tenant)) = self.due.pop_first() else { break };
            self.queue(&tenant, false);
        }
    }
}
