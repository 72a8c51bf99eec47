//! Delivery status notifications (RFC 3464): what a sender is told, as a message.
//!
//! ```text
//!   multipart/report
//!     text/plain                  for people
//!     message/delivery-status     for programs
//!     message/rfc822 or headers   what it is about, copied in by the caller between head and tail
//! ```

use super::date::rfc5322;
use std::fmt::Write as _;
use warren_queue::{Attempt, Envelope, Recipient, Ret};

/// What happened to the recipients of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Given up.
    Failed,
    /// Still being tried.
    Delayed {
        /// When it will be given up (unix milliseconds).
        until_ms: u64,
    },
    /// Handed to a host that sends no reports of success.
    Relayed,
}

/// What is returned of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// All of it.
    Message,
    /// Its header section.
    Headers,
}

/// A message larger than this is returned as headers unless the sender asked for all of it.
const RETURN_WHOLE: u64 = 64 * 1024;

/// The longest text of somebody else in a line of ours, which may have 998 bytes (RFC 5322 §2.1.1).
const LONGEST_TEXT: usize = 800;

/// The report, but for the returned content between `head` and `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Everything before the returned content.
    pub head: Vec<u8>,
    /// What to put behind it.
    pub returned: Returned,
    /// Everything after it.
    pub tail: Vec<u8>,
    /// It holds bytes over 127.
    pub eight_bit: bool,
    /// It needs SMTPUTF8.
    pub smtputf8: bool,
}

/// Who reports, and when.
#[derive(Debug, Clone, Copy)]
pub struct Reporter<'a> {
    /// Our name.
    pub hostname: &'a str,
    /// Now (unix milliseconds).
    pub now_ms: u64,
    /// Unguessable: boundary and Message-ID are made of it.
    pub nonce: u64,
}

/// Writes the report of `kind` on the recipients `about` of a message.
#[must_use]
pub fn compose(envelope: &Envelope, about: &[&Recipient], kind: Kind, reporter: Reporter<'_>) -> Report {
    let international = envelope.content.smtputf8
        || !envelope.reverse_path.is_ascii()
        || about.iter().any(|recipient| {
            !recipient.path.is_ascii() || recipient.orcpt.as_ref().is_some_and(|orcpt| !orcpt.is_ascii())
        });
    let returned = match (kind, envelope.ret) {
        // RFC 3461 §4.3: RET is about failures; other reports never return the body.
        (Kind::Failed, Some(Ret::Full)) => Returned::Message,
        (Kind::Failed, None) if envelope.content.bytes <= RETURN_WHOLE => Returned::Message,
        _ => Returned::Headers,
    };
    let eight_bit = international || envelope.content.eight_bit;
    let writer = Writer { envelope, about, kind, reporter, international, eight_bit };
    let boundary = format!("=_{:016x}", reporter.nonce);
    let mut head = writer.header(&boundary);
    let _ = write!(
        head,
        "--{boundary}\r\nContent-Type: text/plain; charset={}\r\n",
        if international { "utf-8" } else { "us-ascii" }
    );
    let _ = write!(head, "{}\r\n{}\r\n", writer.encoding(), writer.for_people());
    let _ = write!(
        head,
        "--{boundary}\r\nContent-Type: message/{}delivery-status\r\n",
        if international { "global-" } else { "" }
    );
    let _ = write!(head, "{}\r\n{}", writer.encoding(), writer.for_programs());
    let _ =
        write!(head, "--{boundary}\r\nContent-Type: {}\r\n{}\r\n", writer.returned_type(returned), writer.encoding());
    let tail = format!("\r\n--{boundary}--\r\n").into_bytes();
    // Inside, UTF-8 travels as 8-bit content (RFC 6533 §3 and §4). Only the address in the header needs SMTPUTF8; asking for it without
    // need would lose the report at a mailbox whose host does not know it.
    let smtputf8 = !envelope.reverse_path.is_ascii();
    Report { head: head.into_bytes(), returned, tail, eight_bit, smtputf8 }
}

struct Writer<'a> {
    envelope: &'a Envelope,
    about: &'a [&'a Recipient],
    kind: Kind,
    reporter: Reporter<'a>,
    international: bool,
    eight_bit: bool,
}

