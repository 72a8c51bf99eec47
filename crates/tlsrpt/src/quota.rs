//! How many reports an address gets in a day. Pure.
//!
//! RFC 8460 has nobody asked whether he wants reports about other domains: whoever publishes a record sends them to whom he likes, and whoever publishes thousands
//! of records floods him (§7). So reports to an address that is none of the domain's own are counted, by address and by its domain, for each UTC
//! day on which they are sent. An address at the reported domain, or below it, is its own affair.

use std::collections::{BTreeMap, HashMap};

/// Most reports that one address gets in a day about other domains than its own.
pub const MAX_TO_ADDRESS: u32 = 100;
/// Most that all addresses of one domain get: who reads reports for many domains has an address for each, perhaps.
pub const MAX_TO_DOMAIN: u32 = 1_000;

/// One day's count.
#[derive(Debug, Default)]
pub struct Quota {
    addresses: HashMap<String, u32>,
    domains: HashMap<String, u32>,
    full: BTreeMap<String, u64>,
}

impl Quota {
    /// After these reports were sent today: each a domain and an address.
    pub fn after<'a>(sent: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut quota = Self::default();
        for (domain, address) in sent {
            quota.count(domain, address);
        }
        quota
    }

    /// Those of `to` that may have one more, the report about `domain`; they are counted. The others are remembered as full.
    pub fn admit(&mut self, domain: &str, mut to: Vec<String>) -> Vec<String> {
        to.retain(|address| {
            let room = self.room(domain, address);
            if room {
                self.count(domain, address);
            } else {
                *self.full.entry(address.to_ascii_lowercase()).or_default() += 1;
            }
            room
        });
        to
    }

    /// Addresses that had no room, and how many reports they did not get.
    pub fn full(&self) -> impl Iterator<Item = (&str, u64)> {
        self.full.iter().map(|(address, reports)| (address.as_str(), *reports))
    }

    fn room(&self, domain: &str, address: &str) -> bool {
        let Some((address, whose)) = foreign(domain, address) else { return true };
        let less =
            |counted: &HashMap<String, u32>, name: &str, most| counted.get(name).is_none_or(|count| *count < most);
        less(&self.addresses, &address, MAX_TO_ADDRESS) && less(&self.domains, &whose, MAX_TO_DOMAIN)
    }

    fn count(&mut self, domain: &str, address: &str) {
        if let Some((address, whose)) = foreign(domain, address) {
            *self.addresses.entry(address).or_default() += 1;
            *self.domains.entry(whose).or_default() += 1;
        }
    }
}

/// An address and its domain, if that is neither the reported one nor below it. A parent is not the same owner: many share one.
fn foreign(domain: &str, address: &str) -> Option<(String, String)> {
    let (address, domain) = (address.to_ascii_lowercase(), domain.to_ascii_lowercase());
    let whose = address.rsplit_once('@').map_or(address.as_str(), |(_, whose)| whose).to_owned();
    let own = whose.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    (!own).then_some((address, whose))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(address: &str) -> Vec<String> {
        vec![address.to_owned()]
    }

    #[test]
    fn domains_without_end_send_one_address_only_so_much() {
        let before: Vec<String> = (0..10).map(|n| format!("before{n}.example")).collect();
        let mut quota = Quota::after(before.iter().map(|domain| (domain.as_str(), "victim@bank.example")));
        let mut got = 0;
        for n in 0..5_000 {
            let spelt = if n % 2 == 0 { "victim@bank.example" } else { "Victim@BANK.example" };
            got += quota.admit(&format!("d{n}.hostile.example"), to(spelt)).len();
        }
        assert_eq!(got, MAX_TO_ADDRESS as usize - 10);
        assert_eq!(quota.full().collect::<Vec<_>>(), [("victim@bank.example", 5_000 - got as u64)]);
        assert_eq!(
            quota.admit("x.example", vec!["victim@bank.example".into(), "a@other.example".into()]),
            ["a@other.example"]
        );
    }

    #[test]
    fn nor_does_one_domain_get_more_at_many_addresses() {
        let mut quota = Quota::default();
        let all = (0..5_000).map(|n| quota.admit(&format!("d{n}.example"), to(&format!("a{n}@bank.example"))).len());
        assert_eq!(all.sum::<usize>(), MAX_TO_DOMAIN as usize);
    }

    #[test]
    fn a_domains_own_address_is_its_own_affair() {
        let mut quota = Quota::default();
        for n in 0..5_000 {
            let domain = format!("d{n}.example");
            for own in [format!("a@{domain}"), format!("a@reports.{domain}")] {
                assert_eq!(quota.admit(&domain, to(&own)).len(), 1, "{own}");
            }
        }
        for foreign in ["a@example", "a@xd1.example", "a@d1.example.org"] {
            assert!(super::foreign("d1.example", foreign).is_some(), "{foreign}");
        }
    }
}
