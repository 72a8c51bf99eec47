//! Port 25: mail from other hosts for the tenants of this node.
//!
//! ```text
//!   remote MTA ──▶ door ──▶ session ── Recipient? ──▶ platform
//!                             │  spool (an unlinked file while the remote waits)
//!                             └─ handover ──▶ relay entrance of the tenant's MSA
//! ```
//!
//! The receiver has no queue and knows no tenant's file. It accepts only what the platform says has somewhere to go, and it says `250` only
//! after the tenant's MSA said it: whatever happens to it before, the remote host still has the message.
//!
//! | module | holds |
//! |---|---|
//! | [`door`] | listening, limits of connections, reload, draining |
//! | [`session`] | one connection: commands, TLS, deadlines |
//! | [`transaction`] | one message: which recipients go together and where |
//! | [`platform`] | questions to the platform |
//! | [`srs`] | rewriting of envelope senders, and the way back |
//! | [`trace`] | the Received field, and counting those of others |
//! | [`spool`] | the message while the remote waits |
//! | [`handover`] | the message into the relay entrance |
//! | [`counts`] | what is counted, for metrics |
//! | [`settings`] | what of the configuration is used here |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod counts;
pub mod door;
pub mod handover;
pub mod platform;
pub mod session;
pub mod settings;
pub mod spool;
pub mod srs;
pub mod trace;
pub mod transaction;
