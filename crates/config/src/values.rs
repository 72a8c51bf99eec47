//! Values as they are written in configuration files.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// `"30s"`, `"500ms"`, `"5m"`, `"1h30m"`, `"5d"`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "{text:?} is not a duration, expected a number and a unit such as \"500ms\", \"30s\", \"5m\", \"4h\" or \"5d\""
        )
    };
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(60 * 60),
            "d" => Duration::from_secs(24 * 60 * 60),
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        total = unit.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
    }
    Ok(total)
}

/// A day of the calendar, `"2026-11-22"`: its beginning in UTC. From 1970 on.
pub(crate) fn parse_date(text: &str) -> Result<SystemTime, String> {
    let wrong = || format!("{text:?} is not a date, expected one such as \"2026-11-22\"");
    let mut parts = text.split('-');
    let mut part = |length: usize| -> Option<u64> {
        parts.next().filter(|part| part.len() == length && part.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    };
    let (year, month, day) =
        part(4).zip(part(2)).zip(part(2)).map(|((year, month), day)| (year, month, day)).ok_or_else(wrong)?;
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of = |month: u64| match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if parts.next().is_some() || year < 1970 || !(1..=12).contains(&month) || !(1..=days_of(month)).contains(&day) {
        return Err(wrong());
    }
    let years: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let days = years + (1..month).map(days_of).sum::<u64>() + day - 1;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 60 * 60))
}

/// Bytes: `"50M"`, `"512K"`, `"1G"`, `"1000"`. K, M and G count in 1,024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size, expected bytes or a number with K, M or G such as \"50M\"");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| wrong())?;
    let unit = match &trimmed[digits..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

/// A domain or host name with at least two labels, in lower case ASCII.
pub fn parse_domain(text: &str) -> Result<String, String> {
    let wrong =
        |problem: &str| Err(format!("{text:?} is not a domain: {problem}; expected a name such as \"example.com\""));
    if !text.is_ascii() {
        return wrong("write it in its ASCII form (xn--…)");
    }
    if text.ends_with('.') {
        return wrong("leave the dot at its end away");
    }
    if text.len() > 253 {
        return wrong("it is longer than 253 characters");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !text.split('.').all(label) {
        return wrong("its labels are 1 to 63 letters, digits and hyphens each, with no hyphen at an end");
    }
    if !text.contains('.') {
        return wrong("it has one label only");
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return wrong("it is an address");
    }
    Ok(text.to_ascii_lowercase())
}

/// The local part of an address as this configuration takes it: RFC 5321 Dot-string, at most 64 octets.
pub(crate) fn parse_local(text: &str) -> Result<String, String> {
    let atom = |atom: &str| {
        !atom.is_empty()
            && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    if text.len() <= 64 && text.split('.').all(atom) {
        Ok(text.into())
    } else {
        Err(format!(
            "{text:?} is not the local part of an address, expected a name such as \"sales\", of ASCII letters, digits and !#$%&'*+-/=?^_`{{|}}~. without quotes"
        ))
    }
}

/// A mail address, `local@domain`; the domain in lower case.
pub fn parse_address(text: &str) -> Result<String, String> {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return Err(format!("{text:?} is not an address, expected one such as \"someone@example.com\""));
    };
    Ok(format!("{}@{}", parse_local(local)?, parse_domain(domain)?))
}

pub(crate) fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address, expected one such as \"203.0.113.10\""))
}

/// An address that a packet can come from.
pub(crate) fn parse_unicast(text: &str) -> Result<IpAddr, String> {
    let address = parse_ip(text)?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(format!("{address} is no address of a host, expected one of this node's such as \"203.0.113.10\""));
    }
    Ok(address)
}

pub(crate) fn parse_socket(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => {
            Err(format!("{text:?} is not an address with a port, expected one such as \"0.0.0.0:587\" or \"[::]:587\""))
        }
    }
}

