//! Addresses of the envelope (RFC 5321 §4.1.2, RFC 6531), parsed to exact values.
//!
//! A [`Mailbox`] holds what its text *means*: `"john"@x.example` and `john@x.example` are the same
//! value, and [`Display`](fmt::Display) writes the shortest legal form. Source routes are
//! refused; percent and bang forms are legal local parts here, which callers that would relay
//! recognise with [`Mailbox::is_relay_form`].

use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest local part taken. RFC 5321 asks for at least 64; SRS and VERP need more.
pub const MAX_LOCAL_PART: usize = 256;
/// Longest domain (RFC 5321 §4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;
/// Longest label of a domain (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the form `local@domain`, or characters that may not stand where they do.
    #[error("malformed address")]
    Syntax,
    /// `@a,@b:user@c`: nobody needs these since 1989.
    #[error("source routes are not accepted")]
    SourceRoute,
    /// Longer than the limits of this module.
    #[error("address too long")]
    TooLong,
    /// The domain or address literal is malformed.
    #[error("malformed domain")]
    Domain,
    /// No domain behind the local part.
    #[error("address without a domain")]
    NoDomain,
}

/// A domain name as written; equality, order and hash ignore case.
#[derive(Clone)]
pub struct Domain(String);

impl Domain {
    /// Checks and keeps a domain name: labels of letters, digits, `-` and `_`, or U-labels.
    pub fn new(text: &str) -> Result<Self, AddressError> {
        if text.len() > MAX_DOMAIN {
            return Err(AddressError::TooLong);
        }
        let legal = |label: &str| {
            !label.is_empty()
                && label.len() <= MAX_LABEL
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(domain_char)
        };
        let last = text.rsplit('.').next().unwrap_or_default();
        // All digits at the end: an IPv4 address that lost its brackets.
        if !text.split('.').all(legal) || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError::Domain);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in lower case, for use as a key.
    pub fn to_lowercase(&self) -> String {
        self.0.to_lowercase()
    }
}

/// ASCII as hosts are named in practice; beyond it everything but the characters that look like
/// separators, blanks or nothing at all (fullwidth forms, ideographic full stops, bidi marks), and
/// the Kelvin sign, whose small letter is ASCII: such a name would equal one that it is not.
fn domain_char(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '-' || c == '_';
    }
    !invisible(c)
        && !matches!(
            c,
            '\u{212a}' | '\u{3002}' | '\u{ff00}'
                ..='\u{ffef}' | '\u{2024}' | '\u{2025}' | '\u{2026}' | '\u{fe52}' | '\u{fe6b}'
        )
}

/// Controls, blanks and direction marks.
fn invisible(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{ffff}')
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0) || (!self.0.is_ascii() && self.to_lowercase() == other.to_lowercase())
    }
}
impl Eq for Domain {}
impl Hash for Domain {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_lowercase().hash(state);
    }
}
impl PartialOrd for Domain {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Domain {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.to_lowercase().cmp(&other.to_lowercase())
    }
}
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
impl FromStr for Domain {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::new(text)
    }
}

/// What stands behind the `@`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A domain name.
    Domain(Domain),
    /// `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
}

impl Host {
    /// The domain, unless this is an address literal.
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Literal(_) => None,
        }
    }
}

impl FromStr for Host {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
            return Domain::new(text).map(Self::Domain);
        };
        let address = match inner.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inner[5..].parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
            _ => inner.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
        };
        address.map(Self::Literal).ok_or(AddressError::Domain)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(IpAddr::V4(address)) => write!(f, "[{address}]"),
            Self::Literal(IpAddr::V6(address)) => write!(f, "[IPv6:{address}]"),
        }
    }
}

/// `local@host`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox {
    local: String,
    host: Host,
}

impl Mailbox {
    /// Builds a mailbox of a local part (its meaning, unquoted) and a host.
    pub fn new(local: &str, host: Host) -> Result<Self, AddressError> {
        Self::of(local.to_owned(), host)
    }

    fn of(local: String, host: Host) -> Result<Self, AddressError> {
        if local.len() > MAX_LOCAL_PART {
            return Err(AddressError::TooLong);
        }
        if local.chars().any(|c| c != ' ' && invisible(c)) {
            return Err(AddressError::Syntax);
        }
        Ok(Self { local, host })
    }

