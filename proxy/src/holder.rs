//! The connection to the launcher that a holder of doors keeps for ever.
//!
//! ```text
//!   launcher ── Door{cell}+sockets, Bound{cell, tenant}, Gone{cell} ──▶ Holder
//!            ◀─ Hello, Ack ─────────────────────────────────────────────
//! ```
//!
//! While the launcher is away, doors stay open and what goes through them goes on. It makes all doors anew for a new connection, and the sockets
//! of before would be in their way (the kernel would share connections out among both), so they are closed first: at its Welcome, because a connection
//! alone tells of no launcher. Somebody else may hold its listening socket while it is gone.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use warren_daemon::{Absence, Backoff};
use warren_launcher_api::{CellId, Event, Request, Role, TenantName, VERSION};
use warren_packet::PacketError;
use warren_packet::aio::AsyncPackets;

/// Whoever serves doors of `N` sockets each.
pub(crate) trait Holder<const N: usize>: Send {
    /// As whom it asks for them.
    const ROLE: Role;

    /// Serves a door, in place of an earlier generation's.
    fn open(
        &mut self,
        cell: CellId,
        generation: u32,
        tenant: Option<TenantName>,
        sockets: [OwnedFd; N],
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// The cell is this tenant's from now on.
    fn bind(&mut self, cell: CellId, tenant: TenantName);

    /// The cell is gone; its door is closed when this returns.
    fn close(&mut self, cell: CellId) -> impl Future<Output = ()> + Send;

    /// Closes all doors.
    fn close_all(&mut self) -> impl Future<Output = ()> + Send;

    /// How many are open.
    fn count(&self) -> usize;
}

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("it closed the connection")]
    Closed,
    #[error("it speaks version {0} of the protocol, this is version {VERSION}: restart whichever is older")]
    Version(u32),
    #[error("it sent a door with {found} descriptors instead of {expected}")]
    Descriptors { found: usize, expected: usize },
}

/// Holds the doors that the launcher at `socket` hands out; connects again whenever it must.
pub(crate) async fn hold<const N: usize, H: Holder<N>>(holder: &mut H, socket: &Path) -> Infallible {
    let mut backoff = Backoff::local();
    let mut absence = Absence::default();
    loop {
        let lost = match AsyncPackets::connect(socket) {
            Ok(packets) => {
                let welcome = || {
                    backoff.succeeded();
                    absence.over();
                    tracing::info!(socket = %socket.display(), "the launcher hands out doors");
                };
                match converse(holder, &packets, welcome).await {
                    Ok(never) => match never {},
                    Err(lost) => lost,
                }
            }
            Err(error) => error.into(),
        };
        if absence.worth_a_word() {
            tracing::warn!(socket = %socket.display(), reason = %lost, doors = holder.count(), "no launcher; trying again");
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Does as the launcher says until the connection ends.
async fn converse<const N: usize, H: Holder<N>>(
    holder: &mut H,
    packets: &AsyncPackets,
    mut welcome: impl FnMut() + Send,
) -> Result<Infallible, Lost> {
    packets.send(&Request::Hello { role: H::ROLE, version: VERSION }, &[]).await?;
    loop {
        let (event, descriptors): (Event, Vec<OwnedFd>) = packets.recv().await?.ok_or(Lost::Closed)?;
        let through = match event {
            Event::Welcome { version: VERSION } => {
                holder.close_all().await;
                welcome();
                continue;
            }
            Event::Welcome { version } => return Err(Lost::Version(version)),
            Event::Door { seq, cell, generation, tenant } => {
                let found = descriptors.len();
                let sockets = <[OwnedFd; N]>::try_from(descriptors);
                let sockets = sockets.map_err(|_| Lost::Descriptors { found, expected: N })?;
                if let Err(error) = holder.open(cell, generation, tenant, sockets).await {
                    tracing::error!(%cell, %error, "cannot serve a door");
                }
                seq
            }
            Event::Bound { seq, cell, tenant } => {
                holder.bind(cell, tenant);
                seq
            }
            Event::Gone { seq, cell } => {
                holder.close(cell).await;
                seq
            }
            _ => continue,
        };
        packets.send(&Request::Ack { through }, &[]).await?;
    }
}
