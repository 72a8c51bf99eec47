//! Parameters of MAIL and RCPT.

use std::fmt;

use super::CommandError;
use crate::xtext;

/// Most parameters on one command.
const MAX_PARAMS: usize = 32;
/// Longest ENVID and ORCPT once decoded (RFC 3461 §4.4, §4.2).
const MAX_ENVID: usize = 100;
const MAX_ORCPT: usize = 500;

/// A parameter that this crate does not know, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// In upper case.
    pub keyword: String,
    /// What stands behind `=`.
    pub value: Option<String>,
}

/// `BODY=` (RFC 6152, RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyType {
    /// `7BIT`.
    SevenBit,
    /// `8BITMIME`.
    EightBitMime,
    /// `BINARYMIME`.
    BinaryMime,
}

/// `RET=` (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DsnReturn {
    /// A failure notice returns the whole message.
    Full,
    /// It returns the header only.
    Headers,
}

/// `NOTIFY=` (RFC 3461 §4.1); all false is `NEVER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    /// Tell of delivery.
    pub success: bool,
    /// Tell of failure.
    pub failure: bool,
    /// Tell of delay.
    pub delay: bool,
}

/// `ORCPT=` (RFC 3461 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalRecipient {
    /// `rfc822`, `utf-8`, … in lower case.
    pub address_type: String,
    /// Decoded; holds no control characters.
    pub address: String,
}

/// What may stand behind `MAIL FROM:<…>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParams {
    /// `SIZE=` (RFC 1870): what the client says the message has.
    pub size: Option<u64>,
    /// `BODY=`.
    pub body: Option<BodyType>,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `RET=`.
    pub ret: Option<DsnReturn>,
    /// `ENVID=`, decoded; holds no control characters.
    pub envid: Option<String>,
    /// `AUTH=` (RFC 4954 §5), decoded; `<>` is "not known".
    pub auth: Option<String>,
    /// `REQUIRETLS` (RFC 8689).
    pub require_tls: bool,
    /// All others.
    pub other: Vec<Param>,
}

/// What may stand behind `RCPT TO:<…>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RcptParams {
    /// `NOTIFY=`.
    pub notify: Option<Notify>,
    /// `ORCPT=`.
    pub orcpt: Option<OriginalRecipient>,
    /// All others.
    pub other: Vec<Param>,
}

/// Splits `KEY=value KEY …` and refuses what stands twice, and tabs: they are no part of a value (RFC 5321 §4.1.2, `esmtp-value`),
/// and one at a line's end would be lost.
fn split(text: &str) -> Result<Vec<(String, Option<&str>)>, CommandError> {
    let mut params: Vec<(String, Option<&str>)> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (keyword, value) = word.split_once('=').map_or((word, None), |(k, v)| (k, Some(v)));
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let blank = value.is_some_and(|value| value.is_empty() || value.contains('\t'));
        if keyword.is_empty() || !keyword.bytes().all(legal) || blank || params.len() == MAX_PARAMS {
            return Err(CommandError::Syntax("KEYWORD=value behind the address"));
        }
        let keyword = keyword.to_ascii_uppercase();
        if params.iter().any(|(known, _)| *known == keyword) {
            return Err(CommandError::Parameter("a parameter that stands twice"));
        }
        params.push((keyword, value));
    }
    Ok(params)
}

impl MailParams {
    pub(super) fn parse(text: &str) -> Result<Self, CommandError> {
        let mut out = Self::default();
        for (keyword, value) in split(text)? {
            match (keyword.as_str(), value) {
                ("SIZE", Some(v)) => out.size = Some(size(v)?),
                ("BODY", Some(v)) => out.body = Some(body(v)?),
                ("SMTPUTF8", None) => out.smtputf8 = true,
                ("REQUIRETLS", None) => out.require_tls = true,
                ("RET", Some(v)) if v.eq_ignore_ascii_case("FULL") => out.ret = Some(DsnReturn::Full),
                ("RET", Some(v)) if v.eq_ignore_ascii_case("HDRS") => out.ret = Some(DsnReturn::Headers),
                ("ENVID", Some(v)) => out.envid = Some(bounded(v, MAX_ENVID, "ENVID")?),
                ("AUTH", Some(v)) => out.auth = Some(bounded(v, MAX_ORCPT, "AUTH")?),
                ("SIZE" | "BODY" | "SMTPUTF8" | "REQUIRETLS" | "RET" | "ENVID" | "AUTH", _) => {
                    return Err(CommandError::Parameter("a parameter of MAIL"));
                }
                (_, value) => out.other.push(Param { keyword, value: value.map(str::to_owned) }),
            }
        }
        Ok(out)
    }
}

