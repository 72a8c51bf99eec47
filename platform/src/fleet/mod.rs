//! The fleet: every tenant asleep until somebody wants it or its mail is due.
//!
//! ```text
//!   front door, API ──▶ Handle ──▶ performer ──▶ link ──▶ launcher (Wake, Stop, Sockets, Due)
//!                                  │  ▲   └────▶ store ($state/platform/due.jsonl)
//!                          Event   ▼  │ Step
//!                                 machine            cell tasks ◀──▶ control channel of each MSA
//! ```
//!
//! * [`machine`] decides, without a socket or a clock; [`words`] are its events and steps, [`policy`] its numbers; its
//!   how a tenant goes is in `going`, its queues and indices are in `registers`, what a clock that is set back means in `clock_set_back`; `recent` remembers who was awake lately.
//! * [`performer`] is the one task that carries steps out (with the launcher in `deeds`, with cells and clients in `serving`); what it holds is
//!   in `cells`, `tags`, `meter`.
//! * [`handle`] is what the front door and the API hold.
//! * [`link`] is the connection to the launcher, [`cell`] that to one MSA; [`store`] remembers due times, [`clock`] waits for them.
//!
//! The launcher, not the platform, is the truth about what runs: at every new connection its list is compared with ours, so either may die.

pub mod cell;
mod cells;
pub mod clock;
mod clock_set_back;
mod deeds;
mod going;
pub mod handle;
pub mod histogram;
pub mod link;
pub mod machine;
mod meter;
pub mod performer;
pub mod policy;
mod recent;
mod registers;
mod serving;
pub mod store;
mod tags;
pub mod words;

pub use handle::{Changes, ColdStart, Connection, Handle, Unavailable};
pub use performer::{Doors, Launch, Register, Setup, start};

#[cfg(test)]
mod machine_chances;
#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod performer_tests;
