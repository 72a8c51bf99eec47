//! This host's own: its addresses, as the kernel has them now, and the connections that the proxy itself made.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
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

#[derive(Debug, Default)]
struct Legs {
    /// Nobody outside can choose what has the same number as something else.
    numbers: RandomState,
    known: Mutex<Known>,
    /// Held by all who connect, together: who has to know what became of that holds it alone for a moment.
    connecting: RwLock<()>,
}

/// From where and to which MX, and how often: the last that had these ends may not be dropped yet. A connection that is being made has port 0. Every session
/// has one, so both ends are a number of 64 bits: that another connection has the same will not happen.
type Known = HashMap<u64, u32>;

/// One of them, until dropped.
#[derive(Debug)]
pub struct OwnLeg {
    legs: Arc<Legs>,
    ends: u64,
}

impl OwnLegs {
    /// Has `connect` begin `socket`'s connection from `egress` to the MX `to`. Its port is chosen there; who accepts it finds it here all the same.
    pub(crate) fn begin(
        &self,
        socket: &Socket,
        egress: IpAddr,
        to: SocketAddr,
        connect: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<OwnLeg> {
        let _connecting = self.0.connecting.read().unwrap_or_else(PoisonError::into_inner);
        let _portless = self.0.add(SocketAddr::new(egress, 0), to);
        connect()?;
        let from = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(self.0.add(from, to))
    }

    /// Whether the connection from `from` to `to` is one of them.
    pub(crate) fn has(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let (ends, portless) = (self.0.number(from, to), self.0.number(SocketAddr::new(from.ip(), 0), to));
        let known = self.0.known();
        if known.contains_key(&ends) || !known.contains_key(&portless) {
            return known.contains_key(&ends);
        }
        drop(known);
        drop(self.0.connecting.write().unwrap_or_else(PoisonError::into_inner));
        self.0.known().contains_key(&ends)
    }
}

impl Legs {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, from: SocketAddr, to: SocketAddr) -> OwnLeg {
        let ends = self.number(from, to);
        *self.known().entry(ends).or_default() += 1;
        OwnLeg { legs: Arc::clone(self), ends }
    }

    /// Of both ends of a connection, the same whichever socket they were read from.
    fn number(&self, from: SocketAddr, to: SocketAddr) -> u64 {
        self.numbers.hash_one([from, to].map(|end| (end.ip().to_canonical(), end.port())))
    }
}

impl Drop for OwnLeg {
    fn drop(&mut self) {
        let mut known = self.legs.known();
        if let Some(count) = known.get_mut(&self.ends) {
            *count -= 1;
            if *count == 0 {
                known.remove(&self.ends);
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
        let begin = |to| legs.begin(&socket, from.ip(), to, || Ok(())).unwrap();
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
        assert!(legs.0.known().is_empty());
    }

    #[test]
    fn a_leg_that_is_being_made_is_waited_for() {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let from = socket.local_addr().unwrap().as_socket().unwrap();
        let to = SocketAddr::from(([198, 51, 100, 1], 25));
        let legs = OwnLegs::default();
        // Kept until the asker has its answer.
        let leg = std::thread::scope(|scope| {
            let (asks, asked) = std::sync::mpsc::channel();
            let leg = legs.begin(&socket, from.ip(), to, || {
                let other = SocketAddr::from(([127, 0, 0, 9], from.port()));
                assert!(!legs.has(other, to), "from elsewhere it cannot be");
                let legs = &legs;
                let has = scope.spawn(move || {
                    asks.send(()).unwrap();
                    assert!(legs.has(from, to));
                });
                asked.recv().unwrap();
                assert!(!has.is_finished(), "it does not know yet");
                Ok(())
            });
            assert!(leg.is_ok());
            assert_eq!(legs.0.known().len(), 1, "the portless is gone");
            leg
        });
        drop(leg);
    }
}
