//! The loop: one thread, one epoll, nothing that blocks for longer than a few system calls.
//!
//! ```text
//!  Make ─▶ Making ─▶ Ready (a slot) ─▶ Bound (a tenant's) ─▶ exited ─▶ reaped ─▶ removed
//!             making.rs        waking.rs        pidfd            ending.rs: Exited, then groups and directories
//! ```
//!
//! | file | what |
//! |---|---|
//! | `mod` | state, events, timers |
//! | `start` | what comes before: checks, adoption of what still runs, leftovers |
//! | `requests` | what peers ask for |
//! | `making` | the maker, its jobs, the pool |
//! | `seating` | what a cell needs before it is a slot |
//! | `waking` | a slot becomes a tenant's container |
//! | `ending` | signals, reaping, leaving nothing behind |
//! | `telling` | news to the holders of doors |
//! | `peers`, `holders`, `pool` | connections; their news; how many slots (the last two are pure) |

mod ending;
mod holders;
mod making;
mod peers;
mod pool;
mod requests;
mod seating;
mod start;
mod telling;
mod waking;
mod watching;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{Timespec, epoll};
use warren_launcher_api::{CellId, ExitStatus, ImageName, Role, Status, TenantName};
use warren_packet::PacketListener;

use crate::arguments::Options;
use crate::cgroup::Cgroups;
use crate::doors::Kept;
use crate::ids::{CellNumbers, SlotRanges};
use crate::image::Image;
use crate::maker::BlankIdmap;
use crate::volume::Volumes;
use ending::Removal;
use holders::Holder;
use making::{Job, Maker};
use peers::Peers;
use pool::Pools;
use waking::PendingWake;
use watching::Watching;

/// What the loop watches, in the upper byte of epoll's number; the rest is which one.
mod token {
    pub const LISTENER: u64 = 1 << 56;
    pub const SIGNALS: u64 = 2 << 56;
    pub const MAKER: u64 = 3 << 56;
    pub const WATCHER: u64 = 6 << 56;
    pub const PEER: u64 = 4 << 56;
    pub const CELL: u64 = 5 << 56;
    pub const KIND: u64 = 0xff << 56;
}

/// Where a cell is in its life.
enum Stage {
    /// The maker is at it.
    Making,
    /// Waits for a tenant, with what the bind will need.
    Ready { idmap: BlankIdmap, sockets: Vec<OwnedFd> },
    /// Belongs to a tenant.
    Bound { tenant: TenantName, started_unix_ms: u64 },
    /// Is of no use any more.
    Discarded,
}

/// One cell and its container.
struct Cell {
    base: u32,
    image: Image,
    pid: i32,
    pidfd: Option<OwnedFd>,
    /// Which maker is its parent; 0 is one of an earlier launcher.
    maker: u64,
    stage: Stage,
    exited: bool,
    /// The watcher has it ended.
    over: bool,
    /// When its tenant was wanted; nothing of one that was found running.
    wanted: Option<Instant>,
    /// Doors handed over so far.
    doors: u16,
    /// Those that outlive their holders.
    kept: Kept,
    /// Tags of `Stop` requests and who asked.
    stops: Vec<(u64, u64)>,
}

impl Cell {
    /// Tenant code can run in it, or soon will.
    fn is_alive(&self) -> bool {
        self.pidfd.is_some() && !self.exited
    }

    fn tenant(&self) -> Option<&TenantName> {
        match &self.stage {
            Stage::Bound { tenant, .. } => Some(tenant),
            _ => None,
        }
    }
}

