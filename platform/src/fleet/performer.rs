//! Carries out what the machine decides.
//!
//! One task owns everything: the machine, the clients that wait, the cells. It never waits for a single peer: the launcher, the MSAs
//! and the clients each have tasks of their own and talk to it through channels. What it does itself are small appends to the store.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use warren_control::{Entrance, Settings, api::Status};
use warren_launcher_api::{CONTROL_NAME, CellId, ImageName, Limits, RELAY_PORT, Request, SUBMISSION_PORT, TenantName};

use super::{
    cell::CellEvent,
    cells::{Cells, Client},
    clock::{WallTimer, unix_ms},
    handle::{Handle, Order},
    link::{self, LinkEvent},
    machine::Fleet,
    meter::Meter,
    policy::Policy,
    recent::Recent,
    store::{Store, boot_id},
    tags::Pending,
    words::{Event, Life, Now, Step, Waiter},
};
use crate::suspended::Suspended;

/// What is needed to start a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Its program.
    pub image: ImageName,
    /// What it may use.
    pub limits: Limits,
    /// What its MSA must know.
    pub settings: Settings,
}

/// Looks a tenant up in the directory of the moment; `None` if there is no such tenant.
pub type Register = Arc<dyn Fn(&TenantName) -> Option<Launch> + Send + Sync>;

/// What an MSA listens on in its cell: the contract's, or a test's, which has no cells.
#[derive(Debug, Clone)]
pub struct Doors {
    /// The abstract name of the control socket.
    pub control: String,
    /// The port of the submission entrance.
    pub submission: u16,
    /// The port of the relay entrance.
    pub relay: u16,
}

impl Default for Doors {
    fn default() -> Doors {
        Doors { control: CONTROL_NAME.into(), submission: SUBMISSION_PORT, relay: RELAY_PORT }
    }
}

impl Doors {
    pub(super) fn port(&self, entrance: Entrance) -> u16 {
        match entrance {
            Entrance::Submission => self.submission,
            Entrance::Relay => self.relay,
        }
    }
}

/// Where the fleet finds things, and its numbers.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The launcher's socket.
    pub launcher: PathBuf,
    /// The journal of due times.
    pub store: PathBuf,
    /// How long a client waits for its tenant.
    pub start_deadline: Duration,
    /// The machine's numbers.
    pub policy: Policy,
    /// What MSAs listen on.
    pub doors: Doors,
    /// Who is suspended.
    pub suspended: Arc<Suspended>,
}

/// Orders, and events of all cells, that wait to be looked at.
const QUEUE: usize = 4096;
/// How long the launcher may take to answer a Wake before its connection is given up.
const LAUNCHER_PATIENCE: Duration = Duration::from_secs(30);
/// How often clients that gave up waiting for a socket are cleared away.
const SWEEP: Duration = Duration::from_secs(1);
/// How often the wall clock and the launcher's silence are looked at when nothing happens.
const IDLE_TICK: Duration = Duration::from_secs(5);

/// The task's state.
pub(super) struct Performer {
    pub(super) fleet: Fleet,
    pub(super) register: Register,
    pub(super) doors: Doors,
    pub(super) store: Store,
    /// This boot, until the store can be trusted for it.
    pub(super) untrusted: Option<String>,
    pub(super) epoch: Instant,
    pub(super) link: Option<mpsc::Sender<Request>>,
    pub(super) pending: Pending,
    pub(super) cells: Cells,
    pub(super) clients: HashMap<Waiter, Client>,
    pub(super) next_waiter: u64,
    /// Tenants whose volume must be asked when they are due.
    pub(super) ask_due: BTreeSet<TenantName>,
    /// Why the last start of a tenant failed, for as long as it is backing off.
    pub(super) causes: HashMap<TenantName, String>,
    /// Those that are backing off because their volume held too much.
    pub(super) full: BTreeSet<TenantName>,
    pub(super) recent: Recent,
    suspended: Arc<Suspended>,
    pub(super) events: VecDeque<Event>,
    swept: Instant,
    pub(super) meter: Meter,
    pub(super) cell_events: mpsc::Sender<CellEvent>,
}

