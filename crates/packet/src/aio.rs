//! The same for tokio. All calls are cancel-safe: a message is taken or given in one system call, after readiness.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use crate::{PacketError, PacketListener, Packets, Peer};

/// `AsyncFd::new` is deprecated because a type may answer another descriptor each time it is asked. Ours own one and
/// never change it; and so this crate stays without `unsafe`, which the replacement would need.
#[expect(deprecated, reason = "sound for types that own their descriptor; see above")]
fn register<T: AsRawFd>(inner: T) -> Result<AsyncFd<T>, PacketError> {
    AsyncFd::new(inner).map_err(|source| PacketError::Io { doing: "register with the runtime", source })
}

fn ready(source: io::Error) -> PacketError {
    PacketError::Io { doing: "wait for readiness", source }
}

/// Tells "not ready" (which the runtime handles) from every result that the caller wants to see.
fn not_ready<T>(result: Result<T, PacketError>) -> io::Result<Result<T, PacketError>> {
    match result {
        Err(error) if error.would_block() => Err(io::ErrorKind::WouldBlock.into()),
        result => Ok(result),
    }
}

/// [`Packets`] under tokio. Share it by `Arc`: one task receives, any may send.
#[derive(Debug)]
pub struct AsyncPackets {
    inner: AsyncFd<Packets>,
}

impl AsyncPackets {
    /// Takes over a connection; must be called within a runtime.
    pub fn new(packets: Packets) -> Result<AsyncPackets, PacketError> {
        packets.set_nonblocking(true)?;
        Ok(AsyncPackets { inner: register(packets)? })
    }

    /// Connects to a listener's path. A listener with a full backlog is an error, as one that is away: try again later.
    pub fn connect(path: impl AsRef<Path>) -> Result<AsyncPackets, PacketError> {
        AsyncPackets::new(Packets::connect_nonblocking(path)?)
    }

    /// Who made the connection at the other end.
    pub fn peer(&self) -> Result<Peer, PacketError> {
        self.inner.get_ref().peer()
    }

    /// Waits for room, then sends one message. Dropped early, nothing was sent.
    pub async fn send<T: Serialize + ?Sized>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), PacketError> {
        let json = serde_json::to_vec(message).map_err(PacketError::Encode)?;
        loop {
            let mut guard = self.inner.writable().await.map_err(ready)?;
            if let Ok(sent) = guard.try_io(|inner| not_ready(inner.get_ref().send_encoded(&json, descriptors))) {
                return sent.map_err(ready)?;
            }
        }
    }

    /// Waits for one message; `None` when the peer has closed. Dropped early, nothing was taken.
    pub async fn recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, PacketError> {
        loop {
            let mut guard = self.inner.readable().await.map_err(ready)?;
            if let Ok(received) = guard.try_io(|inner| not_ready(inner.get_ref().recv())) {
                return received.map_err(ready)?;
            }
        }
    }
}

impl AsFd for AsyncPackets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }
}

/// [`PacketListener`] under tokio.
#[derive(Debug)]
pub struct AsyncListener {
    inner: AsyncFd<PacketListener>,
}

impl AsyncListener {
    /// Takes over a listener; must be called within a runtime.
    pub fn new(listener: PacketListener) -> Result<AsyncListener, PacketError> {
        listener.set_nonblocking(true)?;
        Ok(AsyncListener { inner: register(listener)? })
    }

    /// Waits for the next connection. Dropped early, none was taken.
    pub async fn accept(&self) -> Result<AsyncPackets, PacketError> {
        loop {
            let mut guard = self.inner.readable().await.map_err(ready)?;
            if let Ok(accepted) = guard.try_io(|inner| not_ready(inner.get_ref().accept())) {
                return AsyncPackets::new(accepted.map_err(ready)??);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_cancelled_recv_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.sock");
        let listener = AsyncListener::new(PacketListener::listen(&path).unwrap()).unwrap();
        let client = AsyncPackets::connect(&path).unwrap();
        let server = listener.accept().await.unwrap();
        assert!(timeout(Duration::from_millis(5), server.recv::<u32>()).await.is_err());
        client.send(&42, &[client.as_fd()]).await.unwrap();
        let (number, descriptors): (u32, _) = server.recv().await.unwrap().unwrap();
        assert_eq!((number, descriptors.len()), (42, 1));
        drop(client);
        drop(descriptors);
        assert!(server.recv::<u32>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_full_peer_makes_send_wait() {
        let (one, other) = Packets::pair().unwrap();
        let (one, other) = (AsyncPackets::new(one).unwrap(), AsyncPackets::new(other).unwrap());
        let text = "x".repeat(60_000);
        let mut sent = 0;
        while timeout(Duration::from_millis(20), one.send(&text, &[])).await.is_ok() {
            sent += 1;
        }
        assert!(sent > 0);
        for _ in 0..sent {
            assert_eq!(other.recv::<String>().await.unwrap().unwrap().0.len(), text.len());
        }
        timeout(Duration::from_secs(5), one.send(&text, &[])).await.unwrap().unwrap();
    }
}
