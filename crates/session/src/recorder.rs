//! From the mail path to the store: the handle that never waits, and the thread behind it.
//!
//! Recording has a thread and a small runtime of its own, so that a slow disk under the spool file holds up nobody else.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{SessionLog, SessionStart, SessionStore, desk::Desk, keeper::Keeper, spool::Spool, sqlite::SqliteStore};

/// How recording behaves. [`RecorderSettings::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct RecorderSettings {
    /// The file where records wait while the store is away.
    pub spool: PathBuf,
    /// Bound of that file. 1 GiB: some ten million records, hours of a busy node.
    pub spool_bytes: u64,
    /// Bytes that may wait for the thread, which looks every twenty-fifth of a second. 16 MiB: what a busy node makes in a second or two.
    pub desk: usize,
    /// Bytes in memory beyond which a busy store counts as slow, and the most that is kept when the spool fails too. 4 MiB: half a second of a
    /// busy node is what a kill may take.
    pub memory: usize,
    /// Bytes of one transaction. 1 MiB: some ten thousand rows. Each transaction writes the ends of all tables again.
    pub batch: usize,
    /// How long a record waits for company. 200 ms: few transactions, and `warren sessions` still looks live.
    pub linger: Duration,
    /// How long one transaction may take before everything goes to the spool file.
    pub patience: Duration,
    /// Pause after the store failed, doubled each time up to `retry_max`.
    pub retry_first: Duration,
    /// Longest pause.
    pub retry_max: Duration,
    /// `nice` of the thread that writes to the store: 19, so that under load mail comes first, and records wait in the spool file.
    pub nice: i32,
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
            spool: dir.join("spool"),
            spool_bytes: 1 << 30,
            desk: 16 << 20,
            memory: 4 << 20,
            batch: 1 << 20,
            linger: Duration::from_millis(200),
            patience: Duration::from_secs(2),
            retry_first: Duration::from_millis(250),
            retry_max: Duration::from_secs(15),
            nice: 19,
            keep: None,
            prune_every: Duration::from_secs(600),
        }
    }
}

/// Flushes that may wait.
const FLUSHES: usize = 64;

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
    on: Option<On>,
    stats: watch::Receiver<Stats>,
}

/// What leads to the thread.
#[derive(Debug, Clone)]
struct On {
    desk: Arc<Desk>,
    flushes: mpsc::Sender<Flush>,
}

/// Answered when everything recorded before is in the store or in the spool file.
pub(crate) type Flush = oneshot::Sender<()>;

/// What comes to the thread.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) desk: Arc<Desk>,
    pub(crate) flushes: mpsc::Receiver<Flush>,
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
        let old = dir.join("spool.jsonl");
        if old.metadata().is_ok_and(|meta| meta.len() > 0) {
            tracing::warn!(path = %old.display(), "session records that an earlier version left there are not loaded: it wrote them in another form");
        }
        Self::start(SqliteStore::new(database(dir)), settings)
    }

    /// Starts the thread that records into `store`.
    pub fn start<S: SessionStore>(store: S, settings: RecorderSettings) -> io::Result<(Self, RecorderThread)> {
        let desk = Arc::new(Desk::new(settings.desk));
        let (flushes, incoming) = mpsc::channel(FLUSHES);
        let (stats_in, stats) = watch::channel(Stats::default());
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let incoming = Incoming { desk: Arc::clone(&desk), flushes: incoming };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("recorder".into()).spawn(move || {
            let spool = Spool::new(settings.spool.clone(), settings.spool_bytes);
            runtime.block_on(async {
                Keeper::new(store, spool, settings, stats_in).run(incoming, stopped).await;
            });
            // A store that hangs in a system call is left behind, not waited for.
            runtime.shutdown_background();
            let _ = ending.send(());
        })?;
        Ok((Self { on: Some(On { desk, flushes }), stats }, RecorderThread { stop: Some(stop), ended }))
    }

    /// Records nothing.
    #[must_use]
    pub fn off() -> (Self, RecorderThread) {
        let (_, stats) = watch::channel(Stats::default());
        let (_, ended) = oneshot::channel();
        (Self { on: None, stats }, RecorderThread { stop: None, ended })
    }

    /// Whether what is recorded is kept.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Begins the log of one session. Recording ends with the last recorder, whatever logs are still there.
    #[must_use]
    pub fn session(&self, start: SessionStart) -> SessionLog {
        SessionLog::begin(self.on.as_ref().map(|on| Arc::clone(&on.desk)), start)
    }

    /// Waits until everything recorded so far is in the store or in the spool file.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if let Some(on) = &self.on
            && on.flushes.send(done).await.is_ok()
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
