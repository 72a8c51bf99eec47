//! News of doors to their holders. A door is made when it is handed over first, or before its tenant's program starts, and kept for the next holder.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use warren_launcher_api::{CellId, Event, Role};

use super::holders::{Holder, News};
use super::{Launcher, log};
use crate::doors;

/// Until a door is tried again.
const PAUSE: Duration = Duration::from_millis(200);

impl Launcher {
    /// Adds news for every holder.
    pub(super) fn announce(&mut self, news: News) {
        for holder in self.holders.values_mut() {
            holder.tell(news);
        }
    }

    /// Says what may be said now.
    pub(super) fn tell_holders(&mut self) {
        let now = Instant::now();
        for role in [Role::Proxy, Role::Resolver] {
            if let Some(holder) = self.holders.get_mut(&role) {
                if holder.pause.is_some_and(|until| until > now) {
                    continue;
                }
                holder.pause = None;
            }
            while let Some(peer) = self.peers.holder(role).filter(|peer| self.peers.is_flowing(*peer)) {
                let Some((seq, news)) = self.holders.get_mut(&role).and_then(Holder::next_unless_paused) else { break };
                match news {
                    News::Door(cell) => self.tell_door(peer, role, seq, cell),
                    News::Bound(cell) => {
                        let tenant = self.cells.get(&cell).and_then(|cell| cell.tenant().cloned());
                        match tenant {
                            Some(tenant) => self.say(peer, &Event::Bound { seq, cell, tenant }, &[]),
                            None => self.unsaid(role, news),
                        }
                    }
                    News::AllTold => self.say(peer, &Event::AllTold { seq }, &[]),
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
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // Its own program listens there, which it could only begin while nobody had the door. Others shall not wait until it has thought better of it.
                log(&format!("cell {number} keeps the address of its {role:?} door for itself: ended"));
                self.unsaid(role, News::Door(number));
                self.end_gracefully(number, 0);
            }
            Err(error) => {
                // A container that died just now has no cell to enter, and its end will be told. Otherwise there are too few descriptors for a
                // moment, and its tenant waits for this door.
                log(&format!("no {role:?} door in cell {number} yet: {error}"));
                if let Some(holder) = self.holders.get_mut(&role) {
                    holder.later(News::Door(number), Instant::now() + PAUSE);
                }
            }
        }
    }

    fn unsaid(&mut self, role: Role, news: News) {
        if let Some(holder) = self.holders.get_mut(&role) {
            holder.unsaid(news);
        }
    }
}
