//! The resolver door: what a tenant's MSA can ask, and what the proxy learns from it.
//!
//! ```text
//!   cell: MSA ──UDP/TCP 127.0.0.53:53──▶ Door ──question──▶ answer::read ─▶ Thrift ─▶ Upstream (shared cache, DNSSEC) ──▶ nameservers
//!                                         │                                              │
//!         ◀── answer ── answer::encode ◀──┤◀── Found, secure? ───────────────────────────┘
//!                                         │
//!                                         ├─ tlsa: _25._tcp.host, if secure ──┐
//!                                         ├─ sts::Policies: MTA-STS ──────────┼─ Notes, before the answer ──▶ proxy
//!                                         └─ Memory: MX host ↔ domain ────────┘
//! ```
//!
//! A process of its own, without privilege, that holds two sockets of every cell. It answers what an MSA needs (MX, A, AAAA, TXT,
//! CNAME, PTR, SRV, NS, SOA), hides TLSA records and the AD bit (TLS with the MX is the proxy's business: an MSA that does DANE itself
//! would defer because STARTTLS is gone), and bounds what a hostile zone can make an MSA do. It does not judge addresses: the
//! proxy does, when it dials; only the policy hosts of MTA-STS it dials itself, by the same rules.
//!
//! **DNSSEC**: an answer that is signed and does not validate is SERVFAIL. Nameservers that strip signatures are found out ([`watch`]): then nothing is secure, and
//! the log says so. An address is told as secure only if everything from the domain's MX records to it was validated, aliases included; and then its TLSA
//! records go before it, or the word that nobody can tell what they are, on which mail waits (RFC 7672 §2.1.2).
//!
//! - [`answer`]: messages in, messages out; pure. - [`upstream`]: asking, with cache, deadlines and validation. - [`watch`]: what nameservers are good for.
//! - [`memory`]: which domain a host serves, per cell; pure. - [`thrift`]: how much a cell can say by asking; pure. - [`notes`]: telling the proxy.
//! - [`tlsa`]: records of DANE. - [`sts`]: policies of MTA-STS.
//! - [`door`]: one cell's sockets. - `asker`: what is asked at them. - `shares`: how many questions at a time, by whom; pure. - [`doors`]: all of them. - [`launcher`]: where they come from.
//! - [`counts`]: what was asked and what came of it. - [`metrics`]: telling it.

pub mod answer;
mod asker;
pub mod counts;
pub mod door;
pub mod doors;
pub mod launcher;
pub mod memory;
pub mod metrics;
pub mod notes;
mod shares;
pub mod sts;
pub mod thrift;
pub mod tlsa;
pub mod upstream;
pub mod watch;

#[cfg(test)]
mod signed_tests;
#[cfg(test)]
mod tests;

pub use doors::Doors;
pub use notes::Notes;
pub use sts::Policies;
pub use upstream::Upstream;
