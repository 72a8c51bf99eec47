//! This host's own: its addresses, as the kernel has them now, and the connections that the proxy itself made.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;

/// How old the list may be. An address that was added becomes unreachable for tenants this much later.
const FRESH: Duration = Duration::from_secs(2);

/// A list that is asked for by every session and read from the kernel now and then.
#[derive(Debug, Default)]
pub struct OwnAddresses {
    cached: Mutex<Option<(Instant, Arc<HashSet<IpAddr>>)>>,
}

impl OwnAddresses {
    /// The addresses of all interfaces.
    pub fn now(&self) -> Arc<HashSet<IpAddr>> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((read, addresses)) if read.elapsed() < FRESH => Arc::clone(addresses),
            old => {
                let fresh = match interface_addresses() {
                    Ok(addresses) => Arc::new(addresses),
                    Err(error) => {
                        tracing::warn!(%error, "cannot list this host's addresses");
                        old.as_ref().map(|(_, addresses)| Arc::clone(addresses)).unwrap_or_default()
                    }
                };
                *cached = Some((Instant::now(), Arc::clone(&fresh)));
                fresh
            }
        }
    }
}

fn interface_addresses() -> nix::Result<HashSet<IpAddr>> {
    let addresses = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.collect())
}

/// Where the proxy's connections to MXs come from, while there are any: a door that meets one of them was given it by mistake.
#[derive(Debug, Default)]
pub struct OwnLegs(Arc<Legs>);

type Legs = Mutex<HashSet<SocketAddr>>;

/// One of them, until dropped.
#[derive(Debug)]
pub struct OwnLeg(Box<(Arc<Legs>, SocketAddr)>);

impl OwnLegs {
    /// Has `connect` begin `socket`'s connection. Its port is chosen there, and nobody is told of the others meanwhile: who accepts it finds it here.
    pub(crate) fn begin(&self, socket: &Socket, connect: impl FnOnce() -> io::Result<()>) -> io::Result<OwnLeg> {
        let mut legs = lock(&self.0);
        connect()?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        legs.insert(address);
        Ok(OwnLeg(Box::new((Arc::clone(&self.0), address))))
    }

    /// Whether `peer` is one of them.
    pub(crate) fn has(&self, peer: SocketAddr) -> bool {
        lock(&self.0).contains(&SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    }
}

fn lock(legs: &Legs) -> MutexGuard<'_, HashSet<SocketAddr>> {
    legs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for OwnLeg {
    fn drop(&mut self) {
        let (legs, address) = &*self.0;
        lock(legs).remove(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours() {
        let own = OwnAddresses::default().now();
        // A network namespace whose loopback is down has no addresses at all.
        assert!(own.is_empty() || own.contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
