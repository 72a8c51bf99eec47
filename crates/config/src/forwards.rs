//! Where mail for a tenant's addresses goes.

use std::collections::BTreeMap;
use std::ops::Range;

/// The forwards of a tenant: local parts, at one of its domains or at all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forwards(BTreeMap<(String, Option<String>), Forward>);

/// One forward.
#[derive(Debug, Clone)]
pub(crate) struct Forward {
    /// Where to.
    pub(crate) to: Vec<String>,
    /// Where in the file each of them stands.
    pub(crate) spans: Vec<Range<usize>>,
}

/// Places in a file are no part of what a forward means.
impl PartialEq for Forwards {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((key, own), (key2, other))| key == key2 && own.to == other.to)
    }
}

impl Forwards {
    /// Adds one; `false` if that key is there already. Without a domain it holds for all of the tenant's.
    pub(crate) fn add(&mut self, local: String, domain: Option<String>, forward: Forward) -> bool {
        self.0.insert((local, domain), forward).is_none()
    }

    /// The forward of an address; the one for the full address comes before the one for the local part. All in lower
    /// case.
    pub(crate) fn find(&self, local: &str, domain: &str) -> Option<&Forward> {
        let full = self.0.get(&(local.to_owned(), Some(domain.to_owned())));
        full.or_else(|| self.0.get(&(local.to_owned(), None)))
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>, &Forward)> {
        self.0.iter().map(|((local, domain), forward)| (local.as_str(), domain.as_deref(), forward))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
