//! The fleet: every tenant asleep until somebody wants it or its mail is due.
//!
//! ```text
//!   front door, API ──▶ Handle ──▶ performer ──▶ launcher (Wake, Stop, Sockets, Due)
//!                                  │  ▲   └────▶ store ($state/platform/due.jsonl)
//!                          Event   ▼  │ Step
//!                                 machine            cell tasks ◀──▶ control channel of each MSA
//! ```
//!
//! * [`machine`] decides, without a socket or a clock; [`words`] are its events and steps, [`policy`] its numbers.

pub mod machine;
pub mod policy;
pub mod words;

#[cfg(test)]
mod machine_tests;
