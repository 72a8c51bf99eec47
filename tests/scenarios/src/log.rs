//! What a running node says.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines of its output, as they come.
#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
    /// Streams that have not ended.
    open: AtomicUsize,
}

impl Log {
    /// Takes in a stream to its end, beside the caller.
    pub fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        self.open.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if std::env::var_os("WARREN_SHOW_LOG").is_some() {
                    eprintln!("{text}");
                }
                log.lines().push(text);
                log.changed.notify_all();
                line.clear();
            }
            // Under the lock, or whoever looks just now would miss it.
            let _lines = log.lines();
            log.open.fetch_sub(1, Ordering::SeqCst);
            log.changed.notify_all();
        });
    }

    /// Forgets what was said.
    pub fn clear(&self) {
        self.lines().clear();
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// All of it, once everybody has ended who could say more.
    pub fn whole(&self, patience: Duration) -> String {
        let wait = self.changed.wait_timeout_while(self.lines(), patience, |_| self.open.load(Ordering::SeqCst) > 0);
        let (lines, waited) = wait.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "somebody still holds the node's log:\n{}", lines.join("\n"));
        lines.join("\n")
    }

    /// The first line that contains this, now or as soon as it is said.
    pub fn wait_for(&self, text: &str, patience: Duration) -> String {
        let end = Instant::now() + patience;
        let mut lines = self.lines();
        loop {
            if let Some(line) = lines.iter().find(|l| l.contains(text)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {text:?} in the node's log:\n{}", lines.join("\n"));
            lines = self.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Also after an assertion that held the lock.
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
