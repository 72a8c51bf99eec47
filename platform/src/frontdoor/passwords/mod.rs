//! Verifying passwords without telling which logins exist.
//!
//! An argon2id hash costs tens of milliseconds and megabytes on purpose. It is computed by threads of their own (`desks`), as many at a time as
//! there are processors, and no more may wait than `WAITING`; whose turn it is, `turns` says. A login that does not exist is verified against
//! a decoy: a hash with the cost of the hashes that do exist, so that neither the answer nor its time tells the two apart. What was
//! right lately is `known` without computing it again.

mod desks;
mod known;
mod memory;
mod turns;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, phc::PasswordHash},
};
use tokio::sync::oneshot;
use warren_control::TenantName;
use zeroize::Zeroizing;

use desks::Desks;
use known::{Key, Known, Proof};
pub use turns::Party;
use turns::{Entered, Turns};

/// Verifications that may wait for a processor; beyond, clients are told to come back.
const WAITING: usize = 200;

/// What the decoy is the hash of. Whoever guesses it gets nowhere: no login has the decoy.
const DECOY: &[u8] = b"nobody has this password";

/// A password as a client gave it. Overwritten when it is dropped.
pub type Password = Zeroizing<Vec<u8>>;

/// Verifies passwords, some at a time.
#[derive(Clone)]
pub struct Verifier {
    gate: Arc<Gate>,
    known: Arc<Mutex<Known>>,
    desks: Arc<Desks>,
    decoy: Arc<str>,
}

/// Who somebody says to be.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// As given.
    pub login: &'a str,
    /// Its hash (PHC form); `None`: there is no such login.
    pub hash: Option<&'a str>,
    /// The hash of an account whose cost is like that of those that exist, in place of one that does not.
    pub neighbour: Option<&'a str>,
    /// For whom it is verified.
    pub party: &'a Party,
}

/// What came of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// It is the password.
    Right,
    /// It is, by a full check not long ago.
    Remembered,
    /// It is not, or there is no such login.
    Wrong,
}

/// Too many verifications wait already, or the machine cannot do one: `454 4.7.0`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("too many passwords wait to be verified")]
pub struct TooBusy;