    /// The local part without quotes and backslashes.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// What stands behind the `@`.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The domain, unless the host is an address literal.
    pub fn domain(&self) -> Option<&Domain> {
        self.host.domain()
    }

    /// Whether a lax relay could take the local part for a route: `a%b@c`, `b!a@c`, `"a@b"@c`,
    /// fullwidth and small `@`, leading `|` or `/` (pipes and files).
    pub fn is_relay_form(&self) -> bool {
        self.local.contains(['%', '!', '@', ':', '\u{ff20}', '\u{fe6b}', '\u{ff05}', '\u{ff01}'])
            || self.local.starts_with(['|', '/'])
    }

    /// Whether any part needs SMTPUTF8 on the wire.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii() || self.domain().is_some_and(|domain| !domain.as_str().is_ascii())
    }

    /// The same as `to_string`, in one piece of memory.
    pub fn to_text(&self) -> String {
        let host = self.domain().map_or("[IPv6:]".len() + 39, |domain| domain.as_str().len());
        let mut text = String::with_capacity(self.local.len() + 1 + host);
        // Writing to a text cannot fail.
        let _ = write!(text, "{self}");
        text
    }

    /// The whole address with its host in lower case, for use as a key; the local part stays.
    pub fn to_key(&self) -> String {
        let text = self.to_text();
        let at = text.rfind('@').expect("Display writes an @");
        format!("{}{}", &text[..at], text[at..].to_lowercase())
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.starts_with('@') {
            return Err(AddressError::SourceRoute);
        }
        let (local, rest) = match text.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = text.find('@').unwrap_or(text.len());
                let (local, rest) = text.split_at(end);
                if !is_dot_atom(local) {
                    return Err(AddressError::Syntax);
                }
                (local.to_owned(), rest)
            }
        };
        let host = match rest.strip_prefix('@') {
            Some(host) => host,
            None if rest.is_empty() => return Err(AddressError::NoDomain),
            None => return Err(AddressError::Syntax),
        };
        Self::of(local, host.parse()?)
    }
}

/// Reads a quoted string whose first quote is gone; gives its meaning and what follows.
fn unquote(text: &str) -> Result<(String, &str), AddressError> {
    let mut local = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((local, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, escaped)) if escaped == ' ' || escaped.is_ascii_graphic() => local.push(escaped),
                _ => return Err(AddressError::Syntax),
            },
            c if c == ' ' || !invisible(c) => local.push(c),
            _ => return Err(AddressError::Syntax),
        }
    }
    Err(AddressError::Syntax)
}

fn is_dot_atom(text: &str) -> bool {
    let atom =
        |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !invisible(c));
    text.split('.').all(|part| !part.is_empty() && part.chars().all(atom))
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_atom(&self.local) {
            return write!(f, "{}@{}", self.local, self.host);
        }
        f.write_str("\"")?;
        for c in self.local.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.host)
    }
}

/// Where failures go (RFC 5321 §4.1.1.2): a mailbox, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: the sender of notices, to which nothing is ever sent.
    Null,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// The mailbox, unless null.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// The same as `to_string`, in one piece of memory.
    pub fn to_text(&self) -> String {
        self.mailbox().map_or_else(String::new, Mailbox::to_text)
    }

    /// Parses what stands between the angle brackets.
    pub fn parse_inner(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() { Ok(Self::Null) } else { text.parse().map(Self::Mailbox) }
    }
}

impl fmt::Display for ReversePath {
    /// Without angle brackets; null is empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse_inner(text)
    }
}

/// Where a message goes (RFC 5321 §4.1.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// `<Postmaster>` without a domain, which every server must take.
    Postmaster,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ForwardPath {
    /// The mailbox, unless it is the bare postmaster.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Postmaster => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// The same as `to_string`, in one piece of memory.
    pub fn to_text(&self) -> String {
        self.mailbox().map_or_else(|| self.to_string(), Mailbox::to_text)
    }
}

impl fmt::Display for ForwardPath {
    /// Without angle brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("postmaster"),
            Self::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

impl FromStr for ForwardPath {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.eq_ignore_ascii_case("postmaster") { Ok(Self::Postmaster) } else { text.parse().map(Self::Mailbox) }
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
