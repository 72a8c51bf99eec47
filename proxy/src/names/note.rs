//! What the resolver tells the proxy, a datagram each.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use warren_launcher_api::CellId;

use crate::tls::{StsFound, TlsaFound};

/// File name of the datagram socket within the run directory.
pub const SOCKET_NAME: &str = "names.sock";
/// Longest datagram taken: a policy with as many MX patterns as one may have, each as long as it may be, fits.
pub const MAX_NOTE: usize = 32 * 1024;
/// Longest name taken: DNS has none longer.
pub(super) const MAX_NAME: usize = 255;

/// One datagram of the resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// An address was given out.
    Name(NameNote),
    /// TLSA records of a host were looked up. Sent before the first secure [`NameNote`] of that host.
    Tlsa(TlsaNote),
    /// The MTA-STS policy of a domain was looked up.
    Sts(StsNote),
}

/// One address given out by the resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameNote {
    /// The cell that asked.
    pub cell: CellId,
    /// The recipient domain whose MX this is, where it was asked for.
    pub domain: Option<String>,
    /// The host name whose address was asked for.
    pub mx: String,
    /// The answer.
    pub address: IpAddr,
    /// Whether the whole chain of answers, from the domain's MX records to the address, was validated by DNSSEC.
    pub secure: bool,
    /// Time to live of the answer.
    pub ttl_s: u32,
}

/// The TLSA records of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsaNote {
    /// The cell that asked for the host.
    pub cell: CellId,
    /// The host name, as the MX record has it.
    pub mx: String,
    /// What there is at `_25._tcp.` and that name.
    pub found: TlsaFound,
    /// Time to live of the answer.
    pub ttl_s: u32,
}

/// The MTA-STS policy of a recipient domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StsNote {
    /// The cell that asked for the domain.
    pub cell: CellId,
    /// The recipient domain.
    pub domain: String,
    /// What it announces.
    pub found: StsFound,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::StsPolicy;

    #[test]
    fn the_longest_policy_fits_a_note() {
        let longest = format!("*.{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(59));
        let text = format!("version: STSv1\nmode: enforce\nmax_age: 60\n{}", format!("mx: {longest}\n").repeat(100));
        let found = StsFound::Policy(StsPolicy::parse(&text, &"i".repeat(32)).unwrap());
        let note = Note::Sts(StsNote { cell: CellId(u64::MAX), domain: "d".repeat(MAX_NAME), found });
        assert!(serde_json::to_vec(&note).unwrap().len() <= MAX_NOTE);
    }
}
