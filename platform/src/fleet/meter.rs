//! Cold starts and counters of the fleet.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use warren_control::api::{ColdStarts, StartReason};

use super::{handle::ColdStart, histogram::Histogram};

/// Stage names that are kept; the launcher has a handful, and a broken one must not grow the table.
const STAGES: usize = 32;

/// What was measured since the platform started.
#[derive(Debug, Default)]
pub(super) struct Meter {
    warm: Histogram,
    cold: Histogram,
    stages: Vec<(String, Histogram)>,
    counters: BTreeMap<&'static str, u64>,
    starts: BTreeMap<(StartReason, bool), u64>,
}

impl Meter {
    /// Counts something that happened.
    pub fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    /// Keeps the most that there ever were.
    pub fn most(&mut self, what: &'static str, now: usize) {
        let most = self.counters.entry(what).or_default();
        *most = (*most).max(now as u64);
    }

    /// Counts a start.
    pub fn started(&mut self, reason: StartReason, warm: bool) {
        self.count(if warm { "starts_warm" } else { "starts_cold" });
        *self.starts.entry((reason, warm)).or_default() += 1;
    }

    /// The starts by reason, and whether a warm slot was found.
    pub fn starts(&self) -> Vec<(StartReason, bool, u64)> {
        self.starts.iter().map(|((reason, warm), n)| (*reason, *warm, *n)).collect()
    }

    /// The counters by name.
    pub fn counters(&self) -> Vec<(String, u64)> {
        self.counters.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    /// Counts a cold start whose banner was read at `banner`.
    pub fn cold_start(&mut self, cold: ColdStart, banner: Instant) {
        let whole = banner.saturating_duration_since(cold.wanted);
        if cold.warm { &mut self.warm } else { &mut self.cold }.add(whole);
        for (name, took) in cold.stages {
            self.stage(name, took);
        }
        self.stage("banner".into(), banner.saturating_duration_since(cold.connected));
    }

    fn stage(&mut self, name: String, took: Duration) {
        if let Some((_, histogram)) = self.stages.iter_mut().find(|stage| stage.0 == name) {
            histogram.add(took);
        } else if self.stages.len() < STAGES {
            let mut histogram = Histogram::default();
            histogram.add(took);
            self.stages.push((name, histogram));
        }
    }

    /// The cold starts for the status.
    pub fn cold_starts(&self) -> ColdStarts {
        ColdStarts {
            warm: self.warm.spread(),
            cold: self.cold.spread(),
            stages: self.stages.iter().map(|(name, histogram)| (name.clone(), histogram.spread())).collect(),
            warm_lengths: self.warm.lengths(),
            cold_lengths: self.cold.lengths(),
        }
    }
}
