//! The thread's loop: batches to the store while it keeps up, to the spool file while it does not, and back in order.
//!
//! Records travel `pending → store` or `pending → spool → store`, never past one another: while anything waits in the
//! spool file, all that comes goes behind it. A batch whose fate is unknown (the store is slow) is spooled as well;
//! writing it twice does no harm.

mod calendar;
mod losses;
#[cfg(test)]
mod tests;
mod thread;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use crate::{
    Bundle, Gap, RecorderSettings, SessionStore,
    desk::{Desk, PickedUp},
    recorder::{Flush, Incoming, Stats},
    spool::{Loaded, Spool, SpoolError},
};
use calendar::Calendar;
use losses::losses;
use thread::{Answer, Job, Thread};

/// How long frames lie on the desk, unless it becomes full: each look costs a wake-up of this thread.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// How long a session keeps what it has written before it is collected, so that one that waits can be studied, and a kill takes no more.
const COLLECT_EVERY: Duration = Duration::from_millis(250);
/// Bytes appended to the spool file at once: where it is full or the disk is, what fits is safe.
const PIECE: usize = 256 * 1_024;

/// How long the store is left alone that could not bring its schema up to date: each attempt writes all of the database again.
const SCHEMA_PAUSE: Duration = Duration::from_secs(3_600);

/// What the store is doing.
struct Busy {
    since: Instant,
    doing: Doing,
}

enum Doing {
    Pending { batch: Arc<Bundle>, spooled: bool },
    Spooled(Loaded, u64),
    Pruning,
}

pub(crate) struct Keeper {
    thread: Thread,
    spool: Spool,
    settings: RecorderSettings,
    stats: watch::Sender<Stats>,
    pending: Bundle,
    oldest: Option<Instant>,
    flushes: Vec<Flush>,
    busy: Option<Busy>,
    /// The store failed or is slow: no new work before this moment.
    pause: Option<(Instant, Duration)>,
    spool_failed: Option<Instant>,
    gap: Option<(Gap, Instant)>,
    complained: Option<Instant>,
    next_prune: Instant,
    calendar: Calendar,
    ending: bool,
}

impl Keeper {
    pub(crate) fn new<S: SessionStore>(
        store: S,
        spool: Spool,
        settings: RecorderSettings,
        stats: watch::Sender<Stats>,
    ) -> Self {
        Self {
            thread: Thread::new(store, settings.nice),
            spool,
            settings,
            stats,
            pending: Bundle::default(),
            oldest: None,
            flushes: Vec::new(),
            busy: None,
            pause: None,
            spool_failed: None,
            gap: None,
            complained: None,
            next_prune: Instant::now(),
            calendar: Calendar::new(SystemTime::now(), Instant::now()),
            ending: false,
        }
    }

