//! The Received field that every accepted message gets (RFC 5321 §4.4), and the count of those before it.

use super::date::rfc5322;
use super::header::Header;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Where a message came from, for its Received field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// What the client called itself.
    pub helo: Option<String>,
    /// Where it connected from.
    pub address: Option<IpAddr>,
    /// It was authenticated.
    pub authenticated: bool,
    /// It used SMTPUTF8.
    pub smtputf8: bool,
}

/// Writes the field, line end included.
#[must_use]
pub fn received(trace: &Trace, by: &str, id: &str, for_path: Option<&str>, now_ms: u64) -> Vec<u8> {
    let mut text = String::from("Received: from ");
    text.push_str(&harmless(trace.helo.as_deref().unwrap_or("unknown")));
    match trace.address {
        Some(IpAddr::V4(address)) => drop(write!(text, " ([{address}])")),
        Some(IpAddr::V6(address)) => drop(write!(text, " ([IPv6:{address}])")),
        None => {}
    }
    let protocol = match (trace.smtputf8, trace.authenticated) {
        (true, true) => "UTF8SMTPSA",
        (true, false) => "UTF8SMTP",
        (false, true) => "ESMTPSA",
        (false, false) => "ESMTP",
    };
    let _ = write!(text, "\r\n\tby {by} with {protocol} id {id}");
    // One recipient is no secret from itself; several might be from each other.
    if let Some(path) = for_path.filter(|path| path.len() < 200 && (trace.smtputf8 || path.is_ascii())) {
        let _ = write!(text, "\r\n\tfor <{path}>");
    }
    let _ = write!(text, ";\r\n\t{}\r\n", rfc5322(now_ms));
    text.into_bytes()
}

/// How many hops a message has behind it.
#[must_use]
pub fn hops(header: &Header) -> usize {
    header.all("Received").count()
}

/// A peer's word in our header: nothing that could end the field, open a comment or hide.
fn harmless(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_:[]".contains(c) { c } else { '?' };
    let text: String = text.chars().take(255).map(plain).collect();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_who_how_and_when() {
        let trace = Trace {
            helo: Some("laptop".into()),
            address: "192.0.2.7".parse().ok(),
            authenticated: true,
            smtputf8: false,
        };
        let field =
            received(&trace, "mail.warren.example", "06d3x0001", Some("bob@postfix.example"), 1_795_299_148_000);
        assert_eq!(
            String::from_utf8(field).unwrap(),
            "Received: from laptop ([192.0.2.7])\r\n\tby mail.warren.example with ESMTPSA id 06d3x0001\r\n\tfor <bob@postfix.example>;\r\n\tSat, 21 Nov 2026 22:12:28 +0000\r\n"
        );
    }

    #[test]
    fn a_peer_cannot_write_our_header() {
        let trace = Trace { helo: Some("x\r\nX-Evil: (\u{202e}".into()), ..Trace::default() };
        let field = String::from_utf8(received(&trace, "h", "i", None, 0)).unwrap();
        assert!(field.starts_with("Received: from x??X-Evil:???\r\n\tby h"), "{field}");
    }
}
