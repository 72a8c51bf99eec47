//! Places: how many connections a door takes in.
//!
//! ```text
//!   backlog ─▶ taken in, greeting withheld ─▶ waits for its turn (egress policy) ─▶ dial
//!           │                              └▶ no turn in time: greeted, and every message told 451
//!           └▶ no descriptors for one more of this tenant: told 421
//! ```
//!
//! Nobody is refused for being one too many of a tenant: MSAs take that for a failure of the MX. A tenant has as many connections waiting as it may have
//! sessions, so its crowd costs the node a bounded number of descriptors. Who may go on when is the [egress policy's](crate::egress) to say.
//!
//! Many tenants' crowds may cost more descriptors than the process has. The node's `Room` counts them, and refuses while there is still one to refuse with. Its
//! last quarter is divided among all tenants equally, and let nobody in who has his part or more. So crowds are refused first, and however many there are, the
//! next tenant finds a place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warren_daemon::Spells;

/// What a session costs: the MSA's connection and the MX's.
const DESCRIPTORS_OF_A_SESSION: usize = 2;
/// What the process has open besides: databases, log, control connections, one poll for each thread, a connection that is being refused.
const OWN_DESCRIPTORS: usize = 128;
/// The part of all that is left for connections that wait for their next session.
const KEPT: usize = 32;
/// The part of all that is left for second connections to an MX, which a session has while it fails over. Who finds none stays where it is.
const FAILOVERS: usize = 32;

/// How many connections each tenant's door takes in, and all of them.
#[derive(Debug)]
pub(crate) struct Places {
    per_tenant: usize,
    room: Arc<Room>,
}

/// The places of one tenant.
#[derive(Debug)]
pub(crate) struct TenantPlaces {
    most: usize,
    inside: Arc<Semaphore>,
    share: Share,
}

/// A connection may be taken in, if the node has room for it.
#[derive(Debug)]
pub(crate) struct Place(OwnedSemaphorePermit);

/// A connection that was taken in. Another one may be when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    _inside: OwnedSemaphorePermit,
    _seat: Seat,
}

/// How many connections may wait for their next session.
pub(crate) fn kept(descriptors: usize) -> usize {
    descriptors / KEPT
}

impl Places {
    /// For tenants that may have so many sessions, in a process that may have so many descriptors.
    pub(crate) fn new(per_tenant: u32, descriptors: usize) -> Self {
        let own = (OWN_DESCRIPTORS + descriptors / FAILOVERS + kept(descriptors)).min(descriptors / 2);
        let per_tenant = usize::try_from(per_tenant.max(1)).unwrap_or(usize::MAX);
        Self { per_tenant, room: Arc::new(Room::new(descriptors - own, DESCRIPTORS_OF_A_SESSION)) }
    }

    /// Of a tenant whose listener is not its own.
    pub(crate) fn of_tenant(&self) -> TenantPlaces {
        self.with_door(0)
    }

    /// Of a tenant with a listener.
    pub(crate) fn of_door(&self) -> TenantPlaces {
        self.with_door(1)
    }

    fn with_door(&self, descriptors: usize) -> TenantPlaces {
        let most = self.per_tenant.saturating_mul(2).min(Semaphore::MAX_PERMITS);
        TenantPlaces { most, inside: Arc::new(Semaphore::new(most)), share: self.room.share(descriptors) }
    }

    /// A connection was refused because the room is full. Whether to say so.
    pub(crate) fn worth_a_word(&self) -> bool {
        self.room.full.worth_a_word()
    }
}

impl TenantPlaces {
    /// Waits until one more connection may be taken in.
    pub(crate) async fn enter(&self) -> Place {
        Place(Arc::clone(&self.inside).acquire_owned().await.expect("nothing closes it"))
    }

    /// The same at once, or not.
    pub(crate) fn try_enter(&self) -> Option<Place> {
        Arc::clone(&self.inside).try_acquire_owned().ok().map(Place)
    }

    /// Somebody connected. `None`: the node has no room for one more of this tenant.
    pub(crate) fn admit(&self, Place(inside): Place) -> Option<Ticket> {
        // With the one that is asked for.
        let held = self.most - self.inside.available_permits();
        Some(Ticket { _inside: inside, _seat: self.share.seat(held.saturating_sub(1))? })
    }
}

/// Descriptors for what comes from many parties, none of whom shall use them up.
#[derive(Debug)]
pub(crate) struct Room {
    /// What one connection costs.
    each: usize,
    taken: Mutex<Taken>,
    full: Spells,
}

