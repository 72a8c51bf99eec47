//! Durable messages and their retry schedule. No network, no clock, no async.
//!
//! ```text
//!   begin ──▶ Incoming ──write*──▶ commit ──▶ Envelope        scan (once, at start)
//!     │          │ drop: gone         │ one sync                 │ sweeps, quarantines
//!     │          ▼                    ▼                          ▼
//!     │   queue/ID.mail  no head   queue/ID.mail  head, content, envelope; update: a later envelope behind it
//!     ▼                            queue/corrupt/ (what could not be read, for a human)
//!   queue/ID.mail  empty: a spare, made ahead of need by make_spares, its name on stable storage
//! ```
//!
//! Promises:
//! - [`Incoming::commit`] returns `Ok` only when content, envelope and the file's name are on stable storage. Whoever
//!   answers `250` after it has told the truth. In a spare that takes one sync, else a second one, of the directory, which
//!   messages share.
//! - A crash at any step leaves either the whole message or nothing that would ever be delivered ([`Queue::scan`] sweeps it); so does a
//!   loss of power, whatever of the writes that were not synced, and of the names, the disk has kept. All of a message is one file under
//!   one name that never changes, so no two things have to survive together.
//! - One damaged file never hides the others: it is moved to `corrupt/` and reported.
//! - Time is an argument: unix milliseconds of the wall clock, since due times outlive the process.
//!
//! What cannot be told apart is a message of which a loss of power left only parts before it was accepted, and one that the disk damaged
//! later: both go to `corrupt/`, and neither is delivered. Nor can a file that the disk took back to zeros be told from one that was never finished (it is swept),
//! or a damaged later envelope from one that a loss of power cut short (the one before it holds, and recipients may get the message again). Records share
//! sectors with older ones: the disk is taken to write a sector as a whole or not at all.
//!
//! Messages of the version before, `ID.msg` with `ID.env` beside it, are delivered as they are (`legacy.rs`). That version does not see these.
//!
//! Who calls: the MSA, which owns the directory alone (a lock file makes sure of it).
//! Read on: [`Envelope`] is what is kept, [`Retry`] decides when, [`Queue`] keeps it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod content;
mod due;
mod envelope;
mod error;
mod id;
mod incoming;
mod layout;
mod legacy;
#[cfg(test)]
mod power;
mod room;
mod scan;
mod schedule;
mod spares;
mod store;
mod sync;
#[cfg(test)]
mod testing;

pub use content::ContentReader;
pub use due::{NEXT_DUE_FILE, NextDue};
pub use envelope::{Attempt, Content, Delivery, Envelope, Notify, Origin, Recipient, Ret};
pub use error::QueueError;
pub use id::{InvalidMessageId, MessageId};
pub use incoming::Incoming;
pub use scan::{Quarantined, Scan};
pub use schedule::{Next, Retry};
pub use store::Queue;
