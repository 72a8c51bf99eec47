//! Connections to MXs between two sessions of one tenant.
//!
//! ```text
//!   session ── QUIT, everything settled ──▶ put ──┐   idle: nobody reads it        ┌──▶ take ── the tenant's next session with that MX
//!                                                 └─▶ Shelf ─── its time is over ──┼──▶ QUIT
//!                                                               its place is wanted ┘
//! ```
//!
//! An MSA that sends one message a session costs the MX a connection, a greeting, a TLS handshake and a farewell for each, and itself the wait for them. MXs
//! count connections, and so do the budgets that spare them. MTAs that keep connections do so for themselves; the proxy does it for all.
//!
//! A connection is used by the tenant whose it was and nobody else, from the same address, to the same MX under the same name, while the settings are the
//! same. **It is no way around a budget**: the session that takes it over has its own turn, and an idle one counts against the sessions that its address
//! may have at its operator; it goes as soon as somebody wants its place, and for whoever waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use warren_launcher_api::TenantName;
use warren_session::SessionId;
use warren_smtp::mediator::{Kept, TlsPolicy};
use warren_wire::MaybeTls;
use warren_wire::client::TlsFacts;
use warren_wire::relay::farewell;

use crate::egress::{EgressAddr, Operator};
use crate::own::OwnLeg;
use crate::settings::Settings;
use crate::tls::leg::How;

/// Of a key's connections, so many are looked at for one of the same thread.
const LOOKED_AT: usize = 8;
/// How long last words may take when somebody waits for that.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What two sessions must have in common to share a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) tenant: TenantName,
    pub(crate) mx: SocketAddr,
    /// The name that its certificate was held against.
    pub(crate) name: Option<String>,
    pub(crate) egress: EgressAddr,
}

/// What a connection counts against: the sessions of an address at an operator.
pub(crate) type Budget = (EgressAddr, Operator);

/// A connection that waits for its next session.
#[derive(Debug)]
pub(crate) struct KeptLeg {
    pub(crate) stream: MaybeTls<TcpStream>,
    pub(crate) kept: Kept,
    pub(crate) how: How,
    pub(crate) facts: Option<Arc<TlsFacts>>,
    /// The name that the MX gave itself.
    pub(crate) helo: Option<String>,
    pub(crate) own: Option<OwnLeg>,
    /// How long it took to connect.
    pub(crate) rtt: Option<Duration>,
    /// Messages that it carried.
    pub(crate) carried: u32,
    /// The session whose it was.
    pub(crate) before: SessionId,
    pub(crate) settings: Arc<Settings>,
    /// Whose poll it is in.
    pub(crate) thread: ThreadId,
}

impl KeptLeg {
    /// One that is left by this thread.
    pub(crate) fn new(stream: MaybeTls<TcpStream>, kept: Kept, before: SessionId, settings: Arc<Settings>) -> Self {
        let thread = std::thread::current().id();
        let (how, facts, helo, own, rtt, carried) = Default::default();
        Self { stream, kept, how, facts, helo, own, rtt, carried, before, settings, thread }
    }

    /// Whether it is what a session of these settings and this policy would dial.
    pub(crate) fn serves(&self, settings: &Arc<Settings>, policy: TlsPolicy) -> bool {
        Arc::ptr_eq(&self.settings, settings)
            && self.kept.satisfies(policy)
            && match self.how {
                // In the clear because TLS was not to be: now it may be.
                How::NotTried => policy == TlsPolicy::Off,
                How::NotOffered => policy != TlsPolicy::Off,
                How::Tls(_) => true,
                How::Failed(_) => false,
            }
    }

    /// Whether the MX is still there, and silent.
    fn is_quiet(&self) -> bool {
        let mut byte = [0];
        recv(self.stream.transport(), &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) == Err(Errno::AGAIN)
    }

