//! Who lives where: the addresses, names and domains of a lab.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::config::{Act, LabConfig, MtaKind, Persona, Record, RecordData, Step, When};
use crate::persona::catalogue;

/// The lab's name server, authoritative for everything.
pub const DNS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// A machine of somebody else.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);
/// The node's addresses: front door and receiver on the first, egress on all.
pub const NODE: [Ipv4Addr; 3] =
    [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11), Ipv4Addr::new(203, 0, 113, 12)];
/// Up, and nothing listens on it: connections are refused.
pub const CLOSED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 30);
/// Serves the MTA-STS policies of all domains that have one, over HTTPS.
pub const POLICIES: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 54);
/// The node's host name; its MX, its EHLO, the PTR of its first address.
pub const NODE_NAME: &str = "mail.warren.example";

/// The IPv6 address of whoever has this IPv4 address: the same last number, read as digits, in 2001:db8:51::/64, or for the node in
/// 2001:db8:113::/64. 198.51.100.31 is 2001:db8:51::31, too.
pub fn twin(address: Ipv4Addr) -> Ipv6Addr {
    let last = u16::from(address.octets()[3]);
    let network = if NODE.contains(&address) { 0x113 } else { 0x51 };
    let digits = last / 100 * 0x100 + last / 10 % 10 * 0x10 + last % 10;
    Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, digits)
}

/// A host of the lab with a namespace of its own.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, which is also that of its link at the bridge.
    pub name: &'static str,
    /// Its addresses; it has their [twins](twin), too.
    pub addresses: Vec<Ipv4Addr>,
}

impl MtaKind {
    /// Name of its host, its cache folder and its log.
    pub fn name(self) -> &'static str {
        match self {
            MtaKind::Postfix => "postfix",
            MtaKind::Exim => "exim",
            MtaKind::Opensmtpd => "opensmtpd",
        }
    }

    /// Where it listens.
    pub fn address(self) -> Ipv4Addr {
        match self {
            MtaKind::Postfix => Ipv4Addr::new(198, 51, 100, 10),
            MtaKind::Exim => Ipv4Addr::new(198, 51, 100, 11),
            MtaKind::Opensmtpd => Ipv4Addr::new(198, 51, 100, 12),
        }
    }

    /// The domain whose MX it is.
    pub fn domain(self) -> String {
        format!("{}.example", self.name())
    }

    /// Its host name.
    pub fn host_name(self) -> String {
        mx_name(&self.domain())
    }
}

/// Host name of a domain's MX.
pub fn mx_name(domain: &str) -> String {
    format!("mx1.{domain}")
}

/// Host name of a domain's MTA-STS policy.
pub fn policy_host(domain: &str) -> String {
    format!("mta-sts.{domain}")
}

/// The hosts that get a namespace.
pub fn hosts(config: &LabConfig) -> Vec<Host> {
    let mut hosts =
        vec![Host { name: "node", addresses: NODE.to_vec() }, Host { name: "client", addresses: vec![CLIENT] }];
    hosts.extend(config.mtas.iter().map(|mta| Host { name: mta.name(), addresses: vec![mta.address()] }));
    hosts
}

/// Every persona of this lab: the three that are always there, the catalogue if it is asked for, then the configuration's.
pub fn personas(config: &LabConfig) -> Vec<Persona> {
    let mut tarpit = Persona::new("tarpit", Ipv4Addr::new(198, 51, 100, 20), &["tarpit.example"]);
    tarpit.delay = config.tarpit_delay;
    // Slow in the clear: what the client waits for is then the tarpit, not a handshake.
    tarpit.tls = crate::config::Tls::Off;
    let later = Persona::new("later", Ipv4Addr::new(198, 51, 100, 21), &["later.example"]).rule(
        Step::Rcpt,
        When::FirstOfPair,
        Act::reply("451 4.7.1 greylisted, come back later"),
    );
    let plain = Persona::new("plain", Ipv4Addr::new(198, 51, 100, 31), &["plain.example"]);
    let mut all = vec![tarpit, later, plain];
    if config.catalogue {
        all.extend(catalogue::all());
    }
    all.extend(config.personas.iter().cloned());
    all
}