impl RcptParams {
    pub(super) fn parse(text: &str) -> Result<Self, CommandError> {
        let mut out = Self::default();
        for (keyword, value) in split(text)? {
            match (keyword.as_str(), value) {
                ("NOTIFY", Some(v)) => out.notify = Some(notify(v)?),
                ("ORCPT", Some(v)) => out.orcpt = Some(orcpt(v)?),
                ("NOTIFY" | "ORCPT", None) => return Err(CommandError::Parameter("a parameter of RCPT")),
                (_, value) => out.other.push(Param { keyword, value: value.map(str::to_owned) }),
            }
        }
        Ok(out)
    }
}

/// Up to 20 digits (RFC 1870 §3); what overflows is surely too large.
fn size(value: &str) -> Result<u64, CommandError> {
    if value.len() > 20 || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CommandError::Parameter("SIZE"));
    }
    Ok(value.parse().unwrap_or(u64::MAX))
}

fn body(value: &str) -> Result<BodyType, CommandError> {
    match value.to_ascii_uppercase().as_str() {
        "7BIT" => Ok(BodyType::SevenBit),
        "8BITMIME" => Ok(BodyType::EightBitMime),
        "BINARYMIME" => Ok(BodyType::BinaryMime),
        _ => Err(CommandError::Parameter("BODY")),
    }
}

fn bounded(value: &str, max: usize, name: &'static str) -> Result<String, CommandError> {
    let decoded = xtext::decode(value).map_err(|_| CommandError::Parameter(name))?;
    if decoded.len() > max { Err(CommandError::Parameter(name)) } else { Ok(decoded) }
}

fn notify(value: &str) -> Result<Notify, CommandError> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::default());
    }
    let mut out = Notify::default();
    for word in value.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut out.success,
            "FAILURE" => &mut out.failure,
            "DELAY" => &mut out.delay,
            _ => return Err(CommandError::Parameter("NOTIFY")),
        };
        if std::mem::replace(flag, true) {
            return Err(CommandError::Parameter("NOTIFY"));
        }
    }
    Ok(out)
}

fn orcpt(value: &str) -> Result<OriginalRecipient, CommandError> {
    let (kind, address) = value.split_once(';').ok_or(CommandError::Parameter("ORCPT"))?;
    if kind.is_empty()
        || kind.len() > 40
        || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        || address.is_empty()
    {
        return Err(CommandError::Parameter("ORCPT"));
    }
    Ok(OriginalRecipient { address_type: kind.to_ascii_lowercase(), address: bounded(address, MAX_ORCPT, "ORCPT")? })
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.keyword),
            None => f.write_str(&self.keyword),
        }
    }
}

impl BodyType {
    /// As it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let chosen: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        f.write_str(&if chosen.is_empty() { "NEVER".to_owned() } else { chosen.join(",") })
    }
}

impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.address_type, xtext::encode(&self.address))
    }
}

impl fmt::Display for MailParams {
    /// Every parameter with a blank before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(size) = self.size {
            write!(f, " SIZE={size}")?;
        }
        if let Some(body) = self.body {
            write!(f, " BODY={}", body.as_str())?;
        }
        if self.smtputf8 {
            f.write_str(" SMTPUTF8")?;
        }
        if self.require_tls {
            f.write_str(" REQUIRETLS")?;
        }
        match self.ret {
            Some(DsnReturn::Full) => f.write_str(" RET=FULL")?,
            Some(DsnReturn::Headers) => f.write_str(" RET=HDRS")?,
            None => {}
        }
        if let Some(envid) = &self.envid {
            write!(f, " ENVID={}", xtext::encode(envid))?;
        }
        if let Some(auth) = &self.auth {
            write!(f, " AUTH={}", xtext::encode(auth))?;
        }
        self.other.iter().try_for_each(|param| write!(f, " {param}"))
    }
}

impl fmt::Display for RcptParams {
    /// Every parameter with a blank before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(notify) = self.notify {
            write!(f, " NOTIFY={notify}")?;
        }
        if let Some(orcpt) = &self.orcpt {
            write!(f, " ORCPT={orcpt}")?;
        }
        self.other.iter().try_for_each(|param| write!(f, " {param}"))
    }
}
