//! The performer's dealings with the launcher: what it asks of it, and what it hears. What it does with the cells that it gets stands in
//! `serving`.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use warren_control::api::{StartReason, Started};
use warren_launcher_api::{
    CellId, CellUse, Event as Said, ExitStatus, LauncherError, MAX_INSPECTED, Request, Stage, Status, TenantName,
    WOKEN_TCP_SOCKETS,
};

use super::{
    cells::{Birth, Cell},
    clock::unix_ms,
    link::LinkEvent,
    performer::Performer,
    tags::{About, Pending},
    words::Event,
};

/// How long a container that must go has between SIGTERM and SIGKILL.
const STOP_GRACE_MS: u32 = 2000;
/// Volumes that are asked at once; the launcher answers while others wait for it.
const VOLUMES_AT_ONCE: usize = 200;

impl Performer {
    // ── what is asked of it ──

    pub(super) fn request(&mut self, request: Request) {
        // A full queue is a launcher that does not read: the machine waits for its Down, which dropping the sender brings.
        if self.link.as_ref().is_some_and(|link| link.try_send(request).is_err()) {
            self.link = None;
        }
    }

    pub(super) fn start_tenant(&mut self, tenant: TenantName) {
        let Some(launch) = (self.register)(&tenant) else {
            return self.start_failed(tenant, "it is not in the directory".into());
        };
        let (image, limits) = (launch.image, launch.limits);
        let asked = Instant::now();
        let first = self.fleet.first_waiter(&tenant).and_then(|waiter| self.clients.get(&waiter));
        let (wanted, reason) = first.map_or((asked, StartReason::Due), |client| (client.wanted, client.reason()));
        let made = (image.clone(), limits.clone());
        let about = About::Wake { tenant: tenant.clone(), asked, made, wanted, reason };
        let tag = self.pending.tag(about);
        self.request(Request::Wake { tag, tenant, image, limits });
    }

    fn start_failed(&mut self, tenant: TenantName, cause: String) {
        self.meter.count("starts_failed");
        tracing::error!(%tenant, %cause, "cannot wake the tenant");
        self.causes.insert(tenant.clone(), cause);
        self.recent.left(tenant.clone(), unix_ms(), None);
        self.events.push_back(Event::StartFailed { tenant });
    }

    pub(super) fn adopt(&mut self, tenant: TenantName, cell: CellId) {
        tracing::info!(%tenant, %cell, "found awake");
        let mut found = Cell::new(tenant);
        found.started = self.pending.listed.get(&cell).map(|(info, _)| Started {
            at_unix_ms: info.started_unix_ms,
            took_us: None,
            reason: StartReason::Found,
        });
        self.cells.insert(cell, found);
        self.ask_control(cell);
    }

    fn ask_control(&mut self, cell: CellId) {
        let tag = self.pending.tag(About::Control(cell));
        self.request(Request::Sockets { tag, cell, tcp: 1, control: 1 });
    }

    /// Who asks for too much, or while the launcher is away, is told nothing.
    pub(super) fn inspect(&mut self, cells: Vec<CellId>, reply: oneshot::Sender<Vec<CellUse>>) {
        if self.link.is_some() && cells.len() <= MAX_INSPECTED {
            let tag = self.pending.tag(About::Inspect(reply));
            self.request(Request::Inspect { tag, cells });
        }
    }

    /// While the launcher is away, nothing is told.
    pub(super) fn ask_launcher(&mut self, reply: oneshot::Sender<Status>) {
        if self.link.is_some()
            && let Some(tag) = self.pending.ask_status(reply)
        {
            self.request(Request::Status { tag });
        }
    }

    pub(super) fn stop(&mut self, cell: CellId) {
        let tag = self.pending.tag(About::Stop(cell));
        self.request(Request::Stop { tag, cell, grace_ms: STOP_GRACE_MS });
    }

    pub(super) fn ask_volumes(&mut self) {
        if self.link.is_none() || self.pending.asks_volumes() || !self.fleet.has_launcher() {
            return;
        }
        if self.ask_due.is_empty() {
            if let Some(Err(error)) = self.untrusted.take().map(|boot| self.store.trust(&boot)) {
                tracing::error!(%error, "cannot write the journal of due times");
            }
            return;
        }
        let mut tenants = Vec::new();
        while tenants.len() < VOLUMES_AT_ONCE
            && let Some(tenant) = self.ask_due.pop_first()
        {
            tenants.push(tenant);
        }
        let tag = self.pending.tag(About::Due(tenants.clone()));
        self.request(Request::Due { tag, tenants });
    }