/// Everything that the bridge itself answers for, with the [twins](twin).
pub fn bridge_addresses(config: &LabConfig) -> Vec<Ipv4Addr> {
    let mut all = vec![DNS, CLOSED, POLICIES];
    all.extend(personas(config).iter().map(|p| p.address));
    all
}

/// Domains that the lab's own hosts take mail for.
pub fn mailbox_domains(config: &LabConfig) -> Vec<String> {
    let mut all: Vec<String> = config.mtas.iter().map(|m| m.domain()).collect();
    all.extend(personas(config).into_iter().flat_map(|p| p.domains));
    all.extend(["multi.example", "implicit.example", "six.example", "both.example"].map(str::to_owned));
    all
}

/// All records, the configuration's included.
pub fn records(config: &LabConfig) -> Vec<Record> {
    use RecordData::{A, Mx, ServFail};
    let mut all = Vec::new();
    let mut add = |name: &str, data| all.push(Record::new(name, data));
    add("ns.lab.example", A(DNS));
    add("client.lab.example", A(CLIENT));
    add(NODE_NAME, A(NODE[0]));
    add("mail2.warren.example", A(NODE[1]));
    add("mail3.warren.example", A(NODE[2]));
    for domain in &config.node_domains {
        add(domain, Mx(10, NODE_NAME.into()));
    }
    for mta in &config.mtas {
        add(&mta.domain(), Mx(10, mta.host_name()));
        add(&mta.host_name(), A(mta.address()));
    }
    for persona in personas(config) {
        for domain in &persona.domains {
            add(domain, Mx(10, mx_name(domain)));
            add(&mx_name(domain), A(persona.address));
        }
    }
    for policy in &config.policies {
        add(&format!("_mta-sts.{}", policy.domain), RecordData::Txt("v=STSv1; id=1;".into()));
        add(&policy_host(&policy.domain), A(POLICIES));
    }
    let plain = Ipv4Addr::new(198, 51, 100, 31);
    add("servfail.example", ServFail);
    add("nullmx.example", Mx(0, ".".into()));
    // The first of several refuses the connection.
    add("multi.example", Mx(10, "mx1.multi.example".into()));
    add("multi.example", Mx(20, "mx2.multi.example".into()));
    add("mx1.multi.example", A(CLOSED));
    add("mx2.multi.example", A(plain));
    // No MX: the address record stands for it.
    add("implicit.example", A(plain));
    // Over IPv6 only, and over either.
    for domain in ["six.example", "both.example"] {
        add(domain, Mx(10, mx_name(domain)));
        add(&mx_name(domain), RecordData::Aaaa(twin(plain)));
    }
    add(&mx_name("both.example"), A(plain));
    // What nobody may dial.
    add("loopback.example", Mx(10, "mx1.loopback.example".into()));
    add("mx1.loopback.example", A(Ipv4Addr::LOCALHOST));
    add("mapped.example", Mx(10, "mx1.mapped.example".into()));
    add("mx1.mapped.example", RecordData::Aaaa(Ipv4Addr::LOCALHOST.to_ipv6_mapped()));
    add("private.example", Mx(10, "mx1.private.example".into()));
    add("mx1.private.example", A(Ipv4Addr::new(10, 0, 0, 1)));
    add("mx1.private.example", RecordData::Aaaa(Ipv6Addr::LOCALHOST));
    all.extend(config.records.iter().cloned());
    all
}

/// How long a record may be kept.
pub const TTL: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_look_alike() {
        assert_eq!(twin([198, 51, 100, 31].into()).to_string(), "2001:db8:51::31");
        assert_eq!(twin(CLIENT).to_string(), "2001:db8:51::200");
        assert_eq!(twin(NODE[0]).to_string(), "2001:db8:113::10");
    }
}
