//! Which doors are held, and what the launcher's word on one means for it. Pure; time is passed in.
//!
//! ```text
//!   Welcome ── all doors are kept, and each is to be told of again
//!   Door ───── told of: served, with these sockets from now on
//!   AllTold ── what was not told of is of cells that are gone: closed
//! ```
//!
//! A launcher that is new, or is connected to anew, tells of the cells that run, one by one. Until it comes to a cell, the door of before is the only one there is,
//! so closing it earlier would refuse dials. A launcher that does not come to an end is waited for so long, and no longer: cells that are gone would be
//! held for ever.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use warren_launcher_api::{CellId, TenantName};

/// How long a launcher may take to tell of all doors. Five thousand are told of in a second or two; what holds it up longer is a lack of descriptors.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The doors that are held.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    doors: HashMap<CellId, Entry>,
    /// Since when a launcher is connected that has not told of all doors yet.
    telling: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    tenant: Option<TenantName>,
    /// On this connection.
    told: bool,
}

/// What to do about a door that is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: a late word of an old door.
    Leave,
    /// Serve it; if its cell's door is held already, with these sockets in place of its own.
    Serve,
    /// Close the one that is held, and serve this one: it is another cell of the same number.
    Reopen,
}

impl Roll {
    /// A launcher welcomes us.
    pub(crate) fn welcome(&mut self, now: Instant) {
        self.doors.values_mut().for_each(|door| door.told = false);
        self.telling = Some(now);
    }

    /// It is gone. What it did not tell of, the next one may.
    pub(crate) fn lost(&mut self) {
        self.telling = None;
    }

    /// It hands out a cell's door. What an earlier launcher said of that number counts no more: with the run directory it may have lost count.
    pub(crate) fn door(&mut self, cell: CellId, generation: u32, tenant: Option<&TenantName>) -> Step {
        let door = Entry { generation, tenant: tenant.cloned(), told: true };
        let Some(held) = self.doors.get_mut(&cell) else {
            self.doors.insert(cell, door);
            return Step::Serve;
        };
        if held.told && held.generation >= generation {
            return Step::Leave;
        }
        // A cell gets its tenant once, and keeps it.
        let same = held.tenant.is_none() || held.tenant == door.tenant;
        *held = door;
        if same { Step::Serve } else { Step::Reopen }
    }

    /// The cell is this tenant's from now on. Whether its door is held.
    pub(crate) fn bound(&mut self, cell: CellId, tenant: &TenantName) -> bool {
        let held = self.doors.get_mut(&cell);
        held.is_some_and(|door| {
            door.tenant = Some(tenant.clone());
            true
        })
    }

    /// The cell is gone, or its door cannot be served.
    pub(crate) fn gone(&mut self, cell: CellId) {
        self.doors.remove(&cell);
    }

    /// The launcher told of all doors. Those to close.
    pub(crate) fn all_told(&mut self) -> Vec<CellId> {
        self.telling = None;
        self.doors.extract_if(|_, door| !door.told).map(|(cell, _)| cell).collect()
    }

    /// When [`overdue`](Self::overdue) is to be asked next.
    pub(crate) fn due(&self) -> Option<Instant> {
        Some(self.telling? + PATIENCE)
    }

    /// Those to close because the launcher does not come to an end.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<CellId> {
        if self.due().is_some_and(|due| due <= now) { self.all_told() } else { Vec::new() }
    }

    /// How many are held.
    pub(crate) fn count(&self) -> usize {
        self.doors.len()
    }
}

#[cfg(test)]
#[path = "roll_tests.rs"]
mod tests;
