//! Places: how many connections a door takes in.
//!
//! ```text
//!   backlog ─▶ taken in, greeting withheld ─▶ waits for its turn (egress policy) ─▶ dial
//!                                          └▶ no turn in time: greeted, and every message told 451
//! ```
//!
//! Nobody is refused for being one too many: MSAs take that for a failure of the MX. A tenant has as many connections waiting as it may have
//! sessions, so its crowd costs the node a bounded number of descriptors and others nothing. Who may go on when is the
//! [egress policy's](crate::egress) to say.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many connections each tenant's door takes in.
#[derive(Debug)]
pub(crate) struct Places {
    per_tenant: usize,
}

/// The places of one tenant.
#[derive(Debug, Clone)]
pub(crate) struct TenantPlaces {
    inside: Arc<Semaphore>,
}

/// A connection that was taken in. Another one may be when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    _inside: OwnedSemaphorePermit,
}

impl Places {
    /// For tenants that may have so many sessions.
    pub(crate) fn new(per_tenant: u32) -> Self {
        Self { per_tenant: usize::try_from(per_tenant.max(1)).unwrap_or(usize::MAX) }
    }

    pub(crate) fn of_tenant(&self) -> TenantPlaces {
        let count = self.per_tenant.saturating_mul(2).min(Semaphore::MAX_PERMITS);
        TenantPlaces { inside: Arc::new(Semaphore::new(count)) }
    }
}

impl TenantPlaces {
    /// Waits until one more connection may be taken in.
    pub(crate) async fn enter(&self) -> Ticket {
        let inside = Arc::clone(&self.inside).acquire_owned().await.expect("nothing closes it");
        Ticket { _inside: inside }
    }

    /// The same at once, or not.
    pub(crate) fn try_enter(&self) -> Option<Ticket> {
        let inside = Arc::clone(&self.inside).try_acquire_owned().ok()?;
        Some(Ticket { _inside: inside })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_many_wait_as_may_go_on() {
        let places = Places::new(1);
        let (crowd, other) = (places.of_tenant(), places.of_tenant());
        let (first, _second) = (crowd.enter().await, crowd.enter().await);
        assert!(crowd.try_enter().is_none() && other.try_enter().is_some());
        drop(first);
        assert!(crowd.try_enter().is_some());
    }
}
