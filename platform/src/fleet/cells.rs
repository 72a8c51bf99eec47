//! What the platform holds of each running container, and who waits for a socket in it.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use warren_control::{
    Entrance, Stats,
    api::{StartReason, Started},
};
use warren_launcher_api::{CellId, TenantName};

use super::{
    cell::CellOrder,
    handle::{ColdStart, Reply},
};

/// Spare sockets that are kept for a cell: with pidfd and control three descriptors for each tenant that is awake, so that 5,000 of them and
/// their clients fit into a hard limit of 20,000.
pub(super) const SPARE: usize = 1;

/// Somebody who wants a socket, or just to know.
#[derive(Debug)]
pub(super) struct Client {
    pub tenant: TenantName,
    pub wanted: Instant,
    pub deadline: Instant,
    pub tries: u32,
    pub reply: Reply,
}

impl Client {
    /// Why a tenant is started for this one.
    pub fn reason(&self) -> StartReason {
        match self.reply {
            Reply::Socket(Entrance::Submission, _) => StartReason::Connection,
            Reply::Socket(Entrance::Relay, _) => StartReason::Forward,
            Reply::Done(_) => StartReason::Hand,
        }
    }
}

/// What a start told, until the first client takes it.
#[derive(Debug)]
pub(super) struct Birth {
    pub asked: Instant,
    pub woken: Instant,
    pub warm: bool,
    pub stages: Vec<(String, Duration)>,
}

/// One running container.
#[derive(Debug)]
pub(super) struct Cell {
    pub tenant: TenantName,
    /// Orders to the MSA; `None` until a control socket is there.
    pub orders: Option<mpsc::Sender<CellOrder>>,
    pub task: Option<AbortHandle>,
    /// The MSA has its settings.
    pub ready: bool,
    /// The MSA said that its entrances are served.
    pub serves: watch::Sender<bool>,
    pub spare: Vec<OwnedFd>,
    pub waiting: VecDeque<Client>,
    /// More sockets were asked for.
    pub asked: bool,
    pub birth: Option<Birth>,
    pub due: Option<u64>,
    pub stats: Option<Stats>,
    /// How it was started, and since when that was wanted.
    pub started: Option<Started>,
    pub wanted: Option<Instant>,
    /// Since when it is on its way down, in unix milliseconds.
    pub draining: Option<u64>,
}

impl Cell {
    pub fn new(tenant: TenantName) -> Cell {
        Cell {
            tenant,
            orders: None,
            task: None,
            ready: false,
            serves: watch::Sender::new(false),
            spare: Vec::new(),
            waiting: VecDeque::new(),
            asked: false,
            birth: None,
            due: None,
            stats: None,
            started: None,
            wanted: None,
            draining: None,
        }
    }

    /// The MSA has its settings, for the first time or again.
    pub fn is_ready(&mut self) {
        self.ready = true;
        if let (Some(started), Some(wanted)) = (&mut self.started, self.wanted.take()) {
            started.took_us = u64::try_from(wanted.elapsed().as_micros()).ok();
        }
    }

    /// The next client and a socket for it, if there are both.
    pub fn pair(&mut self) -> Option<(Client, OwnedFd)> {
        if !self.ready || self.waiting.is_empty() {
            return None;
        }
        let socket = self.spare.pop()?;
        self.waiting.pop_front().map(|client| (client, socket))
    }

    /// How many sockets to ask the launcher for now.
    pub fn lacking(&self) -> Option<usize> {
        let lacking = self.waiting.len().saturating_sub(self.spare.len());
        (self.ready && !self.asked && lacking > 0).then_some(lacking)
    }

    /// Closes sockets that nobody waits for.
    pub fn trim(&mut self) {
        self.spare.truncate(SPARE.max(self.waiting.len()));
    }

    /// The story of the cold start, for the client that waited for it.
    pub fn tell_birth(&mut self, wanted: Instant, now: Instant) -> Option<ColdStart> {
        let birth = self.birth.take()?;
        let mut stages = vec![
            ("queue".into(), birth.asked.saturating_duration_since(wanted)),
            ("launcher".into(), birth.woken.saturating_duration_since(birth.asked)),
        ];
        stages.extend(birth.stages.into_iter().map(|(name, took)| (format!("launcher.{name}"), took)));
        stages.push(("settings".into(), now.saturating_duration_since(birth.woken)));
        Some(ColdStart { wanted, connected: now, warm: birth.warm, stages })
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// All running containers.
pub(super) type Cells = HashMap<CellId, Cell>;