#[derive(Debug)]
struct Taken {
    free: usize,
    seated: usize,
    /// What standing costs are short of: doors are never refused.
    owed: usize,
    parties: usize,
}

/// A party in a room, with what it costs while it is there.
#[derive(Debug)]
pub(crate) struct Share {
    room: Arc<Room>,
    standing: usize,
}

/// One connection's descriptors.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Room>);

impl Room {
    pub(crate) fn new(descriptors: usize, each: usize) -> Self {
        let taken = Taken { free: descriptors, seated: 0, owed: 0, parties: 0 };
        Self { each, taken: Mutex::new(taken), full: Spells::default() }
    }

    /// A party comes, which has so many descriptors as long as it is there.
    pub(crate) fn share(self: &Arc<Self>, standing: usize) -> Share {
        let mut taken = self.lock();
        taken.parties += 1;
        taken.take(standing);
        Share { room: Arc::clone(self), standing }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Room for one more connection of this party, which holds so many.
    pub(crate) fn seat(&self, held: usize) -> Option<Seat> {
        let mut taken = self.room.lock();
        let places = taken.free / self.room.each;
        let reserve = (places + taken.seated) / 4;
        // Who is alone has nobody to leave anything to.
        let plenty = places > reserve || taken.parties < 2;
        let let_in = places > 0 && (plenty || held < (reserve / taken.parties).max(1));
        let_in.then(|| {
            taken.take(self.room.each);
            taken.seated += 1;
            Seat(Arc::clone(&self.room))
        })
    }
}

impl Taken {
    fn take(&mut self, count: usize) {
        let short = count.saturating_sub(self.free);
        self.free -= count - short;
        self.owed += short;
    }

    fn give(&mut self, count: usize) {
        let paid = count.min(self.owed);
        self.owed -= paid;
        self.free += count - paid;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        taken.parties -= 1;
        taken.give(self.standing);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.0.lock();
        taken.seated -= 1;
        taken.give(self.0.each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many as are let in.
    fn crowd(places: &TenantPlaces) -> Vec<Ticket> {
        std::iter::from_fn(|| places.admit(places.try_enter()?)).collect()
    }

    #[tokio::test]
    async fn as_many_wait_as_may_go_on() {
        let places = Places::new(1, 20_000);
        let (one, other) = (places.of_tenant(), places.of_tenant());
        let (first, _second) = (one.enter().await, one.enter().await);
        assert!(one.try_enter().is_none() && other.try_enter().is_some());
        drop(first);
        assert!(one.try_enter().is_some());
    }

    #[test]
    fn however_many_crowds_there_are_the_next_tenant_finds_a_place() {
        let places = Places::new(100, 20_000);
        let doors: Vec<_> = (0..1_000).map(|_| places.of_door()).collect();
        let crowds: Vec<_> = doors.iter().map(crowd).collect();
        let held: usize = crowds.iter().map(Vec::len).sum();
        assert!(held * 2 + doors.len() < 20_000 - OWN_DESCRIPTORS, "{held} connections at once");
        let next = places.of_door();
        assert!(!crowd(&next).is_empty());
    }

    #[test]
    fn crowds_are_refused_and_the_small_are_not_and_all_come_back() {
        let places = Places::new(1_000, 512);
        let (large, small) = (places.of_door(), places.of_door());
        let crowded = crowd(&large);
        assert!(large.try_enter().is_some_and(|place| large.admit(place).is_none()), "it has more than its part");
        let few = crowd(&small);
        assert_eq!((crowded.len(), few.len()), (132, 21), "of 175 places");
        let before = crowded.len();
        drop((crowded, few));
        assert_eq!(crowd(&large).len(), before);
    }

    #[test]
    fn who_is_alone_has_all_of_it() {
        let places = Places::new(10_000, 20_000);
        assert!(crowd(&places.of_tenant()).len() > 9_000);
    }

    #[test]
    fn doors_are_never_refused_and_nothing_is_lost_count_of() {
        let places = Places::new(100, 64);
        let free = places.room.lock().free;
        let doors: Vec<_> = (0..200).map(|_| places.of_door()).collect();
        assert!(crowd(&doors[0]).is_empty());
        drop(doors);
        let taken = places.room.lock();
        assert_eq!((taken.free, taken.owed, taken.parties), (free, 0, 0));
    }
}
