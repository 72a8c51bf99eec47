//! The Sender Rewriting Scheme: forwarded mail leaves under an address of the forwarding domain, so that SPF of the original sender's
//! domain does not speak against it, and its bounces find the way back.
//!
//! ```text
//!   a@x.example                  ─▶ SRS0=MAC=TT=x.example=a@us.example
//!   SRS0=m=t=x.example=a@y.org   ─▶ SRS1=MAC=y.org==m=t=x.example=a@us.example
//!   SRS1=m=y.org==rest@z.org     ─▶ SRS1=MAC=y.org==rest@us.example
//! ```
//!
//! MAC is ours: 40 bits of HMAC-SHA256 in base32, over the rest of the local part and our domain, so that an address of one tenant is worth
//! nothing at another's domain. TT is the day modulo 1024. Both survive hosts that change the case of local parts. Pure: the day is passed in.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use warren_smtp::address::AddressError;
use warren_smtp::{Domain, Host, Mailbox, ReversePath};

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Letters of a MAC.
const MAC_LETTERS: usize = 8;
/// Days for which an address works. Bounces come within the five days of most queues; autoresponders later.
const LIFETIME_DAYS: u16 = 21;
/// Days after which the stamp repeats.
const CYCLE: u16 = 1_024;

/// Why an SRS address is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SrsError {
    /// Not of the form.
    #[error("malformed SRS address")]
    Malformed,
    /// Not made by us, or altered.
    #[error("SRS address with a wrong signature")]
    Forged,
    /// Made too long ago.
    #[error("SRS address has expired")]
    Expired,
}

/// The secrets: the first signs, all of them verify.
#[derive(Clone)]
pub struct Srs {
    keys: Vec<Hmac<Sha256>>,
}

impl std::fmt::Debug for Srs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Srs({} keys)", self.keys.len())
    }
}

impl Srs {
    /// With the secrets given, newest first. `None` without any.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let key = |secret: &'a [u8]| Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
        let keys: Vec<_> = secrets.into_iter().map(key).collect();
        if keys.is_empty() { None } else { Some(Self { keys }) }
    }

    /// Whether a local part has the form of an SRS address.
    pub fn has_form(local: &str) -> bool {
        tagged(local, "SRS0").is_some() || tagged(local, "SRS1").is_some()
    }

    /// The envelope sender under which a message is forwarded from `domain`. The null path stays: nobody bounces a bounce.
    pub fn forward(&self, sender: &ReversePath, domain: &Domain, day: u64) -> Result<ReversePath, AddressError> {
        let ReversePath::Mailbox(sender) = sender else { return Ok(ReversePath::Null) };
        let (local, host) = (sender.local(), sender.host().to_string());
        let (tag, rest) = if let Some(opaque) = tagged(local, "SRS0") {
            ("SRS1", format!("{host}={opaque}"))
        } else if let Some((first, opaque)) = tagged(local, "SRS1").and_then(srs1_parts) {
            ("SRS1", format!("{first}={opaque}"))
        } else {
            ("SRS0", format!("{}={host}={local}", stamp(day)))
        };
        let mac = self.mac(&self.keys[0], &rest, domain);
        Mailbox::new(&format!("{tag}={mac}={rest}"), Host::Domain(domain.clone())).map(ReversePath::Mailbox)
    }

    /// Where a message to an SRS address of ours goes: to the sender that was rewritten.
    pub fn reverse(&self, local: &str, domain: &Domain, day: u64) -> Result<Mailbox, SrsError> {
        let (first_hop, tail) = match (tagged(local, "SRS0"), tagged(local, "SRS1")) {
            (Some(tail), _) => (true, tail),
            (None, Some(tail)) => (false, tail),
            (None, None) => return Err(SrsError::Malformed),
        };
        // The separator behind the tag is part of the tail.
        let (mac, rest) = tail[1..].split_once('=').ok_or(SrsError::Malformed)?;
        if !self.keys.iter().any(|key| same(&self.mac(key, rest, domain), mac)) {
            return Err(SrsError::Forged);
        }
        if first_hop {
            let (day_stamp, rest) = rest.split_once('=').ok_or(SrsError::Malformed)?;
            let (host, local) = rest.split_once('=').ok_or(SrsError::Malformed)?;
            if age(day_stamp, day).ok_or(SrsError::Malformed)? > LIFETIME_DAYS {
                return Err(SrsError::Expired);
            }
            mailbox(local, host)
        } else {
            let (first, opaque) = rest.split_once('=').ok_or(SrsError::Malformed)?;
            mailbox(&format!("SRS0{opaque}"), first)
        }
    }

    fn mac(&self, key: &Hmac<Sha256>, rest: &str, domain: &Domain) -> String {
        let mut mac = key.clone();
        // ASCII only: hosts on the way change the case of that, and other letters have look-alikes among it.
        mac.update(rest.to_ascii_lowercase().as_bytes());
        mac.update(b"@");
        mac.update(domain.to_lowercase().as_bytes());
        let bytes = mac.finalize().into_bytes();
        let bits = bytes.iter().take(5).fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        (0..MAC_LETTERS).rev().map(|place| letter(bits >> (5 * place))).collect()
    }
}

