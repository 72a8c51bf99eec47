//! Delivery: from the queue to the MXs, and reports back to senders.
//!
//! ```text
//!   board (what, when) ─plan─▶ session per destination: route ─▶ dial ─▶ conversation ─▶ outcome ─▶ board, queue
//!                                                                        all settled or failed ─▶ conclude: reports, removal
//! ```
//!
//! Decisions are in [`board`], [`route`] and [`outcome`], which are pure; this file carries them out.

pub mod board;
pub mod conversation;
pub mod dial;
pub mod dns;
pub mod outcome;
pub mod route;

mod conclude;
mod session;

use crate::Msa;
use crate::clock::now_ms;
use board::Board;
use dial::Dial;
use route::Resolve;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use warren_control::{Level, Settings, Stats};
use warren_queue::{Envelope, Retry};

/// The longest sleep of the scheduler: a clock that jumps is noticed after this time.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// How long deliveries wait for settings after the start. Without them mail still flows, under a plain name.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);
/// When to look at a volume again that could not be read (milliseconds).
const UNREADABLE_RETRY_MS: u64 = 5 * 60_000;

/// The state of delivery.
pub struct Deliveries {
    board: Mutex<Board>,
    wake: Notify,
    /// The queue was looked through: the board knows everything there is.
    scanned: AtomicBool,
    stats: Mutex<Stats>,
    resolver: Arc<dyn Resolve>,
    dialer: Arc<dyn Dial>,
}

impl Deliveries {
    /// With who is asked and who connects, and so many sessions at a time.
    #[must_use]
    pub fn new(resolver: Arc<dyn Resolve>, dialer: Arc<dyn Dial>, sessions: usize) -> Self {
        Self {
            board: Mutex::new(Board::with(sessions)),
            wake: Notify::new(),
            scanned: AtomicBool::new(false),
            stats: Mutex::default(),
            resolver,
            dialer,
        }
    }

    /// Takes in a message that was just accepted.
    pub fn take_in(&self, envelope: Envelope) {
        self.board().take_in(envelope, now_ms());
        self.count(|stats| stats.accepted += 1);
        self.wake.notify_one();
    }

    /// When the tenant must be woken if this process ends now.
    #[must_use]
    pub fn next_due_after_stop(&self) -> Option<u64> {
        let now_ms = now_ms();
        let known = self.board().next_due_after_stop(now_ms);
        if self.scanned.load(Ordering::Relaxed) {
            return known;
        }
        // What the volume holds is not known: look again, soon.
        let again = now_ms.saturating_add(UNREADABLE_RETRY_MS);
        Some(known.map_or(again, |due| due.min(again)))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("no holder of this lock panics")
    }

    fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.stats.lock().expect("no holder of this lock panics"));
    }
}

/// Looks through the queue; the caller keeps the MSA awake meanwhile.
pub async fn scan(msa: &Msa) {
    let scan = match msa.store.scan().await {
        Ok(scan) => scan,
        Err(error) => return msa.control.log(Level::Error, format!("the queue cannot be looked through: {error}")),
    };
    for bad in &scan.quarantined {
        msa.control.log(Level::Error, format!("{}: put aside in corrupt/: {}", bad.id, bad.why));
    }
    if scan.swept > 0 {
        msa.control.log(Level::Info, format!("{} unfinished files of an earlier life were removed", scan.swept));
    }
    let now_ms = now_ms();
    let retry = retry(&settings(msa));
    let mut board = msa.deliveries.board();
    for mut envelope in scan.messages {
        // A clock that was set back must not strand mail.
        envelope.recipients.iter_mut().for_each(|recipient| recipient.due_ms = retry.clamp(recipient.due_ms, now_ms));
        board.take_in(envelope, now_ms);
    }
    drop(board);
    msa.deliveries.scanned.store(true, Ordering::Relaxed);
    msa.deliveries.wake.notify_one();
}

/// Delivers what is due, for ever, or until the MSA is to end.
pub async fn run(msa: Arc<Msa>) {
    let mut known = msa.control.settings();
    let mut draining = msa.control.draining();
    let _ = timeout(SETTINGS_TIMEOUT, known.wait_for(Option::is_some)).await;
    let mut told = Stats::default();
    while !*draining.borrow() {
        let now_ms = now_ms();
        let (plan, next, queued) = {
            let latest_ms = retry(&settings(&msa)).latest(now_ms);
            let mut board = msa.deliveries.board();
            board.bring_forward(latest_ms, now_ms);
            let plan = board.plan(now_ms);
            (plan, board.next_due(), board.len() as u64)
        };
        for id in plan.conclude {
            let (msa, busy) = (Arc::clone(&msa), msa.activity.begin());
            tokio::spawn(async move {
                conclude::conclude(&msa, &id).await;
                drop(busy);
            });
        }
        for (host, job) in plan.sessions {
            let (msa, busy) = (Arc::clone(&msa), msa.activity.begin());
            tokio::spawn(async move {
                session::run(&msa, &host, job).await;
                msa.deliveries.board().session_ended(&host);
                msa.deliveries.wake.notify_one();
                drop(busy);
            });
        }
        if msa.deliveries.scanned.load(Ordering::Relaxed) {
            msa.control.due(next);
        }
        let stats = Stats { queued, ..*msa.deliveries.stats.lock().expect("no holder of this lock panics") };
        if stats != told {
            msa.control.stats(stats);
            told = stats;
        }
        let wait = next.map_or(CLOCK_CHECK, |due| Duration::from_millis(due.saturating_sub(now_ms)).min(CLOCK_CHECK));
        tokio::select! {
            () = msa.deliveries.wake.notified() => {}
            () = sleep(wait) => {}
            _ = draining.changed() => {}
        }
    }
}

/// The settings, or what mail needs without them.
fn settings(msa: &Msa) -> Arc<Settings> {
    msa.control.settings().borrow().clone().unwrap_or_else(|| Arc::new(crate::plain_settings()))
}

fn retry(settings: &Settings) -> Retry {
    let warren_control::Retry { first_ms, factor_percent, max_ms, expire_ms } = settings.retry;
    Retry { first_ms, factor_percent, max_ms, expire_ms }
}
