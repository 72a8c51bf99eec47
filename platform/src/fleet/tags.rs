//! Requests to the launcher that were not answered yet.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    time::Instant,
};

use tokio::sync::oneshot;
use warren_control::api::StartReason;
use warren_launcher_api::{CellId, CellInfo, CellUse, ImageName, Limits, Status, TenantName};

/// What an answer will be about.
#[derive(Debug)]
pub(super) enum About {
    /// `made`: how the container is made.
    Wake {
        tenant: TenantName,
        asked: Instant,
        made: (ImageName, Limits),
        wanted: Instant,
        reason: StartReason,
    },
    Sockets(CellId),
    Control(CellId),
    Stop(CellId),
    List,
    Due(Vec<TenantName>),
    Inspect(oneshot::Sender<Vec<CellUse>>),
    Status(oneshot::Sender<Status>),
}

/// All of them, and the list of cells while it arrives in parts. Belongs to one connection: dropped with it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    next: u64,
    pub about: HashMap<u64, About>,
    wakes: BTreeMap<u64, Instant>,
    due: usize,
    /// Cells listed so far, each with its pidfd.
    pub listed: BTreeMap<CellId, (CellInfo, OwnedFd)>,
}

impl Pending {
    /// A tag for a new request.
    pub fn tag(&mut self, about: About) -> u64 {
        self.next += 1;
        match &about {
            About::Wake { asked, .. } => drop(self.wakes.insert(self.next, *asked)),
            About::Due(_) => self.due += 1,
            _ => {}
        }
        self.about.insert(self.next, about);
        self.next
    }

    /// What the answer with this tag is about; once.
    pub fn take(&mut self, tag: u64) -> Option<About> {
        self.wakes.remove(&tag);
        let about = self.about.remove(&tag);
        if matches!(about, Some(About::Due(_))) {
            self.due -= 1;
        }
        about
    }

    /// Since when the launcher owes an answer to a wake.
    pub fn oldest_wake(&self) -> Option<Instant> {
        self.wakes.first_key_value().map(|(_, asked)| *asked)
    }

    /// Whether volumes are being asked.
    pub fn asks_volumes(&self) -> bool {
        self.due > 0
    }
}
