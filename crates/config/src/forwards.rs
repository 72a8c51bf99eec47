//! Where mail for a tenant's addresses goes.

use std::collections::BTreeMap;

/// The forwards of a tenant: local parts, at one of its domains or at all of them. Sorted, without spare room: there
/// may be very many tenants.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Forwards(Box<[Forward]>);

/// One forward.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Forward {
    /// The local part, in lower case.
    pub(crate) local: Box<str>,
    /// At this domain; without one, at all of the tenant's.
    pub(crate) domain: Option<Box<str>>,
    /// Where to.
    pub(crate) to: Box<[String]>,
}

/// By local part and domain.
pub(crate) type Gathered = BTreeMap<(String, Option<String>), Vec<String>>;

impl Forwards {
    /// The forward of an address; the one for the full address comes before the one for the local part. All in lower
    /// case.
    pub(crate) fn find(&self, local: &str, domain: &str) -> Option<&Forward> {
        self.exactly(local, Some(domain)).or_else(|| self.exactly(local, None))
    }

    fn exactly(&self, local: &str, domain: Option<&str>) -> Option<&Forward> {
        let key = |forward: &Forward| (&*forward.local, forward.domain.as_deref()).cmp(&(local, domain));
        self.0.binary_search_by(key).ok().and_then(|at| self.0.get(at))
    }

    /// All of them.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Forward> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<Gathered> for Forwards {
    fn from(gathered: Gathered) -> Self {
        let forward = |((local, domain), to): ((String, Option<String>), Vec<String>)| Forward {
            local: local.into(),
            domain: domain.map(Into::into),
            to: to.into(),
        };
        Self(gathered.into_iter().map(forward).collect())
    }
}
