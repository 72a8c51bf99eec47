//! DNS messages, in and out. Pure: bytes and findings in, bytes out.

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType},
};

/// Largest answer by UDP without EDNS (RFC 1035).
const UDP_PLAIN: u16 = 512;
/// Largest answer by UDP that we give: the door is a loopback, where nothing fragments.
const UDP_MAX: u16 = 4096;
/// Largest answer by TCP.
const TCP_MAX: u16 = u16::MAX;
/// Most MX records passed on. More than any honest domain has; hundreds make an MSA ask hundreds of questions.
pub const MAX_MX: usize = 20;
/// Most addresses passed on.
pub const MAX_ADDRESSES: usize = 30;
/// Most records of other types, and CNAMEs on the way.
pub const MAX_OTHERS: usize = 50;
/// Length of a DNS header; without one there is nobody to answer.
const HEADER: usize = 12;

/// How the question came, which bounds the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: as long as the client said, or 512 bytes.
    Udp,
    /// A stream.
    Tcp,
}

/// A question that deserves to be looked up.
#[derive(Debug, Clone)]
pub struct Question {
    request: Metadata,
    /// What is asked, spelt as the client spelt it.
    pub query: Query,
    edns: Option<u16>,
    transport: Transport,
}

/// What to do with a message.
#[derive(Debug)]
pub enum Asked {
    /// Look it up.
    Lookup(Question),
    /// It has this answer already.
    Answer(Vec<u8>),
    /// Nothing: it is no question.
    Nothing,
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub enum Found {
    /// Records, CNAMEs on the way included.
    Records(Vec<Record>),
    /// The name has no such records.
    NoData(Option<Record>),
    /// There is no such name.
    NoName(Option<Record>),
    /// Nobody knows.
    Failed,
}

/// Reads a message that came through a door.
#[must_use]
pub fn read(bytes: &[u8], transport: Transport) -> Asked {
    // A response (QR) is never answered, or two resolvers could talk for ever.
    if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
        return Asked::Nothing;
    }
    let Ok(message) = Message::from_vec(bytes) else {
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        return refuse(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
    };
    let request = message.metadata;
    let error = |code| refuse(&Message::error_msg(request.id, request.op_code, code));
    if request.op_code != OpCode::Query {
        return error(ResponseCode::NotImp);
    }
    let [query] = &message.queries[..] else { return error(ResponseCode::FormErr) };
    let edns = message.edns.as_ref().map(Edns::max_payload);
    let question = Question { request, query: query.clone(), edns, transport };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Asked::Answer(question.encode(&question.with_code(ResponseCode::BADVERS)));
    }
    if query.query_class != DNSClass::IN {
        return Asked::Answer(question.encode(&question.with_code(ResponseCode::Refused)));
    }
    match query.query_type {
        RecordType::A
        | RecordType::AAAA
        | RecordType::MX
        | RecordType::TXT
        | RecordType::CNAME
        | RecordType::NS
        | RecordType::SOA
        | RecordType::PTR
        | RecordType::SRV => Asked::Lookup(question),
        // Empty, not refused: an MSA that cannot learn whether there is a TLSA record must not deliver.
        RecordType::TLSA => Asked::Answer(answer(&question, &Found::NoData(None))),
        RecordType::AXFR | RecordType::IXFR | RecordType::ANY => {
            Asked::Answer(question.encode(&question.with_code(ResponseCode::Refused)))
        }
        _ => Asked::Answer(question.encode(&question.with_code(ResponseCode::NotImp))),
    }
}

fn refuse(message: &Message) -> Asked {
    message.to_vec().map_or(Asked::Nothing, Asked::Answer)
}

/// What of `records` is passed on to somebody who asked for `kind`: bounded, and of MX records the most preferred.
#[must_use]
pub fn bounded(mut records: Vec<Record>, kind: RecordType) -> Vec<Record> {
    let preference = |record: &Record| match &record.data {
        RData::MX(mx) => mx.preference,
        _ => 0,
    };
    // CNAMEs stay in front of what they lead to.
    records.sort_by_key(preference);
    let limit = match kind {
        RecordType::MX => MAX_MX,
        RecordType::A | RecordType::AAAA => MAX_ADDRESSES,
        _ => MAX_OTHERS,
    };
    let (mut asked, mut others) = (0, 0);
    records.retain(|record| {
        let (count, limit) = if record.record_type() == kind { (&mut asked, limit) } else { (&mut others, MAX_OTHERS) };
        *count += 1;
        *count <= limit
    });
    records
}

