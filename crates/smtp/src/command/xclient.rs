//! XCLIENT (Postfix's XCLIENT_README): a trusted front tells whose session it carries on.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::CommandError;
use crate::xtext;

/// Longest value once decoded.
const MAX_VALUE: usize = 320;

/// The protocol that the client spoke to the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XclientProtocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
}

/// What XCLIENT tells. `None`: not told, or told to be unavailable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Xclient {
    /// The client's name by reverse DNS.
    pub name: Option<String>,
    /// The client's address.
    pub addr: Option<IpAddr>,
    /// The client's port.
    pub port: Option<u16>,
    /// What it spoke.
    pub proto: Option<XclientProtocol>,
    /// The name it gave in EHLO or HELO.
    pub helo: Option<String>,
    /// Who it proved to be.
    pub login: Option<String>,
    /// The address it connected to.
    pub dest_addr: Option<IpAddr>,
    /// The port it connected to.
    pub dest_port: Option<u16>,
}

impl Xclient {
    /// The attributes to announce in EHLO.
    pub const ATTRIBUTES: [&'static str; 8] =
        ["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"];

    pub(super) fn parse(text: &str) -> Result<Self, CommandError> {
        let mut out = Self::default();
        if text.is_empty() {
            return Err(CommandError::Syntax("XCLIENT ATTRIBUTE=value"));
        }
        for word in text.split_ascii_whitespace() {
            let (keyword, raw) = word.split_once('=').ok_or(CommandError::Syntax("XCLIENT ATTRIBUTE=value"))?;
            let bad = CommandError::Parameter("an XCLIENT attribute");
            let value = xtext::decode(raw).map_err(|_| bad)?;
            if value.is_empty() || value.len() > MAX_VALUE {
                return Err(bad);
            }
            let unavailable = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"].iter().any(|word| value.eq_ignore_ascii_case(word));
            let value = if unavailable { None } else { Some(value) };
            let address = |value: Option<String>| value.map(|v| parse_address(&v).ok_or(bad)).transpose();
            let port = |value: Option<String>| value.map(|v| v.parse::<u16>().map_err(|_| bad)).transpose();
            match keyword.to_ascii_uppercase().as_str() {
                "NAME" => out.name = value,
                "ADDR" => out.addr = address(value)?,
                "PORT" => out.port = port(value)?,
                "PROTO" => {
                    out.proto = match value.map(|v| v.to_ascii_uppercase()).as_deref() {
                        None => None,
                        Some("SMTP") => Some(XclientProtocol::Smtp),
                        Some("ESMTP") => Some(XclientProtocol::Esmtp),
                        Some(_) => return Err(bad),
                    }
                }
                "HELO" => out.helo = value,
                "LOGIN" => out.login = value,
                "DESTADDR" => out.dest_addr = address(value)?,
                "DESTPORT" => out.dest_port = port(value)?,
                _ => return Err(bad),
            }
        }
        Ok(out)
    }

    /// This, with only the attributes that the server announced.
    #[must_use]
    pub fn limited_to(mut self, announced: &[String]) -> Self {
        let has = |name: &str| announced.iter().any(|known| known == name);
        self.name = self.name.filter(|_| has("NAME"));
        self.addr = self.addr.filter(|_| has("ADDR"));
        self.port = self.port.filter(|_| has("PORT"));
        self.proto = self.proto.filter(|_| has("PROTO"));
        self.helo = self.helo.filter(|_| has("HELO"));
        self.login = self.login.filter(|_| has("LOGIN"));
        self.dest_addr = self.dest_addr.filter(|_| has("DESTADDR"));
        self.dest_port = self.dest_port.filter(|_| has("DESTPORT"));
        self
    }
}

fn parse_address(text: &str) -> Option<IpAddr> {
    match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPV6:") => text[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => text.parse().ok(),
    }
}

impl fmt::Display for Xclient {
    /// Every attribute with a blank before it. A session without a name is said to be so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("IPV6:{v6}"),
        };
        let name = self.name.as_deref().map_or_else(|| "[UNAVAILABLE]".to_owned(), xtext::encode);
        write!(f, " NAME={name}")?;
        let proto = self.proto.map(|proto| match proto {
            XclientProtocol::Smtp => "SMTP".to_owned(),
            XclientProtocol::Esmtp => "ESMTP".to_owned(),
        });
        let rest = [
            ("ADDR", self.addr.map(address)),
            ("PORT", self.port.map(|port| port.to_string())),
            ("PROTO", proto),
            ("HELO", self.helo.as_deref().map(xtext::encode)),
            ("LOGIN", self.login.as_deref().map(xtext::encode)),
            ("DESTADDR", self.dest_addr.map(address)),
            ("DESTPORT", self.dest_port.map(|port| port.to_string())),
        ];
        rest.iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| (key, value)))
            .try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}
