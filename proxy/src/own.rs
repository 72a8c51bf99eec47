//! This host's own: its addresses, as the kernel has them now, and the connections that the proxy itself made.

use std::collections::{HashMap, HashSet};
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

/// The proxy's connections to MXs, while there are any: a door that meets one of them was given it by mistake. The kernel gives one port to connections
/// with different destinations, an MTA's beside the proxy's, so that each is told by both its ends.
#[derive(Debug, Default)]
pub struct OwnLegs(Arc<Legs>);

/// From where and to which MX, and how often: the last that had these ends may not be dropped yet.
type Legs = Mutex<HashMap<Ends, usize>>;

type Ends = (SocketAddr, SocketAddr);

/// One of them, until dropped.
#[derive(Debug)]
pub struct OwnLeg(Box<(Arc<Legs>, Ends)>);

impl OwnLegs {
    /// Has `connect` begin `socket`'s connection to the MX `to`. Its port is chosen there, and nobody is told of the others meanwhile: who accepts it finds it here.
    pub(crate) fn begin(
        &self,
        socket: &Socket,
        to: SocketAddr,
        connect: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<OwnLeg> {
        let mut legs = lock(&self.0);
        connect()?;
        let from = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let ends = (plain(from), plain(to));
        *legs.entry(ends).or_default() += 1;
        Ok(OwnLeg(Box::new((Arc::clone(&self.0), ends))))
    }

    /// Whether the connection from `from` to `to` is one of them.
    pub(crate) fn has(&self, from: SocketAddr, to: SocketAddr) -> bool {
        lock(&self.0).contains_key(&(plain(from), plain(to)))
    }
}

/// The same whichever socket it was read from.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn lock(legs: &Legs) -> MutexGuard<'_, HashMap<Ends, usize>> {
    legs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for OwnLeg {
    fn drop(&mut self) {
        let (legs, ends) = &*self.0;
        let mut legs = lock(legs);
        if let Some(count) = legs.get_mut(ends) {
            *count -= 1;
            if *count == 0 {
                legs.remove(ends);
            }
        }
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

    #[test]
    fn a_leg_is_told_by_both_its_ends() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let from = socket.local_addr().unwrap().as_socket().unwrap();
        let [one, other, third] = [1, 2, 3].map(|last| SocketAddr::from(([198, 51, 100, last], 25)));
        let legs = OwnLegs::default();
        let begin = |to| legs.begin(&socket, to, || Ok(())).unwrap();
        let (first, again, second) = (begin(one), begin(one), begin(other));
        let has = || [one, other, third].map(|to| legs.has(from, to));
        assert_eq!(has(), [true, true, false]);
        let mapped = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), from.port());
        assert!(legs.has(mapped, one), "a door of both families");
        drop(first);
        assert_eq!(has(), [true, true, false], "one that was made since has the same ends");
        drop(again);
        assert_eq!(has(), [false, true, false]);
        drop(second);
        assert_eq!(has(), [false; 3]);
        assert!(lock(&legs.0).is_empty());
    }
}