    pub(crate) async fn run(mut self, incoming: Incoming, mut stopped: oneshot::Receiver<()>) {
        let Incoming { desk, mut flushes } = incoming;
        let look_every = LOOK_EVERY.min(self.settings.linger / 2);
        let collect_every = COLLECT_EVERY.min(self.settings.linger * 2);
        let mut empty = Bundle::default();
        let (mut look, mut collect) = (None::<Instant>, None::<Instant>);
        let (mut watching, mut drained) = (true, false);
        loop {
            if collect.is_some_and(|at| at <= Instant::now()) {
                (collect, look) = (None, Some(Instant::now()));
                desk.collect();
            }
            if look.is_some_and(|at| at <= Instant::now()) {
                look = None;
                empty = self.take(desk.pick_up(empty));
            }
            self.note_losses();
            self.spill();
            self.begin_work();
            if look.or(collect).is_none() {
                self.rest(&mut empty, &desk);
            }
            if self.everything_safe() {
                for flush in self.flushes.drain(..) {
                    let _ = flush.send(());
                }
                if drained {
                    return self.close().await;
                }
            }
            let wake = [look, collect].into_iter().flatten().fold(self.wake(), Instant::min);
            tokio::select! {
                biased;
                stop = &mut stopped, if watching => {
                    watching = false;
                    // A dropped handle stops nothing: then the last recorder does.
                    if stop.is_ok() {
                        self.ending = true;
                        flushes.close();
                    }
                }
                answer = self.thread.answer(), if self.busy.is_some() => self.work_done(answer),
                flush = flushes.recv(), if !drained => {
                    match flush {
                        Some(flush) => self.flushes.push(flush),
                        // Closed and empty: nobody can record any more.
                        None => {
                            desk.collect();
                            desk.close();
                            (drained, self.ending) = (true, true);
                        }
                    }
                    collect = Some(Instant::now());
                }
                () = desk.rings() => {
                    let now = Instant::now();
                    let at = if desk.is_pressing() { now } else { now + look_every };
                    look = Some(look.map_or(at, |look| look.min(at)));
                    collect.get_or_insert(now + collect_every);
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Keeps no room while there is nothing to do.
    fn rest(&mut self, empty: &mut Bundle, desk: &Desk) {
        if self.busy.is_none() && self.pending.is_empty() && self.pending.capacity().max(empty.capacity()) > 0 {
            (self.pending, *empty) = Default::default();
            desk.rest();
        }
    }

    /// Lets the store close, unless it hangs.
    async fn close(self) {
        let Self { mut thread, settings, busy, .. } = self;
        let closed = async {
            if busy.is_some() {
                thread.answer().await;
            }
            if thread.begin(Job::Close).is_ok() {
                thread.answer().await;
            }
        };
        if tokio::time::timeout(settings.patience, closed).await.is_err() {
            tracing::warn!("the session database does not close");
        }
    }

    /// Takes over what was picked up, and gives its place back.
    fn take(&mut self, picked_up: PickedUp) -> Bundle {
        let PickedUp { mut bundle, lost } = picked_up;
        if lost > 0 {
            self.lose(lost, "records came faster than they could be taken");
        }
        self.pending.append(&mut bundle);
        // What a burst took is given back.
        bundle.shrink();
        if !self.pending.is_empty() && self.oldest.is_none() {
            self.oldest = Some(Instant::now());
        }
        bundle
    }

    /// Whether nothing depends on this process any more.
    fn everything_safe(&self) -> bool {
        let in_flight =
            self.busy.as_ref().is_some_and(|busy| matches!(busy.doing, Doing::Pending { spooled: false, .. }));
        let asked = self.ending || !self.flushes.is_empty();
        let gap_waits = asked && self.gap.is_some() && self.spool_failed.is_none();
        self.pending.is_empty() && !in_flight && !gap_waits
    }

    /// When to look again although nothing happened.
    fn wake(&self) -> Instant {
        let now = Instant::now();
        let mut wake = now + Duration::from_secs(1);
        if let Some(busy) = &self.busy {
            wake = wake.min((busy.since + self.settings.patience).max(now + Duration::from_millis(10)));
        } else if let Some((until, _)) = self.pause.filter(|(until, _)| now < *until) {
            // What is due waits for that, too.
            wake = wake.min(until);
        } else if let Some(oldest) = self.oldest {
            wake = wake.min(oldest + self.settings.linger);
        }
        wake.max(now + Duration::from_millis(1))
    }

    /// Gives the store its next piece of work, if it is free and there is some.
    fn begin_work(&mut self) {
        let now = Instant::now();
        if self.busy.is_some() || self.pause.is_some_and(|(until, _)| now < until) {
            return;
        }
        let (job, doing) = if !self.spool.is_empty() {
            if self.ending {
                return; // What is in the spool file is safe; the next process loads it.
            }
            match self.spool.next(self.settings.batch) {
                Ok(mut loaded) => {
                    if loaded.damaged > 0 {
                        self.lose(loaded.damaged, "damage in the spool file");
                    }
                    let batch = Arc::new(std::mem::take(&mut loaded.bundle));
                    let count = batch.records();
                    (Job::Write(batch), Doing::Spooled(loaded, count))
                }
                Err(error) => {
                    tracing::error!(%error, "cannot load session records");
                    self.back_off();
                    return;
                }
            }
        } else if self.pending_is_due(now) {
            let batch = Arc::new(self.pending.take(self.settings.batch));
            self.oldest = (!self.pending.is_empty()).then_some(now);
            (Job::Write(Arc::clone(&batch)), Doing::Pending { batch, spooled: false })
        } else if let Some(keep) = self.settings.keep.filter(|_| now >= self.next_prune && !self.ending) {
            self.next_prune = now + self.settings.prune_every;
            (Job::Prune(self.calendar.look(SystemTime::now(), now) - keep), Doing::Pruning)
        } else {
            return;
        };
        if self.thread.begin(job).is_ok() {
            self.busy = Some(Busy { since: now, doing });
        } else {
            self.undone(doing, "no thread for the session database");
        }
    }

    fn pending_is_due(&self, now: Instant) -> bool {
        !self.pending.is_empty()
            && (self.ending
                || !self.flushes.is_empty()
                || self.pending.len() >= self.settings.batch
                || self.oldest.is_none_or(|oldest| now >= oldest + self.settings.linger))
    }

    /// `None`: the thread ended without an answer, of a panic or because it lacked what it needs to begin.
    fn work_done(&mut self, answer: Option<Answer>) {
        let Some(Busy { doing, .. }) = self.busy.take() else { return };
        let Some(result) = answer else { return self.undone(doing, "the session database's thread ended") };
        match (result, doing) {
            (Ok(_), Doing::Pending { batch, .. }) => {
                self.recovered();
                self.stats.send_modify(|stats| stats.stored += batch.records());
                self.use_again(batch);
            }
            (Ok(_), Doing::Spooled(loaded, count)) => {
                self.recovered();
                self.spool.done(&loaded);
                self.stats.send_modify(|stats| {
                    stats.stored += count;
                    stats.loaded += count;
                });
            }
            (Ok(forgotten), Doing::Pruning) => {
                self.recovered();
                if forgotten > 0 {
                    self.next_prune = Instant::now(); // There may be more.
                }
            }
            (Err(error), doing) => {
                self.undone(doing, &error.to_string());
                if error.was_much_work() {
                    self.pause = Some((Instant::now() + SCHEMA_PAUSE, SCHEMA_PAUSE));
                }
            }
        }
    }

    /// What comes next lies where this lay.
    fn use_again(&mut self, batch: Arc<Bundle>) {
        if let (true, Ok(mut batch)) = (self.pending.capacity() == 0, Arc::try_unwrap(batch)) {
            batch.clear();
            batch.shrink();
            self.pending = batch;
        }
    }

    /// It is tried again, later.
    fn undone(&mut self, doing: Doing, why: &str) {
        if let Doing::Pending { batch, spooled: false } = doing {
            self.put_back(batch);
        }
        self.failed(why);
    }

    fn put_back(&mut self, batch: Arc<Bundle>) {
        let mut all = Arc::unwrap_or_clone(batch);
        all.append(&mut self.pending);
        self.pending = all;
        self.oldest.get_or_insert_with(Instant::now);
    }

    fn recovered(&mut self) {
        self.spool_failed = None; // Not needed at present, so it stands in nobody's way.
        if self.pause.take().is_some() {
            tracing::info!("the session database takes records again");
        }
    }

    fn failed(&mut self, why: &str) {
        self.stats.send_modify(|stats| stats.failures += 1);
        if self.pause.is_none() {
            tracing::warn!(reason = why, spool = %self.settings.spool.display(), "session records go to the spool file");
        }
        self.back_off();
    }

    fn back_off(&mut self) {
        let length = self.pause.map_or(self.settings.retry_first, |(_, last)| (last * 2).min(self.settings.retry_max));
        self.pause = Some((Instant::now() + length, length));
    }

    /// Moves records to the spool file when the store does not keep up.
    fn spill(&mut self) {
        let now = Instant::now();
        let slow = self.busy.as_ref().is_some_and(|busy| now >= busy.since + self.settings.patience)
            || (self.busy.is_some() && self.pending.len() > self.settings.memory);
        if !(slow || self.pause.is_some() || !self.spool.is_empty()) {
            return;
        }
        if self.spool_failed.is_some_and(|at| now < at + self.settings.retry_first) && !self.ending {
            self.bound_memory("the spool file takes no records");
            return;
        }
        match self.append_all() {
            Ok(()) => {
                self.spool_failed = None;
                self.oldest = None;
            }
            Err(error) => {
                self.spool_failed = Some(now);
                let reason = error.to_string();
                if self.ending {
                    let lost = losses(&std::mem::take(&mut self.pending));
                    self.lose(lost, &reason);
                } else {
                    self.bound_memory(&reason);
                }
            }
        }
    }

    /// Appends the batch whose fate is unknown and all that waits to the spool file.
    fn append_all(&mut self) -> Result<(), SpoolError> {
        if let Some(Busy { doing: Doing::Pending { batch, spooled }, .. }) = &mut self.busy
            && !*spooled
        {
            self.spool.append(batch.bytes())?;
            *spooled = true;
            self.stats.send_modify(|stats| stats.spooled += batch.records());
        }
        let (mut bytes, mut records) = (0, 0);
        let appended = self.pending.pieces(PIECE).try_for_each(|(piece, count)| {
            self.spool.append(piece)?;
            (bytes, records) = (bytes + piece.len(), records + count);
            Ok(())
        });
        self.pending.drop_front(bytes, records);
        self.pending.shrink();
        self.stats.send_modify(|stats| stats.spooled += records);
        appended
    }
}

/// Microseconds of Unix time.
pub(crate) fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
