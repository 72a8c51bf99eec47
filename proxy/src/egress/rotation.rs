//! Which of the node's addresses a session leaves from: pure, with the time passed in.
//!
//! Round robin over the configured addresses of the destination's family. An address that could not be bound (it is not
//! on this host, its ports are used up) rests for a while. The decision is a value that is stored with the leg, so that
//! "why this address?" has an answer later.

use std::net::IpAddr;
use std::time::Instant;

use serde::Serialize;

use super::{EgressAddr, UNBOUND as REST};

/// What was chosen, among what, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The address to bind.
    pub egress: EgressAddr,
    /// The rule that decided.
    pub rule: &'static str,
    /// Every address that was looked at, in the order of the round.
    pub candidates: Vec<Candidate>,
}

/// One address that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The address.
    pub address: EgressAddr,
    /// Why it was taken or passed over.
    pub why: &'static str,
}

/// No address can serve the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no egress address for {}", if *.ipv6 { "IPv6" } else { "IPv4" })]
pub struct NoEgress {
    ipv6: bool,
}

/// The addresses and where the round stands.
#[derive(Debug, Default)]
pub struct Rotation {
    addresses: Vec<Member>,
    next: [usize; 2],
}

#[derive(Debug)]
struct Member {
    address: EgressAddr,
    rests_until: Option<Instant>,
}

impl Rotation {
    /// A rotation over `addresses`, in that order.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let member = |ip: IpAddr| Member { address: EgressAddr(ip.to_canonical()), rests_until: None };
        Rotation { addresses: addresses.into_iter().map(member).collect(), next: [0, 0] }
    }

    /// Takes over a changed list of addresses; those that stay keep their state.
    pub fn reload(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut fresh = Rotation::new(addresses);
        for member in &mut fresh.addresses {
            let known = self.addresses.iter().find(|old| old.address == member.address);
            member.rests_until = known.and_then(|old| old.rests_until);
        }
        fresh.next = self.next;
        *self = fresh;
    }

    /// Chooses the address for a dial to `to`. When all of them rest, the one whose turn it is goes ahead: trying costs
    /// little, refusing costs the tenant a retry.
    pub fn choose(&mut self, to: IpAddr, now: Instant) -> Result<Decision, NoEgress> {
        let ipv6 = to.is_ipv6();
        let family: Vec<&Member> = self.addresses.iter().filter(|m| m.address.0.is_ipv6() == ipv6).collect();
        if family.is_empty() {
            return Err(NoEgress { ipv6 });
        }
        let turn = &mut self.next[usize::from(ipv6)];
        let start = *turn % family.len();
        let mut candidates = Vec::new();
        let mut chosen = None;
        for step in 0..family.len() {
            let member = family[(start + step) % family.len()];
            if member.rests_until.is_some_and(|until| until > now) {
                candidates.push(Candidate { address: member.address, why: "rests: could not be bound" });
                continue;
            }
            candidates.push(Candidate { address: member.address, why: "next in the round" });
            chosen = Some((member.address, step));
            break;
        }
        let (egress, step) = chosen.unwrap_or((family[start].address, 0));
        *turn = (start + step + 1) % family.len();
        Ok(Decision { egress, rule: "round-robin", candidates })
    }

    /// Notes that `address` could not be bound.
    pub fn failed(&mut self, address: EgressAddr, now: Instant) {
        for member in self.addresses.iter_mut().filter(|m| m.address == address) {
            member.rests_until = Some(now + REST);
        }
    }

    /// The configured addresses.
    pub fn addresses(&self) -> impl Iterator<Item = EgressAddr> + '_ {
        self.addresses.iter().map(|member| member.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn chosen(rotation: &mut Rotation, to: &str, now: Instant) -> String {
        rotation.choose(ip(to), now).unwrap().egress.0.to_string()
    }

    #[test]
    fn takes_turns_within_a_family() {
        let now = Instant::now();
        let mut rotation = Rotation::new(["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"].map(ip));
        let v4: Vec<_> = (0..3).map(|_| chosen(&mut rotation, "9.9.9.9", now)).collect();
        assert_eq!(v4, ["192.0.2.1", "192.0.2.2", "192.0.2.1"]);
        let v6: Vec<_> = (0..3).map(|_| chosen(&mut rotation, "2606::1", now)).collect();
        assert_eq!(v6, ["2001:db8::1", "2001:db8::2", "2001:db8::1"]);
    }

    #[test]
    fn an_address_that_cannot_be_bound_rests() {
        let now = Instant::now();
        let mut rotation = Rotation::new(["192.0.2.1", "192.0.2.2"].map(ip));
        rotation.failed(EgressAddr(ip("192.0.2.1")), now);
        for _ in 0..3 {
            assert_eq!(chosen(&mut rotation, "9.9.9.9", now), "192.0.2.2");
        }
        let decision = rotation.choose(ip("9.9.9.9"), now).unwrap();
        assert_eq!(decision.candidates[0].why, "rests: could not be bound");
        let later: std::collections::HashSet<String> =
            (0..2).map(|_| chosen(&mut rotation, "9.9.9.9", now + REST)).collect();
        assert_eq!(later.len(), 2);
    }

    #[test]
    fn when_all_rest_the_next_is_tried() {
        let now = Instant::now();
        let mut rotation = Rotation::new([ip("192.0.2.1")]);
        rotation.failed(EgressAddr(ip("192.0.2.1")), now);
        assert_eq!(chosen(&mut rotation, "9.9.9.9", now), "192.0.2.1");
    }

    #[test]
    fn a_family_without_address_is_said_so() {
        let mut rotation = Rotation::new([ip("192.0.2.1")]);
        let error = rotation.choose(ip("2606::1"), Instant::now()).unwrap_err();
        assert_eq!(error.to_string(), "no egress address for IPv6");
    }

    #[test]
    fn a_reload_keeps_what_stays() {
        let now = Instant::now();
        let mut rotation = Rotation::new(["192.0.2.1", "192.0.2.2"].map(ip));
        rotation.failed(EgressAddr(ip("192.0.2.2")), now);
        rotation.reload(["192.0.2.2", "192.0.2.3"].map(ip));
        assert_eq!(chosen(&mut rotation, "9.9.9.9", now), "192.0.2.3");
    }
}
