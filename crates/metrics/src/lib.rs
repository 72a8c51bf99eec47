//! Metrics in the text formats of Prometheus: counted, put together, read and served.
//!
//! ```text
//!   Tally ──▶ Page ──render──▶ text over the programs' sockets ──parse──▶ Page ──▶ `warren metrics`
//!                                                                          └─────▶ http: GET /metrics
//! ```
//!
//! * [`Tally`] counts without a lock, under labels that are known beforehand: no peer can add a series.
//! * [`Page`] is what is told at one moment, [`Format`] the two ways to write it.
//! * [`parse`] takes nothing for a page that is not one, whoever wrote it.
//! * [`local`] tells a page over a unix socket, to the program that answers scrapers.
//! * [`http`] answers scrapers: few at once, not for long, and with the same page if they ask too often.
//!
//! Names are those of [`docs/metrics.md`](../../../docs/metrics.md), which tests compare with what the programs say.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod http;
pub mod local;
mod page;
mod parse;
mod tally;

pub use page::{Buckets, Family, Format, Kind, Page, Sample, outline};
pub use parse::{Malformed, parse};
pub use tally::Tally;