    // ── what it says ──

    pub(super) fn linked(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(sender) => {
                self.link = Some(sender);
                self.forget_pending();
                let tag = self.pending.tag(About::List);
                self.request(Request::List { tag });
            }
            LinkEvent::Down => {
                self.link = None;
                self.forget_pending();
                self.events.push_back(Event::LauncherLost);
            }
            LinkEvent::Said(event, descriptors) => self.said(event, descriptors),
        }
    }

    /// Answers of an earlier connection never come. What they were to bring is asked for again.
    fn forget_pending(&mut self) {
        for about in std::mem::take(&mut self.pending).into_unanswered() {
            match about {
                About::Due(tenants) => self.ask_due.extend(tenants),
                About::Sockets(cell) => drop(self.cells.get_mut(&cell).map(|cell| cell.asked = false)),
                // The list that follows leads to another adoption, the machine to other starts and stops.
                About::Control(_)
                | About::Wake { .. }
                | About::Stop(_)
                | About::List
                // Whoever asked sees the answer fail.
                | About::Inspect(_)
                | About::Status(_) => {}
            }
        }
    }

    fn said(&mut self, event: Said, descriptors: Vec<OwnedFd>) {
        match event {
            Said::Woken { tag, cell, slot, stages } => self.woken(tag, cell, slot, stages, descriptors),
            Said::Sockets { tag } => self.sockets(tag, descriptors),
            Said::Cells { tag, cells, more } => {
                self.pending
                    .listed
                    .extend(cells.into_iter().zip(descriptors).map(|(info, fd)| (info.cell, (info, fd))));
                if !more {
                    self.pending.take(tag);
                    self.listed();
                }
            }
            Said::Exited { cell, tenant, status } => {
                self.pending.listed.remove(&cell);
                match status {
                    ExitStatus::Code(0) => tracing::debug!(%tenant, %cell, "asleep"),
                    ExitStatus::OverVolume => {
                        tracing::warn!(%tenant, %cell, "its container was ended: its volume holds too much");
                        self.meter.count("volumes_over");
                        self.full.insert(tenant);
                    }
                    status => tracing::warn!(%tenant, %cell, ?status, "its container ended"),
                }
                self.events.push_back(Event::Exited(cell));
            }
            Said::Due { tag, due } => {
                self.pending.take(tag);
                for due in due {
                    // The volume of a tenant that was removed meanwhile may still say something.
                    let known = (self.register)(&due.tenant).is_some();
                    let next = due.next_due_unix_ms.filter(|_| known);
                    self.events.push_back(Event::Due { tenant: due.tenant, due: next });
                }
            }
            Said::Failed { tag, error } => self.failed(tag, error),
            Said::Stopped { tag } => drop(self.pending.take(tag)),
            Said::Inspected { tag, cells } => {
                if let Some(About::Inspect(reply)) = self.pending.take(tag) {
                    // Who asked may have given up.
                    let _ = reply.send(cells);
                }
            }
            Said::Status { tag, status } => {
                if let Some(About::Status(waiting)) = self.pending.take(tag) {
                    for reply in waiting {
                        let _ = reply.send(status.clone());
                    }
                }
            }
            // Doors are for proxy and resolver.
            Said::Welcome { .. }
            | Said::Door { .. }
            | Said::AllTold { .. }
            | Said::Bound { .. }
            | Said::Gone { .. } => {}
        }
    }

    fn woken(&mut self, tag: u64, cell: CellId, warm: bool, stages: Vec<Stage>, descriptors: Vec<OwnedFd>) {
        let Some(About::Wake { tenant, asked, made, wanted, reason }) = self.pending.take(tag) else {
            return self.stop(cell);
        };
        let mut descriptors = descriptors.into_iter();
        let (Some(pidfd), Some(socket)) = (descriptors.next(), descriptors.next()) else {
            self.stop(cell);
            return self.start_failed(tenant, "the launcher sent too few descriptors".into());
        };
        self.meter.started(reason, warm);
        self.causes.remove(&tenant);
        self.full.remove(&tenant);
        let stages = stages.into_iter().map(|s| (s.name, Duration::from_micros(s.micros))).collect();
        let mut born = Cell::new(tenant.clone());
        born.birth = Some(Birth { asked, woken: Instant::now(), warm, stages });
        let waited = u64::try_from(wanted.elapsed().as_millis()).unwrap_or_default();
        born.started = Some(Started { at_unix_ms: unix_ms().saturating_sub(waited), took_us: None, reason });
        born.wanted = Some(wanted);
        born.spare = descriptors.take(WOKEN_TCP_SOCKETS).collect();
        self.cells.insert(cell, born);
        // The directory may have changed while it was made.
        let outdated = (self.register)(&tenant).is_some_and(|launch| (launch.image, launch.limits) != made);
        self.events.push_back(Event::Started { tenant: tenant.clone(), cell });
        if outdated {
            self.events.push_back(Event::Renew(tenant));
        }
        self.control(cell, socket, pidfd);
    }

    fn listed(&mut self) {
        let mut cells = Vec::new();
        let mut renew = Vec::new();
        let mut strangers = Vec::new();
        for (cell, (info, _)) in &self.pending.listed {
            match (self.register)(&info.tenant) {
                Some(launch) => {
                    cells.push((*cell, info.tenant.clone()));
                    if launch.image != info.image {
                        renew.push(info.tenant.clone());
                    }
                }
                None => strangers.push(*cell),
            }
        }
        strangers.into_iter().for_each(|cell| self.stop(cell));
        // Those whose adoption the last connection did not see through.
        let half: Vec<CellId> =
            cells.iter().map(|c| c.0).filter(|id| self.cells.get(id).is_some_and(|cell| cell.task.is_none())).collect();
        half.into_iter().for_each(|cell| self.ask_control(cell));
        self.events.push_back(Event::LauncherBack(cells));
        self.events.extend(renew.into_iter().map(Event::Renew));
        // What an earlier connection was asked for, or could not be asked.
        let waited_for = self.cells.iter().filter(|(_, cell)| !cell.waiting.is_empty()).map(|(id, _)| *id);
        waited_for.collect::<Vec<_>>().into_iter().for_each(|cell| self.serve(cell));
    }

    fn sockets(&mut self, tag: u64, mut descriptors: Vec<OwnedFd>) {
        match self.pending.take(tag) {
            Some(About::Sockets(id)) => {
                if let Some(cell) = self.cells.get_mut(&id) {
                    cell.asked = false;
                    cell.spare.extend(descriptors);
                }
                self.serve(id);
            }
            Some(About::Control(id)) => {
                let socket = descriptors.pop();
                let pidfd = self.pending.listed.remove(&id).map(|(_, pidfd)| pidfd);
                match (socket, pidfd) {
                    (Some(socket), Some(pidfd)) if self.cells.contains_key(&id) => {
                        if let Some(cell) = self.cells.get_mut(&id) {
                            cell.spare.extend(descriptors);
                        }
                        self.control(id, socket, pidfd);
                    }
                    _ => self.events.push_back(Event::ControlLost(id)),
                }
            }
            _ => {}
        }
    }

    fn failed(&mut self, tag: u64, error: LauncherError) {
        match self.pending.take(tag) {
            Some(About::Wake { tenant, .. }) => {
                // We have lost sight of a cell: the list will show it.
                if matches!(error, LauncherError::AlreadyAwake { .. }) {
                    let tag = self.pending.tag(About::List);
                    self.request(Request::List { tag });
                }
                self.start_failed(tenant, error.to_string());
            }
            Some(About::Sockets(cell)) => {
                tracing::debug!(%cell, %error, "no sockets");
                if let Some(held) = self.cells.get_mut(&cell) {
                    held.asked = false;
                }
                self.want_again(cell);
            }
            Some(About::Control(cell)) => {
                tracing::warn!(%cell, %error, "cannot adopt");
                self.events.push_back(Event::ControlLost(cell));
            }
            Some(About::Due(tenants)) => {
                tracing::warn!(%error, tenants = tenants.len(), "cannot ask volumes for due times; asking again");
                self.ask_due.extend(tenants);
            }
            Some(About::Inspect(_)) => tracing::warn!(%error, "the launcher does not tell what containers use"),
            Some(About::Status(_)) => tracing::warn!(%error, "the launcher does not tell how it is"),
            Some(About::Stop(cell)) => tracing::warn!(%cell, %error, "cannot stop"),
            Some(About::List) => {
                tracing::error!(%error, "the launcher does not list its cells; connecting anew");
                self.link = None;
            }
            None => {}
        }
    }
}

impl Pending {
    fn into_unanswered(self) -> impl Iterator<Item = About> {
        self.about.into_values()
    }
}
