//! The addresses of this host, as the kernel has them now.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
