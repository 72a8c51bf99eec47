//! What every session with an MX said and how long it took, kept off the mail path.
//!
//! ```text
//!  proxy session ──SessionLog──▶ Recorder ──bounded channel──▶ recorder thread ──batches──▶ SessionStore (SQLite)
//!                 never waits      │ full: counted, a gap            │ slow, locked, away           ▲
//!                                  ▼                                 ▼                              │ in order, idempotent
//!                               dropped                        spool file (append only, bounded) ───┘
//!
//!  warren sessions ──▶ Reader (read-only) ──▶ list · show (transcript) · summary
//! ```
//!
//! - [`id`]: session ids, sortable by time.
//! - [`record`]: the records themselves, one type per table of the schema (`migrations/`).
//! - [`log`]: the handle that one session writes with; it numbers exchanges and measures reply times.
//! - [`recorder`]: from the mail path to the store; [`spool`]: where records wait for a store that is away.
//! - [`store`]: the store's contract; [`sqlite`]: the store of a single node.
//! - [`reader`], [`transcript`], [`escape`]: what people see.
//! - [`mod@classify`]: what a reply means; [`detect`]: what replies and their times say about the one who gives them.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bounds;
pub mod classify;
mod desk;
pub mod detect;
pub mod escape;
pub mod id;
mod keeper;
pub mod log;
pub mod reader;
pub mod record;
pub mod recorder;
pub mod spool;
pub mod sqlite;
pub mod store;
mod text;
pub mod transcript;

pub use classify::{About, Class, Said, Verdict, classify};
pub use id::SessionId;
pub use log::{SessionLog, Timed};
pub use reader::{Filter, Reader};
pub use record::{Dir, Door, Event, Exchange, Gap, Leg, Message, Outcome, Recipient, Record, SessionEnd, SessionStart};
pub use recorder::{Recorder, RecorderSettings, RecorderThread, Stats};
pub use store::{SessionStore, StoreError};
pub use text::{TEXT_LIMIT, Text};
pub use warren_wire::client::{CertificateFacts, PolicyFacts, TlsFacts};
