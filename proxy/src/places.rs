//! Places: how many sessions go on at once, and who waits for his turn.
//!
//! ```text
//!   backlog ─▶ taken in, greeting withheld ─▶ a place of the tenant's ─▶ a place of the node's ─▶ dial
//!                                          └▶ no place in time: greeted, and every message told 451
//! ```
//!
//! Nobody is refused for being one too many: MSAs take that for a failure of the MX. A tenant has as many connections waiting as it may have
//! sessions, so its crowd costs the node a bounded number of descriptors and others nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a session waits for its place, its greeting withheld: below the time that MSAs wait for one (Postfix and Exim: 5 minutes).
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The places of the node.
#[derive(Debug)]
pub(crate) struct Places {
    sessions: Arc<Semaphore>,
    count: u32,
    per_tenant: usize,
    patience: Duration,
}

/// The places of one tenant.
#[derive(Debug, Clone)]
pub(crate) struct TenantPlaces {
    inside: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
}

/// A connection that was taken in: it may wait for a place.
#[derive(Debug)]
pub struct Ticket {
    _inside: OwnedSemaphorePermit,
    tenant: Arc<Semaphore>,
}

/// A session may go on while this is held.
#[derive(Debug)]
pub(crate) struct Place {
    _tenant: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl Places {
    pub(crate) fn new(sessions: u32, per_tenant: u32, patience: Duration) -> Self {
        let count = sessions.max(1);
        Self {
            sessions: places(count),
            count,
            per_tenant: usize::try_from(per_tenant.max(1)).unwrap_or(usize::MAX),
            patience,
        }
    }

    pub(crate) fn of_tenant(&self) -> TenantPlaces {
        let limited = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        TenantPlaces { inside: limited(self.per_tenant.saturating_mul(2)), sessions: limited(self.per_tenant) }
    }

    /// A place for this connection, if one becomes free in time. The tenant's own comes first, so that only as many of its sessions as may go on
    /// at once stand in the queue of all tenants, which is served in turn.
    pub(crate) async fn wait(&self, ticket: &Ticket) -> Option<Place> {
        let both = async {
            let tenant = Arc::clone(&ticket.tenant).acquire_owned().await.ok()?;
            let node = Arc::clone(&self.sessions).acquire_owned().await.ok()?;
            Some(Place { _tenant: tenant, _node: node })
        };
        tokio::time::timeout(self.patience, both).await.ok()?
    }

    /// Waits until no session goes on.
    pub(crate) async fn all_free(&self) {
        // An error would mean a closed semaphore, and nothing closes it.
        let _ = self.sessions.acquire_many(self.count).await;
    }
}

fn places(count: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)))
}

impl TenantPlaces {
    /// Waits until one more connection may be taken in.
    pub(crate) async fn enter(&self) -> Ticket {
        let inside = Arc::clone(&self.inside).acquire_owned().await.expect("nothing closes it");
        Ticket { _inside: inside, tenant: Arc::clone(&self.sessions) }
    }

    /// The same at once, or not.
    pub(crate) fn try_enter(&self) -> Option<Ticket> {
        let inside = Arc::clone(&self.inside).try_acquire_owned().ok()?;
        Some(Ticket { _inside: inside, tenant: Arc::clone(&self.sessions) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crowd_waits_and_takes_no_place_of_others() {
        let places = Places::new(3, 1, Duration::ZERO);
        let (crowd, other) = (places.of_tenant(), places.of_tenant());
        let (first, second) = (crowd.enter().await, crowd.enter().await);
        assert!(crowd.try_enter().is_none(), "as many wait as may go on");
        let held = places.wait(&first).await;
        assert!(held.is_some() && places.wait(&second).await.is_none());
        assert!(places.wait(&other.enter().await).await.is_some());
        drop((held, first));
        assert!(places.wait(&second).await.is_some() && crowd.try_enter().is_some());
    }

    #[tokio::test]
    async fn the_node_is_full_at_some_point() {
        let places = Places::new(1, 5, Duration::ZERO);
        let (one, other) = (places.of_tenant().enter().await, places.of_tenant().enter().await);
        let held = places.wait(&one).await;
        assert!(held.is_some() && places.wait(&other).await.is_none());
        drop(held);
        places.all_free().await;
    }
}
