//! SMTP without sockets: bytes come in, decisions and bytes go out.
//!
//! ```text
//!   wire bytes ─▶ line ─▶ command ─▶ server ─▶ events for the program ─▶ reply ─▶ wire bytes
//!   wire bytes ◀─ command ◀─ client ◀─ envelope and content ◀─ the program
//!   wire bytes ─▶ line, body ─▶ mediator ─▶ wire bytes of the next hop
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`address`] | domains, mailboxes, reverse-path and forward-path (RFC 5321 §4.1.2) |
//! | [`xtext`] | the encoding of DSN and XCLIENT values, decoded without smuggled line ends |
//! | [`mod@line`] | CRLF lines out of a byte stream, bounded, bare CR/LF refused |
//! | [`command`] | commands and their parameters, parsed to exact values |
//! | [`reply`] | replies, their bounded parser and their escaping serialiser |
//! | [`ehlo`] | the set of service extensions |
//! | [`body`] | message content on the wire: DATA both ways, BDAT |
//! | [`server`] | a session that ends here |
//! | [`client`] | a session that delivers |
//! | [`mediator`] | a session that passes through |
//!
//! Nothing here opens a socket, reads a clock or allocates without a bound. Time appears only as
//! data: [`client::Client::deadline`] says how long the caller should wait for the next step.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod address;
pub mod body;
pub mod client;
pub mod command;
pub mod ehlo;
pub mod line;
pub mod mediator;
pub mod reply;
pub mod server;
pub mod xtext;

pub use address::{AddressError, Domain, ForwardPath, Host, Mailbox, ReversePath};
pub use command::Command;
pub use ehlo::Extensions;
pub use reply::{EnhancedCode, Reply};
