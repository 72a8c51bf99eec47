//! From the launcher.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{CellId, ImageName, LauncherError, Role, TenantName};

/// One measured step of a wake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Name of the step: `queue` (or `create`, without a slot), `find-volume`, `volume`, `limits`, `record`, `doors`, `start`.
    pub name: String,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// How a container ended. A hint: only its absence from the list of cells is evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// The launcher ended it because its volume held too much.
    OverVolume,
    /// Somebody else reaped it, or its reaper died.
    Unknown,
}

/// A container that is bound to a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellInfo {
    /// Its cell.
    pub cell: CellId,
    /// Its tenant.
    pub tenant: TenantName,
    /// Its program.
    pub image: ImageName,
    /// When it was started, unix time in milliseconds.
    pub started_unix_ms: u64,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellUse {
    /// Its cell.
    pub cell: CellId,
    /// Memory of its processes with page cache and kernel's share; unknown if the control group does not say.
    pub memory_bytes: Option<u64>,
    /// Its image was replaced on disk since it was made.
    pub outdated: bool,
}

/// When a sleeping tenant wants to be woken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueTime {
    /// Whose.
    pub tenant: TenantName,
    /// Unix time in milliseconds as the tenant wrote it: not to be trusted beyond sane bounds. `None`: nothing is due, or there is
    /// no readable file of the expected form.
    pub next_due_unix_ms: Option<u64>,
}

/// How the launcher is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Containers bound to a tenant.
    pub cells: u64,
    /// Slots ready to be bound.
    pub slots_ready: u64,
    /// Slots that the pool wants to have at present.
    pub slots_wanted: u64,
    /// Wakes that found a slot.
    pub woken_from_slot: u64,
    /// Wakes that had to wait for one to be made.
    pub woken_without_slot: u64,
    /// Wakes that failed.
    pub wakes_failed: u64,
    /// Wakes that wait for a slot to be made.
    pub waiting: u64,
    /// From a wake that found a slot to its program's start.
    pub from_slot: Durations,
    /// The same of one that did not.
    pub without_slot: Durations,
    /// Slots made.
    pub slots_made: u64,
    /// Slots that could not be made.
    pub slots_failed: u64,
    /// Times the maker had to be started again.
    pub maker_restarts: u64,
    /// Door holders that are connected.
    pub holders: Vec<Role>,
}

/// Upper bounds of [`Durations`], in microseconds: about the 1 ms of a warm slot, the 15 ms of none, and what a machine that has too much to do takes.
const UP_TO_US: [u64; 12] =
    [500, 1_000, 2_000, 3_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000];

/// Durations, counted by length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// How many took at most so many microseconds, in rising order.
    pub up_to_us: Vec<(u64, u64)>,
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations { up_to_us: UP_TO_US.map(|up_to| (up_to, 0)).into(), sum_us: 0 }
    }
}

impl Durations {
    /// Counts one.
    pub fn add(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.up_to_us.iter_mut().filter(|(up_to, _)| us <= *up_to).for_each(|(_, count)| *count += 1);
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

/// What the launcher says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The role is granted. To a door holder the doors of all cells follow, and then [`AllTold`](Self::AllTold).
    Welcome {
        /// [`VERSION`](crate::VERSION).
        version: u32,
    },
    /// The tenant's container runs. Descriptors: pidfd, one unix stream socket for the control channel,
    /// [`WOKEN_TCP_SOCKETS`](crate::WOKEN_TCP_SOCKETS) TCP sockets; all unconnected, made in the cell, blocking.
    Woken {
        /// Of the request.
        tag: u64,
        /// The new cell.
        cell: CellId,
        /// It was made ahead of need.
        slot: bool,
        /// What took how long.
        stages: Vec<Stage>,
    },
    /// A request cannot be granted.
    Failed {
        /// Of the request.
        tag: u64,
        /// Why.
        error: LauncherError,
    },
    /// Descriptors: the TCP sockets, then the control sockets.
    Sockets {
        /// Of the request.
        tag: u64,
    },
    /// Part of the list of bound containers. Descriptors: a pidfd for each, in the same order.
    Cells {
        /// Of the request.
        tag: u64,
        /// At most [`MAX_CELLS`](crate::MAX_CELLS).
        cells: Vec<CellInfo>,
        /// Another part follows.
        more: bool,
    },
    /// A bound container ended, asked for or not. Its cell is gone with all that was in it.
    Exited {
        /// Which.
        cell: CellId,
        /// Whose.
        tenant: TenantName,
        /// How.
        status: ExitStatus,
    },
    /// The container of a `Stop` is gone (also when it was gone before).
    Stopped {
        /// Of the request.
        tag: u64,
    },
    /// Answer to a `Due`, in its order.
    Due {
        /// Of the request.
        tag: u64,
        /// One for each tenant asked for.
        due: Vec<DueTime>,
    },
    /// Answer to an `Inspect`: those of the cells that run.
    Inspected {
        /// Of the request.
        tag: u64,
        /// What they use.
        cells: Vec<CellUse>,
    },
    /// A door. Descriptors: for the proxy one TCP listener (`[::]:25`, dual stack); for the resolver a UDP socket and a TCP listener
    /// (127.0.0.53:53). A door of a higher generation replaces the cell's earlier one.
    Door {
        /// Number of the message, ascending by one per connection.
        seq: u64,
        /// Of which cell.
        cell: CellId,
        /// Ascends when a cell's doors are made anew.
        generation: u32,
        /// Whose cell, if it is bound already.
        tenant: Option<TenantName>,
    },
    /// The cell now belongs to this tenant. Sent before its container runs; a connection from a cell whose `Bound` was not read yet
    /// can be accepted first, so wait for it.
    Bound {
        /// Number of the message.
        seq: u64,
        /// Which.
        cell: CellId,
        /// Whose.
        tenant: TenantName,
    },
    /// The cell is no more: its doors can be closed.
    Gone {
        /// Number of the message.
        seq: u64,
        /// Which.
        cell: CellId,
    },
    /// Every cell that runs was told of on this connection. A door that a holder has from before, of a cell that was not told of, belongs to a cell
    /// that is no more; until this is said it may as well belong to one whose turn has not come.
    AllTold {
        /// Number of the message.
        seq: u64,
    },
    /// How the launcher is.
    Status {
        /// Of the request.
        tag: u64,
        /// The numbers.
        status: Status,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_by_length() {
        let mut durations = Durations::default();
        [900, 1_000, 1_001, 20_000_000].into_iter().for_each(|us| durations.add(Duration::from_micros(us)));
        assert_eq!(durations.up_to_us[..3], [(500, 0), (1_000, 2), (2_000, 3)]);
        assert_eq!(durations.up_to_us.last(), Some(&(10_000_000, 3)), "the longest is in none");
        assert_eq!(durations.sum_us, 20_002_901);
    }
}
