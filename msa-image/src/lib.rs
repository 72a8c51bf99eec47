//! The MSA of one tenant: takes mail at two entrances, keeps it in the tenant's own queue, delivers it, and sleeps.
//!
//! ```text
//!   submission :587 ─┐                            ┌─▶ delivery ─▶ MXs (port 25, through the cell's exit door)
//!   relay :24       ─┼─▶ entrance ─▶ queue (disk) ┤
//!   control (unix)  ─┴─▶ settings                 └─▶ reports, back into the queue
//!                        life: start, idle, sleep, drain
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`life`] | from start to sleep |
//! | [`entrance`] | where mail comes in: rights, limits, RFC 6409 |
//! | [`mail`] | header fields, trace, reports: pure |
//! | [`store`] | the volume |
//! | [`delivery`] | where mail goes out |
//! | [`control`] | the platform's channel |
//! | [`pid1`] | signals and panics |
//! | [`places`] | how many sessions there may be |
//!
//! Promises: `250` only after the message is on stable storage; what was accepted is delivered or reported, whatever is
//! killed when; the process costs nothing while nothing is due.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod activity;
pub mod clock;
pub mod control;
pub mod delivery;
pub mod entrance;
pub mod life;
pub mod mail;
pub mod pid1;
pub mod places;
pub mod store;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use activity::Activity;
use control::Control;
use delivery::Deliveries;
use places::Places;
use store::Store;
use tokio::sync::Notify;
use warren_control::{Retry, Settings};

/// Everything that the parts of an MSA share.
pub struct Msa {
    /// The platform.
    pub control: Control,
    /// How many sessions there may be.
    pub places: Places,
    /// Whether anything is going on.
    pub activity: Activity,
    /// The volume.
    pub store: Store,
    /// Mail going out.
    pub deliveries: Deliveries,
    /// The first bytes were written to a client.
    pub first_banner: Notify,
}

/// What delivery needs when the platform never said anything.
fn plain_settings() -> Settings {
    let retry = warren_queue::Retry::default();
    Settings {
        tenant: "unknown".parse().expect("a tenant's name"),
        hostname: "localhost".to_owned(),
        domains: Vec::new(),
        accounts: std::collections::BTreeMap::new(),
        max_message_bytes: 64 << 20,
        max_recipients: 1_000,
        max_queue_bytes: u64::MAX,
        idle_ms: 30_000,
        retry: Retry {
            first_ms: retry.first_ms,
            factor_percent: retry.factor_percent,
            max_ms: retry.max_ms,
            expire_ms: retry.expire_ms,
        },
        hop_limit: 50,
    }
}
