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
//! * [`api`]: the socket of the receiver and the command line; `recipients`: what becomes of inbound mail to an address.
//! * [`rates`]: how much mail tenants and accounts may send in an hour.
//! * [`books`]: the configuration of the moment, replaced as a whole; [`plan`]: what replacing it would change;
//!   [`readings`]: how replacing it went.
//! * [`metrics`]: what scrapers are told; [`nice`]: what goes first on a busy processor.
//! * [`diary`]: what was logged of each tenant lately; [`suspended`]: who is shut out.
//!
//! It stores due times and hourly counts and nothing else; mail is never here.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod books;
pub mod diary;
pub mod fleet;
pub mod frontdoor;
pub mod metrics;
pub mod nice;
pub mod plan;
pub mod rates;
pub mod readings;
mod recipients;
pub mod suspended;
