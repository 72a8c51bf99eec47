//! Where the proxy dials, and where it never does.
//!
//! A tenant may put any address it likes into its DNS, so the address that is *about to be dialled* is judged, in every
//! form it can take, at the moment of dialling:
//!
//! ```text
//!   v4-mapped ──▶ IPv4 ──┐                                     ┌─ allowed network (a lab)         ─▶ dial
//!   NAT64, 6to4 ─▶ inner ├─▶ own receiver? own? special-purpose? ┤
//!   IPv6 ────────────────┘                                     └─ global unicast, port 25        ─▶ dial
//! ```
//!
//! [`Reach::judge`] is pure: what the node's own addresses are is told to it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use warren_config::Network;

/// The only port that MX hosts listen on.
pub const SMTP_PORT: u16 = 25;

/// Why an address is not dialled. The text goes into the log and the session record; the MSA learns as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not the port of an MX, or of whatever else is dialled.
    #[error("port {0} is not that of the service")]
    Port(u16),
    /// Loopback, private, link-local, multicast, documentation, reserved …
    #[error("special-purpose address ({0})")]
    Special(&'static str),
    /// The node itself, where it is not its receiver.
    #[error("address of this node")]
    Own,
    /// The proxy's own listener: the connection was not redirected, or redirected twice.
    #[error("the proxy itself")]
    Loop,
}

/// What may be dialled, beyond the public internet's port 25.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Networks that are dialled although they are special, on any port: a lab, an internal relay.
    pub allow: Vec<Network>,
    /// Where this node's receiver listens, so that its tenants can write to each other.
    pub receiver: HashSet<IpAddr>,
    /// The proxy's own listeners (standalone doors).
    pub listeners: HashSet<SocketAddr>,
}

impl Reach {
    /// The canonical address to dial for `to`, an MX, or why not. `own` are the addresses of this host's interfaces.
    pub fn judge(&self, to: SocketAddr, own: &HashSet<IpAddr>) -> Result<SocketAddr, Refused> {
        self.judge_on(SMTP_PORT, to, own)
    }

    /// The same for another service than mail, whose port is `port`. The node's receiver is none.
    pub fn judge_on(&self, port: u16, to: SocketAddr, own: &HashSet<IpAddr>) -> Result<SocketAddr, Refused> {
        let canonical = SocketAddr::new(to.ip().to_canonical(), to.port());
        if self.listens(canonical) {
            return Err(Refused::Loop);
        }
        // What a translator on the way would make of it counts as much as the address itself.
        let inner = embedded(canonical.ip());
        for ip in [Some(canonical.ip()), inner].into_iter().flatten() {
            if port == SMTP_PORT && canonical.port() == port && self.receiver.contains(&ip) {
                continue;
            }
            if self.allow.iter().any(|network| network.contains(ip)) {
                // An allowed network says nothing about reaching the node's other services in it.
                if own.contains(&ip) && !ip.is_loopback() {
                    return Err(Refused::Own);
                }
                continue;
            }
            if own.contains(&ip) {
                return Err(Refused::Own);
            }
            if let Some(range) = special(ip) {
                return Err(Refused::Special(range));
            }
            if canonical.port() != port {
                return Err(Refused::Port(canonical.port()));
            }
        }
        Ok(canonical)
    }

    fn listens(&self, to: SocketAddr) -> bool {
        self.listeners.contains(&to)
    }
}

/// The IPv4 address that a translator or tunnel would take out of an IPv6 address.
fn embedded(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    let bits = u128::from(ip);
    let segments = ip.segments();
    // 64:ff9b::/96 (RFC 6052) carries it at the end, 2002::/16 (RFC 3056) right behind the prefix.
    let inner = if bits >> 32 == 0x0064_ff9b_0000_0000_0000_0000 {
        Ipv4Addr::from(bits as u32)
    } else if segments[0] == 0x2002 {
        Ipv4Addr::from((bits >> 80) as u32)
    } else {
        return None;
    };
    Some(IpAddr::V4(inner))
}

