//! The fleet's machine in random worlds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use warren_launcher_api::{CellId, TenantName};

use super::{
    machine::Fleet,
    machine_tests::{T0, at, tenant},
    policy::Policy,
    words::{Answer, Event, Step, Waiter},
};

/// What a random world does next; which tenant or cell is meant depends on what there is.
#[derive(Debug, Clone)]
enum Move {
    Want { tenant: u8, patience_ms: u64, stale: bool },
    Unwant { tenant: u8 },
    Cancel(u8),
    FinishStart { pick: u8, works: bool },
    Sleep { pick: u8, due_ms: Option<u64> },
    LoseControl(u8),
    Exit(u8),
    Due { tenant: u8, due_ms: Option<u64> },
    Remove(u8),
    Renew(u8),
    Suspend(u8),
    Resume(u8),
    Launcher { there: bool },
    Pass { ms: u64 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let tenants = 0u8..6;
    prop::collection::vec(
        prop_oneof![
            4 => (tenants.clone(), 1u64..5000, any::<bool>())
                .prop_map(|(tenant, patience_ms, stale)| Move::Want { tenant, patience_ms, stale }),
            1 => tenants.clone().prop_map(|tenant| Move::Unwant { tenant }),
            1 => any::<u8>().prop_map(Move::Cancel),
            4 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(pick, works)| Move::FinishStart { pick, works }),
            2 => (any::<u8>(), prop::option::of(0u64..10_000)).prop_map(|(pick, due_ms)| Move::Sleep { pick, due_ms }),
            1 => any::<u8>().prop_map(Move::LoseControl),
            3 => any::<u8>().prop_map(Move::Exit),
            1 => (tenants.clone(), prop::option::of(0u64..10_000)).prop_map(|(tenant, due_ms)| Move::Due { tenant, due_ms }),
            1 => tenants.clone().prop_map(Move::Remove),
            1 => tenants.clone().prop_map(Move::Renew),
            1 => tenants.clone().prop_map(Move::Suspend),
            1 => tenants.prop_map(Move::Resume),
            1 => any::<bool>().prop_map(|there| Move::Launcher { there }),
            3 => (0u64..3000).prop_map(|ms| Move::Pass { ms }),
        ],
        0..120,
    )
}

/// The launcher and the clients as the machine sees them.
struct World {
    fleet: Fleet,
    policy: Policy,
    now: u64,
    launcher: bool,
    starting: Vec<TenantName>,
    running: BTreeMap<CellId, TenantName>,
    next_cell: u64,
    asked: u64,
    open: BTreeSet<Waiter>,
    suspended: BTreeSet<TenantName>,
}

impl World {
    fn new() -> World {
        let policy = Policy { parallel_starts: 3, awake: 4, waiters_per_tenant: 5, waiters: 12, ..Policy::default() };
        let (starting, running, open) = (vec![], BTreeMap::new(), BTreeSet::new());
        World {
            fleet: Fleet::new(policy),
            policy,
            now: 0,
            launcher: false,
            starting,
            running,
            next_cell: 0,
            asked: 0,
            open,
            suspended: BTreeSet::new(),
        }
    }

    fn tell(&mut self, event: Event) {
        for step in self.fleet.on(event, at(self.now)) {
            match step {
                Step::Start(tenant) => {
                    assert!(self.launcher, "started without a launcher");
                    assert!(!self.suspended.contains(&tenant), "started while it is suspended");
                    assert!(!self.starting.contains(&tenant), "two starts in flight");
                    assert!(!self.running.values().any(|t| *t == tenant), "started beside a running cell");
                    self.starting.push(tenant);
                    assert!(self.starting.len() <= self.policy.parallel_starts, "too many starts");
                    assert!(self.starting.len() + self.running.len() <= self.policy.awake, "too many awake");
                }
                Step::Answer(waiter, answer) => {
                    assert!(self.open.remove(&waiter), "{waiter:?} was answered twice or had cancelled");
                    if let Answer::Awake(cell) = answer {
                        assert!(self.running.contains_key(&cell), "sent to a cell that is no more");
                    }
                }
                _ => {}
            }
        }
    }

    fn pick_cell(&self, pick: u8) -> Option<CellId> {
        let cells: Vec<_> = self.running.keys().copied().collect();
        cells.get(usize::from(pick) % cells.len().max(1)).copied()
    }

    fn ask(&mut self) -> Waiter {
        self.asked += 1;
        self.open.insert(Waiter(self.asked));
        Waiter(self.asked)
    }

