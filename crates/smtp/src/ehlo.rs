//! The set of service extensions that a server offers (RFC 5321 §4.1.1.1).

use crate::command::{BodyType, Command};
use crate::reply::Reply;

/// The longest keyword that is known.
const LONGEST_KEYWORD: usize = "ENHANCEDSTATUSCODES".len();

/// What an EHLO reply offers. The default offers nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 1870: the largest message; 0 is "no fixed limit".
    pub size: Option<u64>,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 2034.
    pub enhanced_status_codes: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 3030.
    pub binarymime: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 8689.
    pub requiretls: bool,
    /// RFC 4954: mechanisms in upper case; empty: not offered.
    pub auth: Vec<String>,
    /// Postfix's XCLIENT: attribute names in upper case; empty: not offered.
    pub xclient: Vec<String>,
    /// RFC 2852: the smallest by-time; 0 where none is named.
    pub deliver_by: Option<u64>,
    /// RFC 9422: name and value of each limit.
    pub limits: Vec<(String, String)>,
    /// Everything else, as it was sent: recorded, never used.
    pub other: Vec<String>,
}

impl Extensions {
    /// Reads an EHLO reply: the name in its first line, and what the others offer. What is
    /// malformed lands in [`other`](Self::other).
    pub fn parse(reply: &Reply) -> (String, Self) {
        let mut lines = reply.lines.iter();
        let _first = lines.next();
        let mut set = Self::default();
        for line in lines {
            set.read(line.trim_end());
        }
        (server_name(reply).to_owned(), set)
    }

    /// Whether a client that was told of `told` may go on with this set. A smaller SIZE will do for a message that was declared to fit.
    pub fn covers(&self, told: &Self, declared: Option<u64>) -> bool {
        let flags = [
            (told.pipelining, self.pipelining),
            (told.eight_bit_mime, self.eight_bit_mime),
            (told.smtputf8, self.smtputf8),
            (told.dsn, self.dsn),
            (told.enhanced_status_codes, self.enhanced_status_codes),
            (told.chunking, self.chunking),
            (told.binarymime, self.binarymime),
            (told.starttls, self.starttls),
            (told.requiretls, self.requiretls),
        ];
        let size = match (told.size, self.size) {
            (None, _) | (Some(_), Some(0)) => true,
            (Some(_), None) => false,
            (Some(old), Some(new)) => (old != 0 && new >= old) || declared.is_some_and(|size| size <= new),
        };
        let deliver_by = match (told.deliver_by, self.deliver_by) {
            (None, _) => true,
            (Some(old), Some(new)) => new <= old,
            (Some(_), None) => false,
        };
        let value = |limits: &[(String, String)], name: &str| {
            limits.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.parse::<u64>().ok())
        };
        // RFC 9422: what names no limit has none that is known.
        let within = |(name, _): &(String, String)| match (value(&told.limits, name), value(&self.limits, name)) {
            (Some(old), Some(new)) => new >= old,
            _ => false,
        };
        let words = |old: &[String], new: &[String]| old.iter().all(|word| new.contains(word));
        flags.iter().all(|(told, offered)| !told || *offered)
            && size
            && deliver_by
            && self.limits.iter().all(within)
            && words(&told.auth, &self.auth)
            && words(&told.xclient, &self.xclient)
    }

    /// Whether the parameters of a MAIL or RCPT are among what is offered. Those that no extension here stands for are the server's business.
    pub fn allows(&self, command: &Command) -> bool {
        match command {
            Command::Mail { params, .. } => {
                let body = match params.body {
                    Some(BodyType::EightBitMime) => self.eight_bit_mime,
                    Some(BodyType::BinaryMime) => self.binarymime,
                    Some(BodyType::SevenBit) => self.eight_bit_mime || self.binarymime,
                    None => true,
                };
                let size = params.size.is_none_or(|size| match self.size {
                    Some(0) => true,
                    Some(limit) => size <= limit,
                    None => false,
                });
                body && size
                    && (!params.smtputf8 || self.smtputf8)
                    && (!params.require_tls || self.requiretls)
                    && (self.dsn || (params.ret.is_none() && params.envid.is_none()))
                    && (self.deliver_by.is_some() || params.other.iter().all(|param| param.keyword != "BY"))
            }
            Command::Rcpt { params, .. } => self.dsn || (params.notify.is_none() && params.orcpt.is_none()),
            _ => true,
        }
    }

    fn read(&mut self, line: &str) {
        // AUTH=LOGIN is how the first Microsoft servers wrote it.
        let (keyword, rest) = line.split_once([' ', '=']).unwrap_or((line, ""));
        let mut upper = [0; LONGEST_KEYWORD];
        let Some(upper) = upper.get_mut(..keyword.len()) else { return self.other.push(line.to_owned()) };
        upper.copy_from_slice(keyword.as_bytes());
        upper.make_ascii_uppercase();
        let words = || rest.split_ascii_whitespace().map(str::to_ascii_uppercase);
        match (std::str::from_utf8(upper).unwrap_or_default(), rest) {
            ("PIPELINING", "") => self.pipelining = true,
            ("8BITMIME", "") => self.eight_bit_mime = true,
            ("SMTPUTF8", _) => self.smtputf8 = true,
            ("DSN", "") => self.dsn = true,
            ("ENHANCEDSTATUSCODES", "") => self.enhanced_status_codes = true,
            ("CHUNKING", "") => self.chunking = true,
            ("BINARYMIME", "") => self.binarymime = true,
            ("STARTTLS", "") => self.starttls = true,
            ("REQUIRETLS", "") => self.requiretls = true,
            ("SIZE", "") => self.size = Some(0),
            ("SIZE", number) if number.parse::<u64>().is_ok() => self.size = number.parse().ok(),
            ("DELIVERBY", "") => self.deliver_by = Some(0),
            ("DELIVERBY", number) if number.parse::<u64>().is_ok() => self.deliver_by = number.parse().ok(),
            ("AUTH", _) => {
                let new: Vec<String> = words().filter(|word| !self.auth.contains(word)).collect();
                self.auth.extend(new);
            }
            ("XCLIENT", _) => self.xclient = words().collect(),
            ("LIMITS", _) => {
                self.limits =
                    words().filter_map(|word| word.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()))).collect()
            }
            _ => self.other.push(line.to_owned()),
        }
    }

    /// The lines that offer this set, without the first.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.each_line(|line| lines.push(line.to_owned()));
        lines
    }

    /// The same, one after the other.
    pub(crate) fn each_line(&self, mut tell: impl FnMut(&str)) {
        let flags = [
            (self.pipelining, "PIPELINING"),
            (self.eight_bit_mime, "8BITMIME"),
            (self.smtputf8, "SMTPUTF8"),
            (self.dsn, "DSN"),
            (self.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (self.chunking, "CHUNKING"),
            (self.binarymime, "BINARYMIME"),
            (self.starttls, "STARTTLS"),
            (self.requiretls, "REQUIRETLS"),
        ];
        flags.iter().filter(|(on, _)| *on).for_each(|(_, name)| tell(name));
        let numbers = [("SIZE", self.size), ("DELIVERBY", self.deliver_by)];
        for (name, value) in numbers {
            match value {
                None => {}
                Some(0) => tell(name),
                Some(number) => tell(&format!("{name} {number}")),
            }
        }
        for (name, words) in [("AUTH", &self.auth), ("XCLIENT", &self.xclient)] {
            if !words.is_empty() {
                tell(&format!("{name} {}", words.join(" ")));
            }
        }
        if !self.limits.is_empty() {
            let limits: Vec<String> = self.limits.iter().map(|(name, value)| format!("{name}={value}")).collect();
            tell(&format!("LIMITS {}", limits.join(" ")));
        }
        self.other.iter().for_each(|line| tell(line));
    }

    /// The EHLO reply that offers this set under `hostname`.
    pub fn to_reply(&self, hostname: &str) -> Reply {
        let mut lines = vec![hostname.to_owned()];
        lines.extend(self.lines());
        Reply { code: 250, enhanced: None, lines }
    }
}

