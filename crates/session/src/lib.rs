//! What every session with an MX said and how long it took, kept off the mail path.
//!
//! ```text
//!  proxy session ──SessionLog──▶ sheet ──full, over, collected──▶ desk ──▶ recorder thread ──batches──▶ SessionStore (SQLite)
//!                 never waits    its own buffer                 │ full: counted, a gap  │ slow, locked, away        ▲
//!                                                               ▼                       ▼                           │ in order, idempotent
//!                                                            dropped        spool file (append only, bounded) ──────┘
//!
//!  warren sessions ──▶ Reader (read-only) ──▶ list · show (transcript) · summary
//! ```
//!
//! - [`id`]: session ids, sortable by time.
//! - [`record`]: the records themselves; `code` and [`frame`]: as bytes, which is all they are until the database's thread reads them.
//! - [`log`]: the handle that one session writes with; it numbers exchanges and measures reply times. `sheet`: what it writes on; `desk`: where sheets
//!   are handed over.
//! - [`recorder`]: from the mail path to the store; [`spool`]: where records wait for a store that is away.
//! - [`store`]: the store's contract; [`sqlite`]: the store of a single node.
//! - [`reader`], [`transcript`], [`escape`]: what people see.
//! - [`mod@classify`]: what a reply means; [`detect`]: what replies and their times say about the one who gives them.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod classify;
mod code;
mod desk;
pub mod detect;
pub mod escape;
pub mod frame;
pub mod id;
mod keeper;
pub mod log;
pub mod reader;
pub mod record;
pub mod recorder;
mod sheet;
pub mod spool;
pub mod sqlite;
pub mod store;
mod text;
pub mod transcript;

pub use classify::{About, Class, Said, Verdict, classify};
pub use frame::{Bundle, Frame};
pub use id::SessionId;
pub use log::{SessionLog, Timed, Word};
pub use reader::{Filter, Reader};
pub use record::{
    Dialled, Dir, Door, Event, Exchange, Gap, LegNews, Mail, Message, Outcome, Recipient, Record, SessionEnd,
    SessionStart,
};
pub use recorder::{Recorder, RecorderSettings, RecorderThread, Stats};
pub use store::{SessionStore, StoreError};
pub use text::TEXT_LIMIT;
pub use warren_wire::client::{CertificateFacts, PolicyFacts, TlsFacts};