/// The tail of `SRS0=…`, `SRS0-…`, `SRS0+…`, separator included.
fn tagged<'a>(local: &'a str, tag: &str) -> Option<&'a str> {
    let head = local.get(..4).filter(|head| head.eq_ignore_ascii_case(tag));
    head.and_then(|_| local.get(4..)).filter(|tail| tail.starts_with(['=', '-', '+']))
}

/// `=mac=first.example=opaque` to (`first.example`, `opaque`); the foreign MAC is of no use to us.
fn srs1_parts(tail: &str) -> Option<(&str, &str)> {
    let (_, rest) = tail[1..].split_once('=')?;
    rest.split_once('=').filter(|(first, opaque)| !first.is_empty() && !opaque.is_empty())
}

fn mailbox(local: &str, host: &str) -> Result<Mailbox, SrsError> {
    let host: Host = host.parse().map_err(|_| SrsError::Malformed)?;
    Mailbox::new(local, host).map_err(|_| SrsError::Malformed)
}

/// Case does not count, time does not tell.
fn same(ours: &str, theirs: &str) -> bool {
    let difference = ours.bytes().zip(theirs.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b.to_ascii_uppercase()));
    ours.len() == theirs.len() && difference == 0
}

fn letter(bits: u64) -> char {
    char::from(ALPHABET[(bits & 31) as usize])
}

fn stamp(day: u64) -> String {
    [letter(day >> 5), letter(day)].iter().collect()
}

