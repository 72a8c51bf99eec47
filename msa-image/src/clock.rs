//! The wall clock, read in one place.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in unix milliseconds; 0 before 1970.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A random number; the time if the kernel has none yet.
#[must_use]
pub fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| now_ms().rotate_left(32) | 1)
}
