//! What can go wrong with a packet.

use std::io;

/// A message that was not sent or not received.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The socket failed. `WouldBlock` means: later, nothing was lost (see [`PacketError::would_block`]).
    #[error("{doing}: {source}")]
    Io {
        /// The step that failed.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Our own message is longer than [`MAX_MESSAGE`](crate::MAX_MESSAGE); nothing was sent.
    #[error("message of {bytes} bytes is longer than a packet may be")]
    TooLong {
        /// Length of the JSON.
        bytes: usize,
    },
    /// More descriptors than [`MAX_DESCRIPTORS`](crate::MAX_DESCRIPTORS); nothing was sent.
    #[error("{count} descriptors are more than a packet may carry")]
    TooManyDescriptors {
        /// How many were given.
        count: usize,
    },
    /// The peer's packet or its descriptors did not fit; it is lost, the connection should be dropped.
    #[error("packet or its descriptors truncated")]
    Truncated,
    /// The peer's packet is not the message that was expected; the connection should be dropped.
    #[error("malformed message: {0}")]
    Malformed(#[source] serde_json::Error),
    /// Our own message cannot be written as JSON; nothing was sent.
    #[error("message cannot be encoded: {0}")]
    Encode(#[source] serde_json::Error),
}

impl PacketError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(rustix::io::Errno) -> PacketError {
        move |errno| PacketError::Io { doing, source: errno.into() }
    }

    /// The socket is non-blocking and not ready: try again when it is.
    pub fn would_block(&self) -> bool {
        matches!(self, PacketError::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }

    /// The peer is gone (closed, reset), as opposed to having said something wrong.
    pub fn peer_gone(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected};
        matches!(self, PacketError::Io { source, .. }
            if matches!(source.kind(), BrokenPipe | ConnectionReset | ConnectionRefused | NotConnected))
    }
}