/// The launcher's state. Files of this folder each add the functions of one concern.
pub struct Launcher {
    options: Options,
    epoll: OwnedFd,
    /// Our own namespaces, to return to.
    home_net: OwnedFd,
    home_mounts: OwnedFd,
    listener: PacketListener,
    /// When to accept again: there was no descriptor for a peer.
    accept_at: Option<Instant>,
    signals: SignalFd,
    _lock: OwnedFd,
    cgroups: Cgroups,
    /// Every directory that may hold groups of ours, those of earlier launchers too.
    group_parents: Vec<PathBuf>,
    volumes: Volumes,
    numbers: CellNumbers,
    /// Which launcher of this run directory we are.
    life: u32,
    ranges: SlotRanges,
    cells: BTreeMap<CellId, Cell>,
    tenants: HashMap<TenantName, CellId>,
    images: HashMap<ImageName, Image>,
    /// Cells that may be slots: all that are, and a few that were.
    slots: BTreeSet<CellId>,
    pools: Pools,
    /// Numbers of cells that have control groups and a process in them, and no container yet.
    seats: VecDeque<CellId>,
    waiting: VecDeque<PendingWake>,
    maker: Option<Maker>,
    watcher: Option<Watching>,
    watcher_not_before: Option<Instant>,
    maker_lives: u64,
    maker_backoff: Duration,
    maker_not_before: Option<Instant>,
    /// The one thing the maker is doing.
    job: Option<Job>,
    /// When it must be done.
    job_until: Option<Instant>,
    reaps: VecDeque<CellId>,
    refill_not_before: Option<Instant>,
    refill_backoff: Duration,
    shrink_at: Option<Instant>,
    /// Ends of our own children that nobody has asked for yet.
    ended: HashMap<i32, ExitStatus>,
    removals: VecDeque<Removal>,
    /// Removals of an earlier life's leftovers. Until they are done no tenant is woken: one of them may still use its volume.
    leftovers: BTreeSet<CellId>,
    /// When to look for leftovers again: what a killed maker had begun can appear after the first look.
    sweep_at: Option<Instant>,
    kills: BTreeSet<(Instant, CellId)>,
    peers: Peers,
    holders: BTreeMap<Role, Holder>,
    counts: Status,
    /// We were told to end; the time is when we go even if something is left.
    ending: Option<Instant>,
}

/// Runs until SIGTERM, then ends every container.
pub fn run(options: Options) -> Result<(), String> {
    let mut launcher = Launcher::start(options)?;
    launcher.run().map_err(|error| format!("{error}"))
}

/// One line to the log, which is standard error.
fn log(text: &str) {
    // Not `eprintln`, which panics when nobody reads: the supervisor may have been killed.
    let _ = writeln!(io::stderr(), "warren-launcher: {text}");
}

impl Launcher {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            self.work();
            if self.is_done() {
                return self.leave();
            }
            let timeout = self.next_timeout(Instant::now());
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, room, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in events.drain(..) {
                self.handle(event.data.u64());
            }
        }
    }

    fn handle(&mut self, data: u64) {
        let which = data & !token::KIND;
        match data & token::KIND {
            token::LISTENER => self.accept(),
            token::SIGNALS => self.take_signals(),
            token::MAKER => self.hear_maker(),
            token::WATCHER => self.hear_watcher(),
            token::PEER => self.serve_peer(which),
            token::CELL => self.cell_exited(CellId(which)),
            _ => {}
        }
    }

    /// What has become possible since the last event, cheapest and most urgent first.
    fn work(&mut self) {
        let now = Instant::now();
        self.serve_waiting();
        self.keep_maker(now);
        self.keep_watcher(now);
        self.give_job(now);
        // After the job, which the maker does first.
        self.keep_seats(now);
        self.kill_overdue(now);
        self.tell_holders();
        self.accept_again(now);
        if self.sweep_at.is_some_and(|time| time <= now) {
            self.sweep_at = None;
            self.find_leftovers();
        }
        self.remove_step(now);
    }

    /// How long nothing needs to be done of our own accord.
    fn next_timeout(&mut self, now: Instant) -> Timespec {
        let tomorrow = now + Duration::from_secs(3600);
        let next = [
            self.kills.first().map(|(at, _)| *at),
            self.removals.iter().map(|removal| removal.not_before).min(),
            // What has come was dealt with in `work`, or cannot be now.
            self.maker_not_before.filter(|time| *time > now && self.maker.is_none()),
            self.watcher_not_before.filter(|time| *time > now && self.watcher.is_none()),
            self.refill_not_before.filter(|time| *time > now),
            self.surplus_due(now),
            self.job_until.filter(|_| self.job.is_some()),
            self.sweep_at,
            self.accept_at,
            self.holders.values().filter_map(|holder| holder.pause).min(),
            self.ending,
        ];
        let next = next.into_iter().flatten().min().unwrap_or(tomorrow);
        let wait = next.saturating_duration_since(now);
        Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap_own(),
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.begin_end(),
                _ => {}
            }
        }
    }
}
