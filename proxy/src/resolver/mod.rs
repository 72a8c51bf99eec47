//! The resolver door: what a tenant's MSA can ask, and what the proxy learns from it.
//!
//! ```text
//!   cell: MSA ──UDP/TCP 127.0.0.53:53──▶ Door ──question──▶ answer::read ──▶ Upstream (shared cache) ──▶ nameservers
//!                                         │                                        │
//!         ◀── answer ── answer::encode ◀──┤◀── Found ──────────────────────────────┘
//!                                         │
//!                                         └─ Memory: MX host ↔ recipient domain ──NameNote, before the answer──▶ proxy
//! ```
//!
//! A process of its own, without privilege, that holds two sockets of every cell. It answers what an MSA needs (MX, A, AAAA, TXT,
//! CNAME, PTR, SRV, NS, SOA), hides TLSA records and the AD bit (TLS with the MX is the proxy's business: an MSA that does DANE itself
//! would defer because STARTTLS is gone), and bounds what a hostile zone can make an MSA do. It does not judge addresses: the
//! proxy does, when it dials.
//!
//! - [`answer`]: messages in, messages out; pure. - [`upstream`]: asking, with cache and deadlines.
//! - [`memory`]: which domain a host serves, per cell; pure. - [`notes`]: telling the proxy.
//! - [`door`]: one cell's sockets. - [`doors`]: all of them. - [`launcher`]: where they come from.

pub mod answer;
pub mod door;
pub mod doors;
pub mod launcher;
pub mod memory;
pub mod notes;
pub mod upstream;

#[cfg(test)]
mod tests;

pub use doors::Doors;
pub use notes::Notes;
pub use upstream::Upstream;
