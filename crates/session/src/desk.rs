//! Where the mail path puts records down and goes on, and where the thread picks them up.
//!
//! Waking a thread costs more than making a record. So nobody is woken for each: the first record on an empty desk announces that there is something, and one
//! that makes it half full that it cannot wait.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::Record;

/// The desk.
#[derive(Debug)]
pub(crate) struct Desk {
    lying: Mutex<Lying>,
    bell: Notify,
    room: usize,
}

#[derive(Debug, Default)]
struct Lying {
    records: Vec<Record>,
    /// Records that found no room.
    lost: u64,
    closed: bool,
}

/// What was picked up.
#[derive(Debug)]
pub(crate) struct PickedUp {
    pub(crate) records: Vec<Record>,
    pub(crate) lost: u64,
}

impl Desk {
    /// A desk for so many records.
    pub(crate) fn new(room: usize) -> Self {
        Self { lying: Mutex::default(), bell: Notify::new(), room: room.max(1) }
    }

    /// Puts a record down, if there is room.
    pub(crate) fn put(&self, record: Record) {
        let mut lying = self.lying();
        if lying.closed || lying.records.len() >= self.room {
            lying.lost += 1;
            return;
        }
        lying.records.push(record);
        let count = lying.records.len();
        drop(lying);
        if count == 1 || count == self.half() {
            self.bell.notify_one();
        }
    }

    /// Takes everything away, and leaves room for as much again, in `empty`.
    pub(crate) fn pick_up(&self, mut empty: Vec<Record>) -> PickedUp {
        let mut lying = self.lying();
        std::mem::swap(&mut lying.records, &mut empty);
        PickedUp { records: empty, lost: std::mem::take(&mut lying.lost) }
    }

    /// Nothing more is taken; what comes is lost.
    pub(crate) fn close(&self) {
        self.lying().closed = true;
    }

    /// Resolves when the first record was put down, or the desk is half full.
    pub(crate) async fn rings(&self) {
        self.bell.notified().await;
    }

    /// Whether it is time to pick up at once.
    pub(crate) fn is_pressing(&self) -> bool {
        self.lying().records.len() >= self.half()
    }

    fn half(&self) -> usize {
        self.room.div_ceil(2)
    }

    fn lying(&self) -> MutexGuard<'_, Lying> {
        self.lying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