    fn run(&mut self, step: Move) {
        let later = |ms: u64| Duration::from_millis(ms);
        match step {
            Move::Want { tenant: n, patience_ms, stale } => {
                let waiter = self.ask();
                let tenant = tenant(n);
                let stale = self.running.iter().find(|c| stale && *c.1 == tenant).map(|c| *c.0);
                self.tell(Event::Wanted { tenant, waiter, by: later(self.now + patience_ms), stale });
            }
            Move::Unwant { tenant: n } => {
                let waiter = self.ask();
                self.tell(Event::Unwanted { tenant: tenant(n), waiter, by: later(self.now + 40_000) });
            }
            Move::Cancel(pick) => {
                let open: Vec<_> = self.open.iter().copied().collect();
                if let Some(waiter) = open.get(usize::from(pick) % open.len().max(1)) {
                    self.open.remove(waiter);
                    self.tell(Event::Cancelled(*waiter));
                }
            }
            Move::FinishStart { pick, works } if self.launcher && !self.starting.is_empty() => {
                let tenant = self.starting.remove(usize::from(pick) % self.starting.len());
                if works {
                    self.next_cell += 1;
                    let cell = CellId(self.next_cell);
                    self.running.insert(cell, tenant.clone());
                    self.tell(Event::Started { tenant, cell });
                } else {
                    self.tell(Event::StartFailed { tenant });
                }
            }
            Move::Sleep { pick, due_ms } => {
                if let Some(cell) = self.pick_cell(pick) {
                    self.tell(Event::Sleeping { cell, due: due_ms.map(|ms| T0 + self.now + ms) });
                }
            }
            Move::LoseControl(pick) => {
                if let Some(cell) = self.pick_cell(pick) {
                    self.tell(Event::ControlLost(cell));
                }
            }
            Move::Exit(pick) => {
                if let Some(cell) = self.pick_cell(pick) {
                    self.running.remove(&cell);
                    if self.launcher {
                        self.tell(Event::Exited(cell));
                    }
                }
            }
            Move::Due { tenant: n, due_ms } => {
                self.tell(Event::Due { tenant: tenant(n), due: due_ms.map(|ms| T0 + self.now + ms) });
            }
            Move::Remove(n) => self.tell(Event::Removed(tenant(n))),
            Move::Renew(n) => self.tell(Event::Renew(tenant(n))),
            Move::Suspend(n) => {
                self.suspended.insert(tenant(n));
                self.tell(Event::Suspended(tenant(n)));
            }
            Move::Resume(n) => {
                self.suspended.remove(&tenant(n));
                self.tell(Event::Resumed(tenant(n)));
            }
            Move::Launcher { there } if there != self.launcher => {
                self.launcher = there;
                if there {
                    let cells = self.running.iter().map(|(c, t)| (*c, t.clone())).collect();
                    self.tell(Event::LauncherBack(cells));
                } else {
                    // Half of the starts in flight will turn out to have worked.
                    for (n, tenant) in std::mem::take(&mut self.starting).into_iter().enumerate() {
                        if n % 2 == 0 {
                            self.next_cell += 1;
                            self.running.insert(CellId(self.next_cell), tenant);
                        }
                    }
                    self.tell(Event::LauncherLost);
                }
            }
            Move::Pass { ms } => {
                self.now += ms;
                self.tell(Event::Tick);
            }
            Move::FinishStart { .. } | Move::Launcher { .. } => {}
        }
    }
}

proptest! {
    #[test]
    fn everybody_is_answered_once_and_nobody_is_started_twice(moves in moves()) {
        let mut world = World::new();
        for step in moves {
            // A cell may die while the launcher is away; then a waiter can be sent to it, and finds it closed.
            if matches!(step, Move::Exit(_)) && !world.launcher {
                continue;
            }
            world.run(step);
        }
        world.now += 100_000;
        world.tell(Event::Tick);
        prop_assert!(world.open.is_empty(), "never answered: {:?}", world.open);
    }

    #[test]
    fn mail_that_is_due_is_never_forgotten(moves in moves()) {
        let mut world = World::new();
        for step in moves {
            if matches!(step, Move::Remove(_)) || (matches!(step, Move::Exit(_)) && !world.launcher) {
                continue;
            }
            world.run(step);
        }
        world.run(Move::Resume(0));
        world.run(Move::Launcher { there: true });
        let asleep = !world.running.values().any(|t| *t == tenant(0)) && !world.starting.contains(&tenant(0));
        world.tell(Event::Due { tenant: tenant(0), due: Some(T0 + world.now + 1000) });
        for _ in 0..200 {
            world.run(Move::Pass { ms: 5_000 });
            while !world.starting.is_empty() {
                world.run(Move::FinishStart { pick: 0, works: true });
                if asleep && world.running.values().any(|t| *t == tenant(0)) {
                    return Ok(());
                }
            }
            while let Some(cell) = world.pick_cell(0) {
                world.run(Move::Sleep { pick: 0, due_ms: None });
                world.run(Move::Exit(0));
                prop_assert!(!world.running.contains_key(&cell));
            }
        }
        prop_assert!(!asleep, "it was due and nobody woke it");
    }
}
