//! The machine's registers: who is queued, due, waiting, and by when.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use warren_launcher_api::{CellId, TenantName};

use super::{
    policy::Policy,
    words::{Answer, Life, Now, Step, Waiter},
};

/// What is known of a tenant that is not simply asleep.
#[derive(Debug)]
pub(super) struct Burrow {
    pub life: Life,
    pub waiters: Vec<Waiter>,
    pub sleepers: Vec<Waiter>,
    pub failures: u32,
    pub due: Option<u64>,
    pub removed: bool,
}

/// All tenants.
#[derive(Debug)]
pub struct Fleet {
    pub(super) policy: Policy,
    pub(super) launcher: bool,
    pub(super) burrows: HashMap<TenantName, Burrow>,
    pub(super) cells: HashMap<CellId, TenantName>,
    pub(super) waiting: HashMap<Waiter, (TenantName, Duration)>,
    pub(super) deadlines: BTreeSet<(Duration, Waiter)>,
    pub(super) timers: BTreeSet<(Duration, TenantName)>,
    pub(super) due: BTreeSet<(u64, TenantName)>,
    pub(super) for_clients: VecDeque<TenantName>,
    pub(super) for_mail: VecDeque<TenantName>,
    /// Starts in flight, and whether a client waited when they began.
    pub(super) in_flight: BTreeMap<TenantName, bool>,
    /// Woken for nobody. What they are due for waits in their burrows.
    pub(super) suspended: BTreeSet<TenantName>,
    /// When the last event came.
    pub(super) last: Option<Now>,
}

impl Fleet {
    /// Asleep now: either somebody waits already, or it is listed by its due time.
    pub(super) fn lie_down(&mut self, tenant: &TenantName) {
        let suspended = self.suspended.contains(tenant);
        let burrow = self.burrow(tenant);
        let (wanted, due) = (!burrow.waiters.is_empty(), burrow.due);
        match (wanted, due) {
            (true, _) => self.queue(tenant, true),
            (false, Some(due)) if !suspended => {
                self.due.insert((due, tenant.clone()));
            }
            (false, _) => self.tidy(tenant),
        }
    }

    pub(super) fn drop_due(&mut self, tenant: &TenantName) {
        if let Some(burrow) = self.burrows.get_mut(tenant)
            && let Some(due) = burrow.due.take()
        {
            self.due.remove(&(due, tenant.clone()));
        }
    }

    pub(super) fn queue(&mut self, tenant: &TenantName, for_client: bool) {
        let burrow = self.burrow(tenant);
        burrow.life = Life::Queued;
        if let Some(due) = burrow.due {
            self.due.remove(&(due, tenant.clone()));
        }
        // It may stand in both queues, or twice in one: the second time it is no longer `Queued`.
        if for_client { &mut self.for_clients } else { &mut self.for_mail }.push_back(tenant.clone());
    }

    /// Starts under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Starts as many as the policy allows.
    pub(super) fn pump(&mut self, steps: &mut Vec<Step>) {
        while self.launcher
            && self.in_flight.len() < self.policy.parallel_starts
            && self.in_flight.len() + self.cells.len() < self.policy.awake
        {
            let mail_in_flight = self.in_flight.values().filter(|for_client| !**for_client).count();
            let (tenant, for_client) = match self.for_clients.pop_front() {
                Some(tenant) => (tenant, true),
                None if mail_in_flight < self.policy.parallel_mail_starts() => match self.for_mail.pop_front() {
                    Some(tenant) => (tenant, false),
                    None => return,
                },
                None => return,
            };
            let Some(burrow) = self.burrows.get_mut(&tenant).filter(|b| b.life == Life::Queued) else { continue };
            // Those who waited have gone: let it sleep. Mail that is due brings it back here.
            if (for_client && burrow.waiters.is_empty()) || self.suspended.contains(&tenant) {
                burrow.life = Life::Asleep;
                let sleepers = std::mem::take(&mut burrow.sleepers);
                self.answer_all(sleepers, Answer::Asleep, steps);
                self.lie_down(&tenant);
                continue;
            }
            burrow.life = Life::Starting;
            self.in_flight.insert(tenant.clone(), for_client);
            steps.push(Step::Start(tenant));
        }
    }

    pub(super) fn enlist(&mut self, waiter: Waiter, tenant: &TenantName, by: Duration) {
        self.waiting.insert(waiter, (tenant.clone(), by));
        self.deadlines.insert((by, waiter));
    }

    pub(super) fn answer_all(&mut self, waiters: Vec<Waiter>, answer: Answer, steps: &mut Vec<Step>) {
        for waiter in waiters {
            if let Some((_, by)) = self.waiting.remove(&waiter) {
                self.deadlines.remove(&(by, waiter));
                steps.push(Step::Answer(waiter, answer));
            }
        }
    }

    pub(super) fn burrow(&mut self, tenant: &TenantName) -> &mut Burrow {
        match self.burrows.entry(tenant.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Burrow {
                life: Life::Asleep,
                waiters: Vec::new(),
                sleepers: Vec::new(),
                failures: 0,
                due: None,
                removed: false,
            }),
        }
    }

    /// Who sleeps with nothing to remember has no entry.
    pub(super) fn tidy(&mut self, tenant: &TenantName) {
        if let Entry::Occupied(entry) = self.burrows.entry(tenant.clone()) {
            let b = entry.get();
            if b.life == Life::Asleep && b.waiters.is_empty() && b.due.is_none() && b.failures == 0 {
                entry.remove();
            }
        }
    }
}
