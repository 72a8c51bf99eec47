//! The TLSA records of MX hosts: looked up for the proxy, hidden from MSAs.

use hickory_proto::rr::{Name, RData, RecordType};

use super::{Upstream, answer::Found};
use crate::tls::{Tlsa, TlsaFound};

/// Most records of one host. Honest ones have two or three, and six in the middle of a change of keys.
pub const MAX_RECORDS: usize = 32;
/// Most bytes of their data together, so that a note holds them.
pub const MAX_BYTES: usize = 12 * 1024;
/// How long a failure counts: until the MSA comes again.
const FAILED_TTL_S: u32 = 60;

/// What there is for SMTP to `host`, whose address was validated; and for how many seconds. Where the host's name is an alias, the records at the end
/// of it come first (RFC 7672 §2.2.3).
pub async fn tlsa(upstream: &Upstream, host: &Name) -> (TlsaFound, u32) {
    // Who breaks the way to the end of an alias does not get rid of the records there.
    let Ok(end) = canonical(upstream, host).await else { return (TlsaFound::Failed, FAILED_TTL_S) };
    for name in [end.as_ref(), Some(host)].into_iter().flatten() {
        match at(upstream, name).await {
            (TlsaFound::None, _) => {}
            found => return found,
        }
    }
    (TlsaFound::None, FAILED_TTL_S)
}

/// Nobody can tell.
struct Unknown;

/// Where the aliases of a host lead, if it has any and all are validated.
async fn canonical(upstream: &Upstream, host: &Name) -> Result<Option<Name>, Unknown> {
    let mut end = Ok(None);
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = upstream.find(host, kind).await;
        match (&answer.found, answer.secure) {
            (Found::Records(records), true) => {
                return Ok(records.last().map(|record| record.name.clone()).filter(|end| end != host));
            }
            (Found::Failed, _) => end = Err(Unknown),
            _ => {}
        }
    }
    end
}

async fn at(upstream: &Upstream, base: &Name) -> (TlsaFound, u32) {
    let Some(name) = owner(base) else { return (TlsaFound::None, FAILED_TTL_S) };
    let answer = upstream.find(&name, RecordType::TLSA).await;
    match answer.found {
        Found::Records(records) if answer.secure => {
            let ttl_s = records.iter().map(|record| record.ttl).min().unwrap_or_default();
            let found: Vec<Tlsa> = records.iter().filter_map(|record| read(&record.data)).collect();
            let bytes: usize = found.iter().map(|record| record.data.len()).sum();
            if found.len() > MAX_RECORDS || bytes > MAX_BYTES {
                tracing::info!(host = %base, records = found.len(), bytes, "more TLSA records than are looked at");
                return (TlsaFound::Failed, FAILED_TTL_S);
            }
            (TlsaFound::Records(found), ttl_s)
        }
        // Not signed, or not there; and neither can be pretended where it is signed.
        Found::Records(_) | Found::NoData(_) | Found::NoName(_) => (TlsaFound::None, FAILED_TTL_S),
        Found::Failed => (TlsaFound::Failed, FAILED_TTL_S),
    }
}

/// Where the records of a host are; none if there is no room for the name.
#[must_use]
pub fn owner(host: &Name) -> Option<Name> {
    host.prepend_label("_tcp").and_then(|name| name.prepend_label("_25")).ok()
}

fn read(data: &RData) -> Option<Tlsa> {
    let RData::TLSA(tlsa) = data else { return None };
    Some(Tlsa {
        usage: tlsa.cert_usage.into(),
        selector: tlsa.selector.into(),
        matching: tlsa.matching.into(),
        data: tlsa.cert_data.clone(),
    })
}
