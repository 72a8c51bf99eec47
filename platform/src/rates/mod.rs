//! How much mail tenants and accounts may send in an hour.
//!
//! ```text
//!   front door  MAIL, RCPT ─▶ submit ──▶ ┌────────┐
//!               refused by MSA ─ undo ─▶ │ Ledger │ ──▶ $state/platform/rates.jsonl, every ten seconds and at the end
//!   api         Recipient, Connect ────▶ └────────┘
//! ```
//!
//! Submitted mail counts for its account and for its tenant, forwarded mail in a count of the tenant's own: whoever floods a forward from
//! outside uses up nothing of what the tenant's people may send. In no 60 minutes does more pass than the limit. An attempt counts from
//! MAIL and RCPT on; what the MSA refuses is given back. An orderly restart forgets nothing, `kill -9` at most the last ten seconds of them.

mod window;

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use warren_config::Rates;
use warren_launcher_api::TenantName;
use warren_smtp::Reply;

use window::Window;
pub use window::{Mail, Unit};

/// How often the counts are written.
const SAVE: Duration = Duration::from_secs(10);
/// Accounts and tenants that are remembered, some 200 bytes each. Only who has authenticated, or exists, gets in; when full, those who
/// sent least lately are forgotten.
const ENTRIES: usize = 200_000;

/// Whose mail is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Key {
    Account(TenantName, String),
    Tenant(TenantName),
    Forwarded(TenantName),
}

/// Why there is no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    whose: &'static str,
    limit: u32,
    unit: Unit,
    wait: Duration,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Messages => "messages",
            Unit::Recipients => "recipients",
        };
        let minutes = self.wait.as_secs().div_ceil(60).max(1);
        write!(f, "{} limit of {} {unit} an hour is reached, try again in {minutes} min", self.whose, self.limit)
    }
}

impl Over {
    /// What the sender is told.
    pub fn to_reply(&self) -> Reply {
        Reply::new(450, (4, 7, 1), self.to_string())
    }
}

/// Everybody's counts. Pure: time is passed in, as unix milliseconds.
#[derive(Debug, Default)]
pub struct Ledger {
    windows: HashMap<Key, Window>,
    changed: bool,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: Key,
    window: Window,
}

impl Ledger {
    /// Counts what an account submits, or says why it may not: then nothing is counted.
    pub fn submit(
        &mut self,
        tenant: &TenantName,
        account: &str,
        more: Mail,
        rates: &Rates,
        now_ms: u64,
    ) -> Result<(), Over> {
        let own = Mail { messages: rates.account_messages, recipients: rates.account_recipients };
        let keys = [
            (Key::Account(tenant.clone(), account.to_owned()), own, "this account's"),
            (Key::Tenant(tenant.clone()), of_tenant(rates), "your organisation's"),
        ];
        for (key, limit, whose) in &keys {
            self.room(key, more, *limit, whose, now_ms)?;
        }
        for (key, ..) in keys {
            self.count(key, more, now_ms);
        }
        Ok(())
    }

    /// Takes back what was submitted and came to nothing.
    pub fn undo(&mut self, tenant: &TenantName, account: &str, mail: Mail) {
        for key in [Key::Account(tenant.clone(), account.to_owned()), Key::Tenant(tenant.clone())] {
            if let Some(window) = self.windows.get_mut(&key) {
                window.take_back(mail);
                self.changed = true;
            }
        }
    }

    /// Whether so much more may be forwarded through a tenant.
    pub fn may_forward(&mut self, tenant: &TenantName, more: Mail, rates: &Rates, now_ms: u64) -> Result<(), Over> {
        self.room(&Key::Forwarded(tenant.clone()), more, of_tenant(rates), "the recipient's", now_ms)
    }

    /// Counts what is forwarded through a tenant, or says why it may not.
    pub fn forward(&mut self, tenant: &TenantName, more: Mail, rates: &Rates, now_ms: u64) -> Result<(), Over> {
        self.may_forward(tenant, more, rates, now_ms)?;
        self.count(Key::Forwarded(tenant.clone()), more, now_ms);
        Ok(())
    }

