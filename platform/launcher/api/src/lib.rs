//! What one says to the launcher, and what it answers. Types only.
//!
//! ```text
//!  platform ── Hello, Wake, Stop, Sockets, List, Due, Status ──▶ ┌──────────┐
//!           ◀─ Welcome, Woken+fds, Exited, Cells+fds …  ──────── │ launcher │  $run/launcher.sock, SOCK_SEQPACKET,
//!  proxy,   ── Hello, Ack ─────────────────────────────────────▶ │          │  one JSON value per packet (warren-packet)
//!  resolver ◀─ Welcome, Door+fds, AllTold, Bound, Gone ───────── └──────────┘
//! ```
//!
//! The first message of a connection is [`Request::Hello`]; the kernel's word on the peer's user decides whether the role is
//! granted. A new connection in a role replaces the old one. Requests carry a `tag` of the caller's choice, which the
//! answer repeats; answers come in any order. [`Event::Exited`], [`Event::Door`], [`Event::AllTold`], [`Event::Bound`] and
//! [`Event::Gone`] come unasked. A peer that does not read loses its connection, not the launcher its pace.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod event;
mod names;
mod request;

pub use error::LauncherError;
pub use event::{CellInfo, CellUse, DueTime, Durations, Event, ExitStatus, Stage, Status};
pub use names::{CellId, ImageName, NameError, TenantName};
pub use request::{Limits, Request, Role};

/// Version of this protocol, said in [`Request::Hello`] and [`Event::Welcome`]. Both ends must be equal. One more with each change of what a message
/// looks like (`forms.txt`).
pub const VERSION: u32 = 3;

/// File name of the launcher's socket within the run directory.
pub const SOCKET_NAME: &str = "launcher.sock";

/// Most door messages ([`Event::Door`], [`Event::AllTold`], [`Event::Bound`], [`Event::Gone`]) that a holder may leave unacknowledged. The kernel
/// counts descriptors in flight against the sender's limit; this keeps them few.
pub const MAX_UNACKNOWLEDGED: u64 = 200;

/// TCP sockets that come with [`Event::Woken`].
pub const WOKEN_TCP_SOCKETS: usize = 4;

/// Most sockets that one [`Request::Sockets`] may ask for, of both kinds together.
pub const MAX_SOCKETS: usize = 32;

/// Most tenants in one [`Request::Due`].
pub const MAX_DUE: usize = 1000;

/// Most cells in one [`Request::Inspect`]: looking at each takes the launcher some microseconds.
pub const MAX_INSPECTED: usize = 200;

/// Most cells in one [`Event::Cells`]; each comes with a pidfd.
pub const MAX_CELLS: usize = 60;

/// Abstract unix name, within the cell, of the MSA's control listener (without the leading NUL byte).
pub const CONTROL_NAME: &str = "warren/control";

/// Name of the control group of the node's own programs, beside those of the containers. The launcher makes it and is in it; whoever starts
/// the others follows it there.
pub const DAEMONS_GROUP: &str = "daemons";

/// Port on 127.0.0.1 in the cell: submission entrance.
pub const SUBMISSION_PORT: u16 = 587;

/// Port on 127.0.0.1 in the cell: relay entrance.
pub const RELAY_PORT: u16 = 24;

/// Where the tenant's volume is mounted in the container.
pub const VOLUME_PATH: &str = "/var/spool/warren";

/// File in the volume with the time at which its MSA wants to be woken: ASCII decimal unix milliseconds and a newline.
pub const NEXT_DUE_FILE: &str = "next-due";

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes a line of `forms.txt` raises [`VERSION`]: an old launcher is told apart from a new one by nothing else.
    #[test]
    fn another_form_is_another_version() {
        let (tag, cell, seq) = (1, CellId(2), 3);
        let tenant = TenantName::new("acme").unwrap();
        let image = ImageName::new("msa").unwrap();
        let requests = [
            Request::Hello { role: Role::Platform, version: 0 },
            Request::Wake { tag, tenant: tenant.clone(), image: image.clone(), limits: Limits::default() },
            Request::Stop { tag, cell, grace_ms: 4 },
            Request::Sockets { tag, cell, tcp: 1, control: 1 },
            Request::List { tag },
            Request::Due { tag, tenants: vec![tenant.clone()] },
            Request::Inspect { tag, cells: vec![cell] },
            Request::Ack { through: seq },
            Request::Status { tag },
        ];
        let info = CellInfo { cell, tenant: tenant.clone(), image, started_unix_ms: 5 };
        let due = DueTime { tenant: tenant.clone(), next_due_unix_ms: Some(6) };
        let status = Status { holders: vec![Role::Proxy, Role::Resolver], ..Status::default() };
        let events = [
            Event::Welcome { version: 0 },
            Event::Woken { tag, cell, slot: true, stages: vec![Stage { name: "volume".into(), micros: 7 }] },
            Event::Failed { tag, error: LauncherError::NoSuchCell { cell } },
            Event::Sockets { tag },
            Event::Cells { tag, cells: vec![info], more: false },
            Event::Exited { cell, tenant: tenant.clone(), status: ExitStatus::Code(0) },
            Event::Exited { cell, tenant: tenant.clone(), status: ExitStatus::OverVolume },
            Event::Stopped { tag },
            Event::Due { tag, due: vec![due] },
            Event::Inspected { tag, cells: vec![CellUse { cell, memory_bytes: Some(8), outdated: false }] },
            Event::Door { seq, cell, generation: 9, tenant: Some(tenant.clone()) },
            Event::Bound { seq, cell, tenant },
            Event::Gone { seq, cell },
            Event::AllTold { seq },
            Event::Status { tag, status },
        ];
        let mut said = format!("version {VERSION}\n");
        for line in requests.iter().map(serde_json::to_string).chain(events.iter().map(serde_json::to_string)) {
            said = said + &line.unwrap() + "\n";
        }
        assert_eq!(said, include_str!("forms.txt"));
    }
}
