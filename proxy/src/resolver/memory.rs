//! Which recipient domain a host was named for, in one cell. Pure: time comes in.
//!
//! The MSA asks for a domain's MX, then for the host's addresses; the proxy sees only an address dialled. Both orders count: an MSA with a
//! cache asks for the MX of a second domain and dials the address that it knows from the first.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

/// Hosts remembered per cell. An MSA delivers to some hundred domains at a time.
pub const MAX_HOSTS: usize = 1024;
/// Domains remembered per host; the latest count. As many as the proxy remembers of an address: with fewer it would not know that there were more.
pub const MAX_DOMAINS: usize = crate::names::MAX_PER_ADDRESS;
/// Addresses remembered per host.
pub const MAX_ADDRESSES: usize = 16;
/// Longer than TTLs: an MSA keeps what it resolved while it works through the queue.
pub const KEEP: Duration = Duration::from_secs(3600);

/// What one cell has asked.
#[derive(Debug, Default)]
pub struct Memory {
    hosts: HashMap<String, Host>,
}

#[derive(Debug)]
struct Host {
    /// And whether the MX records that named the host were validated.
    domains: VecDeque<(String, bool)>,
    addresses: VecDeque<Given>,
    used: Instant,
}

/// An address that was given out.
#[derive(Debug, Clone, Copy)]
struct Given {
    address: IpAddr,
    ttl_s: u32,
    secure: bool,
}

/// That `address` now stands for `host`, asked for because of `domain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The recipient domain, if its MX was asked for.
    pub domain: Option<String>,
    /// The host.
    pub host: String,
    /// Its address.
    pub address: IpAddr,
    /// Time to live of the address.
    pub ttl_s: u32,
    /// The address and, if there is a domain, its MX records were validated by DNSSEC.
    pub secure: bool,
}

