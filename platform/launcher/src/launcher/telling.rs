//! News of doors to their holders. A door is made when it is handed over first, and kept for the next holder.

use std::os::fd::AsFd;

use warren_launcher_api::{CellId, Event, Role};

use super::holders::News;
use super::{Launcher, log};
use crate::doors;

impl Launcher {
    /// Adds news for every holder.
    pub(super) fn announce(&mut self, news: News) {
        for holder in self.holders.values_mut() {
            holder.tell(news);
        }
    }

    /// Says what may be said now.
    pub(super) fn tell_holders(&mut self) {
        for role in [Role::Proxy, Role::Resolver] {
            while let Some(peer) = self.peers.holder(role).filter(|peer| self.peers.is_flowing(*peer)) {
                let Some((seq, news)) = self.holders.get_mut(&role).and_then(|holder| holder.next()) else { break };
                match news {
                    News::Door(cell) => self.tell_door(peer, role, seq, cell),
                    News::Bound(cell) => {
                        let tenant = self.cells.get(&cell).and_then(|cell| cell.tenant().cloned());
                        match tenant {
                            Some(tenant) => self.say(peer, &Event::Bound { seq, cell, tenant }, &[]),
                            None => self.unsaid(role, news),
                        }
                    }
                    News::Gone(cell) => self.say(peer, &Event::Gone { seq, cell }, &[]),
                }
            }
        }
    }

    fn tell_door(&mut self, peer: u64, role: Role, seq: u64, number: CellId) {
        let Some(cell) = self.cells.get_mut(&number).filter(|cell| cell.is_alive()) else {
            return self.unsaid(role, News::Door(number));
        };
        let Some(pidfd) = cell.pidfd.as_ref() else { return self.unsaid(role, News::Door(number)) };
        match doors::in_cell(pidfd, &self.home_net, || cell.kept.door(role)) {
            Ok(sockets) => {
                cell.doors = cell.doors.saturating_add(1);
                // Ascends also from one launcher to the next.
                let generation = (self.life << 16) | u32::from(cell.doors);
                let tenant = cell.tenant().cloned();
                let borrowed: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
                self.say(peer, &Event::Door { seq, cell: number, generation, tenant }, &borrowed);
            }
            Err(error) => {
                // A container that died just now has no cell to enter; its end will be told.
                log(&format!("no {role:?} door in cell {number}: {error}"));
                self.unsaid(role, News::Door(number));
            }
        }
    }

    fn unsaid(&mut self, role: Role, news: News) {
        if let Some(holder) = self.holders.get_mut(&role) {
            holder.unsaid(news);
        }
    }
}
