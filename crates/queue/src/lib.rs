//! Durable messages and their retry schedule. No network, no clock, no async.
//!
//! ```text
//!   begin ──▶ Incoming ──write*──▶ commit ──▶ Envelope        scan (once, at start)
//!                │ drop: gone         │                          │ sweeps, quarantines
//!                ▼                    ▼                          ▼
//!   queue/ID.msg.new          queue/ID.msg  (content, never changed)
//!   queue/ID.env.new          queue/ID.env  (JSON; its presence *is* the message)
//!                             queue/corrupt/ (what could not be read, for a human)
//! ```
//!
//! Promises:
//! - [`Incoming::commit`] returns `Ok` only when content, envelope and both names are on stable storage. Whoever
//!   answers `250` after it has told the truth.
//! - A crash at any step leaves either the whole message or nothing that would ever be delivered ([`Queue::scan`] sweeps it).
//! - One damaged file never hides the others: it is moved to `corrupt/` and reported.
//! - Time is an argument: unix milliseconds of the wall clock, since due times outlive the process.
//!
//! Who calls: the MSA, which owns the directory alone (a lock file makes sure of it).
//! Read on: [`Envelope`] is what is kept, [`Retry`] decides when, [`Queue`] keeps it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod due;
mod envelope;
mod error;
mod id;
mod incoming;
mod room;
mod schedule;
mod store;
mod sync;

pub use due::{NEXT_DUE_FILE, NextDue};
pub use envelope::{Attempt, Content, Delivery, Envelope, Notify, Origin, Recipient, Ret};
pub use error::QueueError;
pub use id::{InvalidMessageId, MessageId};
pub use incoming::Incoming;
pub use schedule::{Next, Retry};
pub use store::{Quarantined, Queue, Scan};
