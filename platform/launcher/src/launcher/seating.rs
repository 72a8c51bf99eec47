//! Seats for cells to come: their control groups with a process in each, so that a tenant who finds no slot does not wait for those too.

use std::time::Instant;

use warren_launcher_api::CellId;

use super::{Launcher, log};
use crate::maker::ToMaker;

/// So many wait. A seat takes as long to make as a container, on another processor, so a few last through any storm.
const SEATS: usize = 4;

impl Launcher {
    /// Has the maker fill up the seats, unless a program starts just now that needs the processor.
    pub(super) fn keep_seats(&mut self, now: Instant) {
        let starting = self.waiting.is_empty() && self.refill_not_before.is_some_and(|time| now < time);
        if starting || self.ending.is_some() || !self.leftovers.is_empty() {
            return;
        }
        while self.seats.len() < SEATS {
            let Some(maker) = &self.maker else { return };
            let cell = match self.numbers.take() {
                Ok(cell) => cell,
                // Said where a cell cannot do without.
                Err(_) => return,
            };
            if let Err(error) = maker.tell(&ToMaker::Seat { cell }) {
                return self.maker_died(&format!("does not listen ({error})"), false);
            }
            self.seats.push_back(cell);
        }
    }

    /// The number of the next cell: that of the oldest seat, if there is one.
    pub(super) fn next_cell(&mut self) -> Option<CellId> {
        self.seats.pop_front().or_else(|| match self.numbers.take() {
            Ok(cell) => Some(cell),
            Err(error) => {
                log(&format!("cell numbers: {error}"));
                None
            }
        })
    }
}
