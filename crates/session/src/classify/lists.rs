//! Block lists and reputation services, by what replies write of them.

use super::About;

/// A list that replies name.
pub(super) struct List {
    /// Its name in records.
    pub(super) name: &'static str,
    /// What it lists.
    pub(super) about: About,
    /// What is written, in lower case, when it is meant.
    pub(super) marks: &'static [&'static str],
}

const fn addresses(name: &'static str, marks: &'static [&'static str]) -> List {
    List { name, about: About::Egress, marks }
}

/// What is more special comes first: Spamhaus has a list of domains as well.
pub(super) const LISTS: &[List] = &[
    List { name: "spamhaus-dbl", about: About::Sender, marks: &["dbl.spamhaus", "spamhaus dbl"] },
    List { name: "surbl", about: About::Content, marks: &["surbl"] },
    List { name: "uribl", about: About::Content, marks: &["uribl"] },
    addresses("spamhaus", &["spamhaus", "abuseat.org"]),
    addresses("spamcop", &["spamcop"]),
    addresses("barracuda", &["barracudacentral", "barracuda reputation"]),
    addresses("sorbs", &["sorbs.net"]),
    addresses("uceprotect", &["uceprotect"]),
    addresses("backscatterer", &["backscatterer"]),
    addresses("abusix", &["abusix"]),
    addresses("proofpoint", &["ipcheck.proofpoint", "proofpoint.com/dnsbl", "proofpoint dynamic reputation"]),
    addresses("cloudmark", &["csi.cloudmark.com", "cloudmark sender"]),
    addresses("mailspike", &["mailspike"]),
    addresses("psbl", &["psbl.surriel", "psbl.org"]),
    addresses("invaluement", &["invaluement"]),
    addresses("trendmicro", &["ers.trendmicro", "mail-abuse.com", "trend micro"]),
    addresses("senderscore", &["senderscore", "returnpath.net"]),
    addresses("manitu", &["ix.dnsbl.manitu", "nixspam"]),
    addresses("0spam", &["0spam.org"]),
    addresses("spfbl", &["spfbl.net"]),
    addresses("hostkarma", &["hostkarma", "junkemailfilter"]),
    addresses("spameatingmonkey", &["spameatingmonkey"]),
    addresses("gbudb", &["gbudb"]),
    addresses("dronebl", &["dronebl"]),
    addresses("s5h", &["s5h.net"]),
];

/// The zone that `text`, in lower case, was refused by, as servers that ask DNS lists write it: `blocked using bl.example;`.
pub(super) fn zone(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("blocked using ")?;
    let word = after.split([' ', ';', ',']).next()?.trim_end_matches('.');
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    (word.contains('.') && word.split('.').all(label)).then_some(word)
}

/// The list that `text`, in lower case, names.
pub(super) fn named(text: &str) -> Option<&'static List> {
    LISTS.iter().find(|list| list.marks.iter().any(|mark| text.contains(mark)))
}
