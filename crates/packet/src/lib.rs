//! Typed messages between Warren's processes: one JSON value and up to 64 file descriptors per packet of a unix
//! `SOCK_SEQPACKET` socket.
//!
//! ```text
//!  platform ──Request──▶ launcher          one packet = one message: no framing, no partial reads
//!           ◀──Event + pidfd, sockets──    descriptors arrive close-on-exec
//! ```
//!
//! Promises: a message arrives whole with all its descriptors or not at all; anything else (too long, truncated,
//! not the expected JSON) is an error, after which the caller drops the connection. Descriptors of a refused message are
//! closed. Nothing here retries, reconnects or waits with a deadline; that is the caller's policy.
//!
//! [`Packets`] works on blocking and non-blocking sockets, [`aio`] wraps it for tokio.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "aio")]
pub mod aio;
mod error;
mod listener;
mod packets;

pub use error::PacketError;
pub use listener::PacketListener;
pub use packets::{Packets, Peer};

/// Longest message in bytes of JSON. A page of a list fits; a peer cannot make us hold more.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// Most descriptors that travel with one message. The kernel's own limit is 253.
pub const MAX_DESCRIPTORS: usize = 64;