/// Starts the fleet. `tenants` are all there are: their volumes are asked when the store cannot be trusted.
pub fn start(setup: Setup, register: Register, tenants: &[TenantName]) -> io::Result<Handle> {
    let boot = boot_id()?;
    let (mut store, remembered) = Store::open(&setup.store, &boot)?;
    let mut fleet = Fleet::new(setup.policy);
    let epoch = Instant::now();
    let now = Now { since_start: Duration::ZERO, unix_ms: unix_ms() };
    for tenant in setup.suspended.all() {
        fleet.on(Event::Suspended(tenant), now);
    }
    for (tenant, due) in remembered.due {
        match register(&tenant) {
            // What it wants remembered is what was remembered.
            Some(_) => drop(fleet.on(Event::Due { tenant, due: Some(due) }, now)),
            None => store.remember(&tenant, super::words::Mark::Due(None))?,
        }
    }
    let ask_due = if remembered.same_boot { remembered.awake } else { tenants.iter().cloned().collect() };
    let timer = WallTimer::new()?;
    let (orders, order_queue) = mpsc::channel(QUEUE);
    let (cell_events, cell_queue) = mpsc::channel(QUEUE);
    let (link_events, link_queue) = mpsc::channel(64);
    tokio::spawn(link::keep(setup.launcher, link_events));
    let performer = Performer {
        fleet,
        register,
        doors: setup.doors,
        store,
        untrusted: (!remembered.same_boot).then_some(boot),
        epoch,
        link: None,
        pending: Pending::default(),
        cells: Cells::new(),
        clients: HashMap::new(),
        next_waiter: 0,
        ask_due,
        causes: HashMap::new(),
        full: BTreeSet::new(),
        recent: Recent::default(),
        suspended: Arc::clone(&setup.suspended),
        events: VecDeque::new(),
        swept: epoch,
        meter: Meter::default(),
        cell_events,
    };
    tokio::spawn(performer.run(timer, order_queue, cell_queue, link_queue));
    let sleep_deadline = setup.policy.drain + setup.policy.farewell * 2;
    Ok(Handle { orders, suspended: setup.suspended, start_deadline: setup.start_deadline, sleep_deadline })
}

impl Performer {
    async fn run(
        mut self,
        mut timer: WallTimer,
        mut orders: mpsc::Receiver<Order>,
        mut cells: mpsc::Receiver<CellEvent>,
        mut link: mpsc::Receiver<LinkEvent>,
    ) {
        loop {
            if let Err(error) = timer.set(self.fleet.next_due()) {
                tracing::error!(%error, "the wall-clock timer cannot be set; due mail is looked for now and then");
            }
            let idle = self.now().since_start + IDLE_TICK;
            let wake = self.epoch + self.fleet.next_deadline().map_or(idle, |at| at.min(idle));
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => return,
                },
                Some(event) = cells.recv() => self.heard(event),
                Some(event) = link.recv() => self.linked(event),
                _ = timer.fired() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.events.push_back(Event::Tick);
            self.settle();
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { since_start: self.epoch.elapsed(), unix_ms: unix_ms() }
    }