    fn room(&mut self, key: &Key, more: Mail, limit: Mail, whose: &'static str, now_ms: u64) -> Result<(), Over> {
        let Some(window) = self.windows.get_mut(key) else { return Ok(()) };
        window.advance(now_ms);
        window.room(more, limit, now_ms).map_err(|(unit, wait)| {
            let limit = match unit {
                Unit::Messages => limit.messages,
                Unit::Recipients => limit.recipients,
            };
            Over { whose, limit, unit, wait }
        })
    }

    fn count(&mut self, key: Key, more: Mail, now_ms: u64) {
        if self.windows.len() >= ENTRIES && !self.windows.contains_key(&key) {
            self.make_room(now_ms);
        }
        let window = self.windows.entry(key).or_insert_with(|| Window::new(now_ms));
        window.advance(now_ms);
        window.add(more);
        self.changed = true;
    }

    /// Drops what counts no more; if that is less than a tenth, the tenth that has sent least lately, so that this is rarely done.
    fn make_room(&mut self, now_ms: u64) {
        self.windows.retain(|_, window| !window.is_empty_at(now_ms));
        if self.windows.len() > ENTRIES - ENTRIES / 10 {
            let mut ages: Vec<(u64, u32)> = self.windows.values().map(|w| (w.newest(), w.sum().messages)).collect();
            let (_, bound, _) = ages.select_nth_unstable(ENTRIES / 10);
            let bound = *bound;
            let mut excess = ENTRIES / 10;
            self.windows.retain(|_, window| {
                let drop = excess > 0 && (window.newest(), window.sum().messages) <= bound;
                excess -= usize::from(drop);
                !drop
            });
        }
    }

    /// The counts as lines of JSON, if they have changed since the last time.
    fn take_unsaved(&mut self, now_ms: u64) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.windows.retain(|_, window| !window.is_empty_at(now_ms));
        let mut bytes = Vec::new();
        for (key, window) in &self.windows {
            let line = Line { key: key.clone(), window: window.clone() };
            serde_json::to_writer(&mut bytes, &line).expect("numbers and names become JSON");
            bytes.push(b'\n');
        }
        Some(bytes)
    }

    /// The counts as they were saved. Lines that make no sense are passed over: they are counts of an hour, not mail.
    fn saved(bytes: &[u8]) -> Ledger {
        let lines = bytes.split(|byte| *byte == b'\n').take(ENTRIES);
        let windows =
            lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()).map(|line| (line.key, line.window));
        Ledger { windows: windows.collect(), changed: false }
    }
}

fn of_tenant(rates: &Rates) -> Mail {
    Mail { messages: rates.messages, recipients: rates.recipients }
}

/// The ledger of this node, and its file.
#[derive(Debug, Default)]
pub struct Counts {
    ledger: Mutex<Ledger>,
    /// `None` in tests that keep nothing.
    file: Option<PathBuf>,
}

impl Counts {
    /// Goes on from what the file says. A file that cannot be read is one more hour for everybody, and an error in the log.
    pub fn open(file: PathBuf) -> Counts {
        let ledger = match fs::read(&file) {
            Ok(bytes) => Ledger::saved(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "hourly counts begin anew");
                Ledger::default()
            }
        };
        Counts { ledger: Mutex::new(ledger), file: Some(file) }
    }

    /// The ledger, for a moment.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change of it is whole before it can panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the counts, if they have changed. Not synced: after a power loss an older hour will do.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        let Some(bytes) = self.ledger().take_unsaved(now_ms()) else { return };
        if let Err(error) = replace(file, &bytes) {
            tracing::error!(file = %file.display(), %error, "cannot write the hourly counts");
        }
    }

    /// Writes the counts now and then, for ever.
    pub async fn keep(&self) {
        let mut interval = tokio::time::interval(SAVE);
        loop {
            interval.tick().await;
            self.save();
        }
    }
}

fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("tmp");
    fs::File::create(&draft)?.write_all(bytes)?;
    fs::rename(&draft, file)
}

