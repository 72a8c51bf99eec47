//! What is known of names: TLSA records of MXs, policies of domains.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most MX names with TLSA records, and most domains with policies, remembered per cell.
pub const MAX_FACTS: usize = 2048;
/// Most bytes of either, per cell: honest ones take some hundred each.
pub const MAX_FACTS_BYTES: usize = 256 * 1024;

/// Facts by name, bounded in number and bytes: whose time is up first makes room.
#[derive(Debug)]
pub(super) struct Facts<T> {
    pub(super) by_name: HashMap<String, Fact<T>>,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Fact<T> {
    what: Arc<T>,
    pub(super) bytes: usize,
    until: Instant,
}

impl<T> Default for Facts<T> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), bytes: 0 }
    }
}

impl<T> Facts<T> {
    pub(super) fn insert(&mut self, name: String, what: T, bytes: usize, now: Instant, keep: Duration) {
        self.remove(&name);
        let bytes = bytes + name.len();
        if bytes > MAX_FACTS_BYTES {
            return;
        }
        if self.by_name.len() >= MAX_FACTS || self.bytes + bytes > MAX_FACTS_BYTES {
            let past: Vec<String> =
                self.by_name.iter().filter(|(_, fact)| fact.until <= now).map(|(name, _)| name.clone()).collect();
            past.iter().for_each(|name| self.remove(name));
        }
        while self.by_name.len() >= MAX_FACTS || self.bytes + bytes > MAX_FACTS_BYTES {
            let first = self.by_name.iter().min_by_key(|(_, fact)| fact.until).map(|(name, _)| name.clone());
            let Some(first) = first else { break };
            self.remove(&first);
        }
        self.bytes += bytes;
        self.by_name.insert(name, Fact { what: Arc::new(what), bytes, until: now + keep });
    }

    fn remove(&mut self, name: &str) {
        if let Some(gone) = self.by_name.remove(name) {
            self.bytes -= gone.bytes;
        }
    }

    pub(super) fn get(&self, name: &str, now: Instant) -> Option<Arc<T>> {
        let fact = self.by_name.get(name).filter(|fact| fact.until > now)?;
        Some(Arc::clone(&fact.what))
    }
}
