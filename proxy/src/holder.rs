//! The connection to the launcher that a holder of doors keeps for ever.
//!
//! ```text
//!   launcher ── Door{cell}+sockets, AllTold, Bound{cell, tenant}, Gone{cell} ──▶ Roll: what it means ──▶ Holder
//!            ◀─ Hello, Ack ─────────────────────────────────────────────────────
//! ```
//!
//! While the launcher is away, doors stay open and what goes through them goes on. A launcher that is new makes other sockets for all of them. Each door gets
//! its own when they arrive, and lets go of those of before then, not earlier: so nobody's dial is refused because the launcher was killed. The two are beside
//! each other meanwhile, and the kernel shares dials out among both; the launcher sees to it that who waits in one that is closed waits in the other from there on.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::time::Instant;
use warren_daemon::{Absence, Backoff};
use warren_launcher_api::{CellId, Event, Request, Role, TenantName, VERSION};
use warren_packet::PacketError;
use warren_packet::aio::AsyncPackets;

use crate::roll::{PATIENCE, Roll, Step};

/// Whoever serves doors of `N` sockets each.
pub(crate) trait Holder<const N: usize>: Send {
    /// As whom it asks for them.
    const ROLE: Role;

    /// Serves a cell's door. If it serves it already, that goes on with these sockets in place of its own: what was taken in, and what waits, is served.
    fn serve(
        &mut self,
        cell: CellId,
        tenant: Option<TenantName>,
        sockets: [OwnedFd; N],
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// The cell is this tenant's from now on.
    fn bind(&mut self, cell: CellId, tenant: TenantName);

    /// The cell is gone; its door is closed when this returns.
    fn close(&mut self, cell: CellId) -> impl Future<Output = ()> + Send;
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
    let mut roll = Roll::default();
    loop {
        let lost = match AsyncPackets::connect(socket) {
            Ok(packets) => {
                let welcome = || {
                    backoff.succeeded();
                    absence.over();
                    tracing::info!(socket = %socket.display(), "the launcher hands out doors");
                };
                match converse(holder, &mut roll, &packets, welcome).await {
                    Ok(never) => match never {},
                    Err(lost) => lost,
                }
            }
            Err(error) => error.into(),
        };
        roll.lost();
        if absence.worth_a_word() {
            tracing::warn!(socket = %socket.display(), reason = %lost, doors = roll.count(), "no launcher; trying again");
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Does as the launcher says until the connection ends.
async fn converse<const N: usize, H: Holder<N>>(
    holder: &mut H,
    roll: &mut Roll,
    packets: &AsyncPackets,
    mut welcome: impl FnMut() + Send,
) -> Result<Infallible, Lost> {
    packets.send(&Request::Hello { role: H::ROLE, version: VERSION }, &[]).await?;
    loop {
        let received = tokio::select! {
            biased;
            received = packets.recv() => received?,
            () = until(roll.due()) => {
                let gone = roll.overdue(Instant::now().into_std());
                tracing::warn!(doors = roll.count(), closed = gone.len(), "the launcher has not told of all doors within {PATIENCE:?}; those that it has not told of are closed");
                close(holder, gone).await;
                continue;
            }
        };
        let (event, descriptors): (Event, Vec<OwnedFd>) = received.ok_or(Lost::Closed)?;
        let through = match event {
            Event::Welcome { version: VERSION } => {
                // Only now: a connection alone tells of no launcher. Somebody else may hold its listening socket while it is gone.
                roll.welcome(Instant::now().into_std());
                welcome();
                continue;
            }
            Event::Welcome { version } => return Err(Lost::Version(version)),
            Event::Door { seq, cell, generation, tenant } => {
                let found = descriptors.len();
                let sockets = <[OwnedFd; N]>::try_from(descriptors);
                let sockets = sockets.map_err(|_| Lost::Descriptors { found, expected: N })?;
                let step = roll.door(cell, generation, tenant.as_ref());
                if step == Step::Reopen {
                    holder.close(cell).await;
                }
                if step != Step::Leave
                    && let Err(error) = holder.serve(cell, tenant, sockets).await
                {
                    tracing::error!(%cell, %error, "cannot serve a door");
                    close(holder, [cell]).await;
                    roll.gone(cell);
                }
                seq
            }
            Event::AllTold { seq } => {
                let gone = roll.all_told();
                tracing::info!(doors = roll.count(), closed = gone.len(), "the launcher has told of all doors");
                close(holder, gone).await;
                seq
            }
            Event::Bound { seq, cell, tenant } => {
                if roll.bound(cell, &tenant) {
                    holder.bind(cell, tenant);
                }
                seq
            }
            Event::Gone { seq, cell } => {
                roll.gone(cell);
                holder.close(cell).await;
                seq
            }
            _ => continue,
        };
        packets.send(&Request::Ack { through }, &[]).await?;
    }
}

async fn close<const N: usize>(holder: &mut impl Holder<N>, cells: impl IntoIterator<Item = CellId, IntoIter: Send>) {
    for cell in cells {
        holder.close(cell).await;
    }
}

/// For ever, if nothing is due.
async fn until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