/// Wall-clock time.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { messages: 3, recipients: 100, account_messages: 2, account_recipients: 4 };
    const NOW: u64 = 1_800_000_000_000;

    fn name(name: &str) -> TenantName {
        TenantName::new(name).unwrap()
    }

    fn mail(messages: u32, recipients: u32) -> Mail {
        Mail { messages, recipients }
    }

    #[test]
    fn accounts_share_what_their_tenant_has() {
        let (mut ledger, acme) = (Ledger::default(), name("acme"));
        let mut submit = |account: &str, more| {
            ledger.submit(&acme, account, more, &RATES, NOW).map_err(|over| over.to_reply().to_string())
        };
        assert_eq!(submit("alice", mail(2, 0)), Ok(()));
        let over = submit("alice", mail(1, 0)).unwrap_err();
        assert_eq!(over, "450 4.7.1 this account's limit of 2 messages an hour is reached, try again in 65 min");
        assert_eq!(submit("bob", mail(1, 4)), Ok(()));
        let over = submit("bob", mail(0, 1)).unwrap_err();
        assert!(over.starts_with("450 4.7.1 this account's limit of 4 recipients"), "{over}");
        let over = submit("carol", mail(1, 0)).unwrap_err();
        assert!(over.starts_with("450 4.7.1 your organisation's limit of 3 messages"), "{over}");
        assert_eq!(ledger.submit(&name("globex"), "alice", mail(1, 1), &RATES, NOW), Ok(()));
    }

    #[test]
    fn what_was_refused_or_came_to_nothing_does_not_count() {
        let (mut ledger, acme) = (Ledger::default(), name("acme"));
        ledger.submit(&acme, "alice", mail(2, 2), &RATES, NOW).unwrap();
        for _ in 0..5 {
            ledger.submit(&acme, "alice", mail(1, 0), &RATES, NOW).unwrap_err();
        }
        ledger.undo(&acme, "alice", mail(1, 1));
        ledger.submit(&acme, "alice", mail(1, 1), &RATES, NOW).unwrap();
        ledger.submit(&acme, "bob", mail(1, 1), &RATES, NOW).unwrap();
    }

    #[test]
    fn floods_from_outside_use_up_nothing_of_the_accounts() {
        let (mut ledger, acme) = (Ledger::default(), name("acme"));
        for _ in 0..3 {
            ledger.may_forward(&acme, mail(1, 1), &RATES, NOW).unwrap();
            ledger.forward(&acme, mail(1, 1), &RATES, NOW).unwrap();
        }
        let over = ledger.may_forward(&acme, mail(1, 1), &RATES, NOW).unwrap_err();
        assert!(over.to_string().starts_with("the recipient's limit of 3 messages"), "{over}");
        ledger.submit(&acme, "alice", mail(1, 1), &RATES, NOW).unwrap();
    }

    #[test]
    fn a_restart_forgets_nothing_and_rubbish_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rates.jsonl");
        let now = now_ms();
        let counts = Counts::open(file.clone());
        counts.ledger().submit(&name("acme"), "alice", mail(2, 2), &RATES, now).unwrap();
        counts.save();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{{\"key\"\n{text}\0\0\n{{}}\n")).unwrap();
        let counts = Counts::open(file);
        assert!(counts.ledger().submit(&name("acme"), "alice", mail(1, 1), &RATES, now).is_err());
        assert!(counts.ledger().submit(&name("acme"), "bob", mail(1, 1), &RATES, now).is_ok());
    }

    #[test]
    fn the_ledger_is_bounded() {
        let mut ledger = Ledger::default();
        for n in 0..ENTRIES as u64 + 1000 {
            ledger.count(Key::Tenant(name(&format!("t{n}"))), mail(1, 1), NOW + n);
        }
        assert!(ledger.windows.len() <= ENTRIES);
        let last = Key::Tenant(name(&format!("t{}", ENTRIES + 999)));
        assert!(ledger.windows.contains_key(&last));
    }
}
