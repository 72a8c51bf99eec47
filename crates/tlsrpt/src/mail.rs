//! A report as a mail (RFC 8460 §5.3): `multipart/report` with a few words for people and the gzipped JSON.

use std::fmt::Write as _;
use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use jiff::Timestamp;

use crate::day::Day;
use crate::report::{Report, Submitter};

/// Characters of base64 in a line (RFC 2045 §6.8).
const LINE: usize = 76;

/// The report, gzipped.
pub fn gzipped(report: &Report) -> io::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(&serde_json::to_vec(report)?)?;
    gzip.finish()
}

/// The name of the report's file (RFC 8460 §5.1).
#[must_use]
pub fn file_name(day: &Day, domain: &str, submitter: &Submitter) -> String {
    let (first, last) = day.seconds();
    format!("{}!{domain}!{first}!{last}.json.gz", submitter.domain)
}

/// The mail with a domain's report, from `from` to `to`, written at `at`. Addresses and names are plain ASCII: those of [`rua`](crate::rua) and of the
/// configuration are.
pub fn compose(
    day: &Day,
    domain: &str,
    report: &Report,
    submitter: &Submitter,
    from: &str,
    to: &[String],
    at: Timestamp,
) -> io::Result<String> {
    let file = file_name(day, domain, submitter);
    let encoded = STANDARD.encode(gzipped(report)?);
    let id = &report.report_id;
    let date = jiff::fmt::rfc2822::to_string(&at.to_zoned(jiff::tz::TimeZone::UTC)).map_err(io::Error::other)?;
    let who = &submitter.domain;
    let boundary = format!("=_{}_tlsrpt", day.day);
    let mut mail = format!(
        "From: {from}\r\n\
         To: {}\r\n\
         Date: {date}\r\n\
         Subject: Report Domain: {domain}\r\n Submitter: {who}\r\n Report-ID: <{id}>\r\n\
         Message-ID: <tlsrpt.{}.{}.{domain}@{who}>\r\n\
         TLS-Report-Domain: {domain}\r\n\
         TLS-Report-Submitter: {who}\r\n\
         TLS-Required: No\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n boundary=\"{boundary}\"\r\n\
         \r\n\
         --{boundary}\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         This is an aggregate TLS report of {who}\r\n\
         about mail for {domain} on {} (UTC).\r\n\
         \r\n\
         --{boundary}\r\n\
         Content-Type: application/tlsrpt+gzip\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment;\r\n filename=\"{file}\"\r\n\
         \r\n",
        to.join(",\r\n "),
        day.day,
        at.as_second(),
        day.day,
    );
    for line in encoded.as_bytes().chunks(LINE) {
        mail.extend(line.iter().copied().map(char::from));
        mail.push_str("\r\n");
    }
    // Writing to a String cannot fail.
    let _ = write!(mail, "\r\n--{boundary}--\r\n");
    Ok(mail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Policy, PolicyReport, PolicyType, Summary};
    use std::io::Read;

    #[test]
    fn a_mail_has_the_headers_and_the_report_comes_out_of_it_whole() {
        let mut day = Day::new(jiff::civil::date(2026, 11, 22));
        let policy = Policy {
            policy_type: PolicyType::Sts,
            policy_string: (0..50).map(|n| format!("mx: {n}.example")).collect(),
            policy_domain: "example.org".into(),
            mx_host: Vec::new(),
        };
        let policies = vec![PolicyReport { policy, summary: Summary::default(), failure_details: Vec::new() }];
        day.domains.insert("example.org".into(), policies);
        let submitter = Submitter {
            organization: "Example Net".into(),
            domain: "mail.example.net".into(),
            contact: "postmaster@example.net".into(),
        };
        let report = day.report("example.org", &submitter).unwrap();
        let at = "2026-11-23T01:02:03Z".parse().unwrap();
        let to = ["a@example.org".to_owned(), "b@example.org".to_owned()];
        let mail = compose(&day, "example.org", &report, &submitter, "tlsrpt@example.net", &to, at).unwrap();
        let (head, body) = mail.split_once("\r\n\r\n").unwrap();
        for line in [
            "From: tlsrpt@example.net",
            "To: a@example.org,",
            "Date: Mon, 23 Nov 2026 01:02:03 +0000",
            "Subject: Report Domain: example.org",
            " Report-ID: <2026-11-22.example.org@mail.example.net>",
            "TLS-Report-Domain: example.org",
            "TLS-Report-Submitter: mail.example.net",
            "Content-Type: multipart/report; report-type=\"tlsrpt\";",
        ] {
            assert!(head.lines().any(|found| found == line), "{line} in\n{head}");
        }
        let name = "filename=\"mail.example.net!example.org!1795305600!1795391999.json.gz\"";
        assert!(body.contains(name), "{body}");
        assert!(mail.split("\r\n").all(|line| line.len() <= 100 && !line.contains('\n')));
        let part = body.split_once("filename=").unwrap().1.split_once("\r\n\r\n").unwrap().1;
        let encoded: String = part.split("\r\n\r\n--").next().unwrap().lines().collect();
        let mut json = String::new();
        flate2::read::GzDecoder::new(&STANDARD.decode(encoded).unwrap()[..]).read_to_string(&mut json).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
