//! Where a domain wants its reports: the TXT record of `_smtp._tls` (RFC 8460 §3).

/// Most places of one domain that are served: few have more than two, and each is a mail that somebody may not want.
pub const MAX_PLACES: usize = 5;

/// Where a report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A mail address.
    Mail(String),
    /// A URL that reports are POSTed to.
    Https(String),
}

impl Place {
    /// Whether they are the same, in whatever case.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mail(one), Self::Mail(other)) => one.eq_ignore_ascii_case(other),
            (one, other) => one == other,
        }
    }
}

/// The name that a domain's record is at.
#[must_use]
pub fn name(domain: &str) -> String {
    format!("_smtp._tls.{domain}")
}

/// The places that the TXT records at that name give. More than one record of TLSRPT is none (RFC 8460 §3); places that cannot be used are skipped.
#[must_use]
pub fn places<'a>(records: impl IntoIterator<Item = &'a str>) -> Vec<Place> {
    let mut ours = records.into_iter().filter_map(|record| {
        let (version, rest) = record.split_once(';')?;
        (version.trim() == "v=TLSRPTv1").then_some(rest)
    });
    let (Some(record), None) = (ours.next(), ours.next()) else { return Vec::new() };
    let rua = record.split(';').find_map(|field| field.trim().strip_prefix("rua="));
    let mut places: Vec<Place> = Vec::new();
    for place in rua.into_iter().flat_map(|rua| rua.split(',')).filter_map(|place| self::place(place.trim())) {
        if places.len() < MAX_PLACES && !places.iter().any(|known| known.is(&place)) {
            places.push(place);
        }
    }
    places
}

fn place(text: &str) -> Option<Place> {
    let graphic = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(address) = text.strip_prefix("mailto:") {
        let address = decoded(address.split('?').next()?)?;
        let (local, domain) = address.rsplit_once('@')?;
        // Quoted local parts and comments are nobody's report address, and end in a header.
        let plain = graphic(&address) && !address.contains(['<', '>', '(', ')', '"', '\\', ',', ';', ':']);
        return (plain && !local.is_empty() && domain.contains('.') && address.len() <= 254)
            .then_some(Place::Mail(address));
    }
    let url = text.starts_with("https://") && text.len() <= 2_000 && graphic(text);
    url.then(|| Place::Https(text.to_owned()))
}

/// Percent-decoded (RFC 6068).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_where_to() {
        let mail = |address: &str| Place::Mail(address.into());
        for (records, expected) in [
            (&["v=TLSRPTv1; rua=mailto:reports@example.com"][..], vec![mail("reports@example.com")]),
            (
                &["v=spf1 -all", "v=TLSRPTv1;rua=mailto:a%2Bb@example.com,https://r.example/v1/tlsrpt;x=y"],
                vec![mail("a+b@example.com"), Place::Https("https://r.example/v1/tlsrpt".into())],
            ),
            (&["v=TLSRPTv1; rua=mailto:a@example.com?subject=x, http://plain.example/"], vec![mail("a@example.com")]),
            (&["v=TLSRPTv1; rua=mailto:a@x.example", "v=TLSRPTv1; rua=mailto:b@x.example"], vec![]),
            (&["v=TLSRPTv2; rua=mailto:a@x.example"], vec![]),
            (&["v=TLSRPTv1"], vec![]),
            (&["v=TLSRPTv1; rua=mailto:a%0d%0aBcc:b@x.example"], vec![]),
            (&["v=TLSRPTv1; rua=mailto:a@localhost,mailto:<a@x.example>,mailto:%zz@x.example,mailto:"], vec![]),
            (&[], vec![]),
        ] {
            assert_eq!(places(records.iter().copied()), expected, "{records:?}");
        }
    }

    #[test]
    fn nobody_gets_more_than_a_few() {
        let all = |address: fn(usize) -> String| {
            let record = format!("v=TLSRPTv1; rua={}", (0..100).map(address).collect::<Vec<_>>().join(","));
            places([record.as_str()]).len()
        };
        assert_eq!(all(|n| format!("mailto:a{n}@x.example")), MAX_PLACES);
        assert_eq!(all(|n| format!("mailto:a@{}.example", if n % 2 == 0 { "x" } else { "X" })), 1, "once each");
    }
}
