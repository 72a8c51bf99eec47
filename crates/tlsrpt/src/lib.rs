//! TLS reports (RFC 8460): what sessions found, by recipient domain and day.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod report;

pub use report::{DateRange, FailureDetails, Policy, PolicyReport, PolicyType, Report, ResultType, Summary};
