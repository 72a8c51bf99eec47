//! SMTP's connections: plain or TLS streams, certificates, deadlines.
//!
//! ```text
//!   server::from_files, server::self_signed                      whose certificate
//!        │ ServerConfig
//!        ▼
//!   MaybeTls::Plain(tcp) ── accept_tls ──▶ MaybeTls::Server      front door, receiver
//!   MaybeTls::Plain(tcp) ── ClientTls ───▶ MaybeTls::Client      proxy to the MX
//!        │
//!        └─ relay::relay drives a mediator over two of them       front door, proxy
//! ```
//!
//! Streams do not buffer: what a protocol machine has not consumed when it hands its stream over for a handshake is its
//! own to refuse (bytes behind STARTTLS, CVE-2011-0411), and never becomes part of the TLS stream.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod client;
pub mod deadline;
pub mod relay;
pub mod server;
mod stream;

pub use client::ClientTls;
pub use deadline::{Expired, within};
pub use stream::{HandshakeError, MaybeTls};
