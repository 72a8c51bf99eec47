//! What neither the store nor the spool file could take: counted, complained about, and recorded as a gap.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Keeper, micros};
use crate::{Bundle, Gap, Record, SessionId};

/// How often losses are complained about.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);
/// How long nothing must have been lost before a gap counts as over.
const GAP_QUIET: Duration = Duration::from_secs(1);

impl Keeper {
    pub(super) fn bound_memory(&mut self, reason: &str) {
        if self.pending.len() > self.settings.memory {
            // The newest go: what stays is whole up to the gap.
            let kept = self.pending.take(self.settings.memory);
            let lost = losses(&std::mem::replace(&mut self.pending, kept));
            self.lose(lost, reason);
        }
    }

    /// Closes a gap when nothing is lost any more, or somebody asks.
    pub(super) fn note_losses(&mut self) {
        let over = self.gap.as_ref().is_some_and(|(_, last)| {
            // Whoever waits until all is safe hears of what is missing, too.
            self.ending || !self.flushes.is_empty() || last.elapsed() >= GAP_QUIET
        });
        if over
            && self.spool_failed.is_none()
            && let Some((gap, _)) = self.gap.take()
        {
            // It belongs to no session: to the first that there could be.
            let nobody = SessionId::floor(SystemTime::UNIX_EPOCH);
            self.pending.append(&mut Bundle::of([(nobody, Record::Gap(gap))]));
            self.oldest.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn lose(&mut self, records: u64, reason: &str) {
        if records == 0 {
            return;
        }
        let now_us = micros(SystemTime::now());
        let (gap, last) = self.gap.get_or_insert_with(|| {
            (Gap { from_us: now_us, until_us: now_us, records: 0, reason: reason.to_owned() }, Instant::now())
        });
        gap.records += records;
        gap.until_us = now_us;
        *last = Instant::now();
        self.stats.send_modify(|stats| stats.dropped += records);
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_EVERY) {
            self.complained = Some(Instant::now());
            let dropped = self.stats.borrow().dropped;
            tracing::error!(reason, dropped, "session records are lost");
        }
    }
}

/// What is missing without these: a gap among them stands for more than itself.
pub(super) fn losses(bundle: &Bundle) -> u64 {
    let gaps = bundle.frames().flat_map(|frame| frame.records());
    gaps.fold(bundle.records(), |lost, record| {
        lost + if let Record::Gap(gap) = record { gap.records.saturating_sub(1) } else { 0 }
    })
}
