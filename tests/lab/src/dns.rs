//! The lab's name server: one table that is authoritative for the whole tree, root included.
//!
//! The table is pure ([`Table::look_up`]); hickory-server speaks for it over UDP and TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, SOA, TXT};
use hickory_proto::rr::{LowerName, Name, RData, Record as DnsRecord, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::config::{Record, RecordData};
use crate::map::TTL;

/// Aliases followed for one question.
const MAX_ALIASES: usize = 8;

/// All names of the lab.
#[derive(Debug)]
pub struct Table {
    records: BTreeMap<LowerName, Vec<DnsRecord>>,
    broken: BTreeSet<LowerName>,
    soa: DnsRecord,
}

/// What a question gets.
#[derive(Debug)]
pub struct Answer {
    /// NOERROR, NXDOMAIN or SERVFAIL.
    pub code: ResponseCode,
    /// Aliases and records.
    pub records: Vec<DnsRecord>,
}

/// A record whose text is no DNS name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a DNS name")]
pub struct BadName(String);

fn name(text: &str) -> Result<Name, BadName> {
    let mut name = Name::from_utf8(text).map_err(|_| BadName(text.to_owned()))?;
    name.set_fqdn(true);
    Ok(name)
}

impl Table {
    /// Makes the table; every A record also gives a PTR, the first name of an address winning.
    pub fn new(records: &[Record]) -> Result<Self, BadName> {
        let ttl = TTL.as_secs() as u32;
        let soa = SOA::new(name("ns.lab.example")?, name("hostmaster.lab.example")?, 1, 3600, 600, 86_400, 60);
        let mut table = Table {
            records: BTreeMap::new(),
            broken: BTreeSet::new(),
            soa: DnsRecord::from_rdata(Name::root(), 60, RData::SOA(soa)),
        };
        let mut reversed = BTreeSet::new();
        for record in records {
            let owner = name(&record.name)?;
            let data = match &record.data {
                RecordData::A(address) => {
                    if reversed.insert(*address) {
                        table.add(name(&reverse(*address))?, ttl, RData::PTR(PTR(owner.clone())));
                    }
                    RData::A(A(*address))
                }
                RecordData::Aaaa(address) => RData::AAAA(AAAA(*address)),
                RecordData::Mx(preference, exchange) => RData::MX(MX::new(*preference, name(exchange)?)),
                RecordData::Cname(target) => RData::CNAME(CNAME(name(target)?)),
                RecordData::Ptr(target) => RData::PTR(PTR(name(target)?)),
                RecordData::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
                RecordData::ServFail => {
                    table.broken.insert(owner.into());
                    continue;
                }
            };
            table.add(owner, ttl, data);
        }
        Ok(table)
    }

    fn add(&mut self, owner: Name, ttl: u32, data: RData) {
        self.records.entry((&owner).into()).or_default().push(DnsRecord::from_rdata(owner, ttl, data));
    }

    /// Answers a question.
    pub fn look_up(&self, asked: &LowerName, kind: RecordType) -> Answer {
        let mut answer = Answer { code: ResponseCode::NoError, records: Vec::new() };
        let mut at = asked.clone();
        for _ in 0..MAX_ALIASES {
            if self.broken.iter().any(|broken| broken.zone_of(&at)) {
                return Answer { code: ResponseCode::ServFail, records: Vec::new() };
            }
            let Some(here) = self.records.get(&at) else {
                // An empty name with something below it exists.
                if !self.records.keys().any(|other| at.zone_of(other)) {
                    answer.code = ResponseCode::NXDomain;
                }
                return answer;
            };
            let fitting = here.iter().filter(|r| r.record_type() == kind || kind == RecordType::ANY);
            let before = answer.records.len();
            answer.records.extend(fitting.cloned());
            if answer.records.len() > before {
                return answer;
            }
            let Some(alias) = here.iter().find(|r| r.record_type() == RecordType::CNAME) else { return answer };
            answer.records.push(alias.clone());
            let RData::CNAME(target) = &alias.data else { return answer };
            at = LowerName::from(&target.0);
        }
        answer
    }
}

/// `198.51.100.10` → `10.100.51.198.in-addr.arpa`
fn reverse(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

struct Handler(Table);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut out: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        // The node's resolver asks here as it would ask its provider's.
        metadata.recursion_available = true;
        let answer = match request.request_info() {
            Ok(info) => self.0.look_up(info.query.name(), info.query.query_type()),
            Err(_) => Answer { code: ResponseCode::FormErr, records: Vec::new() },
        };
        metadata.response_code = answer.code;
        let soa = (answer.records.is_empty() && answer.code != ResponseCode::ServFail).then_some(&self.0.soa);
        let builder = MessageResponseBuilder::new(&request.queries, request.edns.as_ref());
        let response = builder.build(metadata, &answer.records, [], soa, []);
        match out.send_response(response).await {
            Ok(info) => info,
            // The asker is gone; the server wants the header all the same.
            Err(_) => ResponseInfo::from(hickory_proto::op::Header { metadata, counts: Default::default() }),
        }
    }
}

/// Serves the table until the lab ends.
pub async fn serve(table: Table, udp: UdpSocket, tcp: TcpListener) {
    let mut server = hickory_server::Server::new(Handler(table));
    server.register_socket(udp);
    server.register_listener(tcp, Duration::from_secs(10), 4096);
    if let Err(e) = server.block_until_done().await {
        eprintln!("warren-lab: name server: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LabConfig;
    use crate::map;

    fn ask(text: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let table = Table::new(&map::records(&LabConfig::default())).unwrap();
        let answer = table.look_up(&LowerName::from(name(text).unwrap()), kind);
        (answer.code, answer.records.iter().map(|r| r.data.to_string()).collect())
    }

    #[test]
    fn answers_as_the_map_says() {
        assert_eq!(
            ask("acme.example", RecordType::MX),
            (ResponseCode::NoError, vec!["10 mail.warren.example.".into()])
        );
        assert_eq!(ask("MX1.Exim.Example", RecordType::A).1, ["198.51.100.11"]);
        assert_eq!(ask("11.113.0.203.in-addr.arpa", RecordType::PTR).1, ["mail2.warren.example."]);
        assert_eq!(ask("nullmx.example", RecordType::MX).1, ["0 ."]);
        assert_eq!(ask("multi.example", RecordType::MX).1.len(), 2);
    }

    #[test]
    fn tells_nothing_here_from_no_such_name() {
        assert_eq!(ask("implicit.example", RecordType::MX), (ResponseCode::NoError, vec![]));
        assert_eq!(ask("example", RecordType::A), (ResponseCode::NoError, vec![]));
        assert_eq!(ask("nobody.example", RecordType::MX).0, ResponseCode::NXDomain);
        assert_eq!(ask("deep.servfail.example", RecordType::MX).0, ResponseCode::ServFail);
    }
}
