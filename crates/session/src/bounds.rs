//! Peers choose names, certificates and extensions, tenants choose addresses: every record is cut to size before it is kept.

use crate::{CertificateFacts, PolicyFacts, Record, TlsFacts, Verdict, text::truncate};

/// Longest name, path or line kept, in bytes. The longest that SMTP allows is 254, X.509 has no limit.
pub const FIELD_LIMIT: usize = 1_000;
/// Most extensions or names kept of one peer.
pub const LIST_LIMIT: usize = 100;
/// Longest decision or evidence kept, as JSON in bytes.
const JSON_LIMIT: usize = 16_000;

/// Cuts `record` to size. Texts of commands and replies are bounded by their type.
pub fn bound(record: &mut Record) {
    match record {
        Record::Start(start) => {
            optional(&mut start.mx_name);
            optional(&mut start.mx_operator);
        }
        Record::Leg(leg) => {
            optional(&mut leg.error);
            optional(&mut leg.ehlo_name);
            list(&mut leg.extensions);
            leg.tls.iter_mut().for_each(tls);
            if leg.decision.len() > JSON_LIMIT {
                leg.decision = left_out(leg.decision.len()).to_string().into();
            }
        }
        Record::Exchange(exchange) => {
            field(&mut exchange.verb);
            optional(&mut exchange.enhanced);
        }
        Record::Message(message) => {
            field(&mut message.reverse_path);
            optional(&mut message.message_id);
            verdict(&mut message.verdict);
        }
        Record::Recipient(recipient) => {
            field(&mut recipient.forward_path);
            verdict(&mut recipient.verdict);
            optional(&mut recipient.enhanced);
        }
        Record::Event(event) => {
            [&mut event.operator, &mut event.verb].into_iter().for_each(field);
            optional(&mut event.list);
            json(&mut event.evidence);
        }
        Record::End(_) => {}
        Record::Gap(gap) => field(&mut gap.reason),
    }
}

fn tls(facts: &mut TlsFacts) {
    let TlsFacts { version, cipher, group, sni, objection, certificate, chain_sha256, policies, .. } = facts;
    [version, cipher].into_iter().for_each(field);
    [group, sni, objection].into_iter().for_each(optional);
    if let Some(CertificateFacts { subject, issuer, names, sha256, .. }) = certificate {
        [subject, issuer, sha256].into_iter().for_each(field);
        list(names);
    }
    list(chain_sha256);
    policies.truncate(LIST_LIMIT);
    for PolicyFacts { domain, policy, reason, .. } in policies {
        [domain, policy].into_iter().for_each(field);
        optional(reason);
    }
}

/// A verdict read back from a spool file may say anything.
fn verdict(verdict: &mut Verdict) {
    optional(&mut verdict.list);
    field(verdict.rule.to_mut());
}

fn json(value: &mut serde_json::Value) {
    let length = value.to_string().len();
    if length > JSON_LIMIT {
        *value = left_out(length);
    }
}

/// What stands for JSON that is too long.
fn left_out(bytes: usize) -> serde_json::Value {
    serde_json::json!({ "left_out_bytes": bytes })
}

fn list(lines: &mut Vec<String>) {
    lines.truncate(LIST_LIMIT);
    lines.iter_mut().for_each(field);
}

fn optional(text: &mut Option<String>) {
    text.iter_mut().for_each(field);
}

fn field(text: &mut String) {
    truncate(text, FIELD_LIMIT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Leg, SessionId};

    #[test]
    fn a_certificate_with_a_thousand_names_does_not_fill_the_disk() {
        let long = || "x".repeat(10_000);
        let certificate = CertificateFacts {
            subject: long(),
            issuer: long(),
            names: vec![long(); 1_000],
            not_before: 0,
            not_after: 0,
            sha256: long(),
        };
        let mut record = Record::Leg(Box::new(Leg {
            id: SessionId::new(),
            n: 1,
            egress: [203, 0, 113, 10].into(),
            started_us: 0,
            connected_us: None,
            tls: Some(TlsFacts {
                version: long(),
                cipher: long(),
                group: Some(long()),
                sni: Some(long()),
                resumed: false,
                handshake_us: 0,
                trusted: false,
                objection: Some(long()),
                certificate: Some(certificate),
                chain_sha256: Vec::new(),
                policies: Vec::new(),
            }),
            error: Some(long()),
            ehlo_name: Some(long()),
            extensions: vec![long(); 1_000],
            decision: serde_json::json!({ "candidates": long() }).to_string().into(),
        }));
        bound(&mut record);
        let length = serde_json::to_string(&record).unwrap().len();
        assert!(length < 2 * (LIST_LIMIT + 10) * FIELD_LIMIT + JSON_LIMIT, "{length}");
    }
}
