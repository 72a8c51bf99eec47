//! What the egress policy remembers, and what is usual at operators, in SQLite beside the session records, off the mail path.
//!
//! ```text
//!   start:   egress.db ──▶ load ──▶ State ──▶ Policy::new;  Baselines ──▶ Detector::remember
//!   running: Departures::state, every two seconds ──▶ Saver ──watch: the latest──▶ thread ── rows that differ ──▶ egress.db
//!            Detector::baselines, every five minutes ──┘
//!   end:     the last of both, once more
//! ```
//!
//! Mail never waits for any of it. A database that is missing is made, one that is damaged is put aside, one that is locked or away is tried
//! again; each is said in the log, and the policy goes on with what it has.
//!
//! `kill -9` loses what was learnt since the last save: [`SAVE_EVERY`] and the time of one save, three seconds at most while the database
//! works; what was done by hand was saved before the operator was answered ([`Flush`]). A power cut may take some seconds more, never the database. What is
//! usual loses five minutes at most.
//!
//! - `rows`: the state as rows, so that a save writes what changed; `baselines`: the same for what is usual.
//! - `saver`: the database.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::task::JoinHandle;
use warren_session::detect::Baseline;

use crate::departures::Departures;
use crate::detect::Detector;
use crate::egress::State;

mod baselines;
mod rows;
mod saver;

use rows::Rows;
use saver::Saver;

/// How often what was learnt is saved.
pub const SAVE_EVERY: Duration = Duration::from_secs(2);
/// How often what is usual is saved: it changes with every session, and by little.
pub const BASELINES_EVERY: Duration = Duration::from_secs(300);

/// What was remembered.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Of the egress policy.
    pub state: Option<State>,
    /// Of the detector.
    pub baselines: Vec<Baseline>,
}

/// What is to be saved.
#[derive(Debug)]
struct Saved {
    state: State,
    baselines: Arc<Rows>,
}

impl Saved {
    fn rows(&self) -> Rows {
        let mut rows = rows::rows(&self.state);
        rows.extend(self.baselines.iter().map(|(key, value)| (key.clone(), value.clone())));
        rows
    }
}

/// Those who learn.
#[derive(Debug)]
struct Learners {
    departures: Arc<Departures>,
    detector: Arc<Detector>,
    /// As they were saved last.
    baselines: ArcSwap<Rows>,
}

impl Learners {
    fn now(&self) -> Saved {
        Saved { state: self.departures.state(), baselines: self.baselines.load_full() }
    }

    fn look_at_baselines(&self) {
        self.baselines.store(Arc::new(baselines::rows(&self.detector.baselines())));
    }
}

/// The database, read.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    rows: Rows,
}

/// Has what is known saved at once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Flush {
    learners: Arc<Learners>,
    // The end of the program waits for nobody who holds this.
    saver: Weak<Saver<Saved>>,
}

impl Flush {
    /// Returns when all that is known now is saved, or after this time: whether it is.
    pub async fn now(&self, within: Duration) -> bool {
        let Some((number, mut saved)) =
            self.saver.upgrade().map(|saver| (saver.save(self.learners.now()), saver.saved()))
        else {
            return false;
        };
        matches!(tokio::time::timeout(within, saved.wait_for(|saved| *saved >= number)).await, Ok(Ok(_)))
    }
}

/// The database, kept up to date while this is there.
#[derive(Debug)]
pub struct Keeping {
    learners: Arc<Learners>,
    saver: Arc<Saver<Saved>>,
    task: JoinHandle<()>,
}

impl Memory {
    /// What is remembered from before, if it can be had; says in the log if not. Returns within some seconds, whatever the database does.
    pub async fn open(path: &Path) -> (Self, Remembered) {
        let rows = saver::load(path).await;
        let (of_detector, of_policy): (Rows, Rows) =
            rows.clone().into_iter().partition(|(key, _)| baselines::is_row(key));
        let state = match rows::state(&of_policy) {
            _ if of_policy.is_empty() => None,
            Ok(state) => Some(state),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "what was known of the egress addresses is not understood, they begin anew");
                None
            }
        };
        let (baselines, senseless) = baselines::read(&of_detector);
        if senseless > 0 {
            tracing::warn!(senseless, path = %path.display(), "some of what was usual at operators is of another version or broken: it is learned anew");
        }
        (Self { path: path.into(), rows }, Remembered { state, baselines })
    }

    /// Saves what these learn, from now on. `None`, said in the log, if there can be no thread for it.
    pub fn keep(self, departures: &Arc<Departures>, detector: &Arc<Detector>) -> Option<Keeping> {
        let saver = match Saver::start(self.path, &self.rows, Saved::rows) {
            Ok(saver) => Arc::new(saver),
            Err(error) => {
                tracing::error!(%error, "what is learnt of the egress addresses will be forgotten at the end: no thread saves it");
                return None;
            }
        };
        let learners = Arc::new(Learners {
            departures: Arc::clone(departures),
            detector: Arc::clone(detector),
            baselines: ArcSwap::default(),
        });
        learners.look_at_baselines();
        let task = tokio::spawn(save_now_and_then(Arc::clone(&learners), Arc::clone(&saver)));
        Some(Keeping { learners, saver, task })
    }
}

