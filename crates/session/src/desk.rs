//! Where the mail path puts frames down and goes on, and where the thread picks them up.
//!
//! Waking a thread costs more than making a record. So nobody is woken for each: the first frame on an empty desk announces that there is something, one
//! that makes it half full that it cannot wait, and the first sheet that is listed that there is something to collect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{Bundle, sheet::Sheet};

/// Room for so many sheets at once: a busy node's of a quarter of a second.
const LISTED: usize = 256;

/// The desk.
#[derive(Debug)]
pub(crate) struct Desk {
    lying: Mutex<Lying>,
    bell: Notify,
    /// In bytes.
    room: usize,
}

#[derive(Debug, Default)]
struct Lying {
    bundle: Bundle,
    /// Sheets that have something written on them, or had.
    sheets: Vec<Arc<Sheet>>,
    /// Records that found no room.
    lost: u64,
    closed: bool,
}

/// What was picked up.
#[derive(Debug)]
pub(crate) struct PickedUp {
    pub(crate) bundle: Bundle,
    pub(crate) lost: u64,
}

impl Desk {
    /// A desk for so many bytes.
    pub(crate) fn new(room: usize) -> Self {
        Self { lying: Mutex::default(), bell: Notify::new(), room: room.max(1) }
    }

    /// Puts a sealed frame down, if there is room.
    pub(crate) fn put(&self, frame: &[u8], records: u32) {
        let mut lying = self.lying();
        let (before, after) = (lying.bundle.len(), lying.bundle.len() + frame.len());
        if lying.closed || after > self.room {
            lying.lost += u64::from(records);
            return;
        }
        lying.bundle.push(frame, records);
        drop(lying);
        if before == 0 || (before < self.half() && after >= self.half()) {
            self.bell.notify_one();
        }
    }

    /// Sees to it that this sheet is collected.
    pub(crate) fn list(&self, sheet: &Arc<Sheet>) {
        let mut lying = self.lying();
        if lying.closed {
            return;
        }
        let first = lying.sheets.is_empty();
        lying.list(sheet);
        drop(lying);
        if first {
            self.bell.notify_one();
        }
    }

    /// Has every listed session put down what it has written.
    pub(crate) fn collect(&self) {
        let sheets = std::mem::take(&mut self.lying().sheets);
        sheets.iter().for_each(|sheet| sheet.collect(self));
    }

    /// Takes everything away, and leaves room for as much again, in `empty`.
    pub(crate) fn pick_up(&self, empty: Bundle) -> PickedUp {
        let mut lying = self.lying();
        let bundle = std::mem::replace(&mut lying.bundle, empty);
        PickedUp { bundle, lost: std::mem::take(&mut lying.lost) }
    }

    /// Keeps no room for what comes, unless something has come.
    pub(crate) fn rest(&self) {
        let mut lying = self.lying();
        let room = if lying.bundle.is_empty() { std::mem::take(&mut lying.bundle) } else { Bundle::default() };
        let listed = if lying.sheets.is_empty() { std::mem::take(&mut lying.sheets) } else { Vec::new() };
        drop(lying);
        drop((room, listed));
    }

    /// Nothing more is taken; what comes is lost.
    pub(crate) fn close(&self) {
        self.lying().closed = true;
    }

    /// Resolves when something was put down or listed that nobody knew of, or the desk is half full.
    pub(crate) async fn rings(&self) {
        self.bell.notified().await;
    }

    /// Whether it is time to pick up at once.
    pub(crate) fn is_pressing(&self) -> bool {
        self.lying().bundle.len() >= self.half()
    }

    fn half(&self) -> usize {
        self.room.div_ceil(2)
    }

    fn lying(&self) -> MutexGuard<'_, Lying> {
        self.lying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lying {
    fn list(&mut self, sheet: &Arc<Sheet>) {
        if self.sheets.len() == self.sheets.capacity() {
            // Nobody collects while the thread writes to a disk that hangs. Those of sessions that are over have nothing on them, and have no owner but this.
            self.sheets.retain(|sheet| Arc::strong_count(sheet) > 1);
            self.sheets.reserve(self.sheets.len().max(LISTED));
        }
        self.sheets.push(Arc::clone(sheet));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, Record, SessionEnd, SessionId};

    #[test]
    fn sessions_that_are_over_are_forgotten_though_nobody_collects() {
        let desk = Desk::new(1 << 30);
        let begin = || {
            let sheet = Sheet::new(SessionId::new());
            sheet.write(&Record::End(SessionEnd { at_us: 0, outcome: Outcome::Unused, bytes: 0 }), &desk);
            sheet
        };
        let waiting: Vec<_> = (0..1_000).map(|_| begin()).collect();
        for _ in 0..100_000 {
            begin().finish(&desk);
        }
        let listed = desk.lying().sheets.capacity();
        assert!(listed <= 4 * (waiting.len() + LISTED), "{listed}");
        desk.collect();
        assert_eq!(desk.pick_up(Bundle::default()).bundle.records(), 101_000);
    }
}