impl Verifier {
    /// As many at a time as the machine has processors. The threads that check are started now, with the nice value of this one.
    pub fn start() -> io::Result<Verifier> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let decoy = Argon2::default()
            .hash_password(DECOY)
            .expect("hashing with the default parameters cannot fail")
            .to_string();
        let mut key = Key::default();
        getrandom::fill(&mut *key).expect("the kernel has random bytes");
        Ok(Verifier {
            gate: Arc::new(Gate::new(processors)),
            known: Arc::new(Mutex::new(Known::new(key))),
            desks: Arc::new(Desks::start(processors)?),
            decoy: decoy.into(),
        })
    }

    /// Whether `password` is that of the claim. What was right is known for `remember`; with zero nothing is remembered, and what was, is
    /// forgotten. Without a hash the same work is done in vain, against the hash of the neighbour if there is one.
    pub async fn verify(&self, claim: Claim<'_>, password: Password, remember: Duration) -> Result<Verified, TooBusy> {
        let login = claim.login.to_ascii_lowercase();
        let proof = |hash| Proof { login: &login, hash, password: &password };
        if remember.is_zero() {
            self.known().clear();
        } else if let Some(hash) = claim.hash
            && self.known().knows(proof(hash), remember, Instant::now())
        {
            return Ok(Verified::Remembered);
        }
        // Compared first: whether the login exists must not decide about the work.
        let against = claim.hash.or(claim.neighbour).unwrap_or(&self.decoy);
        let right = self.compare(password.clone(), against, claim.party).await?;
        let Some(hash) = claim.hash.filter(|_| right) else { return Ok(Verified::Wrong) };
        if !remember.is_zero() {
            self.known().remember(proof(hash), Instant::now());
        }
        Ok(Verified::Right)
    }

    /// The work, the same for every login: computes the hash of `password` with salt and cost of `hash`.
    async fn compare(&self, password: Password, hash: &str, party: &Party) -> Result<bool, TooBusy> {
        let place = Gate::enter(&self.gate, party).await?;
        let hash = hash.to_owned();
        let compared = self.desks.work(place, move |memory| {
            let Ok(hash) = PasswordHash::new(&hash) else { return false };
            memory.matches(&password, &hash)
        });
        compared.await.ok_or(TooBusy)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The places, and those who wait for one.
#[derive(Debug)]
struct Gate {
    state: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    turns: Turns<u64>,
    /// By number, those who wait.
    doors: HashMap<u64, oneshot::Sender<Place>>,
    numbers: u64,
}

impl Gate {
    fn new(places: usize) -> Gate {
        let turns = Turns::new(places, WAITING);
        Gate { state: Mutex::new(Waiting { turns, doors: HashMap::new(), numbers: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when it is this party's turn.
    async fn enter(gate: &Arc<Gate>, party: &Party) -> Result<Place, TooBusy> {
        let (who, called) = {
            let mut state = gate.state();
            let who = state.numbers;
            state.numbers += 1;
            match state.turns.enter(party, who) {
                Entered::Now => return Ok(Place { gate: Arc::clone(gate), tenant: party.tenant.clone() }),
                Entered::Full => return Err(TooBusy),
                Entered::Waits { instead_of } => {
                    // Whose door is dropped is told so by that.
                    if let Some(other) = instead_of {
                        state.doors.remove(&other);
                    }
                    let (door, called) = oneshot::channel();
                    state.doors.insert(who, door);
                    (who, called)
                }
            }
        };
        let _waits = Waits { gate, party, who };
        called.await.map_err(|_| TooBusy)
    }
}

/// A place, given on when dropped.
#[derive(Debug)]
struct Place {
    gate: Arc<Gate>,
    tenant: Option<TenantName>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = {
            let mut state = self.gate.state();
            let next = state.turns.leave(&self.tenant);
            next.map(|(tenant, who)| (tenant, state.doors.remove(&who)))
        };
        if let Some((tenant, door)) = next {
            let place = Place { gate: Arc::clone(&self.gate), tenant };
            // If that one has just given up, the place goes on from hand to hand: it is dropped here.
            let _ = door.map(|door| door.send(place));
        }
    }
}

/// One that waits, or did: it may give up at any time.
struct Waits<'a> {
    gate: &'a Gate,
    party: &'a Party,
    who: u64,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if state.doors.remove(&self.who).is_some() {
            state.turns.give_up(self.party, &self.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, net::IpAddr, pin::pin, task::Poll};

    use super::*;

    const LONG: Duration = Duration::from_secs(300);

    fn party(tenant: &str) -> Party {
        Party { tenant: TenantName::new(tenant).ok(), network: IpAddr::from([192, 0, 2, 1]) }
    }

    fn hash_of(password: &[u8]) -> String {
        Argon2::default().hash_password(password).unwrap().to_string()
    }

    async fn verify(verifier: &Verifier, password: &[u8], hash: Option<&str>, remember: Duration) -> Verified {
        let claim = Claim { login: "Alice@acme.example", hash, neighbour: None, party: &party("acme") };
        verifier.verify(claim, password.to_vec().into(), remember).await.unwrap()
    }

    #[tokio::test]
    async fn right_wrong_and_unknown() {
        let verifier = Verifier::start().unwrap();
        let hash = hash_of(b"secret");
        assert_eq!(verify(&verifier, b"secret", Some(&hash), LONG).await, Verified::Right);
        assert_eq!(verify(&verifier, b"Secret", Some(&hash), LONG).await, Verified::Wrong);
        assert_eq!(verify(&verifier, b"secret", Some("broken"), LONG).await, Verified::Wrong);
        assert_eq!(verify(&verifier, b"secret", None, LONG).await, Verified::Wrong);
    }

    #[tokio::test]
    async fn a_right_password_is_remembered_until_it_changes_or_that_is_switched_off() {
        let verifier = Verifier::start().unwrap();
        let (old, new) = (hash_of(b"secret"), hash_of(b"other"));
        for (password, hash, remember, wanted) in [
            (&b"wrong"[..], &old, LONG, Verified::Wrong),
            // A wrong one is not remembered to be wrong, nor taken for right.
            (b"wrong", &old, LONG, Verified::Wrong),
            (b"secret", &old, LONG, Verified::Right),
            (b"secret", &old, LONG, Verified::Remembered),
            (b"wrong", &old, LONG, Verified::Wrong),
            (b"secret", &old, LONG, Verified::Remembered),
            (b"secret", &new, LONG, Verified::Wrong),
            (b"other", &new, LONG, Verified::Right),
            (b"other", &new, LONG, Verified::Remembered),
            (b"other", &new, Duration::ZERO, Verified::Right),
            (b"other", &new, Duration::ZERO, Verified::Right),
            (b"other", &new, LONG, Verified::Right),
        ] {
            let got = verify(&verifier, password, Some(hash), remember).await;
            assert_eq!(got, wanted, "{}", String::from_utf8_lossy(password));
        }
    }

    /// Not by the clock, which other programs move: whatever an unknown login is compared with is a whole hash, compared to its end
    /// (its password matches), of the cost of a known one.
    #[tokio::test]
    async fn an_unknown_login_costs_as_much() {
        let verifier = Verifier::start().unwrap();
        let known = hash_of(b"secret");
        let cost = |hash: &str| {
            let hash = PasswordHash::new(hash).unwrap();
            let output = hash.hash.as_ref().unwrap().len();
            (hash.algorithm.to_string(), hash.version, hash.params.to_string(), output)
        };
        assert_eq!(cost(&verifier.decoy), cost(&known), "what `warren passwd` makes costs as much as the decoy");
        let acme = party("acme");
        assert_eq!(verifier.compare(DECOY.to_vec().into(), &verifier.decoy, &acme).await, Ok(true));
        assert_eq!(verifier.compare(b"secret".to_vec().into(), &known, &acme).await, Ok(true));
        // And yet it opens nothing, nor is it remembered.
        for neighbour in [None, Some(known.as_str())] {
            for password in [DECOY, b"secret"] {
                let claim = Claim { login: "nobody@acme.example", hash: None, neighbour, party: &acme };
                assert_eq!(verifier.verify(claim, password.to_vec().into(), LONG).await, Ok(Verified::Wrong));
            }
        }
        assert_eq!(format!("{:?}", verifier.known()), "Known(0 logins)");
    }

    /// Polls once: whether it waits.
    async fn waits<F: Future<Output = Result<Place, TooBusy>>>(entering: std::pin::Pin<&mut F>) -> bool {
        let mut entering = Some(entering);
        std::future::poll_fn(move |context| {
            let polled = entering.take().expect("polled once").poll(context);
            Poll::Ready(polled.is_pending())
        })
        .await
    }

    #[tokio::test]
    async fn places_go_from_hand_to_hand() {
        let gate = Arc::new(Gate::new(1));
        let (crowd, acme) = (party("crowd"), party("acme"));
        let first = Gate::enter(&gate, &crowd).await.unwrap();
        let mut second = pin!(Gate::enter(&gate, &crowd));
        assert!(waits(second.as_mut()).await);
        {
            let mut gone = pin!(Gate::enter(&gate, &acme));
            assert!(waits(gone.as_mut()).await);
        }
        let mut other = pin!(Gate::enter(&gate, &acme));
        assert!(waits(other.as_mut()).await);
        drop(first);
        // The crowd's first is done; both have nothing under way, and the crowd came first.
        let place = second.await.unwrap();
        assert!(waits(other.as_mut()).await);
        drop(place);
        drop(other.await.unwrap());
        let state = gate.state();
        assert!(state.doors.is_empty());
    }

    #[tokio::test]
    async fn a_crowd_is_turned_away() {
        let gate = Arc::new(Gate::new(1));
        let (crowd, acme) = (party("crowd"), party("acme"));
        let first = Gate::enter(&gate, &crowd).await.unwrap();
        let mut all: Vec<_> = (0..WAITING).map(|_| Box::pin(Gate::enter(&gate, &crowd))).collect();
        for one in &mut all {
            assert!(waits(one.as_mut()).await);
        }
        assert_eq!(Gate::enter(&gate, &crowd).await.map(drop), Err(TooBusy));
        // Whoever comes from elsewhere waits in the place of one of them.
        let mut alice = pin!(Gate::enter(&gate, &acme));
        assert!(waits(alice.as_mut()).await);
        assert_eq!(all.pop().unwrap().await.map(drop), Err(TooBusy));
        drop((first, all));
        drop(alice.await.unwrap());
    }
}
