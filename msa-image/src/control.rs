//! The control channel: settings come in, the next due time and log lines go out.
//!
//! The platform connects; a new connection replaces the old one, and is told the present state anew. Nothing here ever
//! waits for the platform: what it does not read is dropped (log lines, counted) or replaced by the newer value (due time).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};
use warren_control::{FromMsa, Level, LineReader, Outcome, Settings, Stats, ToMsa};

/// Log lines that wait for the platform at most.
const MAX_WAITING: usize = 128;
/// Log lines in a burst; after it, one for each [`LOG_INTERVAL`].
const LOG_BURST: u32 = 50;
const LOG_INTERVAL: Duration = Duration::from_millis(200);
/// The longest log line.
const MAX_TEXT: usize = 1_000;
/// A platform that does not read for so long has lost the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What the rest of the MSA says to the platform and hears from it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    outbox: Mutex<Outbox>,
    /// Something was put into the outbox.
    filled: Notify,
    /// The outbox was written out.
    emptied: Notify,
    settings: watch::Sender<Option<Arc<Settings>>>,
    drain: watch::Sender<bool>,
    /// Where programs that are to be run go, if this image runs any.
    programs: Mutex<Option<mpsc::Sender<Program>>>,
}

/// A program that an operator wants run. Its outcome goes back by [`Control::executed`].
#[derive(Debug)]
pub struct Program {
    /// Which.
    pub id: u64,
    /// The program and its arguments.
    pub args: Vec<String>,
}

/// Outcomes that wait for the platform at most.
const MAX_OUTCOMES: usize = 8;

#[derive(Debug)]
struct Outbox {
    /// To be said, once it is `open`.
    ready: bool,
    /// Entrances are served.
    open: bool,
    due: Option<Option<u64>>,
    stats: Option<Stats>,
    logs: VecDeque<FromMsa>,
    outcomes: VecDeque<FromMsa>,
    dropped: u64,
    tokens: u32,
    refilled: Instant,
    sleeping: Option<Option<u64>>,
    /// What was said last, to be said again to a new connection.
    said_due: Option<Option<u64>>,
    /// A second descriptor of the connection, for the last words of a panic.
    connection: Option<OwnedFd>,
}