    /// Feeds the machine until there is nothing more to tell it.
    fn settle(&mut self) {
        while let Some(event) = self.events.pop_front() {
            for step in self.fleet.on(event, self.now()) {
                self.perform(step);
            }
        }
        self.meter.most("starts_at_once_most", self.fleet.in_flight());
        if self.swept.elapsed() >= SWEEP {
            self.swept = Instant::now();
            self.refuse_late();
        }
        self.ask_volumes();
        if self.pending.oldest_wake().is_some_and(|asked| asked.elapsed() > LAUNCHER_PATIENCE) {
            tracing::error!("the launcher does not answer; connecting anew");
            self.link = None;
            self.pending = Pending::default();
        }
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Start(tenant) => self.start_tenant(tenant),
            Step::Adopt(tenant, cell) => self.adopt(tenant, cell),
            Step::Drain(cell) => {
                self.going_down(cell);
                self.tell(cell, warren_control::ToMsa::Drain);
            }
            Step::Stop(cell) => self.stop(cell),
            Step::Forget(cell) => self.forget(cell),
            Step::Answer(waiter, answer) => self.answer(waiter, answer),
            Step::Remember(tenant, mark) => {
                if let Err(error) = self.store.remember(&tenant, mark) {
                    tracing::error!(%tenant, %error, "cannot write the journal of due times");
                }
            }
            Step::AskDue(tenant) => drop(self.ask_due.insert(tenant)),
        }
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Want { tenant, stale, wanted, deadline, reply } => {
                self.want(Client { tenant, wanted, deadline, tries: 0, reply }, stale);
            }
            Order::Unwant { tenant, deadline, reply } => {
                let waiter = self.waiter();
                let by = deadline.saturating_duration_since(self.epoch);
                let client = Client { tenant: tenant.clone(), wanted: Instant::now(), deadline, tries: 0, reply };
                self.clients.insert(waiter, client);
                self.events.push_back(Event::Unwanted { tenant, waiter, by });
            }
            Order::Banner(cold, at) => self.meter.cold_start(cold, at),
            Order::Status(reply) => drop(reply.send(self.status())),
            Order::Describe(mut tenants, reply) => {
                let cells = tenants.iter_mut().map(|tenant| self.describe(tenant)).collect();
                let _ = reply.send((tenants, cells));
            }
            Order::Inspect(cells, reply) => self.inspect(cells, reply),
            Order::Launcher(reply) => self.ask_launcher(reply),
            Order::Cells(reply) => {
                let cells = self.cells.iter().map(|(id, cell)| (*id, cell.tenant.clone()));
                let _ = reply.send(cells.collect());
            }
            Order::Exec(tenant, args, reply) => self.exec(&tenant, args, reply),
            Order::Active(most, reply) => drop(reply.send(self.active(most))),
            // What is written down holds, in whatever order the orders of two operators come.
            Order::Suspension(tenant) if self.suspended.contains(&tenant) => {
                self.events.push_back(Event::Suspended(tenant));
            }
            Order::Suspension(tenant) => self.events.push_back(Event::Resumed(tenant)),
            Order::Changed(changes) => {
                for tenant in changes.settings {
                    self.renew_settings(&tenant);
                }
                self.events.extend(changes.container.into_iter().map(Event::Renew));
                self.events.extend(changes.removed.into_iter().map(Event::Removed));
            }
        }
    }

    /// Puts a client in front of the machine.
    pub(super) fn want(&mut self, client: Client, stale: Option<CellId>) {
        let waiter = self.waiter();
        let by = client.deadline.saturating_duration_since(self.epoch);
        self.events.push_back(Event::Wanted { tenant: client.tenant.clone(), waiter, by, stale });
        self.clients.insert(waiter, client);
    }

    fn waiter(&mut self) -> Waiter {
        self.next_waiter += 1;
        Waiter(self.next_waiter)
    }

    fn active(&self, most: usize) -> Vec<TenantName> {
        let started = |cell: &super::cells::Cell| cell.started.map(|started| started.at_unix_ms);
        let mut running: Vec<_> = self.cells.values().map(|cell| (started(cell), &cell.tenant)).collect();
        running.sort_unstable_by(|a, b| b.cmp(a));
        let names: BTreeSet<&TenantName> = running.iter().map(|(_, tenant)| *tenant).collect();
        let gone = self.recent.latest().filter(|tenant| !names.contains(tenant));
        running.iter().map(|(_, tenant)| *tenant).chain(gone).take(most).cloned().collect()
    }

    fn status(&self) -> Status {
        let census = self.fleet.census();
        Status {
            starting: census.starting,
            awake: census.awake,
            draining: census.draining,
            failed: census.failed,
            due: census.due,
            next_due_unix_ms: self.fleet.next_due(),
            queued: self.cells.values().filter_map(|cell| cell.stats).map(|stats| stats.queued).sum(),
            suspended: self.fleet.suspended(),
            launcher: self.fleet.has_launcher(),
            cold_starts: self.meter.cold_starts(),
            starts: self.meter.starts(),
            counters: self.meter.counters(),
            ..Status::default()
        }
    }

    /// Gives the cell of one that is running.
    fn describe(&self, info: &mut warren_control::api::TenantInfo) -> Option<CellId> {
        use warren_control::api::TenantState;
        let (life, due) = self.fleet.life(&info.name);
        info.next_due_unix_ms = due;
        info.state = match life {
            Life::Asleep | Life::Failed { .. } if self.fleet.is_suspended(&info.name) => TenantState::Suspended,
            Life::Asleep => TenantState::Asleep,
            Life::Queued | Life::Starting => TenantState::Starting,
            Life::Awake { .. } => TenantState::Awake,
            Life::Draining { .. } => TenantState::Draining,
            Life::Failed { .. } => TenantState::Failed,
        };
        if let Life::Awake { cell: id, .. } | Life::Draining { cell: id, .. } = life
            && let Some(cell) = self.cells.get(&id)
        {
            info.next_due_unix_ms = cell.due;
            info.queued = cell.stats.map(|stats| stats.queued);
            info.started = cell.started;
            let awake = cell.started.map(|started| started.at_unix_ms + started.took_us.unwrap_or(0) / 1000);
            info.since_unix_ms = cell.draining.or(awake);
            return Some(id);
        }
        let past = self.recent.of(&info.name);
        info.started = past.and_then(|past| past.started);
        if matches!(info.state, TenantState::Asleep | TenantState::Failed) {
            info.since_unix_ms = past.map(|past| past.since_unix_ms);
        }
        None
    }
}
