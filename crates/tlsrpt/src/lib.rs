//! TLS reports (RFC 8460): what sessions with MXs found, by recipient domain and UTC day.
//!
//! ```text
//!   sessions ─ Finding ─▶ Reporter ─(channel)─▶ its thread ─▶ Day ─ every few seconds ─▶ tlsrpt/2026-11-22.json
//!   warren tlsrpt ◀─ Folder ─ Day::report ─▶ Report (JSON) ─▶ mail to the rua of _smtp._tls TXT
//! ```
//!
//! The mail path hands findings over and never waits; what does not fit the channel is counted as left out. A day is one file, replaced as a whole,
//! so a killed proxy loses the last seconds at most, and a new one goes on where it stands. Everything is bounded: peers choose names, tenants choose
//! domains.
//!
//! | module | holds |
//! |---|---|
//! | [`report`] | the report's own types |
//! | [`day`] | a day's findings, added up: pure |
//! | [`reporter`] | from sessions to files |
//! | [`folder`] | reading the files; which reports were sent |
//! | [`rua`] | where a domain wants its reports |
//! | [`quota`] | how many reports an address gets in a day: pure |
//! | [`mail`] | a report as a mail |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod day;
pub mod folder;
pub mod mail;
pub mod quota;
pub mod report;
pub mod reporter;
pub mod rua;

pub use day::{Day, Failure, Finding};
pub use folder::Folder;
pub use quota::Quota;
pub use report::{DateRange, FailureDetails, Policy, PolicyReport, PolicyType, Report, ResultType, Submitter, Summary};
pub use reporter::{Reporter, ReporterThread};
