//! Verifying passwords without telling which logins exist.
//!
//! An argon2id hash costs tens of milliseconds and megabytes on purpose. It is computed off the async threads, as many at a time as
//! there are processors, and no more may wait than `WAITING`. A login that does not exist is verified against a decoy: a hash with
//! the cost of the hashes that do exist, so that neither the answer nor its time tells the two apart.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::sync::Semaphore;

/// Verifications that may wait for a processor; beyond, clients are told to come back.
const WAITING: usize = 200;

/// What the decoy is the hash of. Whoever guesses it gets nowhere: no login has the decoy.
const DECOY: &[u8] = b"nobody has this password";

/// Verifies passwords, some at a time.
#[derive(Debug, Clone)]
pub struct Verifier {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    decoy: Arc<str>,
}

/// Too many verifications wait already, or the machine cannot do one: `454 4.7.0`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("too many passwords wait to be verified")]
pub struct TooBusy;

impl Verifier {
    /// As many at a time as the machine has processors.
    pub fn new() -> Verifier {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let decoy = Argon2::default()
            .hash_password(DECOY)
            .expect("hashing with the default parameters cannot fail")
            .to_string();
        Verifier {
            places: Arc::new(Semaphore::new(processors)),
            waiting: Arc::new(AtomicUsize::new(0)),
            decoy: decoy.into(),
        }
    }

    /// Whether `password` is the one of `hash` (PHC form). Without a hash (no such login) the same work is done in vain,
    /// against the hash of `neighbour` if there is one: an account whose cost is like that of those that exist.
    pub async fn verify(
        &self,
        password: Vec<u8>,
        hash: Option<&str>,
        neighbour: Option<&str>,
    ) -> Result<bool, TooBusy> {
        // Compared first: whether the login exists must not decide about the work.
        Ok(self.compare(password, hash.or(neighbour).unwrap_or(&self.decoy)).await? && hash.is_some())
    }

    /// The work, the same for every login: computes the hash of `password` with salt and cost of `hash`.
    async fn compare(&self, password: Vec<u8>, hash: &str) -> Result<bool, TooBusy> {
        let _waits = Waits::new(&self.waiting).ok_or(TooBusy)?;
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| TooBusy)?;
        let hash = hash.to_owned();
        let compared = tokio::task::spawn_blocking(move || {
            let _place = place;
            let Ok(hash) = PasswordHash::new(&hash) else { return false };
            Argon2::default().verify_password(&password, &hash).is_ok()
        });
        compared.await.map_err(|_| TooBusy)
    }
}

impl Default for Verifier {
    fn default() -> Verifier {
        Verifier::new()
    }
}

/// One that waits, counted while it lives.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize) -> Option<Waits<'a>> {
        let counted = Waits(waiting);
        (counted.0.fetch_add(1, Ordering::Relaxed) < WAITING).then_some(counted)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn right_wrong_and_unknown() {
        let verifier = Verifier::new();
        let hash = Argon2::default().hash_password(b"secret").unwrap().to_string();
        assert_eq!(verifier.verify(b"secret".into(), Some(&hash), None).await, Ok(true));
        assert_eq!(verifier.verify(b"Secret".into(), Some(&hash), None).await, Ok(false));
        assert_eq!(verifier.verify(b"secret".into(), Some("broken"), None).await, Ok(false));
    }

    /// Not by the clock, which other programs move: whatever an unknown login is compared with is a whole hash, compared to its end
    /// (its password matches), of the cost of a known one.
    #[tokio::test]
    async fn an_unknown_login_costs_as_much() {
        let verifier = Verifier::new();
        let known = Argon2::default().hash_password(b"secret").unwrap().to_string();
        let cost = |hash: &str| {
            let hash = PasswordHash::new(hash).unwrap();
            let output = hash.hash.as_ref().unwrap().len();
            (hash.algorithm.to_string(), hash.version, hash.params.to_string(), output)
        };
        assert_eq!(cost(&verifier.decoy), cost(&known), "what `warren passwd` makes costs as much as the decoy");
        assert_eq!(verifier.compare(DECOY.into(), &verifier.decoy).await, Ok(true));
        assert_eq!(verifier.compare(b"secret".into(), &known).await, Ok(true));
        // And yet it opens nothing.
        assert_eq!(verifier.verify(DECOY.into(), None, None).await, Ok(false));
        assert_eq!(verifier.verify(b"secret".into(), None, Some(&known)).await, Ok(false));
    }

    #[test]
    fn a_crowd_is_turned_away() {
        let waiting = AtomicUsize::new(0);
        let crowd: Vec<_> = (0..WAITING).map(|_| Waits::new(&waiting).unwrap()).collect();
        assert!(Waits::new(&waiting).is_none());
        drop(crowd);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }
}
