//! How every Warren program starts, reloads, drains and logs.
//!
//! ```text
//!   systemd or `warren up`                 the program
//!   ──────────────────────                 ───────────
//!   LISTEN_FDS, LISTEN_FDNAMES  ─────────▶ Inherited::adopt   sockets by name
//!   NOTIFY_SOCKET               ◀───────── ready              "READY=1"
//!   SIGTERM, SIGINT, SIGHUP     ─────────▶ Lifecycle::next    Drain, Reload
//!   stderr                      ◀───────── log::start         one escaped line an event
//! ```
//!
//! A program's `main` is `warren_daemon::run("warren-proxy", start)`: logging, descriptor limit and runtime are set up,
//! `start` runs, and its error becomes one line on stderr and exit status 1. Nothing here knows about mail.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backoff;
mod escape;
mod inherit;
mod lifecycle;
pub mod log;
mod pace;
mod shortage;
mod start;

pub use backoff::{Absence, Backoff};
pub use escape::{Escaped, escape};
pub use inherit::{InheritError, Inherited, keep_from_children};
pub use lifecycle::{Draining, Lifecycle, Signal};
pub use pace::Pace;
pub use shortage::{Accepting, Spells, descriptors};
pub use start::{SUPERVISOR_VARIABLE, ready, run, run_witnessed};