/// Days since the stamp; `None` if it is none. A stamp of tomorrow (clocks differ, are set back) is a day old.
fn age(stamp: &str, today: u64) -> Option<u16> {
    let value =
        |letter: u8| ALPHABET.iter().position(|known| *known == letter.to_ascii_uppercase()).map(|at| at as u16);
    let [high, low] = stamp.as_bytes() else { return None };
    let then = value(*high)? << 5 | value(*low)?;
    let age = ((today % u64::from(CYCLE)) as u16 + CYCLE - then) % CYCLE;
    Some(if age == CYCLE - 1 { 1 } else { age })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn srs() -> Srs {
        Srs::new([&b"secret"[..]]).unwrap()
    }

    fn us() -> Domain {
        "us.example".parse().unwrap()
    }

    fn forward(sender: &str, day: u64) -> String {
        srs().forward(&sender.parse().unwrap(), &us(), day).unwrap().to_string()
    }

    fn reverse(address: &str, day: u64) -> Result<String, SrsError> {
        let mailbox: Mailbox = address.parse().unwrap();
        srs().reverse(mailbox.local(), mailbox.domain().unwrap(), day).map(|mailbox| mailbox.to_string())
    }

    #[test]
    fn there_and_back() {
        for sender in ["a.b+c@x.example", "\"a b\"@x.example", "a=b@x.example", "u@[192.0.2.1]", "ü@x.example"] {
            let rewritten = forward(sender, 20_000);
            assert!(
                rewritten.trim_start_matches('"').starts_with("SRS0=") && rewritten.ends_with("@us.example"),
                "{rewritten}"
            );
            assert_eq!(reverse(&rewritten, 20_021).as_deref(), Ok(sender));
        }
        assert_eq!(forward("", 1), "");
    }

    #[test]
    fn further_hops_point_at_the_first() {
        let second = forward("SRS0=HHHH=TT=x.example=a@first.example", 1);
        assert!(
            second.starts_with("SRS1=") && second.ends_with("=first.example==HHHH=TT=x.example=a@us.example"),
            "{second}"
        );
        assert_eq!(reverse(&second, 999).as_deref(), Ok("SRS0=HHHH=TT=x.example=a@first.example"));
        let third = forward("SRS1=GGGG=first.example==HHHH=TT=x.example=a@second.example", 1);
        assert_eq!(reverse(&third, 1).as_deref(), Ok("SRS0=HHHH=TT=x.example=a@first.example"));
        let plus = forward("srs0+HHHH=TT=x.example=a@first.example", 1);
        assert_eq!(reverse(&plus, 1).as_deref(), Ok("SRS0+HHHH=TT=x.example=a@first.example"));
    }

    #[test]
    fn forged_altered_and_expired_are_refused() {
        let good = forward("a@x.example", 20_000);
        assert_eq!(reverse(&good.to_lowercase(), 20_000).as_deref(), Ok("a@x.example"), "hosts change the case");
        assert_eq!(reverse(&good, 19_999).as_deref(), Ok("a@x.example"), "clocks differ by a day");
        assert_eq!(reverse(&good, 20_022), Err(SrsError::Expired));
        assert_eq!(reverse(&good, 19_990), Err(SrsError::Expired));
        assert_eq!(reverse(&good.replace("=a@", "=b@"), 20_000), Err(SrsError::Forged));
        // U+212A, the sign of the kelvin, is a `k` in lower case.
        let kelvin = forward("kate@x.example", 20_000).replace("=kate@", "=\u{212a}ate@");
        assert_eq!(reverse(&kelvin, 20_000), Err(SrsError::Forged));
        assert_eq!(reverse(&good.replace("us.example", "them.example"), 20_000), Err(SrsError::Forged));
        assert_eq!(reverse("SRS0=AAAAAAAA=AA=x.example=a@us.example", 0), Err(SrsError::Forged));
        assert_eq!(reverse("SRS0==AA=x.example=a@us.example", 0), Err(SrsError::Forged));
        assert_eq!(reverse("SRS0=x@us.example", 0), Err(SrsError::Malformed));
        assert_eq!(reverse("a@us.example", 0), Err(SrsError::Malformed));
        let other = Srs::new([&b"new"[..], b"secret"]).unwrap();
        let mailbox: Mailbox = good.parse().unwrap();
        assert!(other.reverse(mailbox.local(), &us(), 20_000).is_ok(), "old keys verify");
        assert!(Srs::new([]).is_none());
    }

    proptest! {
        #[test]
        fn any_sender_round_trips(local in "[ -~]{1,64}", day in 0u64..100_000, later in 0u64..=21) {
            let sender = Mailbox::new(&local, "x.example".parse().unwrap()).unwrap();
            let ReversePath::Mailbox(rewritten) = srs().forward(&ReversePath::Mailbox(sender.clone()), &us(), day).unwrap() else { panic!() };
            if !Srs::has_form(&local) {
                prop_assert_eq!(srs().reverse(rewritten.local(), &us(), day + later).unwrap(), sender);
            }
        }

        #[test]
        fn any_recipient_is_handled(local in "(SRS[01][=+-])?[ -~]{0,80}") {
            prop_assert!(srs().reverse(&local, &us(), 5).is_err());
        }
    }
}
