//! What the node said of each tenant lately, for `warren tenant logs`.
//!
//! ```text
//!   everything logged with a `tenant=` field ──▶ Diary ──▶ API: lines after a number, or the next one to come
//! ```
//!
//! Listens where the log is written, so that it has what the log has: sessions at the front door, what the fleet did, and what the
//! tenant's MSA says. Bounded for each tenant, so that one that talks much drives nobody out, and for all together: then those of
//! whom nothing was heard for longest go. A silent tenant costs nothing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use warren_control::{Level, TenantName, api::LogLine};
use warren_daemon::log::Witness;

use crate::fleet::clock::unix_ms;

/// Lines kept of a tenant.
const LINES: usize = 200;
/// The longest text of a line; the rest is cut.
const TEXT: usize = 500;
/// Bytes kept of all tenants.
const BYTES: usize = 8 << 20;
/// What a line costs beside its text.
const OVERHEAD: usize = 80;
/// Lines in one answer: with every character escaped they fit a packet.
const PAGE: usize = 32;
/// How long one who follows waits for an answer without lines, after which it asks again.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was said lately. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Diary(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    pages: Mutex<Pages>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Pages {
    last: u64,
    bytes: usize,
    of: HashMap<TenantName, VecDeque<Entry>>,
    /// By their last line's number: who was silent for longest is first.
    order: BTreeMap<u64, TenantName>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    at_unix_ms: u64,
    level: Level,
    source: &'static str,
    text: Box<str>,
}

impl Diary {
    /// Writes a line.
    pub fn note(&self, tenant: &TenantName, level: Level, source: &'static str, text: &str) {
        self.lock().note(tenant, level, source, text);
        self.0.news.notify_waiters();
    }

    /// Lines of a tenant with a number above `after`, the oldest first, as many as fit an answer.
    pub fn read(&self, tenant: &TenantName, after: u64) -> Vec<LogLine> {
        let pages = self.lock();
        let lines = pages.of.get(tenant).into_iter().flatten().filter(|entry| entry.number > after);
        lines.take(PAGE).map(Entry::to_line).collect()
    }