impl Default for Control {
    fn default() -> Self {
        let outbox = Outbox {
            ready: false,
            open: true,
            due: None,
            stats: None,
            logs: VecDeque::new(),
            outcomes: VecDeque::new(),
            dropped: 0,
            tokens: LOG_BURST,
            refilled: Instant::now(),
            sleeping: None,
            said_due: None,
            connection: None,
        };
        let shared = Shared {
            outbox: Mutex::new(outbox),
            filled: Notify::new(),
            emptied: Notify::new(),
            settings: watch::Sender::new(None),
            drain: watch::Sender::new(false),
            programs: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl Control {
    /// For a program whose entrances do not listen yet: nothing is `Ready` before [`Control::ready`].
    #[must_use]
    pub fn not_ready() -> Self {
        let control = Self::default();
        control.outbox().open = false;
        control
    }

    /// The entrances listen.
    pub fn ready(&self) {
        self.put(|outbox| (outbox.open, outbox.ready) = (true, true));
    }

    /// The settings, `None` until the platform has sent them.
    #[must_use]
    pub fn settings(&self) -> watch::Receiver<Option<Arc<Settings>>> {
        self.shared.settings.subscribe()
    }

    /// Whether the MSA is to end.
    #[must_use]
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.shared.drain.subscribe()
    }

    /// Asks every part of the MSA to come to its end.
    pub fn drain(&self) {
        self.shared.drain.send_replace(true);
    }

    /// From now on, programs that are to be run come here; before, and where nobody asks for them, the answer is that there are none.
    #[must_use]
    pub fn programs(&self) -> mpsc::Receiver<Program> {
        let (sender, receiver) = mpsc::channel(MAX_OUTCOMES);
        *self.shared.programs.lock().expect("no holder of this lock panics") = Some(sender);
        receiver
    }

    /// Tells how a program went.
    pub fn executed(&self, id: u64, outcome: Outcome) {
        self.put(|outbox| {
            outbox.outcomes.truncate(MAX_OUTCOMES - 1);
            outbox.outcomes.push_back(FromMsa::Executed { id, outcome: outcome.bounded() });
        });
    }

    fn exec(&self, program: Program) {
        let id = program.id;
        let programs = self.shared.programs.lock().expect("no holder of this lock panics").clone();
        let refusal = match programs.map(|programs| programs.try_send(program)) {
            None => "this image runs no programs: it is one program itself",
            Some(Err(_)) => "too many programs run in this container already",
            Some(Ok(())) => return,
        };
        self.executed(id, Outcome::failed(refusal));
    }

    /// Puts settings in force, as the platform does.
    pub fn put_settings(&self, settings: Settings) {
        self.shared.settings.send_replace(Some(Arc::new(settings)));
        self.put(|outbox| outbox.ready = true);
    }

    /// Tells when the next delivery is due, if that changed.
    pub fn due(&self, due_ms: Option<u64>) {
        self.put(|outbox| {
            if outbox.said_due != Some(due_ms) {
                (outbox.due, outbox.said_due) = (Some(due_ms), Some(due_ms));
            }
        });
    }

    /// Tells the counters.
    pub fn stats(&self, stats: Stats) {
        self.put(|outbox| outbox.stats = Some(stats));
    }

    /// Logs a line. Lines beyond the rate are counted, not sent.
    pub fn log(&self, level: Level, text: impl Into<String>) {
        let mut text: String = text.into();
        if text.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
        }
        self.put(|outbox| {
            let refill = outbox.refilled.elapsed().as_millis() / LOG_INTERVAL.as_millis();
            if refill > 0 {
                outbox.tokens =
                    LOG_BURST.min(outbox.tokens + u32::try_from(refill).unwrap_or(LOG_BURST).min(LOG_BURST));
                outbox.refilled = Instant::now();
            }
            if outbox.tokens == 0 || outbox.logs.len() >= MAX_WAITING {
                outbox.dropped += 1;
                return;
            }
            outbox.tokens -= 1;
            outbox.logs.push_back(FromMsa::Log { level, text });
        });
    }

    /// The last word. Returns when the platform has it, or has had its time.
    pub async fn sleeping(&self, due_ms: Option<u64>) {
        let emptied = self.shared.emptied.notified();
        tokio::pin!(emptied);
        emptied.as_mut().enable();
        self.put(|outbox| outbox.sleeping = Some(due_ms));
        if self.outbox().connection.is_some() {
            let _ = timeout(LAST_WORD, emptied).await;
        }
    }

    /// Writes a log line at once, for the last words: no waiting, no runtime.
    pub fn log_at_once(&self, text: &str) {
        let Ok(outbox) = self.shared.outbox.try_lock() else { return };
        let message = FromMsa::Log { level: Level::Error, text: text.chars().take(MAX_TEXT).collect() };
        if let (Some(connection), Ok(line)) = (&outbox.connection, warren_control::lines::encode(&message)) {
            let _ = rustix::io::write(connection, &line);
        }
    }

    fn put(&self, change: impl FnOnce(&mut Outbox)) {
        change(&mut self.outbox());
        self.shared.filled.notify_one();
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.shared.outbox.lock().expect("no holder of this lock panics")
    }

    /// Serves the platform, one connection after the other, for ever.
    pub async fn serve(self, listener: UnixListener) {
        let mut next = None;
        loop {
            let stream = match next.take() {
                Some(stream) => stream,
                None => match accept(&listener).await {
                    Some(stream) => stream,
                    None => continue,
                },
            };
            tokio::select! {
                () = self.connection(stream) => {}
                newer = accept(&listener) => next = newer,
            }
            self.outbox().connection = None;
        }
    }

    async fn connection(&self, stream: UnixStream) {
        {
            use std::os::fd::AsFd;
            let mut outbox = self.outbox();
            outbox.connection = stream.as_fd().try_clone_to_owned().ok();
            outbox.ready = self.shared.settings.borrow().is_some();
            outbox.due = outbox.said_due;
        }
        let (read, mut write) = stream.into_split();
        let mut reader = LineReader::new(read);
        let reading = async {
            // What is not understood ends the connection; the platform makes a new one.
            while let Ok(Some(message)) = reader.recv::<ToMsa>().await {
                match message {
                    ToMsa::Settings(settings) => self.put_settings(settings),
                    ToMsa::Drain => self.drain(),
                    ToMsa::Exec { id, args } => self.exec(Program { id, args }),
                }
            }
        };
        let writing = async {
            loop {
                let messages = self.outbox().take();
                if messages.is_empty() {
                    self.shared.filled.notified().await;
                    continue;
                }
                let last = matches!(messages.last(), Some(FromMsa::Sleeping { .. }));
                let lines: Vec<u8> = messages
                    .iter()
                    .filter_map(|message| warren_control::lines::encode(message).ok())
                    .flatten()
                    .collect();
                match timeout(WRITE_TIMEOUT, write.write_all(&lines)).await {
                    Ok(Ok(())) if last => self.shared.emptied.notify_waiters(),
                    Ok(Ok(())) => {}
                    _ => return,
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    }
}

impl Outbox {
    fn take(&mut self) -> Vec<FromMsa> {
        let mut messages = Vec::new();
        if self.open && std::mem::take(&mut self.ready) {
            messages.push(FromMsa::Ready);
        }
        messages.extend(self.logs.drain(..));
        messages.extend(self.outcomes.drain(..));
        if self.dropped > 0 {
            let text = format!("{} log lines were dropped", std::mem::take(&mut self.dropped));
            messages.push(FromMsa::Log { level: Level::Warn, text });
        }
        messages.extend(self.stats.take().map(FromMsa::Stats));
        messages.extend(self.due.take().map(|next_due_unix_ms| FromMsa::Due { next_due_unix_ms }));
        messages.extend(self.sleeping.take().map(|next_due_unix_ms| FromMsa::Sleeping { next_due_unix_ms }));
        messages
    }
}

async fn accept(listener: &UnixListener) -> Option<UnixStream> {
    match listener.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(_) => {
            // Out of descriptors, most likely: sessions end, then it works again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(reader: &mut LineReader<impl tokio::io::AsyncRead + Unpin>) -> FromMsa {
        timeout(Duration::from_secs(5), reader.recv()).await.unwrap().unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_new_platform_is_told_the_state_and_the_last_word_arrives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let control = Control::default();
        tokio::spawn(control.clone().serve(UnixListener::bind(&path).unwrap()));
        let settings = crate::testing::settings();
        let mut first = UnixStream::connect(&path).await.unwrap();
        warren_control::send(&mut first, &ToMsa::Settings(settings.clone())).await.unwrap();
        let mut first = LineReader::new(first);
        assert_eq!(next(&mut first).await, FromMsa::Ready);
        assert_eq!(control.settings().borrow().as_deref(), Some(&settings));
        control.due(Some(7));
        assert_eq!(next(&mut first).await, FromMsa::Due { next_due_unix_ms: Some(7) });
        let mut second = LineReader::new(UnixStream::connect(&path).await.unwrap());
        assert_eq!(next(&mut second).await, FromMsa::Ready);
        assert_eq!(next(&mut second).await, FromMsa::Due { next_due_unix_ms: Some(7) });
        assert!(first.recv::<FromMsa>().await.unwrap().is_none(), "the old connection is closed");
        control.sleeping(None).await;
        assert_eq!(next(&mut second).await, FromMsa::Sleeping { next_due_unix_ms: None });
    }

    #[tokio::test]
    async fn programs_are_run_by_images_that_run_some() {
        let (control, program) = (Control::default(), |id| Program { id, args: vec!["true".into()] });
        control.exec(program(1));
        let told = control.outbox().take();
        assert!(matches!(&told[..], [FromMsa::Executed { id: 1, outcome }] if outcome.failed.is_some()), "{told:?}");
        let mut programs = control.programs();
        control.exec(program(2));
        assert_eq!(programs.recv().await.unwrap().id, 2);
        let endless = Outcome { output: "\u{1b}".repeat(1 << 20), status: Some(0), failed: None };
        control.executed(2, endless);
        let told = control.outbox().take();
        assert!(warren_control::lines::encode(&told[0]).unwrap().len() < 128 * 1024);
    }

    #[tokio::test]
    async fn logs_are_limited() {
        let control = Control::default();
        (0..1_000).for_each(|n| control.log(Level::Info, format!("{n} {}", "ü".repeat(2_000))));
        let messages = control.outbox().take();
        assert!(messages.len() <= LOG_BURST as usize + 2);
        assert!(matches!(messages.last(), Some(FromMsa::Log { text, .. }) if text.ends_with("were dropped")));
    }

    #[tokio::test]
    async fn nobody_listening_costs_nothing() {
        let control = Control::default();
        control.sleeping(Some(1)).await;
    }
}
