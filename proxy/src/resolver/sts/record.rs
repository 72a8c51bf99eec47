//! The TXT record that announces a policy (RFC 8461 §3.1). Pure.

/// Longest id.
const MAX_ID: usize = 32;

/// What a domain's DNS says about its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// There is one, under this id.
    Id(String),
    /// There is none.
    Nothing,
    /// Nobody can tell.
    Unknown,
}

/// Where the record of a domain is.
#[must_use]
pub fn owner(domain: &str) -> String {
    format!("_mta-sts.{domain}")
}

/// Reads the texts found there. Texts that do not begin with the version are none of ours; with more than one that does, or one that is malformed, there is no
/// policy.
#[must_use]
pub fn announced<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Announced {
    let mut ours = texts.filter(|text| begins(text));
    match (ours.next().and_then(id), ours.next()) {
        (Some(id), None) => Announced::Id(id),
        _ => Announced::Nothing,
    }
}

/// `v=STSv1` and then, after optional blanks, a semicolon.
fn begins(text: &[u8]) -> bool {
    text.strip_prefix(b"v=STSv1").is_some_and(|rest| rest.trim_ascii_start().starts_with(b";"))
}

/// The id of a record, if it is well-formed: fields `name=value`, divided by semicolons and blanks; exactly one `id`.
fn id(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.strip_suffix(';').unwrap_or(text);
    let mut id = None;
    for field in text.split(';').skip(1) {
        let (name, value) = field.trim_matches([' ', '\t']).split_once('=')?;
        let named = !name.is_empty()
            && name.len() <= 32
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        let valued = !value.is_empty() && value.bytes().all(|b| matches!(b, 0x21..=0x3a | 0x3c | 0x3e..=0x7e));
        if !named || !valued {
            return None;
        }
        if name == "id" {
            let fits = value.len() <= MAX_ID && value.bytes().all(|b| b.is_ascii_alphanumeric());
            if !fits || id.replace(value.to_owned()).is_some() {
                return None;
            }
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(texts: &[&str]) -> Announced {
        announced(texts.iter().map(|text| text.as_bytes()))
    }

    #[test]
    fn records_of_the_rfc_and_others() {
        let id = |id: &str| Announced::Id(id.into());
        for (texts, expected) in [
            (&["v=STSv1; id=20160831085700Z;"][..], id("20160831085700Z")),
            (&["v=STSv1;id=1"], id("1")),
            (&["v=STSv1 ;\tid=1 "], id("1")),
            (&["v=STSv1; id=1; ext-1=a.b:c;"], id("1")),
            (&["v=spf1 -all", "v=STSv1; id=1;"], id("1")),
            (&["v=STSv1; id=1;", "v=STSv2; id=2;"], id("1")),
            (&[], Announced::Nothing),
            (&["v=STSv1; id=1;", "v=STSv1; id=1;"], Announced::Nothing),
            (&["v=STSv1;"], Announced::Nothing),
            (&["v=STSv1; id=;"], Announced::Nothing),
            (&["v=STSv1; id=1; id=2"], Announced::Nothing),
            (&["v=STSv1; id=2016-08"], Announced::Nothing),
            (&["v=STSv1; id=123456789012345678901234567890123"], Announced::Nothing),
            (&["v=STSv1; id=1; x"], Announced::Nothing),
            (&["v=STSv1; id=1;;"], Announced::Nothing),
            (&["v=stsv1; id=1;"], Announced::Nothing),
            (&["v=STSv11; id=1;"], Announced::Nothing),
            (&[" v=STSv1; id=1;"], Announced::Nothing),
        ] {
            assert_eq!(read(texts), expected, "{texts:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_id_or_nothing(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let with_start = [b"v=STSv1;", &text[..]].concat();
            for text in [&text, &with_start] {
                if let Announced::Id(id) = announced(std::iter::once(&text[..])) {
                    prop_assert!((1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric()));
                }
            }
        }
    }
}