    /// The same, waiting for a line for a while if there is none.
    pub async fn follow(&self, tenant: &TenantName, after: u64) -> Vec<LogLine> {
        let wait = async {
            loop {
                let news = self.0.news.notified();
                let mut news = std::pin::pin!(news);
                // What is written between reading and waiting must wake us.
                news.as_mut().enable();
                let lines = self.read(tenant, after);
                if !lines.is_empty() {
                    return lines;
                }
                news.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        // Whatever a panic left half done is a line of a log.
        self.0.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn note(&mut self, tenant: &TenantName, level: Level, source: &'static str, text: &str) {
        self.last += 1;
        let text: Box<str> = text[..text.floor_char_boundary(TEXT)].into();
        self.bytes += text.len() + OVERHEAD;
        let entry = Entry { number: self.last, at_unix_ms: unix_ms(), level, source, text };
        let page = self.of.entry(tenant.clone()).or_default();
        if let Some(before) = page.back() {
            self.order.remove(&before.number);
        }
        page.push_back(entry);
        if page.len() > LINES
            && let Some(oldest) = page.pop_front()
        {
            self.bytes -= oldest.cost();
        }
        self.order.insert(self.last, tenant.clone());
        while self.bytes > BYTES
            && let Some((_, silent)) = self.order.pop_first()
        {
            let page = self.of.remove(&silent).unwrap_or_default();
            self.bytes -= page.iter().map(Entry::cost).sum::<usize>();
        }
    }
}

impl Entry {
    fn cost(&self) -> usize {
        self.text.len() + OVERHEAD
    }

    fn to_line(&self) -> LogLine {
        let Entry { number, at_unix_ms, level, .. } = *self;
        LogLine { number, at_unix_ms, level, source: self.source.into(), text: self.text.to_string() }
    }
}

impl Witness for Diary {
    fn heard(&self, event: &tracing::Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        let Some(tenant) = said.tenant else { return };
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        let target = event.metadata().target();
        let part = target.strip_prefix("warren_platform::").unwrap_or(target);
        let source = part.split("::").next().unwrap_or(part);
        self.note(&tenant, level, source, format!("{}{}", said.message, said.fields).trim_start());
    }
}

/// An event's message and fields as text, bounded.
#[derive(Default)]
struct Said {
    tenant: Option<TenantName>,
    message: String,
    fields: String,
}

impl Said {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        match field.name() {
            "tenant" => self.tenant = TenantName::new(&value.to_string()).ok(),
            "message" => drop(self.message.write_fmt(value)),
            name if self.fields.len() < TEXT => drop(write!(self.fields, " {name}={value}")),
            _ => {}
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> TenantName {
        TenantName::new(&format!("t{n}")).unwrap()
    }

    #[test]
    fn lines_come_back_in_order_and_only_those_of_the_tenant() {
        let diary = Diary::default();
        diary.note(&name(1), Level::Info, "msa", "one");
        diary.note(&name(2), Level::Info, "msa", "other");
        diary.note(&name(1), Level::Warn, "fleet", "two");
        let lines = diary.read(&name(1), 0);
        assert_eq!(
            lines.iter().map(|line| (line.number, line.text.as_str())).collect::<Vec<_>>(),
            [(1, "one"), (3, "two")]
        );
        assert_eq!(diary.read(&name(1), 1).len(), 1);
        assert!(diary.read(&name(3), 0).is_empty());
    }

    #[test]
    fn one_that_talks_much_drives_out_only_itself() {
        let diary = Diary::default();
        diary.note(&name(2), Level::Info, "msa", "still here");
        for n in 0..10_000 {
            diary.note(&name(1), Level::Info, "msa", &format!("{n} {}", "é".repeat(TEXT)));
        }
        let pages = diary.lock();
        assert_eq!((pages.of[&name(1)].len(), pages.of[&name(2)].len()), (LINES, 1));
        assert!(pages.of[&name(1)].iter().all(|entry| entry.text.len() <= TEXT));
        let bytes: usize = pages.of.values().flatten().map(Entry::cost).sum();
        assert_eq!(pages.bytes, bytes);
    }

    #[test]
    fn all_together_are_bounded_and_the_silent_ones_go() {
        let diary = Diary::default();
        for n in 0..BYTES / TEXT {
            for _ in 0..2 {
                diary.note(&name(n), Level::Info, "msa", &"x".repeat(TEXT));
            }
        }
        assert!(diary.read(&name(0), 0).is_empty());
        assert_eq!(diary.read(&name(BYTES / TEXT - 1), 0).len(), 2);
        let pages = diary.lock();
        assert!(pages.bytes <= BYTES && pages.order.len() == pages.of.len());
    }

    #[test]
    fn hears_what_is_logged_of_a_tenant() {
        use tracing_subscriber::layer::SubscriberExt;
        let diary = Diary::default();
        let heard = tracing_subscriber::registry().with(warren_daemon::log::listening(Arc::new(diary.clone())));
        tracing::subscriber::with_default(heard, || {
            tracing::info!(session = "s1", tenant = %name(1), messages = 2, "session over");
            tracing::info!(session = "s2", "nobody's");
            tracing::warn!(target: "msa", tenant = %name(1), "{}", "a\nb");
        });
        let lines = diary.read(&name(1), 0);
        let told: Vec<_> = lines.iter().map(|line| (line.level, line.source.as_str(), line.text.as_str())).collect();
        assert_eq!(told, [(Level::Info, "diary", "session over session=s1 messages=2"), (Level::Warn, "msa", "a\nb")]);
    }

    #[tokio::test]
    async fn who_follows_is_told_at_once() {
        let diary = Diary::default();
        let tenant = name(1);
        let (lines, ()) = tokio::join!(diary.follow(&tenant, 0), async {
            tokio::task::yield_now().await;
            diary.note(&name(2), Level::Info, "msa", "not this");
            diary.note(&tenant, Level::Info, "msa", "this");
        });
        assert_eq!(lines[0].text, "this");
    }
}
