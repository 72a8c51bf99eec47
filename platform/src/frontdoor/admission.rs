//! How many sessions there may be: in all, of one address, and of strangers.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions at once.
    pub sessions: usize,
    /// Of one address.
    pub per_address: usize,
}

impl Bounds {
    /// Sessions that have not authenticated: half, so that strangers cannot take every place.
    pub fn strangers(&self) -> usize {
        self.sessions.div_ceil(2)
    }
}

/// Why a client is turned away: `421 4.7.0`, or `421 4.3.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its address has too many sessions.
    #[error("too many connections from your address")]
    Address,
    /// There are too many sessions.
    #[error("too many connections")]
    Full,
}

#[derive(Debug, Default)]
struct Counts {
    sessions: usize,
    strangers: usize,
    addresses: HashMap<IpAddr, usize>,
}

/// Counts sessions.
#[derive(Debug, Clone)]
pub struct Admission {
    bounds: Bounds,
    counts: Arc<Mutex<Counts>>,
}

/// A session's place, free again when dropped.
#[derive(Debug)]
pub struct Place {
    admission: Admission,
    address: IpAddr,
    stranger: bool,
}

impl Admission {
    /// Nobody is there.
    pub fn new(bounds: Bounds) -> Admission {
        Admission { bounds, counts: Arc::default() }
    }

    /// A place for a stranger from this address.
    pub fn admit(&self, address: IpAddr) -> Result<Place, Refused> {
        let address = address.to_canonical();
        let mut counts = self.lock();
        if counts.sessions >= self.bounds.sessions || counts.strangers >= self.bounds.strangers() {
            return Err(Refused::Full);
        }
        let of_address = counts.addresses.entry(address).or_default();
        if *of_address >= self.bounds.per_address {
            return Err(Refused::Address);
        }
        *of_address += 1;
        counts.sessions += 1;
        counts.strangers += 1;
        Ok(Place { admission: self.clone(), address, stranger: true })
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.lock().sessions
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Only counters are changed under the lock, and nothing there can panic.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Its client is no longer a stranger.
    pub fn known(&mut self) {
        if std::mem::take(&mut self.stranger) {
            self.admission.lock().strangers -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.known();
        let mut counts = self.admission.lock();
        counts.sessions -= 1;
        if let Some(of_address) = counts.addresses.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.addresses.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let admission = Admission::new(Bounds { sessions: 6, per_address: 2 });
        let mut a = admission.admit(address(1)).unwrap();
        let _b = admission.admit(address(1)).unwrap();
        assert_eq!(admission.admit(address(1)).unwrap_err(), Refused::Address);
        let c = admission.admit(address(2)).unwrap();
        assert_eq!(admission.admit(address(3)).unwrap_err(), Refused::Full);
        a.known();
        let _d = admission.admit(address(3)).unwrap();
        assert_eq!(admission.sessions(), 4);
        drop((a, c));
        assert_eq!(admission.sessions(), 2);
        admission.admit(address(1)).unwrap();
    }
}
