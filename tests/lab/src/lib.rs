//! An internet in a box.
//!
//! ```text
//!   owner (a test, quickstart, `warren-lab up`)
//!     │ Lab::start()                     lifeline: a pipe on the lab's standard input
//!     ▼
//!   warren-lab serve ──▶ warren-lab world          pid 1 of its own pid namespace, own mount and net namespaces
//!                          │  bridge: DNS authority and scripted personas answer here (dns, persona)
//!                          ├─ veth ─ node      203.0.113.10 .11 .12    the system under test enters by nsenter
//!                          ├─ veth ─ client    198.51.100.200          anyone outside: injects, submits
//!                          ├─ veth ─ postfix   198.51.100.10  ┐
//!                          ├─ veth ─ exim      198.51.100.11  ├ the real programs, each in an overlay root (mta)
//!                          └─ veth ─ opensmtpd 198.51.100.12  ┘
//! ```
//!
//! Everything hangs on one process: when the owner goes, however it goes, the pipe ends, pid 1 leaves and the kernel
//! takes the rest: processes, namespaces, links and mounts. Nothing in it has a name on the machine, so labs do
//! not meet each other.
//!
//! | module | idea |
//! |---|---|
//! | [`config`] | what a lab can be asked for |
//! | [`lab`], [`mailbox`] | the owner's side |
//! | [`map`] | who lives where |
//! | [`world`], [`net`], [`dns`], [`tls`], [`mta`], [`persona`], [`policies`] | the inside |
//! | [`signed`] | signed zones, for a lab or on any address |

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod dns;
pub mod lab;
pub mod mailbox;
pub mod map;
pub mod mta;
pub mod net;
pub mod persona;
pub mod policies;
pub mod signed;
pub mod tls;
pub mod world;

pub use config::{Act, LabConfig, Persona, Record, RecordData, Rule, Step, StsPolicy, Tls, When};
pub use lab::{Lab, LabError, find_program};
pub use mailbox::{Mailbox, Message};
pub use persona::{Event, LogEntry};