/// A name server; port 53 if none is given.
pub(crate) fn parse_nameserver(text: &str) -> Result<SocketAddr, String> {
    let plain = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)).ok();
    plain.or_else(|| text.parse().ok()).ok_or_else(|| {
        format!("{text:?} is not a name server, expected an address such as \"9.9.9.9\" or \"9.9.9.9:53\"")
    })
}

pub(crate) fn parse_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain =
        path.components().all(|part| !matches!(part, std::path::Component::ParentDir | std::path::Component::CurDir));
    if path.is_absolute() && plain && !text.contains(|c: char| c.is_control()) {
        Ok(path)
    } else {
        Err(format!("{text:?} is not an absolute path, expected one that begins with / and has no .. in it"))
    }
}

/// A name for users, groups and cgroups.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if first && text.len() <= 32 && text.bytes().all(rest) {
        Ok(text.into())
    } else {
        Err(format!("{text:?} is not a name, expected up to 32 of a-z, 0-9, - and _, beginning with a letter"))
    }
}

/// A network, `198.51.100.0/24` or `2001:db8::/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether an address belongs to it. IPv4 addresses mapped into IPv6 count as the IPv4 addresses that they are.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl Network {
    pub(crate) fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network, expected one such as \"198.51.100.0/24\"");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let network = Self { address, prefix };
        if prefix > longest {
            return Err(wrong());
        }
        let host_bits = match address {
            IpAddr::V4(v4) => v4.to_bits() & !u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0) != 0,
            IpAddr::V6(v6) => v6.to_bits() & !u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0) != 0,
        };
        if host_bits {
            return Err(format!("{text:?} has bits set behind its prefix, expected the first address of the network"));
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, day) in
            [("1970-01-01", 0), ("2000-02-29", 11_016), ("2026-11-22", 20_779), ("9999-12-31", 2_932_896)]
        {
            let since = parse_date(text).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(since, Duration::from_secs(day * 86_400), "{text}");
        }
        for text in [
            "",
            "2026-11",
            "2026-13-01",
            "2026-02-29",
            "2026-11-31",
            "26-11-22",
            "2026-1-2",
            "1969-12-31",
            "2026-11-22-1",
            "+026-11-22",
        ] {
            assert!(parse_date(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("5d", 432_000_000)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "30", "s", "30 s", "-1s", "1.5s", "5y", "99999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("1000", 1000), ("64K", 65_536), ("50M", 52_428_800), ("1G", 1 << 30)] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "M", "-1", "5T", "1.5M", "99999999999999G", "50MB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn domains_and_addresses() {
        assert_eq!(parse_domain("Acme.Example").unwrap(), "acme.example");
        let long = format!("{}.example", "a".repeat(64));
        for text in [
            "",
            "acme",
            "acme.example.",
            ".example",
            "a..b",
            "-a.example",
            "a_b.example",
            "192.0.2.1",
            "bücher.example",
            &long,
            "a/b.example",
            "a b.example",
        ] {
            assert!(parse_domain(text).is_err(), "{text}");
        }
        assert_eq!(parse_address("O'Neil+x@Acme.Example").unwrap(), "O'Neil+x@acme.example");
        for text in [
            "",
            "a",
            "@a.example",
            "a@",
            "a@b",
            "\"a b\"@c.example",
            "a@b@c.example",
            ".a@b.example",
            "a..b@c.example",
            "a\n@b.example",
            "|sh@x.example ",
        ] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks() {
        let network: Network = "198.51.100.0/24".parse().unwrap();
        assert!(
            network.contains("198.51.100.9".parse().unwrap()) && !network.contains("198.51.101.9".parse().unwrap())
        );
        assert!(network.contains("::ffff:198.51.100.9".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
        assert!("2001:db8::/32".parse::<Network>().unwrap().contains("2001:db8::5".parse().unwrap()));
        for text in ["198.51.100.1/24", "198.51.100.0", "198.51.100.0/33", "::/129", "x/8"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