/// The answer to `question`.
#[must_use]
pub fn answer(question: &Question, found: &Found) -> Vec<u8> {
    let (code, answers, authority) = match found {
        Found::Records(records) => (ResponseCode::NoError, records.as_slice(), None),
        Found::NoData(soa) => (ResponseCode::NoError, &[][..], soa.as_ref()),
        Found::NoName(soa) => (ResponseCode::NXDomain, &[][..], soa.as_ref()),
        Found::Failed => (ResponseCode::ServFail, &[][..], None),
    };
    let mut message = question.with_code(code);
    message.answers.extend_from_slice(answers);
    message.authorities.extend(authority.cloned());
    question.encode(&message)
}

/// The answer to a question that is not looked up.
#[must_use]
pub fn refused(question: &Question) -> Vec<u8> {
    question.encode(&question.with_code(ResponseCode::Refused))
}

impl Question {
    /// An answer without content.
    fn blank(&self) -> Message {
        let mut message = Message::new(self.request.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = self.request.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.request.checking_disabled;
        message.queries.push(self.query.clone());
        message.edns = self.edns.map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX);
            edns
        });
        message
    }

    fn with_code(&self, code: ResponseCode) -> Message {
        let mut message = self.blank();
        message.metadata.response_code = code;
        message
    }

    fn limit(&self) -> usize {
        usize::from(match (self.transport, self.edns) {
            (Transport::Tcp, _) => TCP_MAX,
            (Transport::Udp, None) => UDP_PLAIN,
            (Transport::Udp, Some(offered)) => offered.clamp(UDP_PLAIN, UDP_MAX),
        })
    }

    /// The bytes of `message`; if they are too many, an empty message that says so.
    fn encode(&self, message: &Message) -> Vec<u8> {
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= self.limit() => bytes,
            _ => {
                let mut empty = self.with_code(message.metadata.response_code);
                empty.metadata.truncation = self.transport == Transport::Udp;
                if self.transport == Transport::Tcp {
                    empty.metadata.response_code = ResponseCode::ServFail;
                }
                // A header and a name that was decoded before: this encodes.
                empty.to_vec().unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;

    fn question(version: u8) -> Vec<u8> {
        let mut message = Message::query();
        message.queries.push(Query::query(Name::from_ascii("mx.example.").unwrap(), RecordType::A));
        let mut edns = Edns::new();
        edns.set_version(version);
        message.edns = Some(edns);
        message.to_vec().unwrap()
    }

    #[test]
    fn an_unknown_version_of_edns_is_named_as_the_reason() {
        let Asked::Answer(answer) = read(&question(1), Transport::Udp) else { panic!("not answered") };
        // 16 means BADSIG with TSIG and BADVERS without; the library knows it by the former name.
        assert_eq!(u16::from(Message::from_vec(&answer).unwrap().metadata.response_code), 16);
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            check(&bytes)?;
        }

        #[test]
        fn nor_does_a_question_gone_wrong(place in 0usize..100, byte: u8, cut in 0usize..100) {
            let mut bytes = question(0);
            if let Some(old) = bytes.get_mut(place) {
                *old = byte;
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            check(&bytes)?;
        }
    }

    /// Whatever is answered at once is a short response to the same id; responses are never answered.
    fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
        match read(bytes, Transport::Udp) {
            Asked::Answer(answer) => {
                prop_assert!(bytes[2] & 0x80 == 0);
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(answer[2] & 0x80 != 0 && answer.len() <= usize::from(UDP_MAX));
            }
            Asked::Lookup(question) => {
                let answer = answer(&question, &Found::Failed);
                prop_assert_eq!(&answer[..2], &bytes[..2]);
            }
            Asked::Nothing => {}
        }
        Ok(())
    }
}
