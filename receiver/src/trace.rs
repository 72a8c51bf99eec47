//! Trace: the Received field of this hop, and counting the hops before it.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What a Received field tells (RFC 5321 §4.4).
#[derive(Debug, Clone)]
pub struct Received<'a> {
    /// The name that the client gave.
    pub helo: &'a str,
    /// Where it really is.
    pub client: SocketAddr,
    /// EHLO and not HELO.
    pub extended: bool,
    /// Protocol and cipher suite, inside TLS.
    pub tls: Option<&'a str>,
    /// The MAIL command asked for SMTPUTF8.
    pub smtputf8: bool,
    /// Who we are.
    pub by: &'a str,
    /// Under what the log knows this message.
    pub id: &'a str,
    /// The recipient, if there is only one: several would tell each of the others.
    pub recipient: Option<&'a str>,
    /// When.
    pub at: Timestamp,
}

impl Received<'_> {
    /// The field, folded, with its CRLF.
    pub fn to_field(&self) -> String {
        let with = match (self.smtputf8, self.extended, self.tls.is_some()) {
            (true, _, true) => "UTF8SMTPS",
            (true, _, false) => "UTF8SMTP",
            (false, true, true) => "ESMTPS",
            (false, true, false) => "ESMTP",
            (false, false, _) => "SMTP",
        };
        let address = match self.client.ip().to_canonical() {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        };
        let mut field = format!("Received: from {} ({address})", word(self.helo));
        if let Some(tls) = self.tls {
            field.push_str(&format!("\r\n\t(using {})", comment(tls)));
        }
        field.push_str(&format!("\r\n\tby {} with {with} id {}", word(self.by), word(self.id)));
        if let Some(recipient) = self.recipient.filter(|text| !text.chars().any(char::is_control)) {
            field.push_str(&format!("\r\n\tfor <{recipient}>"));
        }
        field.push_str(&format!(";\r\n\t{}\r\n", date(self.at)));
        field
    }
}

fn date(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// A client's name with everything but what names and address literals are made of replaced.
fn word(text: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "-._[]:+".contains(c) { c } else { '?' };
    text.chars().take(255).map(safe).collect()
}

fn comment(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_ascii_alphanumeric() || "-._ ".contains(c) { c } else { '?' }).collect()
}

/// Counts Received fields in the header section of a message that comes in pieces.
#[derive(Debug, Clone, Default)]
pub struct HopCounter {
    hops: u32,
    in_body: bool,
    /// Letters of the line seen so far that match; `None`: this line is of no interest.
    matched: Option<usize>,
    line_length: usize,
}

impl HopCounter {
    /// At the start of a message.
    pub fn new() -> Self {
        Self { matched: Some(0), ..Self::default() }
    }

    /// Looks at the next content.
    pub fn push(&mut self, content: &[u8]) {
        const NAME: &[u8] = b"received:";
        for byte in content {
            if self.in_body {
                return;
            }
            match byte {
                b'\r' => {}
                b'\n' => {
                    self.in_body = self.line_length == 0;
                    self.line_length = 0;
                    self.matched = Some(0);
                }
                byte => {
                    self.line_length += 1;
                    self.matched = match self.matched {
                        Some(at) if NAME[at] == byte.to_ascii_lowercase() => {
                            self.hops += u32::from(at + 1 == NAME.len());
                            Some(at + 1).filter(|next| *next < NAME.len())
                        }
                        // Obsolete syntax allows blanks before the colon.
                        Some(at) if at + 1 == NAME.len() && matches!(byte, b' ' | b'\t') => Some(at),
                        _ => None,
                    };
                }
            }
        }
    }

    /// How many there were so far.
    pub fn hops(&self) -> u32 {
        self.hops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_folded_and_harmless() {
        let received = Received {
            helo: "evil\u{1b}(;,\"x",
            client: "[::ffff:192.0.2.1]:40000".parse().unwrap(),
            extended: true,
            tls: Some("TLSv1.3 with TLS13_AES_256_GCM_SHA384"),
            smtputf8: false,
            by: "mail.warren.example",
            id: "0ABC",
            recipient: Some("info@acme.example"),
            at: "2026-11-21T22:00:05Z".parse().unwrap(),
        };
        assert_eq!(
            received.to_field(),
            "Received: from evil?????x ([192.0.2.1])\r\n\t(using TLSv1.3 with TLS13_AES_256_GCM_SHA384)\r\n\
             \tby mail.warren.example with ESMTPS id 0ABC\r\n\tfor <info@acme.example>;\r\n\tSat, 21 Nov 2026 22:00:05 +0000\r\n"
        );
    }

    #[test]
    fn hops_are_counted_in_the_header_only() {
        let message = b"Received: a\r\n\tfolded received: x\r\nRECEIVED : b\r\nX-Received: c\r\nReceived\r\nReceivedx: y\r\nreceived:\r\n\r\nReceived: body\r\n";
        for cut in 1..message.len() {
            let mut counter = HopCounter::new();
            message.chunks(cut).for_each(|chunk| counter.push(chunk));
            assert_eq!(counter.hops(), 3, "cut {cut}");
        }
    }
}
