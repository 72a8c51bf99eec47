//! All tenants of a node, and the questions that programs ask about them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use warren_launcher_api::TenantName;

use crate::TENANTS_FOLDER;
use crate::checker::Checker;
use crate::forwards::Forward;
use crate::node::Node;
use crate::problem::{Problem, Problems};
use crate::tenant::{Account, Tenant, TenantFile, tenant};

/// The tenants. Cheap to ask: by name a tree, by domain a hash table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Directory {
    tenants: BTreeMap<TenantName, Arc<Tenant>>,
    domains: HashMap<String, Arc<Tenant>>,
}

/// An account that a login names.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// Whose account.
    pub tenant: &'a Arc<Tenant>,
    /// Its name, the local part of the login.
    pub name: &'a str,
    /// The account.
    pub account: &'a Account,
}

/// What an inbound recipient is to this node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Recipient<'a> {
    /// Mail goes on to these addresses.
    Forward {
        /// Through this tenant.
        tenant: &'a Arc<Tenant>,
        /// At least one.
        to: &'a [String],
    },
    /// The domain is ours, the address is not (Warren has no mailboxes).
    NoSuchUser,
    /// The domain is not ours.
    NotLocal,
}

/// What a new directory changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New tenants.
    pub added: Vec<TenantName>,
    /// Tenants that are gone.
    pub removed: Vec<TenantName>,
    /// Tenants whose settings are others now.
    pub changed: Vec<TenantName>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Directory {
    /// Reads every `NAME.toml` in `tenants/` of the configuration directory; `node` gives what a tenant's file leaves
    /// out. No folder means no tenants. Other files, such as an editor's copies, are passed over.
    pub fn load(directory: &Path, node: &Node) -> Result<Self, Problems> {
        let folder = directory.join(TENANTS_FOLDER);
        let mut problems = Problems::default();
        let mut loaded = Vec::new();
        for file in files(&folder)? {
            match load_one(&file, node) {
                Ok(one) => loaded.push(one),
                Err(found) => problems.append(found),
            }
        }
        let mut found = Self::default();
        for one in &loaded {
            found.add(one, &mut problems);
        }
        for one in &loaded {
            found.check_forwards(one, &mut problems);
        }
        problems.or(found)
    }

    /// All tenants, by name.
    pub fn tenants(&self) -> impl ExactSizeIterator<Item = &Arc<Tenant>> {
        self.tenants.values()
    }

    /// The tenant of that name.
    pub fn tenant(&self, name: &TenantName) -> Option<&Arc<Tenant>> {
        self.tenants.get(name)
    }

    /// The tenant that a domain belongs to; capitals make no difference.
    pub fn by_domain(&self, domain: &str) -> Option<&Arc<Tenant>> {
        self.domains.get(domain).or_else(|| self.domains.get(&domain.to_ascii_lowercase()))
    }

    /// The account that a login (`alice@acme.example`) names; capitals make no difference.
    pub fn login(&self, login: &str) -> Option<Login<'_>> {
        let (name, domain) = login.rsplit_once('@')?;
        let tenant = self.by_domain(domain)?;
        let (name, account) = tenant.accounts.get_key_value(&name.to_ascii_lowercase())?;
        Some(Login { tenant, name, account })
    }

    /// What an inbound recipient is to this node; capitals make no difference.
    pub fn recipient(&self, local: &str, domain: &str) -> Recipient<'_> {
        let domain = domain.to_ascii_lowercase();
        let Some(tenant) = self.domains.get(&domain) else { return Recipient::NotLocal };
        match tenant.forwards.find(&local.to_ascii_lowercase(), &domain) {
            Some(forward) => Recipient::Forward { tenant, to: &forward.to },
            None => Recipient::NoSuchUser,
        }
    }

    /// What `new` changes about this directory.
    pub fn changes(&self, new: &Self) -> Changes {
        let missing_in = |other: &Self, own: &Self| {
            own.tenants.keys().filter(|name| !other.tenants.contains_key(*name)).cloned().collect()
        };
        let differs = |(name, old): (&TenantName, &Arc<Tenant>)| {
            new.tenants.get(name).filter(|new| *new != old).map(|_| name.clone())
        };
        Changes {
            added: missing_in(self, new),
            removed: missing_in(new, self),
            changed: self.tenants.iter().filter_map(differs).collect(),
        }
    }

    fn add(&mut self, one: &Loaded, problems: &mut Problems) {
        self.tenants.insert(one.tenant.name.clone(), Arc::clone(&one.tenant));
        for (domain, span) in one.tenant.domains.iter().zip(&one.domain_spans) {
            match self.domains.get(domain) {
                Some(owner) => {
                    let message = format!(
                        "{domain} is a domain of tenant {} already, expected each domain in one tenant only",
                        owner.name
                    );
                    problems.push(one.problem(span.clone(), message));
                }
                None => {
                    self.domains.insert(domain.clone(), Arc::clone(&one.tenant));
                }
            }
        }
    }

    /// A forward to an address of this node must lead out of it in the end.
    fn check_forwards(&self, one: &Loaded, problems: &mut Problems) {
        for (local, domain, forward) in one.tenant.forwards.iter() {
            let domains =
                one.tenant.domains.iter().map(String::as_str).filter(|own| domain.is_none_or(|only| only == *own));
            let sources: Vec<String> = domains.map(|domain| format!("{local}@{domain}")).collect();
            for (target, span) in forward.to.iter().zip(&forward.spans) {
                if let Some(wrong) = self.dead_end(&sources, target) {
                    problems.push(one.problem(span.clone(), wrong));
                }
            }
        }
    }

    /// Why mail to `target` would come back to one of `sources`, or be refused by this node.
    fn dead_end(&self, sources: &[String], target: &str) -> Option<String> {
        let mut seen = HashSet::new();
        let mut open = vec![target.to_ascii_lowercase()];
        while let Some(address) = open.pop() {
            if sources.contains(&address) {
                return Some(format!(
                    "mail for {address} would be forwarded to itself, expected a forward that leads elsewhere"
                ));
            }
            match self.follow(&address) {
                Some(Some(forward)) if seen.insert(address.clone()) => {
                    open.extend(forward.to.iter().map(|to| to.to_ascii_lowercase()))
                }
                // Further away it is told of where it stands.
                Some(None) if seen.is_empty() => {
                    return Some(format!(
                        "{address} has no forward (this node keeps no mailboxes), expected one that has, or one elsewhere"
                    ));
                }
                _ => {}
            }
        }
        None
    }

    /// The forward of an address of this node; `None` if it is elsewhere.
    fn follow(&self, address: &str) -> Option<Option<&Forward>> {
        let (local, domain) = address.rsplit_once('@')?;
        let tenant = self.domains.get(domain)?;
        Some(tenant.forwards.find(local, domain))
    }
}

/// A tenant and where it came from.
struct Loaded {
    tenant: Arc<Tenant>,
    file: PathBuf,
    text: Arc<str>,
    domain_spans: Vec<std::ops::Range<usize>>,
}

impl Loaded {
    fn problem(&self, span: std::ops::Range<usize>, message: String) -> Problem {
        Problem::at(&self.file, &self.text, span, message)
    }
}

fn load_one(file: &Path, node: &Node) -> Result<Loaded, Problems> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = TenantName::new(&stem)
        .map_err(|error| Problem::of_file(file, format!("the file's name is the tenant's: {error}")))?;
    let (check, raw) = Checker::read::<TenantFile>(file)?;
    let (file, text) = check.source();
    let tenant = Arc::new(tenant(check, &raw, name, node)?);
    let domain_spans = raw.domains.get_ref().iter().map(serde_spanned::Spanned::span).collect();
    Ok(Loaded { tenant, file, text, domain_spans })
}

/// The tenants' files, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Problem> {
    let unreadable = |error: io::Error| Problem::of_file(folder, format!("cannot be read: {error}"));
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
