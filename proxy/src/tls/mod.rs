//! What TLS with an MX has to be, for each recipient domain, and whether a connection is that. Pure.
//!
//! ```text
//!   names: MX name, DNSSEC, TLSA, MTA-STS ─┐
//!   configuration: rules                  ─┼─▶ Requirement::of ─▶ judge(requirement, channel) ─▶ RCPT passes, or 451 4.7.5
//!   MAIL … REQUIRETLS                     ─┘                              │
//!                                                                        └─▶ TLS report, session record
//! ```
//!
//! One connection may carry mail for many domains, and each of them may ask for something else, so nothing is decided at the handshake: it takes any
//! certificate ([`warren_wire::client`]), and the chain is held against each recipient's requirement.
//!
//! **Precedence**: DANE (RFC 7672) over MTA-STS (RFC 8461) over the configured rule over the configured default. What ranks lower is never used to
//! excuse what ranks higher. It may ask for more where the higher asks for less than authentication: TLSA records of which none is usable ask for
//! encryption only (RFC 7672 §2.2), an MTA-STS policy in mode `testing` for nothing.
//!
//! | module | holds |
//! |---|---|
//! | [`dane`] | TLSA records, and certificates held against them |
//! | [`sts`] | MTA-STS policies |
//! | [`rules`] | what is configured |
//! | [`requirement`] | which of them counts |
//! | [`judge`](mod@judge) | whether a connection satisfies it |
//! | [`leg`] | the judgements of one connection, each domain once |

pub mod dane;
pub mod judge;
pub mod leg;
pub mod requirement;
pub mod rules;
pub mod sts;
#[cfg(test)]
mod tests;

pub use dane::{Tlsa, TlsaFound};
pub use judge::{Channel, Unmet, judge};
pub use leg::{How, Judged, LegTls, Via};
pub use requirement::{Demand, Known, Requirement, Source, canonical};
pub use rules::Rules;
pub use sts::{StsFound, StsMode, StsPolicy};
pub use warren_tlsrpt::ResultType;
