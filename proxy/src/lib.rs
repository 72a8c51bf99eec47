//! The transparent proxy between the tenants' MSAs and the world's MX hosts.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod egress;
pub mod names;
pub mod reach;
pub mod resolver;
