//! To the launcher.

use serde::{Deserialize, Serialize};

use crate::{CellId, ImageName, TenantName};

/// Whom a connection speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Wakes and stops tenants; hears of exits.
    Platform,
    /// Holds the exit door of every cell.
    Proxy,
    /// Holds the resolver door of every cell.
    Resolver,
}

/// What a container may use, written when it is bound to its tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory with page cache and kernel's share, in bytes. Beyond it the container's processes are killed.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Weight against other containers when the processor is short, 1 to 10,000; 100 is usual.
    pub cpu_weight: u32,
    /// Largest file it may write (`RLIMIT_FSIZE`), in bytes.
    pub file_bytes: u64,
    /// Open descriptors (`RLIMIT_NOFILE`).
    pub open_files: u32,
    /// What its volume may hold, in bytes. Watched, not refused by the kernel: beyond it, and a margin, the container is ended.
    pub volume_bytes: u64,
}

/// A small mail tenant: several hundred sessions at once fit.
impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes: 256 << 20,
            pids: 64,
            cpu_weight: 100,
            file_bytes: 256 << 20,
            open_files: 1024,
            volume_bytes: 1 << 30,
        }
    }
}

/// What a peer may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// First message of a connection. Answer: [`Event::Welcome`](crate::Event::Welcome), or the connection ends.
    Hello {
        /// What the peer wants to be.
        role: Role,
        /// [`VERSION`](crate::VERSION).
        version: u32,
    },
    /// Platform: start a tenant. Answer: [`Event::Woken`](crate::Event::Woken) or `Failed`.
    Wake {
        /// Repeated in the answer.
        tag: u64,
        /// Whose volume.
        tenant: TenantName,
        /// Which program.
        image: ImageName,
        /// What it may use.
        limits: Limits,
    },
    /// Platform: SIGTERM now, SIGKILL after `grace_ms`. Answer: `Stopped` once it is gone and nothing is left.
    Stop {
        /// Repeated in the answer.
        tag: u64,
        /// Which.
        cell: CellId,
        /// Time between the two signals; 0 kills at once.
        grace_ms: u32,
    },
    /// Platform: more unconnected sockets made in a cell. Answer: `Sockets` with first `tcp` and then `control` descriptors.
    Sockets {
        /// Repeated in the answer.
        tag: u64,
        /// Which.
        cell: CellId,
        /// How many TCP sockets.
        tcp: u8,
        /// How many unix stream sockets, for [`CONTROL_NAME`](crate::CONTROL_NAME).
        control: u8,
    },
    /// Platform: all containers that are bound to a tenant. Answer: one or more `Cells`.
    List {
        /// Repeated in the answer.
        tag: u64,
    },
    /// Platform: when do these sleeping tenants want to be woken, by the file in their volume? At most
    /// [`MAX_DUE`](crate::MAX_DUE). Answer: `Due`.
    Due {
        /// Repeated in the answer.
        tag: u64,
        /// Whose.
        tenants: Vec<TenantName>,
    },
    /// Platform: what do these cells use, and is their image still the one on disk? At most
    /// [`MAX_INSPECTED`](crate::MAX_INSPECTED). Answer: `Inspected`.
    Inspect {
        /// Repeated in the answer.
        tag: u64,
        /// Which.
        cells: Vec<CellId>,
    },
    /// Proxy, resolver: all door messages with `seq` up to this one have been dealt with.
    Ack {
        /// The highest `seq`.
        through: u64,
    },
    /// Anybody: how the launcher is. Answer: `Status`.
    Status {
        /// Repeated in the answer.
        tag: u64,
    },
}
