//! From the mail path to the store: the handle that never waits, and the thread behind it.
//!
//! Recording has a thread and a small runtime of its own, so that a slow disk under the spool file holds up nobody else.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Record, SessionLog, SessionStart, SessionStore, bounds::bound, keeper::Keeper, spool::Spool, sqlite::SqliteStore,
};

/// How recording behaves. [`RecorderSettings::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct RecorderSettings {
    /// The file where records wait while the store is away.
    pub spool: PathBuf,
    /// Bound of that file. 1 GiB: some five million records, hours of a busy node.
    pub spool_bytes: u64,
    /// Records that may wait for the thread: what a busy node makes in about a second, 20 MB at the very most.
    pub channel: usize,
    /// Records in memory beyond which a busy store counts as slow, and the most that is kept when the spool fails too.
    pub memory: usize,
    /// Most records of one transaction.
    pub batch: usize,
    /// How long a record waits for company. 200 ms: few transactions, and `warren sessions` still looks live.
    pub linger: Duration,
    /// How long one transaction may take before everything goes to the spool file.
    pub patience: Duration,
    /// Pause after the store failed, doubled each time up to `retry_max`.
    pub retry_first: Duration,
    /// Longest pause.
    pub retry_max: Duration,
    /// Sessions older than this are forgotten; none keeps all.
    pub keep: Option<Duration>,
    /// How often to look for sessions to forget.
    pub prune_every: Duration,
}

impl RecorderSettings {
    /// The defaults, with the spool file in `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            spool: dir.join("spool.jsonl"),
            spool_bytes: 1 << 30,
            channel: 16_384,
            memory: 16_384,
            batch: 2_000,
            linger: Duration::from_millis(200),
            patience: Duration::from_secs(2),
            retry_first: Duration::from_millis(250),
            retry_max: Duration::from_secs(15),
            keep: None,
            prune_every: Duration::from_secs(600),
        }
    }
}

/// The database file within the directory of sessions.
#[must_use]
pub fn database(dir: &Path) -> PathBuf {
    dir.join("sessions.db")
}

/// What recording has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Records written to the store, those loaded from the spool file included.
    pub stored: u64,
    /// Records that went to the spool file.
    pub spooled: u64,
    /// Records loaded from the spool file into the store.
    pub loaded: u64,
    /// Records that neither could take.
    pub dropped: u64,
    /// Times the store failed or was slow.
    pub failures: u64,
}

/// Takes records from the mail path. Clones are cheap and mean the same thread.
#[derive(Debug, Clone)]
pub struct Recorder {
    /// None: recording is off.
    items: Option<mpsc::Sender<Item>>,
    overflow: Arc<AtomicU64>,
    stats: watch::Receiver<Stats>,
}

/// What goes to the thread.
#[derive(Debug)]
pub(crate) enum Item {
    Record(Box<Record>),
    /// Answered when everything before it is in the store or in the spool file.
    Flush(oneshot::Sender<()>),
}

/// The recording thread.
#[derive(Debug)]
pub struct RecorderThread {
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

impl Recorder {
    /// Records into SQLite in `dir`. The database need not be there or work: it is opened by the thread, again and again.
    pub fn in_directory(dir: &Path, settings: RecorderSettings) -> io::Result<(Self, RecorderThread)> {
        Self::start(SqliteStore::new(database(dir)), settings)
    }

    /// Starts the thread that records into `store`.
    pub fn start<S: SessionStore>(store: S, settings: RecorderSettings) -> io::Result<(Self, RecorderThread)> {
        let (items, incoming) = mpsc::channel(settings.channel.max(1));
        let (stats_in, stats) = watch::channel(Stats::default());
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let overflow = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&overflow);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("recorder".into()).spawn(move || {
            let spool = Spool::new(settings.spool.clone(), settings.spool_bytes);
            runtime.block_on(async {
                Keeper::new(store, spool, settings, stats_in, lost).run(incoming, stopped).await;
            });
            // A store that hangs in a system call is left behind, not waited for.
            runtime.shutdown_background();
            let _ = ending.send(());
        })?;
        Ok((Self { items: Some(items), overflow, stats }, RecorderThread { stop: Some(stop), ended }))
    }

    /// Records nothing.
    #[must_use]
    pub fn off() -> (Self, RecorderThread) {
        let (_, stats) = watch::channel(Stats::default());
        let (_, ended) = oneshot::channel();
        (Self { items: None, overflow: Arc::default(), stats }, RecorderThread { stop: None, ended })
    }

    /// Whether what is recorded is kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.items.is_some()
    }

    /// Takes one record. Never waits: a record that finds no room is counted, and a gap recorded in its place.
    pub fn record(&self, mut record: Record) {
        let Some(items) = &self.items else { return };
        bound(&mut record);
        if items.try_send(Item::Record(Box::new(record))).is_err() {
            self.overflow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins the log of one session.
    #[must_use]
    pub fn session(&self, start: SessionStart) -> SessionLog {
        SessionLog::begin(self.clone(), start)
    }

    /// Waits until everything recorded so far is in the store or in the spool file.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if let Some(items) = &self.items
            && items.send(Item::Flush(done)).await.is_ok()
        {
            let _ = flushed.await;
        }
    }

    /// What recording has done so far, and a way to wait for more.
    #[must_use]
    pub fn stats(&self) -> watch::Receiver<Stats> {
        self.stats.clone()
    }
}

impl RecorderThread {
    /// Ends recording: what was recorded goes to the store, or to the spool file if that takes too long. Returns after
    /// `within` at the latest.
    pub async fn finish(self, within: Duration) {
        let Self { stop, ended } = self;
        let Some(stop) = stop else { return };
        let _ = stop.send(());
        if tokio::time::timeout(within, ended).await.is_err() {
            tracing::warn!("recording did not end in time: session records may be missing");
        }
    }
}
