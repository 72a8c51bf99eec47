//! A day's findings, added up.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::report::{
    DateRange, FailureDetails, Policy, PolicyReport, PolicyType, Report, ResultType, Submitter, Summary,
};

/// Most domains, policies and kinds of failures of a day, counted together: some 30 MB in memory and half as much on disk.
const MAX_ENTRIES: usize = 100_000;
/// From so many on, domains without a policy of their own make way for those that have one.
const CROWDED: usize = MAX_ENTRIES / 4 * 3;
/// Most policies of one domain: one for each MX with TLSA records, and MTA-STS as it changes.
const MAX_POLICIES: usize = 16;
/// Most kinds of failures of one policy. What comes beyond is counted by its result type alone.
const MAX_DETAILS: usize = 50;
/// Most lines of a policy, and most characters of a text. Names of DNS have 253.
const MAX_LINES: usize = 20;
const MAX_TEXT: usize = 300;

/// What one session found about TLS for one recipient domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The recipient domain.
    pub domain: String,
    /// The policy that applied.
    pub policy: Policy,
    /// The address that the session left from.
    pub egress: IpAddr,
    /// The MX.
    pub mx: Option<String>,
    /// Its address.
    pub mx_address: IpAddr,
    /// The name that it gave itself.
    pub helo: Option<String>,
    /// What failed; none if nothing did.
    pub failure: Option<Failure>,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub result: ResultType,
    /// In words.
    pub reason: String,
}

/// A UTC day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// Which.
    pub day: Date,
    /// What was found, by recipient domain.
    pub domains: BTreeMap<String, Vec<PolicyReport>>,
    /// Findings that there was no room for.
    pub left_out: u64,
    #[serde(skip)]
    entries: Option<usize>,
}

impl Day {
    /// A day without findings.
    #[must_use]
    pub fn new(day: Date) -> Self {
        Self { day, domains: BTreeMap::new(), left_out: 0, entries: Some(0) }
    }

    /// The UTC day of a time.
    #[must_use]
    pub fn of(at: Timestamp) -> Date {
        at.to_zoned(TimeZone::UTC).date()
    }

    /// Adds a finding.
    pub fn note(&mut self, mut finding: Finding) {
        bound(&mut finding);
        let entries = self.entries.take().unwrap_or_else(|| self.count());
        let added = self.add(finding, entries);
        self.left_out += u64::from(added.is_none());
        self.entries = Some(entries + added.unwrap_or(0));
    }

    /// Says that so many findings never came here.
    pub fn lost(&mut self, findings: u64) {
        self.left_out += findings;
    }

    /// As it is after reading it: with its entries counted.
    pub(crate) fn counted(mut self) -> Self {
        self.entries = Some(self.count());
        self
    }

    fn count(&self) -> usize {
        let of = |policies: &Vec<PolicyReport>| {
            1 + policies.iter().map(|policy| 1 + policy.failure_details.len()).sum::<usize>()
        };
        self.domains.values().map(of).sum()
    }

    /// How many entries it took; none if there is no room.
    fn add(&mut self, finding: Finding, entries: usize) -> Option<usize> {
        let room = if finding.policy.policy_type == PolicyType::NoPolicyFound { CROWDED } else { MAX_ENTRIES };
        let mut added = 0;
        if !self.domains.contains_key(&finding.domain) {
            if entries >= room {
                return None;
            }
            added += 1;
        }
        let policies = self.domains.entry(finding.domain.clone()).or_default();
        let place = match policies.iter().position(|known| known.policy == finding.policy) {
            Some(place) => place,
            None if policies.len() >= MAX_POLICIES || entries + added > room => return None,
            None => {
                added += 1;
                let policy = finding.policy.clone();
                policies.push(PolicyReport { policy, summary: Summary::default(), failure_details: Vec::new() });
                policies.len() - 1
            }
        };
        let PolicyReport { summary, failure_details, .. } = &mut policies[place];
        if finding.failure.is_none() {
            summary.total_successful_session_count += 1;
            return Some(added);
        }
        summary.total_failure_session_count += 1;
        let details = details(finding)?;
        let full = failure_details.len() >= MAX_DETAILS || entries + added >= MAX_ENTRIES;
        Some(added + count_failure(failure_details, details, full))
    }