/// The name that a server gives itself: the first word of its EHLO reply.
pub(crate) fn server_name(ehlo: &Reply) -> &str {
    ehlo.lines.first().and_then(|line| line.split(' ').next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::ReplyParser;

    #[test]
    fn a_real_reply_is_read_and_written_again() {
        let wire = b"250-mx.example Hello [192.0.2.1]\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-pipelining\r\n250-CHUNKING\r\n\
            250-DELIVERBY\r\n250-LIMITS MAILMAX=5 RCPTMAX=100\r\n250-AUTH=LOGIN\r\n250-AUTH PLAIN LOGIN\r\n250-XCLIENT NAME ADDR\r\n\
            250-X-EXPS GSSAPI\r\n250-SIZE lots\r\n250-STARTTLS\r\n250 HELP\r\n";
        let mut parser = ReplyParser::new();
        parser.push(wire);
        let (name, set) = Extensions::parse(&parser.next_reply().unwrap().unwrap());
        assert_eq!(name, "mx.example");
        assert_eq!((set.size, set.deliver_by), (Some(52_428_800), Some(0)));
        assert!(set.eight_bit_mime && set.pipelining && set.chunking && set.starttls && !set.dsn);
        assert_eq!(set.auth, ["LOGIN", "PLAIN"]);
        assert_eq!(set.xclient, ["NAME", "ADDR"]);
        assert_eq!(set.limits[1], ("RCPTMAX".into(), "100".into()));
        assert_eq!(set.other, ["X-EXPS GSSAPI", "SIZE lots", "HELP"]);
        assert_eq!(Extensions::parse(&set.to_reply("mx.example")).1, set);
    }
}
