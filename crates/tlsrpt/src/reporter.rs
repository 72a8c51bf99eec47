//! From sessions to files: a channel, a thread, and a file that is replaced every few seconds.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::day::{Day, Finding};
use crate::folder::Folder;

/// Findings that may wait for the thread: those of 32,000 sessions a second.
const WAITING: usize = 8_192;
/// How often the thread looks for findings. Nobody wakes it: that would cost every session a system call, and the processor a change of threads.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long findings may stand in memory only.
pub const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Writing takes at most one part in so many of the thread's time: a large day is written less often.
const SHARE: u32 = 50;

/// Where sessions leave what they found. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// None: nothing is reported.
    to: Option<SyncSender<Said>>,
    lost: Arc<AtomicU64>,
}

enum Said {
    Found(Box<Finding>),
    Finish,
}

/// The thread that writes.
#[derive(Debug)]
pub struct ReporterThread {
    to: SyncSender<Said>,
    thread: JoinHandle<()>,
}

impl Reporter {
    /// Starts the thread, which writes into `folder`.
    pub fn start(folder: Folder) -> io::Result<(Self, ReporterThread)> {
        folder.create()?;
        let (to, from) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let book = Book::open(folder, Arc::clone(&lost), Timestamp::now());
        let thread = std::thread::Builder::new().name("tlsrpt".into()).spawn(move || book.keep(&from))?;
        let thread = ReporterThread { to: to.clone(), thread };
        Ok((Self { to: Some(to), lost }, thread))
    }

    /// One that forgets everything.
    #[must_use]
    pub fn off() -> Self {
        Self { to: None, lost: Arc::default() }
    }

    /// Leaves a finding; never waits.
    pub fn note(&self, finding: Finding) {
        let Some(to) = &self.to else { return };
        if to.try_send(Said::Found(Box::new(finding))).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ReporterThread {
    /// Writes what is there and ends the thread. Blocks: for a few milliseconds, or as long as the disk takes.
    pub fn finish(self) {
        if self.to.send(Said::Finish).is_ok() {
            self.thread.thread().unpark();
            let _ = self.thread.join();
        }
    }
}

/// What the thread holds.
struct Book {
    folder: Folder,
    lost: Arc<AtomicU64>,
    day: Day,
    changed: bool,
    next_write: Instant,
    failing: bool,
}

impl Book {
    fn open(folder: Folder, lost: Arc<AtomicU64>, now: Timestamp) -> Self {
        let day = open(&folder, now);
        Self { folder, lost, day, changed: false, next_write: Instant::now(), failing: false }
    }

    fn keep(mut self, from: &Receiver<Said>) {
        loop {
            match from.try_recv() {
                Ok(Said::Found(finding)) => self.found(*finding, Timestamp::now()),
                Ok(Said::Finish) | Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => std::thread::park_timeout(LOOK_EVERY),
            }
            if self.changed && Instant::now() >= self.next_write {
                self.write();
            }
        }
        self.write();
    }

    fn found(&mut self, finding: Finding, now: Timestamp) {
        if Day::of(now) != self.day.day {
            self.write();
            // Also when the clock was set back: each day goes on where its file stands.
            self.day = open(&self.folder, now);
        }
        if !self.changed {
            self.changed = true;
            self.next_write = self.next_write.max(Instant::now() + WRITE_EVERY);
        }
        self.day.note(finding);
    }

    fn write(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        self.day.lost(lost);
        if !self.changed && lost == 0 {
            return;
        }
        let began = Instant::now();
        match self.folder.store(&self.day) {
            Ok(()) => (self.changed, self.failing) = (false, false),
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, day = %self.day.day, "TLS reports cannot be written; they are kept in memory until midnight");
                }
            }
        }
        self.next_write = Instant::now() + (began.elapsed() * SHARE).max(WRITE_EVERY);
    }
}

/// The day of `now`, as far as it is written already.
fn open(folder: &Folder, now: Timestamp) -> Day {
    let today = Day::of(now);
    if let Err(error) = folder.sweep(today) {
        tracing::warn!(%error, "old TLS reports cannot be removed");
    }
    match folder.load(today) {
        Ok(day) => day.unwrap_or_else(|| Day::new(today)),
        Err(error) => {
            tracing::warn!(%error, day = %today, "what was found today cannot be read, and begins anew");
            Day::new(today)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Policy, PolicyType};

    fn finding() -> Finding {
        Finding {
            domain: "example.org".into(),
            policy: Policy {
                policy_type: PolicyType::NoPolicyFound,
                policy_string: Vec::new(),
                policy_domain: "example.org".into(),
                mx_host: Vec::new(),
            },
            egress: "203.0.113.10".parse().unwrap(),
            mx: None,
            mx_address: "198.51.100.5".parse().unwrap(),
            helo: None,
            failure: None,
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn findings_survive_the_thread_and_its_successor_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path().join("tlsrpt"));
        let before = Day::of(Timestamp::now());
        for _ in 0..2 {
            let (reporter, thread) = Reporter::start(folder.clone()).unwrap();
            reporter.note(finding());
            reporter.note(finding());
            thread.finish();
            reporter.note(finding());
        }
        let days = folder.days().unwrap();
        let all: u64 = days.iter().map(|day| folder.load(*day).unwrap().unwrap().sessions().0).sum();
        assert!((all, days[0] >= before) == (4, true), "{all} on {days:?}");
    }

    #[test]
    fn midnight_begins_a_new_file_and_a_clock_set_back_the_old_one_again() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path());
        let mut book = Book::open(folder.clone(), Arc::default(), at("2026-11-22T23:59:58Z"));
        for now in ["2026-11-22T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-22T23:59:59.5Z", "2026-11-23T00:00:01Z"] {
            book.found(finding(), at(now));
        }
        book.write();
        for day in folder.days().unwrap() {
            assert_eq!(folder.load(day).unwrap().unwrap().sessions(), (2, 0), "{day}");
        }
        assert_eq!(folder.days().unwrap().len(), 2);
    }

    #[test]
    fn a_disk_that_is_full_loses_nothing_until_it_has_room() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path().join("tlsrpt"));
        let mut book = Book::open(folder.clone(), Arc::new(AtomicU64::new(3)), at("2026-11-22T10:00:00Z"));
        book.found(finding(), at("2026-11-22T10:00:00Z"));
        book.write();
        assert!(book.failing && book.changed);
        folder.create().unwrap();
        book.write();
        let day = folder.load(book.day.day).unwrap().unwrap();
        assert_eq!((day.sessions(), day.left_out), ((1, 0), 3));
    }
}