    /// In the poll of the thread that asks. What is under TLS cannot be moved, and is woken from elsewhere.
    fn brought_here(self) -> Option<Self> {
        let here = std::thread::current().id();
        match self.stream {
            MaybeTls::Plain(stream) if self.thread != here => {
                let stream = stream.into_std().and_then(TcpStream::from_std).ok()?;
                Some(Self { stream: MaybeTls::Plain(stream), thread: here, ..self })
            }
            stream => Some(Self { stream, ..self }),
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Keeper {
    shelf: Mutex<Shelf<Key, Budget, KeptLeg>>,
    /// How many there are: most proxies ask for what is not there.
    count: AtomicUsize,
    /// One will have to go earlier than was thought.
    earlier: Notify,
}

impl Keeper {
    /// For so many at most.
    pub(crate) fn new(most: usize) -> Self {
        Self { shelf: Mutex::new(Shelf::new(most)), count: AtomicUsize::new(0), earlier: Notify::new() }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Keeps a connection until then, if its budget has room for so many idle ones. Whatever has to go for it is left with QUIT.
    pub(crate) fn put(&self, key: Key, budget: Budget, leg: KeptLeg, until: Instant, room: u32) {
        let (gone, first) = self.with(|shelf| {
            let first = shelf.due().is_none_or(|due| until < due);
            (shelf.put(key, budget, leg, until, room), first)
        });
        if first {
            self.earlier.notify_one();
        }
        part(gone);
    }

    /// A connection for a session, that `serves` it and whose MX is still there.
    pub(crate) fn take(&self, key: &Key, serves: impl Fn(&KeptLeg) -> bool) -> Option<KeptLeg> {
        let here = std::thread::current().id();
        while let Some(leg) = self.with(|shelf| shelf.take(key, |leg| serves(leg), |leg| leg.thread == here)) {
            if leg.is_quiet()
                && let Some(leg) = leg.brought_here()
            {
                return Some(leg);
            }
        }
        None
    }

    /// Idle connections of a budget that has room for so many no more: to be [left](leave).
    pub(crate) fn make_room(&self, budget: &Budget, room: u32) -> Vec<KeptLeg> {
        self.with(|shelf| shelf.trim(budget, room))
    }

    /// Leaves connections whose time is over, for ever.
    pub(crate) async fn keep_time(&self) {
        loop {
            let earlier = self.earlier.notified();
            let due = self.lock().due();
            let alarm = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = alarm => part(self.with(|shelf| shelf.expired(Instant::now()))),
                () = earlier => {}
            }
        }
    }

    /// Leaves all of them, and those that come from now on.
    pub(crate) async fn close(&self) {
        let all = self.with(|shelf| {
            shelf.most = 0;
            shelf.empty()
        });
        leave(all).await;
    }

    fn with<T>(&self, act: impl FnOnce(&mut Shelf<Key, Budget, KeptLeg>) -> T) -> T {
        let mut shelf = self.lock();
        let out = act(&mut shelf);
        self.count.store(shelf.legs.len(), Ordering::Relaxed);
        out
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<Key, Budget, KeptLeg>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says QUIT to each, and waits until it is said.
pub(crate) async fn leave(legs: Vec<KeptLeg>) {
    let mut farewells: JoinSet<()> = legs.into_iter().map(|leg| farewell(leg.stream)).collect();
    let _ = tokio::time::timeout(LAST_WORDS, async { while farewells.join_next().await.is_some() {} }).await;
}

/// Says QUIT to each, and waits for none.
pub(crate) fn part(legs: Vec<KeptLeg>) {
    for KeptLeg { stream, own, .. } in legs {
        tokio::spawn(async move {
            farewell(stream).await;
            drop(own);
        });
    }
}

/// What is kept, by what it is good for, and until when: pure.
#[derive(Debug)]
struct Shelf<K, B, T> {
    most: usize,
    last: u64,
    legs: BTreeMap<u64, Entry<K, B, T>>,
    /// In the order in which they have to go.
    ends: BTreeSet<(Instant, u64)>,
    /// In the order in which they came.
    by_key: HashMap<K, Vec<u64>>,
    by_budget: HashMap<B, BTreeSet<u64>>,
}

#[derive(Debug)]
struct Entry<K, B, T> {
    key: K,
    budget: B,
    until: Instant,
    leg: T,
}

impl<K: Clone + Eq + Hash, B: Clone + Eq + Hash, T> Shelf<K, B, T> {
    fn new(most: usize) -> Self {
        let (legs, ends, by_key, by_budget) = Default::default();
        Self { most, last: 0, legs, ends, by_key, by_budget }
    }

    /// Keeps `leg`; returns what there is no room for, itself or others.
    fn put(&mut self, key: K, budget: B, leg: T, until: Instant, room: u32) -> Vec<T> {
        let mut gone = self.trim(&budget, room.saturating_sub(1));
        if self.most == 0 || room == 0 {
            gone.push(leg);
            return gone;
        }
        if self.legs.len() >= self.most
            && let Some((_, first)) = self.ends.first().copied()
        {
            gone.extend(self.remove(first));
        }
        self.last += 1;
        self.ends.insert((until, self.last));
        self.by_key.entry(key.clone()).or_default().push(self.last);
        self.by_budget.entry(budget.clone()).or_default().insert(self.last);
        self.legs.insert(self.last, Entry { key, budget, until, leg });
        gone
    }

    /// The newest that `serves`, one that is `near` rather than another.
    fn take(&mut self, key: &K, serves: impl Fn(&T) -> bool, near: impl Fn(&T) -> bool) -> Option<T> {
        let all = self.by_key.get(key)?;
        let legs = &self.legs;
        let fit = || all.iter().rev().copied().filter(|n| legs.get(n).is_some_and(|entry| serves(&entry.leg)));
        let nearest = fit().take(LOOKED_AT).find(|n| legs.get(n).is_some_and(|entry| near(&entry.leg)));
        let n = nearest.or_else(|| fit().next())?;
        self.remove(n)
    }

    /// Those of a budget that are too many, the oldest first.
    fn trim(&mut self, budget: &B, room: u32) -> Vec<T> {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let Some(all) = self.by_budget.get(budget).filter(|all| all.len() > room) else { return Vec::new() };
        let many: Vec<u64> = all.iter().copied().take(all.len() - room).collect();
        many.into_iter().filter_map(|n| self.remove(n)).collect()
    }

    /// When the first has to go.
    fn due(&self) -> Option<Instant> {
        self.ends.first().map(|(until, _)| *until)
    }

    fn expired(&mut self, now: Instant) -> Vec<T> {
        let mut gone = Vec::new();
        while let Some((until, n)) = self.ends.first().copied()
            && until <= now
        {
            gone.extend(self.remove(n));
        }
        gone
    }

    fn empty(&mut self) -> Vec<T> {
        let legs = std::mem::take(&mut self.legs);
        *self = Self { last: self.last, ..Self::new(self.most) };
        legs.into_values().map(|entry| entry.leg).collect()
    }

    fn remove(&mut self, n: u64) -> Option<T> {
        let Entry { key, budget, until, leg } = self.legs.remove(&n)?;
        self.ends.remove(&(until, n));
        if let Some(all) = self.by_key.get_mut(&key) {
            all.retain(|other| *other != n);
            if all.is_empty() {
                self.by_key.remove(&key);
            }
        }
        if let Some(all) = self.by_budget.get_mut(&budget) {
            all.remove(&n);
            if all.is_empty() {
                self.by_budget.remove(&budget);
            }
        }
        Some(leg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shelf(most: usize) -> (Shelf<char, char, u32>, Instant) {
        (Shelf::new(most), Instant::now())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_newest_that_serves_is_taken_and_a_near_one_first() {
        let (mut shelf, now) = shelf(10);
        for n in 1..=4 {
            assert!(shelf.put('a', 'x', n, now + SECOND, 9).is_empty());
        }
        assert_eq!(shelf.take(&'a', |n| *n < 4, |n| *n == 2), Some(2));
        assert_eq!(shelf.take(&'a', |n| *n < 4, |_| false), Some(3));
        assert_eq!(shelf.take(&'b', |_| true, |_| true), None);
        assert_eq!(shelf.take(&'a', |n| *n > 4, |_| true), None);
    }

    #[test]
    fn what_is_too_much_for_a_budget_or_for_all_goes_oldest_first() {
        let (mut shelf, now) = shelf(3);
        assert_eq!(shelf.put('a', 'x', 1, now + SECOND, 0), [1]);
        for n in 2..=4 {
            shelf.put('a', 'x', n, now + SECOND, 3);
        }
        assert_eq!(shelf.put('a', 'x', 5, now + SECOND, 3), [2]);
        assert_eq!(shelf.put('b', 'y', 6, now + SECOND, 9), [3], "no more than three in all");
        assert_eq!(shelf.trim(&'x', 1), [4]);
        assert!(shelf.trim(&'y', 1).is_empty());
        assert_eq!(shelf.trim(&'x', 0), [5]);
    }

    #[test]
    fn each_goes_when_its_time_is_over() {
        let (mut shelf, now) = shelf(9);
        shelf.put('a', 'x', 1, now + 2 * SECOND, 9);
        shelf.put('b', 'x', 2, now + SECOND, 9);
        assert_eq!(shelf.due(), Some(now + SECOND));
        assert!(shelf.expired(now).is_empty());
        assert_eq!(shelf.expired(now + SECOND), [2]);
        assert_eq!(shelf.expired(now + 3 * SECOND), [1]);
        assert_eq!(shelf.due(), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_there_twice(acts in prop::collection::vec((0u8..5, 0u8..3, 0u8..3, 0u32..5, 0u64..5), 0..200)) {
            let (mut shelf, now) = shelf(6);
            let (mut put, mut left) = (0, Vec::new());
            for (act, key, budget, room, seconds) in acts {
                let (key, budget) = (char::from(b'a' + key), char::from(b'x' + budget));
                let at = now + Duration::from_secs(seconds);
                match act {
                    0..=1 => {
                        put += 1;
                        left.extend(shelf.put(key, budget, put, at, room));
                        let kept = shelf.by_budget.get(&budget).map_or(0, BTreeSet::len);
                        prop_assert!(kept <= room as usize);
                    }
                    2 => left.extend(shelf.take(&key, |n| n % 2 == 0, |n| n % 3 == 0)),
                    3 => left.extend(shelf.expired(at)),
                    _ => left.extend(shelf.trim(&budget, room)),
                }
                prop_assert!(shelf.legs.len() <= 6);
                prop_assert_eq!(shelf.ends.len(), shelf.legs.len());
                prop_assert_eq!(shelf.by_key.values().map(Vec::len).sum::<usize>(), shelf.legs.len());
                prop_assert_eq!(shelf.by_budget.values().map(BTreeSet::len).sum::<usize>(), shelf.legs.len());
            }
            left.extend(shelf.empty());
            left.sort_unstable();
            prop_assert_eq!(left, (1..=put).collect::<Vec<_>>());
        }
    }
}
