//! Logs: text on stderr, one line an event, safe to look at.
//!
//! `WARREN_LOG` chooses what is logged in the syntax of `tracing_subscriber::EnvFilter` (`debug`,
//! `warren_proxy=trace,info` …); the default is `info`. The DNS library's own log stays off unless it is named there: it prints whole answers, and
//! whoever runs a domain chooses how many. Fields stand behind the message (`session=01J… tenant=acme`),
//! so that `grep session=ID` finds the whole story. Messages contain what peers said; control characters are escaped
//! here, at the only way out, rather than at every call.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::escape::Escaped;

/// The variable that chooses what is logged.
pub const FILTER_VARIABLE: &str = "WARREN_LOG";

/// Off unless named: what the DNS library says at WARN and above is in answers' hands. Our own lines about them are bounded.
const QUIET: &str = "hickory_net=off,hickory_proto=off,hickory_resolver=off";

/// Longest line that is written; the rest of a longer event is cut. Peers' text is bounded well below this.
const LINE_MAX: usize = 16 * 1024;

/// Hears every event that is logged, beside the log.
pub trait Witness: Send + Sync {
    /// This is being logged. Called wherever that happens: it must be quick, and log nothing itself.
    fn heard(&self, event: &tracing::Event<'_>);
}

/// A layer through which a witness hears what passes the filter.
pub fn listening<S: tracing::Subscriber>(witness: Arc<dyn Witness>) -> impl Layer<S> {
    Listening(witness)
}

struct Listening(Arc<dyn Witness>);

impl<S: tracing::Subscriber> Layer<S> for Listening {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        self.0.heard(event);
    }
}

/// Starts logging to stderr. A second call, as in tests, changes nothing.
pub fn start(witness: Option<Arc<dyn Witness>>) {
    let (filter, problem) = filter(std::env::var(FILTER_VARIABLE).ok().as_deref());
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines).with_ansi(false);
    // The journal stamps lines itself.
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() && !io::stderr().is_terminal() {
        lines.without_time().boxed()
    } else {
        lines.boxed()
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).with(witness.map(listening)).try_init();
    if let (Ok(()), Some(problem)) = (started, problem) {
        tracing::warn!("{problem}");
    }
}

/// What passes, by the text of the variable; and what is wrong with that.
fn filter(text: Option<&str>) -> (EnvFilter, Option<String>) {
    let with = |text: &str| EnvFilter::try_new(format!("{QUIET},{text}"));
    let default = || EnvFilter::new(format!("{QUIET},info"));
    match text.map(|text| (text, with(text))) {
        None => (default(), None),
        Some((_, Ok(filter))) => (filter, None),
        Some((text, Err(error))) => (default(), Some(format!("{FILTER_VARIABLE}={text}: {error}; logging at info"))),
    }
}

/// Makes a writer for each event.
struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Vec::with_capacity(256))
    }
}

/// One event: gathered, escaped and written at once, so that lines of threads never mix.
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LINE_MAX.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            // Nobody is left to tell when stderr is gone.
            let _ = io::stderr().lock().write_all(printable(&self.0).as_bytes());
        }
    }
}

/// The event as one line.
fn printable(event: &[u8]) -> String {
    let text = String::from_utf8_lossy(event);
    format!("{}\n", Escaped(text.strip_suffix('\n').unwrap_or(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_forge_a_line() {
        let event = b"INFO MX said: 550 no\r\nINFO all is well \x1b[2J\n";
        assert_eq!(printable(event), "INFO MX said: 550 no\\r\\nINFO all is well \\u{1b}[2J\n");
    }

    #[test]
    fn the_dns_library_is_silent_unless_it_is_asked_for() {
        let passes = |text| {
            let subscriber = tracing_subscriber::registry().with(filter(text).0);
            tracing::subscriber::with_default(subscriber, || {
                (
                    tracing::enabled!(target: "hickory_net::dnssec", tracing::Level::ERROR),
                    tracing::enabled!(target: "hickory_proto::op", tracing::Level::WARN),
                    tracing::enabled!(target: "warren_proxy", tracing::Level::INFO),
                )
            })
        };
        assert_eq!(passes(None), (false, false, true));
        assert_eq!(passes(Some("debug")), (false, false, true));
        assert_eq!(passes(Some("hickory_net=debug,warn")), (true, false, false));
        assert_eq!(passes(Some("no=such=thing")), (false, false, true), "as if there were nothing");
    }

    #[test]
    fn an_endless_event_is_cut() {
        let mut line = Line(Vec::new());
        line.write_all(&vec![b'x'; LINE_MAX + 7]).unwrap();
        assert_eq!(line.0.len(), LINE_MAX);
        line.0.clear();
    }
}
