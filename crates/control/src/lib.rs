//! What the platform says to an MSA and to the other programs of a node.
//!
//! ```text
//!   MSA ◀── control: JSON lines on an abstract socket in the cell ──▶ platform
//!   receiver, CLI ◀── API: JSON packets on `platform.sock` ─────────▶ platform
//!   CLI ◀── JSON packets on `proxy.sock` ──────────────────────────▶ proxy
//! ```
//!
//! * [`channel`] has the messages of the control channel, [`lines`] the bounded codec they travel in.
//! * [`egress`] has the requests and replies of the proxy's socket.
//! * [`api`] has the requests and replies of the platform's socket. They travel as packets, so that a reply
//!   can carry a connected socket.
//!
//! Both sides of a control channel distrust each other: an MSA is tenant code, so everything it says is
//! bounded here, before anybody looks at it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod channel;
pub mod egress;
pub mod lines;

pub use api::{ApiReply, ApiRequest, Entrance, Verdict};
pub use channel::{FromMsa, Level, MAX_OUTPUT, Outcome, Retry, Settings, Stats, ToMsa};
pub use lines::{LineError, LineReader, Lines, MAX_LINE, send};
/// The name of the control socket in every cell, and the types that come from the launcher's world.
pub use warren_launcher_api::{CONTROL_NAME, CellId, RELAY_PORT, SUBMISSION_PORT, TenantName};