impl Writer<'_> {
    fn header(&self, boundary: &str) -> String {
        let Reporter { hostname, now_ms, nonce } = self.reporter;
        let subject = match self.kind {
            Kind::Failed => "Undelivered mail returned to sender",
            Kind::Delayed { .. } => "Mail is delayed, no action needed",
            Kind::Relayed => "Mail was handed on",
        };
        let to = self.plain(&self.envelope.reverse_path);
        // The report-type is the same for international reports (RFC 6533 §5).
        format!(
            "Date: {}\r\nFrom: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\nTo: {to}\r\nSubject: {subject}\r\n\
             Message-ID: <{now_ms:x}.{nonce:016x}@{hostname}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n{}\r\n",
            rfc5322(now_ms),
            self.encoding(),
        )
    }

    fn encoding(&self) -> &'static str {
        if self.eight_bit { "Content-Transfer-Encoding: 8bit\r\n" } else { "" }
    }

    fn returned_type(&self, returned: Returned) -> &'static str {
        match (returned, self.international) {
            (Returned::Message, false) => "message/rfc822",
            (Returned::Message, true) => "message/global",
            (Returned::Headers, false) => "text/rfc822-headers",
            (Returned::Headers, true) => "message/global-headers",
        }
    }

    fn for_people(&self) -> String {
        let mut text = String::new();
        let hostname = self.reporter.hostname;
        text.push_str(&match self.kind {
            Kind::Failed => format!("This is the mail system at {hostname}.\r\n\r\nYour message could not be delivered to:\r\n"),
            Kind::Delayed { until_ms } => format!(
                "This is the mail system at {hostname}.\r\n\r\nYour message is delayed. It will be tried until\r\n{}.\r\nYou need not send it again. Still waiting for:\r\n",
                rfc5322(until_ms)
            ),
            Kind::Relayed => format!(
                "This is the mail system at {hostname}.\r\n\r\nYour message was handed on. The next system sends no\r\nnotice of success, so this is the last you hear of:\r\n"
            ),
        });
        for recipient in self.about {
            let _ = write!(text, "\r\n<{}>\r\n", self.plain(&recipient.path));
            if let Some(Attempt { host, text: reply, from_peer, .. }) = &recipient.last {
                let said = self.plain(reply);
                let _ = match host {
                    Some(host) if *from_peer => write!(text, "    {} said: {said}\r\n", self.plain(host)),
                    _ => write!(text, "    {said}\r\n"),
                };
            }
        }
        text
    }

    fn for_programs(&self) -> String {
        let mut text = format!("Reporting-MTA: dns; {}\r\n", self.reporter.hostname);
        if let Some(envid) = &self.envelope.envid {
            let _ = write!(text, "Original-Envelope-Id: {}\r\n", self.plain(envid));
        }
        let _ = write!(text, "Arrival-Date: {}\r\n\r\n", rfc5322(self.envelope.arrived_ms));
        for recipient in self.about {
            if let Some(orcpt) = &recipient.orcpt {
                let _ = write!(text, "Original-Recipient: {}\r\n", self.plain(orcpt));
            }
            let address_type = if recipient.path.is_ascii() { "rfc822" } else { "utf-8" };
            let action = match self.kind {
                Kind::Failed => "failed",
                Kind::Delayed { .. } => "delayed",
                Kind::Relayed => "relayed",
            };
            let _ = write!(
                text,
                "Final-Recipient: {address_type}; {}\r\nAction: {action}\r\n",
                self.plain(&recipient.path)
            );
            match &recipient.last {
                Some(last) => self.attempt(&mut text, last),
                None => drop(write!(text, "Status: {}\r\n", self.status("4.0.0"))),
            }
            if let Kind::Delayed { until_ms } = self.kind {
                let _ = write!(text, "Will-Retry-Until: {}\r\n", rfc5322(until_ms));
            }
            text.push_str("\r\n");
        }
        text
    }

    fn attempt(&self, text: &mut String, last: &Attempt) {
        let _ = write!(text, "Status: {}\r\n", self.status(&last.status));
        if let Some(host) = &last.host {
            let _ = write!(text, "Remote-MTA: dns; {}\r\n", self.plain(host));
        }
        let diagnostic = if last.from_peer { "smtp" } else { "x-warren" };
        let _ = write!(text, "Diagnostic-Code: {diagnostic}; {}\r\n", self.plain(&last.text));
        let _ = write!(text, "Last-Attempt-Date: {}\r\n", rfc5322(last.at_ms));
    }

    /// A failed recipient has a 5.x.x status even if what it failed of was temporary: its time ran out.
    fn status(&self, status: &str) -> String {
        match (self.kind, status.split_once('.')) {
            (Kind::Failed, Some(("4", rest))) => format!("5.{rest}"),
            _ => status.to_owned(),
        }
    }

    /// Somebody else's text in our message: one line, no controls, no overlong line, ASCII unless the report is international.
    fn plain(&self, text: &str) -> String {
        let mut plain: String = warren_smtp::reply::escape(text)
            .chars()
            .map(|c| if c.is_ascii() || self.international { c } else { '?' })
            .collect();
        plain.truncate(plain.floor_char_boundary(LONGEST_TEXT));
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_queue::{Content, Delivery, MessageId, Origin};

    fn envelope() -> Envelope {
        let mut bob = Recipient::new("bob@postfix.example", 0);
        bob.orcpt = Some("rfc822;Bob@postfix.example".into());
        bob.delivery = Delivery::Failed;
        bob.last = Some(Attempt {
            at_ms: 1_795_299_148_000,
            host: Some("mx1.postfix.example".into()),
            status: "4.2.2".into(),
            text: "452 4.2.2 full\r\nX-Evil: 1 \u{202e}".into(),
            from_peer: true,
        });
        Envelope {
            version: Envelope::VERSION,
            id: "06d3x".parse::<MessageId>().unwrap(),
            arrived_ms: 0,
            origin: Origin::Submission,
            reverse_path: "alice@acme.example".into(),
            recipients: vec![bob],
            content: Content { bytes: 100, eight_bit: false, smtputf8: false },
            ret: None,
            envid: Some("Q+1".into()),
        }
    }

    const REPORTER: Reporter<'static> =
        Reporter { hostname: "mail.warren.example", now_ms: 1_795_299_148_000, nonce: 0xabc };

    fn text(envelope: &Envelope, kind: Kind) -> (String, Report) {
        let about: Vec<&Recipient> = envelope.recipients.iter().collect();
        let report = compose(envelope, &about, kind, REPORTER);
        (String::from_utf8(report.head.clone()).unwrap(), report)
    }

    #[test]
    fn a_failure_says_who_what_and_why() {
        let (head, report) = text(&envelope(), Kind::Failed);
        for line in [
            "From: Mail Delivery System <MAILER-DAEMON@mail.warren.example>",
            "To: alice@acme.example",
            "Auto-Submitted: auto-replied",
            "Reporting-MTA: dns; mail.warren.example",
            "Original-Envelope-Id: Q+1",
            "Original-Recipient: rfc822;Bob@postfix.example",
            "Final-Recipient: rfc822; bob@postfix.example",
            "Action: failed",
            "Status: 5.2.2",
            "Remote-MTA: dns; mx1.postfix.example",
            "Last-Attempt-Date: Sat, 21 Nov 2026 22:12:28 +0000",
            "Content-Type: message/rfc822",
        ] {
            assert!(head.split("\r\n").any(|found| found == line), "{line} in {head}");
        }
        assert!(!head.contains("\r\nX-Evil"), "a reply cannot write our header: {head}");
        assert!(head.is_ascii() && !report.eight_bit && !report.smtputf8);
        assert_eq!(
            (report.returned, report.tail.as_slice()),
            (Returned::Message, &b"\r\n--=_0000000000000abc--\r\n"[..])
        );
        assert!(head.split("\r\n").all(|line| line.len() < 998));
    }

    #[test]
    fn a_failure_without_an_attempt_is_a_failure() {
        let mut envelope = envelope();
        envelope.recipients[0].last = None;
        let (head, _) = text(&envelope, Kind::Failed);
        assert!(head.contains("Action: failed\r\nStatus: 5.0.0\r\n"), "{head}");
    }

    #[test]
    fn returns_what_was_asked_for() {
        let mut envelope = envelope();
        envelope.content.bytes = RETURN_WHOLE + 1;
        assert_eq!(text(&envelope, Kind::Failed).1.returned, Returned::Headers);
        envelope.ret = Some(Ret::Full);
        assert_eq!(text(&envelope, Kind::Failed).1.returned, Returned::Message);
        assert_eq!(text(&envelope, Kind::Relayed).1.returned, Returned::Headers);
        let (head, _) = text(&envelope, Kind::Delayed { until_ms: 86_400_000 });
        assert!(
            head.contains("Action: delayed\r\nStatus: 4.2.2\r\n")
                && head.contains("Will-Retry-Until: Fri, 02 Jan 1970")
        );
    }

    #[test]
    fn international_addresses_make_an_international_report() {
        let mut envelope = envelope();
        envelope.recipients[0].path = "büro@postfix.example".into();
        envelope.recipients[0].last.as_mut().unwrap().text = "ü".repeat(2_000);
        let (head, report) = text(&envelope, Kind::Failed);
        assert!(head.split("\r\n").all(|line| line.len() <= 998));
        assert!(report.eight_bit && !report.smtputf8, "alice can read it wherever she is");
        let header = head.split("\r\n\r\n").next().unwrap();
        assert!(header.is_ascii(), "{header}");
        let mut from_zoe = envelope.clone();
        from_zoe.reverse_path = "zoë@acme.example".into();
        assert!(text(&from_zoe, Kind::Failed).1.smtputf8);
        assert!(
            head.contains("Final-Recipient: utf-8; büro@postfix.example")
                && head.contains("message/global-delivery-status")
        );
    }
}
