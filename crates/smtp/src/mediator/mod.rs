//! A session that passes through: a machine between a client side and a server side.
//!
//! ```text
//!            client_bytes ─▶ ┌──────────────────────────────┐ ─▶ to_server
//!   client                   │ Mediator                     │            server
//!               to_client ◀─ │  front · waiting · back      │ ◀─ server_bytes
//!                            └──┬──────────────┬────────────┘
//!                  next_action, │              │ events: commands, replies, content, in order
//!                  deadline     ▼              ▼
//!                             driver        observer
//! ```
//!
//! Two programs drive it. The proxy ([`Outbound`], MSA ↔ MX) withholds EHLO until TLS with the MX is settled. The front door
//! ([`HandOver`], MUA ↔ MSA) introduces a client that it has authenticated, checks MAIL by its [`Policy`], and streams the rest.
//!
//! What it promises:
//! - Replies come in the order of the client's commands, its own among those of the server; a reply of many lines is passed at once.
//! - The server gets an end of data only where the client sent one: a message that is cut off, or that holds a bare CR or LF,
//!   ends in a dropped connection.
//! - A 2xx for a message is passed only after its content was passed whole, and only when the server said it.
//! - Everything is bounded: lines, replies, what is held, what waits to be written ([`Mediator::wants_client`] and
//!   [`Mediator::wants_server`] say when to read), commands in flight, refusals, and time ([`Mediator::deadline`]).
//!
//! | file | holds |
//! |---|---|
//! | `machine` | [`Mediator`]: the driver's interface |
//! | `front` | bytes and commands from the client |
//! | `content` | what is between DATA and its dot, or behind BDAT |
//! | `back` | replies from the server, its loss, deadlines |
//! | `opening` | how a session with the server begins: pure |
//! | `client_tls` | STARTTLS of the client |
//! | `envelope` | MAIL, RCPT, DATA and BDAT: judged, passed, held, or answered here |
//! | `moving` | from one connection with the server to another |
//! | `keeping` | a connection with the server that outlives its session |
//! | `stand_in` | sessions without a server |
//! | `waiting` | who is owed which reply |
//! | `action`, `event`, `settings`, `replies`, `outgoing` | what is to be done, told, decided, answered, written |

mod action;
mod back;
mod client_tls;
mod content;
mod envelope;
mod event;
mod front;
mod keeping;
mod machine;
mod moving;
mod opening;
mod outgoing;
mod replies;
mod settings;
mod stand_in;
#[cfg(test)]
mod tests;
mod waiting;

pub use action::Action;
pub use event::{Ending, Event, Flow, Observer, Topic};
pub use keeping::Kept;
pub use machine::Mediator;
pub use outgoing::Outgoing;
pub use settings::{
    ClientTls, Deadlines, HIGH_WATER, HandOver, Host, Judgement, Leg, MAX_ERRORS, MAX_FRUITLESS, MAX_HELD,
    MAX_PIPELINE, MAX_READ, MAX_REPLAY, Outbound, Policy, StandIn, TlsPolicy,
};