    /// The report about a domain, if there is anything to report.
    #[must_use]
    pub fn report(&self, domain: &str, submitter: &Submitter) -> Option<Report> {
        let policies = self.domains.get(domain)?.clone();
        Some(Report {
            organization_name: submitter.organization.clone(),
            date_range: DateRange {
                start_datetime: format!("{}T00:00:00Z", self.day),
                end_datetime: format!("{}T23:59:59Z", self.day),
            },
            contact_info: submitter.contact.clone(),
            // The same report has the same id, however often it is sent.
            report_id: format!("{}.{domain}@{}", self.day, submitter.domain),
            policies,
        })
    }

    /// Its first and last second, in Unix time.
    #[must_use]
    pub fn seconds(&self) -> (i64, i64) {
        let start = self.day.to_zoned(TimeZone::UTC).map_or(0, |start| start.timestamp().as_second());
        (start, start + 86_399)
    }

    /// Sessions that went well, and that did not.
    #[must_use]
    pub fn sessions(&self) -> (u64, u64) {
        let summaries = self.domains.values().flatten().map(|policy| &policy.summary);
        summaries.fold((0, 0), |(good, bad), summary| {
            (good + summary.total_successful_session_count, bad + summary.total_failure_session_count)
        })
    }
}

fn details(finding: Finding) -> Option<FailureDetails> {
    let failure = finding.failure?;
    Some(FailureDetails {
        result_type: failure.result,
        sending_mta_ip: Some(finding.egress.to_string()),
        receiving_mx_hostname: finding.mx,
        receiving_mx_helo: finding.helo,
        receiving_ip: Some(finding.mx_address.to_string()),
        failed_session_count: 1,
        additional_information: None,
        failure_reason_code: Some(failure.reason),
    })
}

/// Counts one failure; where there is no room for its details, among those of its type. How many entries were added.
fn count_failure(known: &mut Vec<FailureDetails>, mut details: FailureDetails, full: bool) -> usize {
    let same = |known: &&mut FailureDetails| {
        let count = known.failed_session_count;
        **known == FailureDetails { failed_session_count: count, ..details.clone() }
    };
    if let Some(known) = known.iter_mut().find(same) {
        known.failed_session_count += 1;
        return 0;
    }
    if full {
        details = FailureDetails {
            result_type: details.result_type,
            sending_mta_ip: None,
            receiving_mx_hostname: None,
            receiving_mx_helo: None,
            receiving_ip: None,
            failed_session_count: 1,
            additional_information: None,
            failure_reason_code: None,
        };
        let unspecified =
            |known: &&mut FailureDetails| known.result_type == details.result_type && known.sending_mta_ip.is_none();
        if let Some(known) = known.iter_mut().find(unspecified) {
            known.failed_session_count += 1;
            return 0;
        }
    }
    known.push(details);
    1
}

