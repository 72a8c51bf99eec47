//! Passwords that were right lately. Pure; time is passed in.
//!
//! Mail programs log in anew for nearly every mail, and a full check costs tens of milliseconds of a processor. So a password that was
//! checked in full and was right is remembered for a while: not the password, but a MAC over the login, the hash in the tenant's file and the
//! password, under a key that is made at the start and never leaves this process. A changed password has another hash, so
//! what is remembered of the old one fits nothing any more.
//!
//! Only what was right is remembered. A wrong password is as expensive for a login that is remembered as for any other, and pushes nobody out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Logins that are remembered, some 200 bytes each. Beyond, those who were checked first are forgotten, a tenth of all at once.
const ENTRIES: usize = 20_000;

/// The key of the MACs.
pub type Key = Zeroizing<[u8; 32]>;

/// A login with its password and the hash that this was found to be right for.
#[derive(Clone, Copy)]
pub struct Proof<'a> {
    /// As the directory knows it: in small letters.
    pub login: &'a str,
    /// As it stands in the tenant's file.
    pub hash: &'a str,
    /// As given.
    pub password: &'a [u8],
}

/// Who was right lately.
pub struct Known {
    key: Key,
    entries: HashMap<Box<str>, Entry>,
}

struct Entry {
    mac: [u8; 32],
    checked: Instant,
}

impl Known {
    /// Nobody yet.
    pub fn new(key: Key) -> Known {
        Known { key, entries: HashMap::new() }
    }

    /// A full check found it right at this time.
    pub fn remember(&mut self, proof: Proof<'_>, checked: Instant) {
        if self.entries.len() >= ENTRIES && !self.entries.contains_key(proof.login) {
            self.make_room();
        }
        let mac = self.mac(proof).finalize().into_bytes().into();
        self.entries.insert(proof.login.into(), Entry { mac, checked });
    }

    /// Whether a full check found exactly this right, less than `lifetime` ago. To have been asked for makes nobody remembered for longer.
    pub fn knows(&self, proof: Proof<'_>, lifetime: Duration, now: Instant) -> bool {
        let fresh = |entry: &&Entry| now.saturating_duration_since(entry.checked) < lifetime;
        // In constant time.
        let is_this = |entry: &Entry| self.mac(proof).verify_slice(&entry.mac).is_ok();
        self.entries.get(proof.login).filter(fresh).is_some_and(is_this)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    fn mac(&self, proof: Proof<'_>) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.key).expect("HMAC takes keys of any length");
        for field in [proof.login.as_bytes(), proof.hash.as_bytes(), proof.password] {
            // With its length, so that no two fields can be divided otherwise.
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        mac
    }

    fn make_room(&mut self) {
        let mut times: Vec<Instant> = self.entries.values().map(|entry| entry.checked).collect();
        let (_, oldest, _) = times.select_nth_unstable(ENTRIES / 10);
        let oldest = *oldest;
        self.entries.retain(|_, entry| entry.checked > oldest);
    }
}

/// Names neither logins nor MACs.
impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Known({} logins)", self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(300);
    const ALICE: Proof<'_> = Proof { login: "alice@acme.example", hash: "$argon2id$one", password: b"secret" };

    fn known() -> Known {
        Known::new(Zeroizing::new([7; 32]))
    }

    #[test]
    fn what_was_right_is_known_for_a_while() {
        let (mut known, now) = (known(), Instant::now());
        assert!(!known.knows(ALICE, LIFETIME, now));
        known.remember(ALICE, now);
        let last = now + LIFETIME - Duration::from_millis(1);
        assert!(known.knows(ALICE, LIFETIME, last));
        assert!(!known.knows(ALICE, LIFETIME, now + LIFETIME), "having been asked for renews nothing");
        assert!(!known.knows(ALICE, Duration::ZERO, now), "a lifetime of nothing is off");
        known.remember(ALICE, last);
        assert!(known.knows(ALICE, LIFETIME, now + LIFETIME));
        known.clear();
        assert!(!known.knows(ALICE, LIFETIME, last));
    }

    #[test]
    fn nothing_else_is_known() {
        let (mut known, now) = (known(), Instant::now());
        known.remember(ALICE, now);
        for other in [
            Proof { password: b"Secret", ..ALICE },
            Proof { password: b"", ..ALICE },
            Proof { password: b"secret\0", ..ALICE },
            // She has another password now, or the same with another salt.
            Proof { hash: "$argon2id$two", ..ALICE },
            Proof { login: "bob@acme.example", ..ALICE },
            // The same bytes, divided otherwise.
            Proof { hash: "$argon2id$ones", password: b"ecret", ..ALICE },
        ] {
            assert!(!known.knows(other, LIFETIME, now), "{}", other.login);
        }
        // Having tried costs her nothing.
        assert!(known.knows(ALICE, LIFETIME, now));
        // Another process cannot use what this one remembers.
        let mac = |known: &Known| known.mac(ALICE).finalize().into_bytes();
        assert_ne!(mac(&known), mac(&Known::new(Zeroizing::new([8; 32]))));
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest() {
        let (mut known, now) = (known(), Instant::now());
        let logins: Vec<String> = (0..2 * ENTRIES).map(|n| format!("u{n}@acme.example")).collect();
        for (login, n) in logins.iter().zip(0..) {
            known.remember(Proof { login, ..ALICE }, now + Duration::from_millis(n));
            assert!(known.entries.len() <= ENTRIES);
        }
        let knows = |login: &str| known.knows(Proof { login, ..ALICE }, Duration::from_secs(3600), now);
        assert!(known.entries.len() >= ENTRIES - ENTRIES / 10);
        assert!(knows(&logins[2 * ENTRIES - 1]) && !knows(&logins[0]));
        assert_eq!(format!("{known:?}"), format!("Known({} logins)", known.entries.len()));
    }
}