impl Memory {
    /// Whether a domain that was asked for named this host. The asker did not make the name up, then.
    #[must_use]
    pub fn named(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|host| !host.domains.is_empty())
    }

    /// `domain` has these MX hosts, validated or not; without any it is its own (RFC 5321, section 5.1). What follows is what addresses given out
    /// earlier stand for from now on.
    pub fn exchangers(&mut self, domain: &str, hosts: &[String], secure: bool, now: Instant) -> Vec<Link> {
        let own = [domain.to_owned()];
        let hosts = if hosts.is_empty() { &own[..] } else { hosts };
        let mut links = Vec::new();
        for name in hosts {
            let host = self.host(name, now);
            host.domains.retain(|(known, _)| known != domain);
            host.domains.push_front((domain.to_owned(), secure));
            host.domains.truncate(MAX_DOMAINS);
            links.extend(host.addresses.iter().map(|given| Link {
                domain: Some(domain.to_owned()),
                host: name.clone(),
                address: given.address,
                ttl_s: given.ttl_s,
                secure: secure && given.secure,
            }));
        }
        links
    }

    /// `host` has these addresses, validated or not. What follows is what they stand for: the latest domain last, so that it counts most.
    pub fn addresses(&mut self, name: &str, addresses: &[(IpAddr, u32)], secure: bool, now: Instant) -> Vec<Link> {
        let host = self.host(name, now);
        let mut links = Vec::new();
        for &(address, ttl_s) in addresses.iter().take(MAX_ADDRESSES) {
            host.addresses.retain(|known| known.address != address);
            host.addresses.push_front(Given { address, ttl_s, secure });
            let link = |domain: Option<&String>, secure| Link {
                domain: domain.cloned(),
                host: name.to_owned(),
                address,
                ttl_s,
                secure,
            };
            if host.domains.is_empty() {
                links.push(link(None, secure));
            }
            let domains = host.domains.iter().rev();
            links.extend(domains.map(|(domain, named_securely)| link(Some(domain), secure && *named_securely)));
        }
        host.addresses.truncate(MAX_ADDRESSES);
        links
    }

    fn host(&mut self, name: &str, now: Instant) -> &mut Host {
        if self.hosts.len() >= MAX_HOSTS && !self.hosts.contains_key(name) {
            self.hosts.retain(|_, host| now.saturating_duration_since(host.used) < KEEP);
            if self.hosts.len() >= MAX_HOSTS {
                // A tenant that asks for so many crowds out its own.
                let oldest = self.hosts.iter().min_by_key(|(_, host)| host.used).map(|(name, _)| name.clone());
                oldest.map(|name| self.hosts.remove(&name));
            }
        }
        let fresh = || Host { domains: VecDeque::new(), addresses: VecDeque::new(), used: now };
        let host = self.hosts.entry(name.to_owned()).or_insert_with(fresh);
        if now.saturating_duration_since(host.used) >= KEEP {
            *host = fresh();
        }
        host.used = now;
        host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn told(links: &[Link]) -> Vec<(Option<&str>, &str, IpAddr)> {
        links.iter().map(|link| (link.domain.as_deref(), &*link.host, link.address)).collect()
    }

    #[test]
    fn an_address_stands_for_the_domains_of_its_host() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        assert!(memory.exchangers("a.example", &["mx.example".into()], true, now).is_empty());
        assert!(memory.exchangers("b.example", &["mx.example".into()], false, now).is_empty());
        let links = memory.addresses("mx.example", &[(ip(1), 60)], true, now);
        assert_eq!(told(&links), [(Some("a.example"), "mx.example", ip(1)), (Some("b.example"), "mx.example", ip(1))]);
    }

    #[test]
    fn secure_is_what_is_secure_all_the_way() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let secure = |links: Vec<Link>| links.iter().map(|link| link.secure).collect::<Vec<_>>();
        memory.exchangers("signed.example", &["mx.example".into()], true, now);
        memory.exchangers("not.example", &["mx.example".into()], false, now);
        assert_eq!(secure(memory.addresses("mx.example", &[(ip(1), 60)], true, now)), [true, false]);
        assert_eq!(secure(memory.addresses("mx.example", &[(ip(2), 60)], false, now)), [false, false]);
        // Addresses given out before: the second of them was not.
        let later = memory.exchangers("late.example", &["mx.example".into()], true, now);
        assert_eq!(secure(later), [false, true]);
        assert!(memory.named("mx.example") && !memory.named("www.example"));
    }

    #[test]
    fn a_later_domain_claims_addresses_given_out_before() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.addresses("mx.example", &[(ip(1), 60)], true, now);
        let links = memory.exchangers("c.example", &["mx.example".into()], true, now);
        assert_eq!(told(&links), [(Some("c.example"), "mx.example", ip(1))]);
    }

    #[test]
    fn a_domain_without_mx_is_its_own_host() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.exchangers("bare.example", &[], false, now);
        let links = memory.addresses("bare.example", &[(ip(9), 60)], true, now);
        assert_eq!(told(&links), [(Some("bare.example"), "bare.example", ip(9))]);
    }

    #[test]
    fn a_host_nobody_named_has_no_domain() {
        let links = Memory::default().addresses("www.example", &[(ip(3), 60)], true, Instant::now());
        assert_eq!(told(&links), [(None, "www.example", ip(3))]);
    }

    #[test]
    fn everything_is_bounded_and_ends() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        for n in 0..2 * MAX_HOSTS {
            let now = start + Duration::from_micros(n as u64);
            memory.exchangers(&format!("d{n}.example"), &["mx.example".into(), format!("mx{n}.example")], true, now);
        }
        assert_eq!(memory.hosts.len(), MAX_HOSTS);
        assert_eq!(memory.hosts["mx.example"].domains.len(), MAX_DOMAINS);
        let many: Vec<_> = (0..=255).map(|n| (ip(n), 60)).collect();
        assert_eq!(
            memory.addresses("mx.example", &many, true, start + Duration::from_secs(1)).len(),
            MAX_ADDRESSES * MAX_DOMAINS
        );
        let later = start + KEEP + Duration::from_secs(2);
        assert_eq!(told(&memory.addresses("mx.example", &[(ip(1), 60)], true, later)), [(None, "mx.example", ip(1))]);
    }
}