/// Peers choose names and reasons.
fn bound(finding: &mut Finding) {
    let Finding { domain, policy, mx, helo, failure, .. } = finding;
    let texts = policy.policy_string.iter_mut().chain(&mut policy.mx_host).chain([domain, &mut policy.policy_domain]);
    for text in texts.chain(mx).chain(helo).chain(failure.as_mut().map(|failure| &mut failure.reason)) {
        if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
            text.truncate(end);
        }
    }
    policy.policy_string.truncate(MAX_LINES);
    policy.mx_host.truncate(MAX_LINES);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(domain: &str, policy_type: PolicyType, failure: Option<(ResultType, &str)>) -> Finding {
        let policy_domain = domain.to_owned();
        Finding {
            domain: domain.into(),
            policy: Policy { policy_type, policy_string: Vec::new(), policy_domain, mx_host: Vec::new() },
            egress: "203.0.113.10".parse().unwrap(),
            mx: Some("mx.example.net".into()),
            mx_address: "198.51.100.5".parse().unwrap(),
            helo: Some("mx".into()),
            failure: failure.map(|(result, reason)| Failure { result, reason: reason.into() }),
        }
    }

    fn day() -> Day {
        Day::new(jiff::civil::date(2026, 11, 22))
    }

    #[test]
    fn equal_findings_are_counted_and_different_ones_told_apart() {
        let mut day = day();
        let expired = Some((ResultType::CertificateExpired, "expired"));
        for failure in [None, None, expired, expired, Some((ResultType::StarttlsNotSupported, "not offered"))] {
            day.note(finding("example.org", PolicyType::Sts, failure));
        }
        day.note(finding("example.org", PolicyType::NoPolicyFound, None));
        assert_eq!(day.sessions(), (3, 3));
        let submitter =
            Submitter { organization: "X".into(), domain: "mail.example.net".into(), contact: "p@x.example".into() };
        let report = day.report("example.org", &submitter).unwrap();
        assert_eq!(report.report_id, "2026-11-22.example.org@mail.example.net");
        assert_eq!(report.date_range.end_datetime, "2026-11-22T23:59:59Z");
        assert_eq!(report.policies.len(), 2);
        let counts: Vec<_> = report.policies[0].failure_details.iter().map(|one| one.failed_session_count).collect();
        assert_eq!(counts, [2, 1]);
        assert_eq!(day.report("example.com", &submitter), None);
        assert_eq!(day.seconds(), (1_795_305_600, 1_795_391_999));
    }

    #[test]
    fn what_is_read_back_goes_on_as_if_nothing_had_been() {
        let mut day = day();
        day.note(finding("example.org", PolicyType::Tlsa, Some((ResultType::TlsaInvalid, "x"))));
        let mut again: Day = serde_json::from_str(&serde_json::to_string(&day).unwrap()).unwrap();
        for day in [&mut day, &mut again] {
            day.note(finding("example.org", PolicyType::Tlsa, Some((ResultType::TlsaInvalid, "x"))));
        }
        assert_eq!(day, again);
    }

    #[test]
    fn failures_without_end_keep_their_count_and_lose_their_details() {
        let mut day = day();
        for n in 0..1_000 {
            day.note(finding("example.org", PolicyType::Sts, Some((ResultType::ValidationFailure, &n.to_string()))));
        }
        let policy = &day.domains["example.org"][0];
        assert_eq!(policy.failure_details.len(), MAX_DETAILS + 1);
        assert_eq!(policy.failure_details.iter().map(|one| one.failed_session_count).sum::<u64>(), 1_000);
        assert_eq!(policy.summary.total_failure_session_count, 1_000);
    }

    #[test]
    fn a_tenant_with_endless_domains_leaves_room_for_those_that_want_reports() {
        let mut day = day();
        for n in 0..MAX_ENTRIES {
            day.note(finding(&format!("{n}.example"), PolicyType::NoPolicyFound, None));
        }
        assert!(day.left_out > 0 && day.count() <= CROWDED + 2);
        day.note(finding("example.org", PolicyType::Sts, None));
        assert!(day.domains.contains_key("example.org"));
        for n in 0..MAX_ENTRIES {
            day.note(finding(&format!("{n}.sts.example"), PolicyType::Sts, None));
        }
        assert!(day.count() <= MAX_ENTRIES + 2, "{}", day.count());
        assert_eq!(day.entries, Some(day.count()));
    }

    #[test]
    fn names_without_end_are_cut() {
        let mut day = day();
        let long = "é".repeat(10_000);
        day.note(finding(&long, PolicyType::Sts, Some((ResultType::ValidationFailure, &long))));
        assert!(serde_json::to_string(&day).unwrap().len() < 3_000);
    }
}
