//! Exit doors from the launcher: a connection kept for ever.
//!
//! ```text
//!   launcher ── Door{cell}+listener, Bound{cell, tenant}, Gone{cell} ──▶ CellDoors ── one task per door
//!            ◀─ Hello, Ack ─────────────────────────────────────────────
//! ```
//!
//! While the launcher is away, doors stay open and mail goes on flowing. It makes all doors anew for a new connection, and the sockets
//! of before would be in their way (the kernel would share connections out among both), so they are closed first.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use warren_daemon::{Absence, Backoff};
use warren_launcher_api::{CellId, Event, Request, Role, TenantName, VERSION};
use warren_packet::PacketError;
use warren_packet::aio::AsyncPackets;

use crate::door;
use crate::proxy::Proxy;
use crate::workers::Workers;

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("it closed the connection")]
    Closed,
    #[error("it speaks version {0} of the protocol, this is version {VERSION}: restart whichever is older")]
    Version(u32),
    #[error("it sent a door with {0} descriptors instead of one")]
    Descriptors(usize),
}

/// Holds the doors that the launcher at `socket` hands out; connects again whenever it must.
pub async fn hold(proxy: Arc<Proxy>, workers: Workers, socket: &Path) -> Infallible {
    let mut doors = CellDoors { proxy, workers, open: HashMap::new() };
    let mut backoff = Backoff::local();
    let mut absence = Absence::default();
    loop {
        let lost = match AsyncPackets::connect(socket) {
            Ok(packets) => {
                doors.close_all().await;
                let welcome = || {
                    backoff.succeeded();
                    absence.over();
                    tracing::info!(socket = %socket.display(), "the launcher hands out doors");
                };
                match converse(&mut doors, &packets, welcome).await {
                    Ok(never) => match never {},
                    Err(lost) => lost,
                }
            }
            Err(error) => error.into(),
        };
        if absence.worth_a_word() {
            tracing::warn!(socket = %socket.display(), reason = %lost, doors = doors.open.len(), "no launcher; trying again");
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

async fn converse(
    doors: &mut CellDoors,
    packets: &AsyncPackets,
    mut welcome: impl FnMut(),
) -> Result<Infallible, Lost> {
    packets.send(&Request::Hello { role: Role::Proxy, version: VERSION }, &[]).await?;
    loop {
        let (event, descriptors): (Event, Vec<OwnedFd>) = packets.recv().await?.ok_or(Lost::Closed)?;
        let through = match event {
            Event::Welcome { version: VERSION } => {
                welcome();
                continue;
            }
            Event::Welcome { version } => return Err(Lost::Version(version)),
            Event::Door { seq, cell, generation, tenant } => {
                let found = descriptors.len();
                let [listener] = <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| Lost::Descriptors(found))?;
                if let Err(error) = doors.open(cell, generation, tenant, listener).await {
                    tracing::error!(%cell, %error, "cannot serve an exit door");
                }
                seq
            }
            Event::Bound { seq, cell, tenant } => {
                doors.bind(cell, tenant);
                seq
            }
            Event::Gone { seq, cell } => {
                doors.close(cell).await;
                seq
            }
            _ => continue,
        };
        packets.send(&Request::Ack { through }, &[]).await?;
    }
}

/// The doors held at present.
#[derive(Debug)]
struct CellDoors {
    proxy: Arc<Proxy>,
    workers: Workers,
    open: HashMap<CellId, Held>,
}

#[derive(Debug)]
struct Held {
    generation: u32,
    tenant: watch::Sender<Option<TenantName>>,
    task: JoinHandle<()>,
}

/// Whoever stops holding doors closes them.
impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CellDoors {
    async fn open(
        &mut self,
        cell: CellId,
        generation: u32,
        tenant: Option<TenantName>,
        listener: OwnedFd,
    ) -> std::io::Result<()> {
        if self.open.get(&cell).is_some_and(|held| held.generation >= generation) {
            return Ok(());
        }
        let listener = net::TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        let known = self.shut(cell).await;
        let (tenant, told) = watch::channel(tenant.or(known));
        let task = self.workers.next().spawn(door::serve_cell(Arc::clone(&self.proxy), listener, cell, told));
        self.open.insert(cell, Held { generation, tenant, task });
        Ok(())
    }

    fn bind(&mut self, cell: CellId, tenant: TenantName) {
        if let Some(held) = self.open.get(&cell) {
            held.tenant.send_replace(Some(tenant));
        }
    }

    async fn close(&mut self, cell: CellId) {
        self.shut(cell).await;
        self.proxy.forget(cell);
    }

    async fn close_all(&mut self) {
        let cells: Vec<CellId> = self.open.keys().copied().collect();
        for cell in cells {
            self.shut(cell).await;
        }
    }

    /// Closes a door, for certain: its socket is closed when its task has ended. Sessions go on.
    async fn shut(&mut self, cell: CellId) -> Option<TenantName> {
        let mut held = self.open.remove(&cell)?;
        held.task.abort();
        let _ = (&mut held.task).await;
        held.tenant.borrow().clone()
    }
}
