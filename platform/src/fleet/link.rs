//! The connection to the launcher: made again whenever it ends.
//!
//! One task connects, says Hello and carries packets both ways. The performer hears [`LinkEvent::Up`] with a sender for requests,
//! then events, then [`LinkEvent::Down`]; dropping the sender (or letting it overflow) ends the connection, and a new one is made.

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

use tokio::sync::mpsc;
use warren_daemon::Backoff;
use warren_launcher_api::{Event, Request, Role, VERSION};
use warren_packet::{PacketError, aio::AsyncPackets};

/// Requests that wait to be written. The launcher reads at once or is stuck, so this only has to hold a burst.
const REQUESTS: usize = 1024;

/// How long the launcher may take to greet us, and how long a request may wait to be written.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the link tells.
#[derive(Debug)]
pub enum LinkEvent {
    /// The launcher is there.
    Up(mpsc::Sender<Request>),
    /// It said something.
    Said(Event, Vec<OwnedFd>),
    /// It is no longer there.
    Down,
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("it closed the connection")]
    Closed,
    #[error("it does not answer")]
    Silent,
    #[error("it speaks version {0} of the protocol, not {VERSION}")]
    Version(u32),
    #[error("it answered our Hello with something else")]
    Unexpected,
}

/// Keeps the link until nobody listens any more.
pub async fn keep(socket: PathBuf, events: mpsc::Sender<LinkEvent>) {
    let mut backoff = Backoff::local();
    let mut complained = false;
    while !events.is_closed() {
        match open(&socket).await {
            Ok(packets) => {
                backoff.succeeded();
                complained = false;
                tracing::info!("connected to the launcher");
                let error = carry(&packets, &events).await;
                if events.is_closed() {
                    // The platform is ending: it let go, not the launcher.
                    return;
                }
                tracing::warn!(%error, "the launcher went away");
                if events.send(LinkEvent::Down).await.is_err() {
                    return;
                }
            }
            // Once is enough: it is tried for as long as it takes.
            Err(error) if !complained => {
                tracing::warn!(%error, socket = %socket.display(), "cannot reach the launcher; trying again");
                complained = true;
            }
            Err(error) => tracing::debug!(%error, "cannot reach the launcher"),
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

async fn open(socket: &PathBuf) -> Result<AsyncPackets, LinkError> {
    let packets = AsyncPackets::connect(socket)?;
    packets.send(&Request::Hello { role: Role::Platform, version: VERSION }, &[]).await?;
    match tokio::time::timeout(PATIENCE, packets.recv()).await {
        Ok(answer) => match answer?.ok_or(LinkError::Closed)? {
            (Event::Welcome { version: VERSION }, _) => Ok(packets),
            (Event::Welcome { version }, _) => Err(LinkError::Version(version)),
            _ => Err(LinkError::Unexpected),
        },
        Err(_) => Err(LinkError::Silent),
    }
}

async fn carry(packets: &AsyncPackets, events: &mpsc::Sender<LinkEvent>) -> LinkError {
    let (sender, mut requests) = mpsc::channel::<Request>(REQUESTS);
    if events.send(LinkEvent::Up(sender)).await.is_err() {
        return LinkError::Closed;
    }
    let read = async {
        loop {
            match packets.recv().await {
                Ok(Some((event, descriptors))) => {
                    if events.send(LinkEvent::Said(event, descriptors)).await.is_err() {
                        return LinkError::Closed;
                    }
                }
                Ok(None) => return LinkError::Closed,
                Err(error) => return error.into(),
            }
        }
    };
    let write = async {
        while let Some(request) = requests.recv().await {
            match tokio::time::timeout(PATIENCE, packets.send(&request, &[])).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.into(),
                Err(_) => return LinkError::Silent,
            }
        }
        LinkError::Silent
    };
    tokio::select! {
        error = read => error,
        error = write => error,
    }
}
