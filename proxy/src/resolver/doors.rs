//! All doors of this process: opened, replaced and closed as the launcher says.

use std::{collections::HashMap, io, net, os::fd::OwnedFd, sync::Arc};

use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};
use warren_launcher_api::CellId;

use super::{
    Notes, Upstream,
    door::{Shared, serve},
    sts::Policies,
};
use crate::next::{self, Giver};

/// The doors. One task each.
pub struct Doors {
    shared: Arc<Shared>,
    open: HashMap<CellId, Open>,
}

struct Open {
    udp: Giver<UdpSocket>,
    tcp: Giver<TcpListener>,
    task: JoinHandle<()>,
}

/// A handle to change what all doors ask.
#[derive(Clone)]
pub struct Asking(Arc<Shared>);

impl Asking {
    /// From now on, ask these nameservers. Questions under way end with the old ones.
    pub fn replace(&self, upstream: Upstream) {
        self.0.upstream.store(Arc::new(upstream));
    }

    /// Policies of MTA-STS.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.0.policies
    }

    /// Whom they ask at present.
    #[must_use]
    pub fn upstream(&self) -> Upstream {
        Upstream::clone(&self.0.upstream.load())
    }
}

impl Doors {
    /// No doors yet; those to come ask `upstream` and `policies`, and tell `notes`.
    #[must_use]
    pub fn new(upstream: Upstream, policies: Arc<Policies>, notes: Notes) -> Self {
        Self { shared: Arc::new(Shared::new(upstream, policies, notes)), open: HashMap::new() }
    }

    /// The same for hosts that could ask other resolvers, too: what they say by asking is not bounded.
    #[must_use]
    pub fn of_hosts(upstream: Upstream, policies: Arc<Policies>, notes: Notes) -> Self {
        let shared = Shared::new(upstream, policies, notes).without_thrift();
        Self { shared: Arc::new(shared), open: HashMap::new() }
    }

    /// As in a process that has only so many for doors and connections.
    #[cfg(test)]
    pub(super) fn of_few_descriptors(&mut self, descriptors: usize) {
        let shared = Arc::get_mut(&mut self.shared).expect("no door is open");
        shared.room = Arc::new(crate::places::Room::new(descriptors, 1));
    }

    /// With so many places for questions of all cells.
    #[cfg(test)]
    pub(super) fn of_few_questions(&mut self, places: usize) {
        let shared = Arc::get_mut(&mut self.shared).expect("no door is open");
        shared.questions = super::shares::Questions::new(places);
    }

    /// A handle to change what all doors ask.
    #[must_use]
    pub fn asking(&self) -> Asking {
        Asking(Arc::clone(&self.shared))
    }

    /// Serves a cell's UDP socket and TCP listener. If the cell has a door already, that goes on with these in place of its own, and nobody who asked or
    /// waits there goes without an answer.
    pub async fn open(&mut self, cell: CellId, udp: OwnedFd, tcp: OwnedFd) -> io::Result<()> {
        let (udp, tcp) = (net::UdpSocket::from(udp), net::TcpListener::from(tcp));
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
        if let Some(open) = self.open.get(&cell).filter(|open| !open.task.is_finished()) {
            tokio::join!(open.udp.give(udp), open.tcp.give(tcp));
            return Ok(());
        }
        let ((next_udp, udps), (next_tcp, tcps)) = (next::pair(), next::pair());
        let task = tokio::spawn(serve(cell, (udp, udps), (tcp, tcps), Arc::clone(&self.shared)));
        self.open.insert(cell, Open { udp: next_udp, tcp: next_tcp, task });
        Ok(())
    }

    /// Closes a cell's door; its sockets are closed when this returns.
    pub async fn close(&mut self, cell: CellId) {
        if let Some(Open { task, .. }) = self.open.remove(&cell) {
            task.abort();
            let _ = task.await;
        }
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.len()
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        for Open { task, .. } in self.open.values() {
            task.abort();
        }
    }
}
