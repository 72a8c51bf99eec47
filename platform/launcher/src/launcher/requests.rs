//! What peers ask for.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Signal, pidfd_send_signal};
use warren_launcher_api::{
    CellId, CellInfo, CellUse, DueTime, Event, ImageName, LauncherError, MAX_CELLS, MAX_DUE, MAX_INSPECTED,
    MAX_SOCKETS, Request, Role, VERSION,
};

use super::holders::Holder;
use super::{Cell, Launcher, Stage, log, token};
use crate::doors;
use crate::image::Image;

/// Until peers are let in again when there was no descriptor for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// For the platform to take a whole list of cells.
const LIST_PATIENCE: Duration = Duration::from_secs(2);
/// Requests served to one peer before others have their turn.
const TURN: usize = 32;

impl Launcher {
    pub(super) fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok(packets) => {
                    let users = [0, self.options.platform_uid, self.options.proxy_uid, self.options.resolver_uid];
                    if let Err(reason) = self.peers.admit(packets, &users, &self.epoll, |id| token::PEER | id)
                        && self.peers.worth_a_word(&reason)
                    {
                        log(&format!("connection refused: {reason}"));
                    }
                }
                Err(error) if error.would_block() => return,
                Err(error) => return self.cannot_accept(&error.to_string()),
            }
        }
    }

    /// Out of descriptors, most likely. Whoever connects waits in the backlog, which is not looked at for a moment: it stays readable.
    fn cannot_accept(&mut self, reason: &str) {
        if self.peers.worth_a_word(reason) {
            log(&format!("no peer can be let in: {reason}"));
        }
        self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
        self.watch_listener(epoll::EventFlags::empty());
    }

    pub(super) fn accept_again(&mut self, now: Instant) {
        if self.accept_at.is_some_and(|time| time <= now) {
            self.accept_at = None;
            self.watch_listener(epoll::EventFlags::IN);
        }
    }

    fn watch_listener(&self, flags: epoll::EventFlags) {
        let data = epoll::EventData::new_u64(token::LISTENER);
        if let Err(errno) = epoll::modify(&self.epoll, &self.listener, data, flags) {
            log(&format!("epoll: {errno}"));
        }
    }

    pub(super) fn serve_peer(&mut self, id: u64) {
        if let Err(reason) = self.peers.flush(id, &self.epoll, token::PEER | id) {
            return self.drop_peer(id, &reason);
        }
        for _ in 0..TURN {
            match self.peers.receive(id) {
                Ok(Some(request)) => {
                    if let Err(reason) = self.serve(id, request) {
                        return self.drop_peer(id, &reason);
                    }
                }
                Ok(None) => return,
                Err(reason) => return self.drop_peer(id, &reason),
            }
        }
    }

    /// An error ends the connection.
    fn serve(&mut self, id: u64, request: Request) -> Result<(), String> {
        let role = self.peers.role(id);
        match (request, role) {
            (Request::Hello { role, version }, None) => self.hello(id, role, version)?,
            (Request::Status { tag }, Some(_)) => {
                let status = self.status();
                self.say(id, &Event::Status { tag, status }, &[]);
            }
            (Request::Wake { tag, tenant, image, limits }, Some(Role::Platform)) => {
                self.want_awake(id, tag, tenant, image, limits);
            }
            (Request::Stop { tag, cell, grace_ms }, Some(Role::Platform)) => self.stop(id, tag, cell, grace_ms),
            (Request::Sockets { tag, cell, tcp, control }, Some(Role::Platform)) => {
                self.more_sockets(id, tag, cell, tcp.into(), control.into());
            }
            (Request::List { tag }, Some(Role::Platform)) => self.list(id, tag),
            (Request::Due { tag, tenants }, Some(Role::Platform)) if tenants.len() <= MAX_DUE => {
                let due = tenants
                    .into_iter()
                    .map(|tenant| DueTime { next_due_unix_ms: self.volumes.next_due(&tenant), tenant })
                    .collect();
                self.say(id, &Event::Due { tag, due }, &[]);
            }
            (Request::Inspect { tag, cells }, Some(Role::Platform)) if cells.len() <= MAX_INSPECTED => {
                let cells = self.inspect(cells);
                self.say(id, &Event::Inspected { tag, cells }, &[]);
            }
            (Request::Ack { through }, Some(role @ (Role::Proxy | Role::Resolver))) => {
                let known = self.holders.get_mut(&role).is_none_or(|holder| holder.acknowledge(through));
                if !known {
                    return Err(format!("acknowledges {through}, which was never said"));
                }
            }
            (request, role) => return Err(format!("may not ask this as {role:?}: {request:?}")),
        }
        Ok(())
    }

    fn hello(&mut self, id: u64, role: Role, version: u32) -> Result<(), String> {
        if version != VERSION {
            return Err(format!("speaks version {version}, not {VERSION}: restart it after the upgrade"));
        }
        let wanted = match role {
            Role::Platform => self.options.platform_uid,
            Role::Proxy => self.options.proxy_uid,
            Role::Resolver => self.options.resolver_uid,
        };
        let uid = self.peers.uid(id).unwrap_or(u32::MAX);
        if uid != wanted && uid != 0 {
            return Err(format!("user {uid} may not be {role:?}, only user {wanted} or root"));
        }
        if let Some(earlier) = self.peers.grant(id, role) {
            log(&format!("a new {role:?} replaces the one before"));
            self.peers.remove(earlier);
            self.waiting.retain(|wake| wake.peer != earlier);
        }
        self.say(id, &Event::Welcome { version: VERSION }, &[]);
        if role != Role::Platform {
            let alive = self.cells.iter().filter(|(_, cell)| cell.is_alive()).map(|(id, _)| *id);
            self.holders.insert(role, Holder::new(alive));
        }
        Ok(())
    }

    pub(super) fn drop_peer(&mut self, id: u64, reason: &str) {
        let role = self.peers.role(id);
        if reason != "closed" {
            log(&format!("connection of {role:?} ended: {reason}"));
        }
        if let Some(role) = self.peers.remove(id) {
            self.holders.remove(&role);
        }
        self.waiting.retain(|wake| wake.peer != id);
    }

    /// Says something to a peer; one that does not take it is dropped.
    pub(super) fn say(&mut self, id: u64, event: &Event, descriptors: &[BorrowedFd<'_>]) {
        if let Err(reason) = self.peers.send(id, event, descriptors, &self.epoll, token::PEER | id) {
            self.drop_peer(id, &reason);
        }
    }

    /// Says something to the platform, if there is one.
    pub(super) fn say_platform(&mut self, event: &Event) {
        if let Some(id) = self.peers.holder(Role::Platform) {
            self.say(id, event, &[]);
        }
    }

    fn stop(&mut self, id: u64, tag: u64, number: CellId, grace_ms: u32) {
        match self.cells.get_mut(&number) {
            Some(cell) if matches!(cell.stage, Stage::Bound { .. }) => {
                cell.stops.push((id, tag));
                if cell.is_alive() {
                    self.end_gracefully(number, grace_ms);
                }
            }
            _ => self.say(id, &Event::Stopped { tag }, &[]),
        }
    }

    /// SIGTERM now, SIGKILL later (if an earlier one is not sooner).
    pub(super) fn end_gracefully(&mut self, number: CellId, grace_ms: u32) {
        let Some(pidfd) = self.cells.get(&number).and_then(|cell| cell.pidfd.as_ref()) else { return };
        let signal = if grace_ms == 0 { Signal::KILL } else { Signal::TERM };
        // It can only be gone by itself, which its pidfd will tell.
        let _ = pidfd_send_signal(pidfd, signal);
        let at = Instant::now() + Duration::from_millis(grace_ms.into());
        self.kills.insert((at, number));
    }

    fn more_sockets(&mut self, id: u64, tag: u64, number: CellId, tcp: usize, control: usize) {
        let made = match self.cells.get(&number) {
            _ if tcp + control > MAX_SOCKETS => {
                Err(LauncherError::Refused { reason: format!("more than {MAX_SOCKETS}") })
            }
            Some(cell) if cell.is_alive() && cell.tenant().is_some() => match &cell.pidfd {
                Some(pidfd) => doors::in_cell(pidfd, &self.home_net, || doors::sockets(tcp, control))
                    .map_err(|_| LauncherError::NoSuchCell { cell: number }),
                None => Err(LauncherError::NoSuchCell { cell: number }),
            },
            _ => Err(LauncherError::NoSuchCell { cell: number }),
        };
        match made {
            Ok(sockets) => {
                let borrowed: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
                self.say(id, &Event::Sockets { tag }, &borrowed);
            }
            Err(error) => self.say(id, &Event::Failed { tag, error }, &[]),
        }
    }

    /// Page after page, each when the one before was taken: copies of all pidfds at once would need as many descriptors again. Nothing else is
    /// done meanwhile, so what is said between is not taken for a part of the list; whoever does not read it is dropped.
    fn list(&mut self, id: u64, tag: u64) {
        let bound = |cell: &Cell| matches!(cell.stage, Stage::Bound { .. }) && cell.is_alive();
        let all: Vec<CellId> = self.cells.iter().filter(|(_, cell)| bound(cell)).map(|(id, _)| *id).collect();
        if all.is_empty() {
            return self.say(id, &Event::Cells { tag, cells: Vec::new(), more: false }, &[]);
        }
        let until = Instant::now() + LIST_PATIENCE;
        let parts = all.chunks(MAX_CELLS);
        let last = parts.len() - 1;
        for (number, part) in parts.enumerate() {
            let (cells, pidfds) = part.iter().filter_map(|id| self.listed(*id)).unzip();
            let event = Event::Cells { tag, cells, more: number < last };
            let pidfds: Vec<BorrowedFd<'_>> = pidfds;
            let said = self.peers.send_now(id, &event, &pidfds, until);
            if let Err(reason) = said {
                return self.drop_peer(id, &format!("its list of cells: {reason}"));
            }
        }
    }

    fn listed(&self, number: CellId) -> Option<(CellInfo, BorrowedFd<'_>)> {
        let cell = self.cells.get(&number)?;
        let (Stage::Bound { tenant, started_unix_ms }, Some(pidfd)) = (&cell.stage, &cell.pidfd) else { return None };
        let info = CellInfo {
            cell: number,
            tenant: tenant.clone(),
            image: cell.image.name.clone(),
            started_unix_ms: *started_unix_ms,
        };
        Some((info, pidfd.as_fd()))
    }

    fn inspect(&self, cells: Vec<CellId>) -> Vec<CellUse> {
        // An image is looked at once, however many run it.
        let mut current: HashMap<&ImageName, Option<Image>> = HashMap::new();
        let running = cells.into_iter().filter_map(|id| Some((id, self.cells.get(&id)?)));
        running
            .filter(|(_, cell)| cell.is_alive() && cell.tenant().is_some())
            .map(|(id, cell)| {
                let name = &cell.image.name;
                let now = current.entry(name).or_insert_with(|| Image::load(&self.options.images, name).ok());
                // One that is broken now is no reason to leave the one that works.
                let outdated = now.as_ref().is_some_and(|now| now.stamp != cell.image.stamp);
                CellUse { cell: id, memory_bytes: self.cgroups.memory(id), outdated }
            })
            .collect()
    }

    fn status(&mut self) -> warren_launcher_api::Status {
        let mut status = self.counts.clone();
        status.cells = self.tenants.len() as u64;
        status.waiting = self.waiting.len() as u64;
        status.slots_ready = self.ready().count() as u64;
        status.slots_wanted = self.slots_wanted(Instant::now()) as u64;
        let roles = [Role::Platform, Role::Proxy, Role::Resolver];
        status.holders = roles.into_iter().filter(|role| self.peers.holder(*role).is_some()).collect();
        status
    }
}
