//! How a tenant's container goes: it says so, it is asked to, it crashes; and the wishes of operators that end in its going.
//!
//! ```text
//!   Awake ── Sleeping, ControlLost, Renew, Suspended, Removed ──▶ Draining{until} ── Exited ──▶ Asleep
//!     └────────────────────────── Exited (a crash) ─────────────────────────────────────────▶ Failed{until}
//! ```

use std::time::Duration;

use warren_launcher_api::{CellId, TenantName};

use super::{
    registers::{Burrow, Fleet},
    words::{Answer, Life, Mark, Now, Refusal, Step},
};

impl Fleet {
    pub(super) fn sleeping(&mut self, cell: CellId, due: Option<u64>, now: Now) {
        self.draining(cell, now, self.policy.farewell);
        if let Some(tenant) = self.cells.get(&cell).cloned() {
            let due = due.map(|due| self.policy.clamp_due(due, now.unix_ms));
            let burrow = self.burrow(&tenant);
            burrow.due = due;
            if let Life::Draining { said, .. } = &mut burrow.life {
                *said = true;
            }
        }
    }

    /// From here on nobody is sent to the cell; it has `grace` to end by itself.
    pub(super) fn draining(&mut self, cell: CellId, now: Now, grace: Duration) {
        let Some(tenant) = self.cells.get(&cell).cloned() else { return };
        let at = now.since_start + grace;
        let burrow = self.burrow(&tenant);
        let old = match burrow.life {
            Life::Awake { .. } => None,
            // A shorter grace (it said that it goes) replaces a longer one (we asked it to), never the reverse.
            Life::Draining { until: Some(until), said, .. } if at < until => Some((until, said)),
            _ => return,
        };
        burrow.life = Life::Draining { cell, until: Some(at), said: old.is_some_and(|(_, said)| said) };
        if let Some((until, _)) = old {
            self.timers.remove(&(until, tenant.clone()));
        }
        self.timers.insert((at, tenant));
    }

    pub(super) fn exited(&mut self, cell: CellId, now: Now, steps: &mut Vec<Step>) {
        steps.push(Step::Forget(cell));
        let Some(tenant) = self.cells.remove(&cell) else { return };
        let policy = self.policy;
        let burrow = self.burrow(&tenant);
        let life = burrow.life;
        let sleepers = std::mem::take(&mut burrow.sleepers);
        let removed = burrow.removed;
        let (orderly, lived) = match life {
            Life::Draining { said, until, .. } => {
                if let Some(until) = until {
                    self.timers.remove(&(until, tenant.clone()));
                }
                (said, Duration::ZERO)
            }
            Life::Awake { since, .. } => (false, now.since_start.saturating_sub(since)),
            _ => return,
        };
        self.answer_all(sleepers, Answer::Asleep, steps);
        if removed {
            return self.forget_tenant(&tenant, steps);
        }
        let burrow = self.burrow(&tenant);
        if orderly {
            burrow.failures = 0;
            burrow.life = Life::Asleep;
            steps.push(Step::Remember(tenant.clone(), Mark::Due(burrow.due)));
            self.lie_down(&tenant);
        } else {
            // It stays marked as awake until its volume was asked.
            if lived >= policy.sound_life {
                burrow.failures = 0;
            }
            steps.push(Step::AskDue(tenant.clone()));
            self.fail(&tenant, now, steps);
        }
    }

    pub(super) fn renew(&mut self, tenant: &TenantName, now: Now, steps: &mut Vec<Step>) {
        match self.life(tenant).0 {
            Life::Awake { cell, .. } => {
                self.draining(cell, now, self.policy.drain);
                steps.push(Step::Drain(cell));
            }
            // What failed may work now.
            Life::Failed { until } => {
                self.timers.remove(&(until, tenant.clone()));
                let burrow = self.burrow(tenant);
                burrow.failures = 0;
                burrow.life = Life::Asleep;
                self.lie_down(tenant);
            }
            _ => {}
        }
    }

    pub(super) fn removed(&mut self, tenant: &TenantName, now: Now, steps: &mut Vec<Step>) {
        let Some(burrow) = self.burrows.get_mut(tenant) else { return };
        burrow.removed = true;
        let waiters = std::mem::take(&mut burrow.waiters);
        self.answer_all(waiters, Answer::Refused(Refusal::Removed), steps);
        match self.life(tenant).0 {
            Life::Awake { .. } => self.renew(tenant, now, steps),
            Life::Starting | Life::Draining { .. } => {}
            Life::Asleep | Life::Queued | Life::Failed { .. } => self.forget_tenant(tenant, steps),
        }
    }

    pub(super) fn suspend(&mut self, tenant: TenantName, now: Now, steps: &mut Vec<Step>) {
        self.suspended.insert(tenant.clone());
        let Some(burrow) = self.burrows.get_mut(&tenant) else { return };
        let waiters = std::mem::take(&mut burrow.waiters);
        self.answer_all(waiters, Answer::Refused(Refusal::Suspended), steps);
        match self.life(&tenant) {
            (Life::Asleep, Some(due)) => drop(self.due.remove(&(due, tenant))),
            (Life::Awake { .. } | Life::Failed { .. }, _) => self.renew(&tenant, now, steps),
            (Life::Queued, _) => {
                self.burrow(&tenant).life = Life::Asleep;
                self.lie_down(&tenant);
            }
            // Whoever is starting drains when it is there.
            _ => {}
        }
    }

    pub(super) fn resume(&mut self, tenant: &TenantName) {
        if self.suspended.remove(tenant) && self.life(tenant).0 == Life::Asleep && self.burrows.contains_key(tenant) {
            self.lie_down(tenant);
        }
    }

    pub(super) fn forget_tenant(&mut self, tenant: &TenantName, steps: &mut Vec<Step>) {
        self.drop_due(tenant);
        if let Some(Burrow { life: Life::Failed { until }, .. }) = self.burrows.remove(tenant) {
            self.timers.remove(&(until, tenant.clone()));
        }
        steps.push(Step::Remember(tenant.clone(), Mark::Due(None)));
    }
}