/// The name of the special-purpose range (IANA registries of RFC 6890) that holds `ip`, if one does.
fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    Some(match ip.octets() {
        [0, ..] => "this network",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "private",
        [100, 64..=127, ..] => "carrier-grade NAT",
        [127, ..] => "loopback",
        [169, 254, ..] => "link-local",
        [192, 0, 0, _] => "protocol assignments",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "documentation",
        [192, 31, 196, _] | [192, 175, 48, _] => "AS112",
        [192, 52, 193, _] => "AMT",
        [192, 88, 99, _] => "6to4 relay",
        [198, 18..=19, ..] => "benchmarking",
        [224..=239, ..] => "multicast",
        [255, 255, 255, 255] => "broadcast",
        [240..=255, ..] => "reserved",
        _ => return None,
    })
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let s = ip.segments();
    Some(match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        // Judged by what is inside: see `embedded`.
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => return None,
        [0x64, 0xff9b, ..] => "local NAT64",
        [0x100, 0, 0, 0, ..] => "discard",
        [0x2001, 0, ..] => "Teredo",
        [0x2001, 0x0001..=0x01ff, ..] => "protocol assignments",
        [0x2001, 0xdb8, ..] => "documentation",
        [0x3fff, 0x0000..=0x0fff, ..] => "documentation",
        [0x2620, 0x4f, 0x8000, ..] => "AS112",
        [0x2000..=0x3fff, ..] => return None,
        [0xfc00..=0xfdff, ..] => "unique local",
        [0xfe80..=0xfebf, ..] => "link-local",
        [0xfec0..=0xfeff, ..] => "site-local",
        [0xff00..=0xffff, ..] => "multicast",
        [0x5f00, ..] => "segment routing",
        // Only 2000::/3 is global unicast.
        _ => "reserved",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(to: &str) -> Result<SocketAddr, Refused> {
        Reach::default().judge(SocketAddr::new(to.parse().unwrap(), 25), &HashSet::new())
    }

    #[test]
    fn both_ends_of_every_special_range_are_refused() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.31.196.0", "192.31.196.255"),
            ("192.52.193.0", "192.52.193.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("192.175.48.0", "192.175.48.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "239.255.255.255"),
            ("240.0.0.0", "255.255.255.255"),
            ("::", "::1"),
            ("::127.0.0.1", "::10.0.0.1"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
            ("100::", "100::ffff:ffff:ffff:ffff"),
            ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("4000::", "5f00::1"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            for edge in [first, last] {
                assert!(matches!(judge(edge), Err(Refused::Special(_))), "{edge} must not be dialled");
            }
        }
    }

    #[test]
    fn neighbours_of_special_ranges_are_dialled() {
        for to in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:db7::1",
            "2001:db9::1",
            "2607:f8b0::1",
            "3ffe::1",
        ] {
            assert_eq!(judge(to).map(|a| a.ip().to_string()), Ok(to.to_owned()));
        }
    }

    #[test]
    fn an_ipv4_address_inside_an_ipv6_address_is_judged() {
        for to in [
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:101::",
            "2001:0:7f00:1::",
        ] {
            assert!(judge(to).is_err(), "{to} must not be dialled");
        }
        assert_eq!(judge("::ffff:9.9.9.9"), Ok("9.9.9.9:25".parse().unwrap()), "dialled as what it is");
        assert!(judge("64:ff9b::9.9.9.9").is_ok());
        assert!(judge("2002:909:909::1").is_ok());
    }

    #[test]
    fn only_port_25() {
        let reach = Reach::default();
        assert_eq!(reach.judge("9.9.9.9:587".parse().unwrap(), &HashSet::new()), Err(Refused::Port(587)));
    }

    #[test]
    fn another_service_is_judged_on_its_own_port() {
        let node = "9.9.9.10".parse().unwrap();
        let reach = Reach { receiver: HashSet::from([node]), ..Reach::default() };
        let judge = |to: &str| reach.judge_on(443, to.parse().unwrap(), &HashSet::from([node]));
        assert_eq!(judge("[::ffff:9.9.9.9]:443"), Ok("9.9.9.9:443".parse().unwrap()));
        assert_eq!(judge("9.9.9.9:25"), Err(Refused::Port(25)));
        assert_eq!(judge("9.9.9.10:443"), Err(Refused::Own), "the receiver takes mail and nothing else");
        assert!(matches!(judge("10.0.0.1:443"), Err(Refused::Special(_))));
    }

    #[test]
    fn allowed_networks_are_dialled_but_not_the_node_in_them() {
        let reach = Reach {
            allow: vec![
                "198.51.100.0/24".parse().unwrap(),
                "127.0.0.0/8".parse().unwrap(),
                "fd00:1::/32".parse().unwrap(),
            ],
            receiver: HashSet::from(["198.51.100.10".parse().unwrap()]),
            listeners: HashSet::from(["127.0.0.1:2525".parse().unwrap()]),
        };
        let own = HashSet::from([
            "198.51.100.10".parse().unwrap(),
            "198.51.100.11".parse().unwrap(),
            "127.0.0.1".parse().unwrap(),
        ]);
        let judge = |to: &str| reach.judge(to.parse().unwrap(), &own);
        assert!(judge("198.51.100.77:25").is_ok());
        assert!(judge("[::ffff:198.51.100.77]:25").is_ok());
        assert!(judge("127.0.0.1:40123").is_ok());
        assert!(judge("[fd00:1::5]:25").is_ok());
        assert!(judge("198.51.100.10:25").is_ok(), "the receiver");
        assert_eq!(judge("198.51.100.10:587"), Err(Refused::Own));
        assert_eq!(judge("198.51.100.11:25"), Err(Refused::Own));
        assert_eq!(judge("127.0.0.1:2525"), Err(Refused::Loop));
        assert_eq!(judge("[::ffff:127.0.0.1]:2525"), Err(Refused::Loop));
        assert!(matches!(judge("[fd00:2::5]:25"), Err(Refused::Special(_))));
    }

    #[test]
    fn the_node_itself_is_its_receiver_or_nothing() {
        let reach = Reach { receiver: HashSet::from(["9.9.9.9".parse().unwrap()]), ..Reach::default() };
        let own = HashSet::from(["9.9.9.9".parse().unwrap(), "9.9.9.10".parse().unwrap()]);
        assert!(reach.judge("9.9.9.9:25".parse().unwrap(), &own).is_ok());
        assert_eq!(reach.judge("9.9.9.10:25".parse().unwrap(), &own), Err(Refused::Own));
        assert_eq!(reach.judge("[2002:909:90a::1]:25".parse().unwrap(), &own), Err(Refused::Own));
    }
}
