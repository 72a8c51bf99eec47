//! The performer's dealings with cells and clients: the control channel of each MSA, and a socket in its cell for everybody who waits.

use std::{os::fd::OwnedFd, time::Instant};

use tokio::sync::{mpsc, oneshot};
use warren_control::{FromMsa, Outcome, ToMsa};
use warren_launcher_api::{CellId, Request, TenantName};

use super::{
    cell::{self, CellEvent, CellOrder, Control},
    cells::Client,
    clock::unix_ms,
    handle::{Reply, Socket, Unavailable},
    performer::Performer,
    tags::About,
    words::{Answer, Event, Refusal, Waiter},
};

/// Sockets that are asked for at once.
const SOCKETS_AT_ONCE: usize = 16;

impl Performer {
    // ── cells ──

    pub(super) fn control(&mut self, id: CellId, socket: OwnedFd, pidfd: OwnedFd) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        let Some(launch) = (self.register)(&cell.tenant) else {
            return self.events.push_back(Event::ControlLost(id));
        };
        // Settings and Drain: more than a few are never under way, and who does not read them is let go of.
        let (orders, queue) = mpsc::channel(8);
        let (tenant, name) = (cell.tenant.clone(), self.doors.control.clone());
        let control = Control { cell: id, tenant, socket, pidfd, name, settings: launch.settings };
        cell.orders = Some(orders);
        cell.task = Some(tokio::spawn(cell::keep(control, queue, self.cell_events.clone())).abort_handle());
    }

    pub(super) fn tell(&mut self, id: CellId, order: ToMsa) {
        if let Some(orders) = self.cells.get(&id).and_then(|cell| cell.orders.as_ref())
            && let Err(error) = orders.try_send(CellOrder::Tell(order))
        {
            tracing::debug!(cell = %id, %error, "the MSA cannot be told");
        }
    }

    /// Has the MSA of a running tenant run a program. Whoever asked sees the answer fail when it cannot be asked.
    pub(super) fn exec(&mut self, tenant: &TenantName, args: Vec<String>, reply: oneshot::Sender<Outcome>) {
        let cell = self.cells.values().find(|cell| cell.tenant == *tenant && cell.draining.is_none());
        if let Some(orders) = cell.and_then(|cell| cell.orders.as_ref()) {
            let _ = orders.try_send(CellOrder::Exec(args, reply));
        }
    }

    pub(super) fn renew_settings(&mut self, tenant: &TenantName) {
        let Some(launch) = (self.register)(tenant) else { return };
        let ids: Vec<CellId> = self.cells.iter().filter(|c| c.1.tenant == *tenant).map(|c| *c.0).collect();
        for id in ids {
            self.tell(id, ToMsa::Settings(launch.settings.clone()));
        }
    }

    pub(super) fn heard(&mut self, event: CellEvent) {
        match event {
            CellEvent::Ready(id) => {
                if let Some(cell) = self.cells.get_mut(&id) {
                    cell.is_ready();
                }
                self.serve(id);
            }
            CellEvent::Said(cell, FromMsa::Sleeping { next_due_unix_ms }) => {
                self.going_down(cell);
                self.events.push_back(Event::Sleeping { cell, due: next_due_unix_ms });
            }
            CellEvent::Said(id, message) => {
                if let Some(cell) = self.cells.get_mut(&id) {
                    match message {
                        FromMsa::Due { next_due_unix_ms } => cell.due = next_due_unix_ms,
                        FromMsa::Stats(stats) => cell.stats = Some(stats),
                        FromMsa::Ready => drop(cell.serves.send_replace(true)),
                        FromMsa::Sleeping { .. } | FromMsa::Log { .. } | FromMsa::Executed { .. } => {}
                    }
                }
            }
            CellEvent::Lost(cell) => {
                self.going_down(cell);
                self.events.push_back(Event::ControlLost(cell));
            }
            // The launcher tells when it is gone with all that belongs to it, and only then can it be made anew.
            CellEvent::Ended(cell) if self.link.is_some() => self.events.push_back(Event::ControlLost(cell)),
            CellEvent::Ended(cell) => self.events.push_back(Event::Exited(cell)),
        }
    }

    pub(super) fn forget(&mut self, id: CellId) {
        self.want_again(id);
        if let Some(mut cell) = self.cells.remove(&id) {
            let (started, tenant) = (cell.started.take(), cell.tenant.clone());
            self.recent.left(tenant, unix_ms(), started);
        }
    }

    pub(super) fn going_down(&mut self, id: CellId) {
        if let Some(cell) = self.cells.get_mut(&id) {
            cell.draining.get_or_insert_with(unix_ms);
        }
    }

    /// Those who were promised a socket in a cell that has gone ask for another one, once.
    pub(super) fn want_again(&mut self, id: CellId) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        for mut client in std::mem::take(&mut cell.waiting) {
            client.tries += 1;
            if client.tries > 1 {
                refuse(client, Refusal::Failed, Some("its container went away twice".into()));
            } else {
                self.want(client, Some(id));
            }
        }
    }

    // ── clients ──

    pub(super) fn answer(&mut self, waiter: Waiter, answer: Answer) {
        let Some(client) = self.clients.remove(&waiter) else { return };
        match (answer, client.reply) {
            (Answer::Refused(why), reply) => {
                let away = (!self.fleet.has_launcher()).then(|| "the launcher is away".to_owned());
                let cause = away.or_else(|| self.causes.get(&client.tenant).cloned());
                self.meter.count("wakes_refused");
                let full = why == Refusal::Failed && self.full.contains(&client.tenant);
                let why = if full { Refusal::Full } else { why };
                refuse(Client { reply, ..client }, why, cause);
            }
            (Answer::Awake(id), reply @ Reply::Socket(..)) => {
                if let Some(cell) = self.cells.get_mut(&id) {
                    cell.waiting.push_back(Client { reply, ..client });
                }
                self.serve(id);
            }
            (Answer::Awake(_) | Answer::Asleep, Reply::Done(reply)) => drop(reply.send(Ok(()))),
            (Answer::Asleep, reply) => refuse(Client { reply, ..client }, Refusal::Late, None),
        }
    }

    /// Hands sockets to those who wait for one.
    pub(super) fn serve(&mut self, id: CellId) {
        let Some(cell) = self.cells.get_mut(&id) else { return };
        while let Some((client, socket)) = cell.pair() {
            let Reply::Socket(entrance, reply) = client.reply else { continue };
            let cold = cell.tell_birth(client.wanted, Instant::now());
            // Whoever has gone meanwhile leaves its socket to the next.
            let (port, serves) = (self.doors.port(entrance), cell.serves.subscribe());
            if let Err(Ok(unused)) = reply.send(Ok(Socket { socket, port, cell: id, cold, serves })) {
                cell.spare.push(unused.socket);
            }
        }
        // Woken for its mail: the first client to come later did not wait for a start.
        cell.trim();
        if cell.ready && cell.waiting.is_empty() {
            cell.birth = None;
        }
        if let Some(lacking) = cell.lacking() {
            cell.asked = true;
            let tag = self.pending.tag(About::Sockets(id));
            self.request(Request::Sockets { tag, cell: id, tcp: lacking.min(SOCKETS_AT_ONCE) as u8, control: 0 });
        }
    }

    /// Those who wait for a socket have the same deadline as those who wait for the start.
    pub(super) fn refuse_late(&mut self) {
        let now = Instant::now();
        for cell in self.cells.values_mut() {
            while cell.waiting.front().is_some_and(|client| client.deadline <= now) {
                if let Some(client) = cell.waiting.pop_front() {
                    refuse(client, Refusal::Late, None);
                }
            }
        }
    }
}

fn refuse(client: Client, why: Refusal, cause: Option<String>) {
    let unavailable = Unavailable::Refused { tenant: client.tenant, why, cause };
    // Nobody to tell if the client has gone.
    match client.reply {
        Reply::Socket(_, reply) => drop(reply.send(Err(unavailable))),
        Reply::Done(reply) => drop(reply.send(Err(unavailable))),
    }
}
