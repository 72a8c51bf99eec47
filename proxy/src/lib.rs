//! The transparent proxy between the tenants' MSAs and the world's MX hosts, and the resolver beside it.
//!
//! ```text
//!   launcher ─▶ launcher ─┐ door per cell                              ┌─▶ record ─▶ warren-session
//!   nftables ─▶ standalone┴─▶ door ─▶ session ─▶ reach, egress ─▶ dial ─┴─▶ mediator ◀─▶ MX
//!   resolver ─▶ names (MX name of an address) ──────┘
//! ```
//!
//! A session is one connection of an MSA. It is dialled on from an egress address, its EHLO is withheld until TLS with the MX is settled,
//! and then every byte passes and every exchange is recorded. There is no queue: what the MX did not take, the MSA
//! keeps.
//!
//! | module | holds |
//! |---|---|
//! | [`proxy`] | what all sessions share |
//! | [`launcher`], `holder`, [`standalone`], [`door`] | where connections come from |
//! | `roll`, `next` | which doors are held: pure; replacing what a door's task works with |
//! | [`session`] | one connection, from door to MX |
//! | [`reach`] | what is dialled at all: pure |
//! | [`egress`] | from which address, and when: pure |
//! | [`departures`] | the machine around it: who waits, and is told |
//! | [`egress_store`] | what it remembers, over restarts |
//! | [`control`], [`picture`] | what `warren egress` and `warren metrics` ask, and are told |
//! | [`detect`] | tarpits, throttles, listings |
//! | [`counts`], [`metrics`] | what sessions came to, counted; what scrapers are told |
//! | [`dial`], [`own`] | connecting; this host's addresses |
//! | `kept` | connections between two sessions |
//! | [`names`] | which MX name an address stands for |
//! | [`places`] | how many sessions at once |
//! | [`record`], [`message_id`] | the session's record |
//! | [`workers`], [`giving_back`] | the threads that carry sessions; the memory that they leave behind |
//! | [`settings`] | what the configuration means here |
//! | [`resolver`] | the tenants' DNS, a process of its own |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod control;
pub mod counts;
pub mod departures;
pub mod detect;
pub mod dial;
pub mod door;
pub mod egress;
pub mod egress_store;
pub mod giving_back;
mod holder;
mod kept;
pub mod launcher;
pub mod message_id;
pub mod metrics;
pub mod names;
mod next;
pub mod own;
pub mod picture;
pub mod places;
pub mod proxy;
pub mod reach;
pub mod record;
pub mod resolver;
mod roll;
pub mod session;
pub mod settings;
pub mod standalone;
pub mod tls;
pub mod workers;
