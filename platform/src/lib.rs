//! The platform: everybody's front door, and the fleet of tenants behind it.
//!
//! ```text
//!   mail users ──▶ frontdoor ──▶ ┌───────┐ ──▶ launcher (wake, stop)
//!   receiver, CLI ──▶ api ─────▶ │ fleet │ ──▶ control channel of each MSA
//!                      books ──▶ └───────┘ ──▶ entrance of each MSA
//! ```
//!
//! * [`fleet`]: tenants asleep until somebody wants them or their mail is due.
//! * [`frontdoor`]: submission on 587 and 465, AUTH, and the way on into the tenant's MSA.
//! * [`api`]: the socket of the receiver and the command line.
//! * [`books`]: the configuration of the moment, replaced as a whole.
//!
//! It stores due times and nothing else; mail is never here.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod books;
pub mod fleet;
pub mod frontdoor;
