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
    /// Whoever asked since, too.
    Status(Vec<oneshot::Sender<Status>>),
}

/// All of them, and the list of cells while it arrives in parts. Belongs to one connection: dropped with it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    next: u64,
    pub about: HashMap<u64, About>,
    wakes: BTreeMap<u64, Instant>,
    due: usize,
    /// The question for its status, of which there is one at a time.
    status: Option<u64>,
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
            About::Status(_) => self.status = Some(self.next),
            // A launcher that hangs may be asked for long. Who gave up needs no answer.
            About::Inspect(_) => {
                self.about.retain(|_, about| !matches!(about, About::Inspect(reply) if reply.is_closed()));
            }
            _ => {}
        }
        self.about.insert(self.next, about);
        self.next
    }

    /// What the answer with this tag is about; once.
    pub fn take(&mut self, tag: u64) -> Option<About> {
        self.wakes.remove(&tag);
        let about = self.about.remove(&tag);
        match about {
            Some(About::Due(_)) => self.due -= 1,
            Some(About::Status(_)) => self.status = None,
            _ => {}
        }
        about
    }

    /// Has somebody wait for the launcher's status with those who wait already; a tag, if the launcher is to be asked for it.
    pub fn ask_status(&mut self, reply: oneshot::Sender<Status>) -> Option<u64> {
        let asked = self.status.and_then(|tag| self.about.get_mut(&tag));
        let Some(About::Status(waiting)) = asked else { return Some(self.tag(About::Status(vec![reply]))) };
        waiting.retain(|waiting| !waiting.is_closed());
        waiting.push(reply);
        None
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_that_hangs_is_asked_once_and_those_who_gave_up_are_forgotten() {
        let mut pending = Pending::default();
        let mut asked = Vec::new();
        for _ in 0..100 {
            let (sender, _gives_up) = oneshot::channel();
            asked.extend(pending.ask_status(sender));
            let (sender, _gives_up) = oneshot::channel();
            pending.tag(About::Inspect(sender));
        }
        let (sender, patient) = oneshot::channel();
        assert_eq!((asked.len(), pending.ask_status(sender)), (1, None));
        assert_eq!(pending.about.len(), 2, "the status and the last inspection");
        let Some(About::Status(waiting)) = pending.take(asked[0]) else { panic!("no answer is expected") };
        assert_eq!(waiting.len(), 1, "all but the patient one gave up");
        waiting.into_iter().for_each(|reply| reply.send(Status::default()).unwrap());
        assert_eq!(patient.blocking_recv(), Ok(Status::default()));
        // It answered: the next one asks anew.
        assert!(pending.ask_status(oneshot::channel().0).is_some());
    }
}
