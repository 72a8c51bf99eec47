//! Where the doors come from: a connection to the launcher, kept for ever.
//!
//! While the launcher is away, the doors stay open and cells keep resolving. It makes doors anew for every new
//! connection, on the same addresses, so the old ones are closed first.

use std::{os::fd::OwnedFd, path::Path};

use warren_daemon::{Absence, Backoff};
use warren_launcher_api::{Event, Request, Role, VERSION};
use warren_packet::{PacketError, aio::AsyncPackets};

use super::Doors;

/// Why the connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("it closed the connection")]
    Closed,
    #[error("it speaks version {0} of the protocol, this is version {VERSION}: restart whichever is older")]
    Version(u32),
    #[error("it sent a door with {0} descriptors instead of two")]
    Descriptors(usize),
}

/// Holds the doors that the launcher at `socket` hands out; connects again whenever it must. Never returns.
pub async fn hold(doors: &mut Doors, socket: &Path) {
    let mut backoff = Backoff::local();
    let mut absence = Absence::default();
    loop {
        let lost = match AsyncPackets::connect(socket) {
            Ok(packets) => {
                doors.close_all().await;
                let mut welcome = || {
                    backoff.succeeded();
                    absence.over();
                    tracing::info!(socket = %socket.display(), "the launcher hands out doors");
                };
                listen(doors, &packets, &mut welcome).await
            }
            Err(error) => error.into(),
        };
        if absence.worth_a_word() {
            tracing::warn!(socket = %socket.display(), reason = %lost, doors = doors.count(), "no launcher; trying again");
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

/// Does as the launcher says until the connection ends.
async fn listen(doors: &mut Doors, packets: &AsyncPackets, welcome: &mut impl FnMut()) -> Lost {
    match converse(doors, packets, welcome).await {
        Ok(never) => match never {},
        Err(lost) => lost,
    }
}

async fn converse(
    doors: &mut Doors,
    packets: &AsyncPackets,
    welcome: &mut impl FnMut(),
) -> Result<std::convert::Infallible, Lost> {
    packets.send(&Request::Hello { role: Role::Resolver, version: VERSION }, &[]).await?;
    loop {
        let (event, descriptors): (Event, Vec<OwnedFd>) = packets.recv().await?.ok_or(Lost::Closed)?;
        let through = match event {
            Event::Welcome { version: VERSION } => {
                welcome();
                continue;
            }
            Event::Welcome { version } => return Err(Lost::Version(version)),
            Event::Door { seq, cell, generation, .. } => {
                let found = descriptors.len();
                let [udp, tcp] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| Lost::Descriptors(found))?;
                if let Err(error) = doors.open(cell, generation, udp, tcp).await {
                    tracing::error!(%cell, %error, "cannot serve a resolver door");
                }
                seq
            }
            Event::Gone { seq, cell } => {
                doors.close(cell).await;
                seq
            }
            // Whose cell it is does not matter to questions.
            Event::Bound { seq, .. } => seq,
            _ => continue,
        };
        packets.send(&Request::Ack { through }, &[]).await?;
    }
}