impl Keeping {
    /// For whoever promises that something is remembered.
    pub fn flush(&self) -> Flush {
        Flush { learners: Arc::clone(&self.learners), saver: Arc::downgrade(&self.saver) }
    }

    /// Saves the last state, for so long at most.
    pub async fn finish(self, within: Duration) {
        let Self { learners, saver, task } = self;
        task.abort();
        // Cancelled: then its saver is dropped, and ours is the last.
        let _ = task.await;
        learners.look_at_baselines();
        let _ = saver.save(learners.now());
        if let Some(saver) = Arc::into_inner(saver) {
            saver.finish(within).await;
        }
    }
}

async fn save_now_and_then(learners: Arc<Learners>, saver: Arc<Saver<Saved>>) {
    let mut looked = Instant::now();
    loop {
        learners.departures.happened().await;
        if looked.elapsed() >= BASELINES_EVERY {
            learners.look_at_baselines();
            looked = Instant::now();
        }
        let _ = saver.save(learners.now());
        tokio::time::sleep(SAVE_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Budget, EgressAddr, Limits, Moment, Policy, Rules};
    use warren_session::detect::{Answer, Thresholds};

    const SOON: Duration = Duration::from_secs(10);

    fn learners(state: Option<State>) -> (Arc<Departures>, Arc<Detector>) {
        let budget = Budget { sessions: 10, sessions_per_minute: 1_000 };
        let rules =
            Rules::plain([EgressAddr([192, 0, 2, 1].into())], budget, Limits { sessions: 100, per_tenant: 100 });
        let policy = Policy::new(rules, state, Moment::current());
        (Departures::new(policy), Detector::new(Thresholds::default()))
    }

    /// A session whose RCPT took so long.
    fn session(detector: &Arc<Detector>, took: Duration) -> bool {
        let now = Instant::now();
        let mut watch = detector.watch("acme.example".into());
        watch.connected([192, 0, 2, 1].into(), Duration::from_millis(10), now);
        let reply = Answer { verb: "RCPT", code: 250, text: "2.1.5 Ok", verdict: None, took };
        let at_once = watch.replied(&reply, now).findings;
        let again = watch.replied(&reply, now).findings;
        !at_once.is_empty() || !again.is_empty() || !watch.settle(now).findings.is_empty()
    }

    const SLOW: Duration = Duration::from_secs(10);

    /// Learns for some sessions, and is saved.
    async fn taught(path: &Path) {
        let (memory, remembered) = Memory::open(path).await;
        assert!(remembered.state.is_none() && remembered.baselines.is_empty());
        let (departures, detector) = learners(None);
        assert!(!session(&detector, SLOW), "nothing is known of it: it may call back");
        let (_, detector) = learners(None);
        (0..10).for_each(|_| assert!(!session(&detector, Duration::from_millis(20))));
        let keeping = memory.keep(&departures, &detector).unwrap();
        assert_eq!(departures.rest(EgressAddr([192, 0, 2, 1].into()), None).len(), 1);
        keeping.finish(SOON).await;
    }

    #[tokio::test]
    async fn a_tarpit_is_known_for_one_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("egress.db");
        taught(&path).await;
        let (memory, Remembered { state, baselines }) = Memory::open(&path).await;
        assert!(state.is_some(), "and the policy's memory beside it");
        assert_eq!(baselines.len(), 1, "{baselines:?}");
        let (departures, detector) = learners(state);
        assert_eq!(detector.remember(baselines), 0);
        assert!(session(&detector, SLOW));
        // What is not heard of is kept all the same.
        memory.keep(&departures, &detector).unwrap().finish(SOON).await;
        assert_eq!(Memory::open(&path).await.1.baselines.len(), 1);
    }

    #[tokio::test]
    async fn what_is_broken_or_of_another_version_is_left_out_and_the_rest_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("egress.db");
        taught(&path).await;
        let mut rows = saver::load(&path).await;
        rows.insert(("baselines.0".into(), "google.com 192.0.2.1".into()), "{}".into());
        rows.insert((baselines::KIND.into(), "nonsense".into()), "[]".into());
        let saver = Saver::start(path.clone(), &Rows::new(), Rows::clone).unwrap();
        let _ = saver.save(rows);
        saver.finish(SOON).await;
        let (memory, remembered) = Memory::open(&path).await;
        assert!(remembered.state.is_some());
        assert_eq!(remembered.baselines.len(), 1);
        let (departures, detector) = learners(remembered.state);
        assert_eq!(detector.remember(remembered.baselines), 0);
        memory.keep(&departures, &detector).unwrap().finish(SOON).await;
        let left = saver::load(&path).await;
        let kinds: Vec<_> = left.keys().filter(|key| baselines::is_row(key)).collect();
        assert_eq!(kinds.len(), 1, "what is not understood goes with the next save: {kinds:?}");
    }
}
