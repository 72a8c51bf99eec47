//! All tenants of a node, and the questions that programs ask about them.
//!
//! There may be 100,000 of them, nearly all asleep, and a change that concerns one must not cost the time of all: each
//! has a *seat* whose number stays, and the orders by name and by domain are lists of numbers. A new directory is the old one
//! with some seats taken by others; tenants that did not change are shared by both.

mod ties;

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use warren_launcher_api::TenantName;

use crate::accounts::Account;
use crate::checker::Checker;
use crate::folder::{Folder, Stamp};
use crate::node::Node;
use crate::problem::Problems;
use crate::tenant::{Tenant, TenantFile, tenant};
use crate::{TENANTS_FOLDER, places};

/// The tenants. Cheap to ask, by name and by domain.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    seats: Vec<Option<Seat>>,
    /// Seats, in the order of their tenants' names.
    by_name: Vec<u32>,
    /// Each domain as a seat and its place among the tenant's domains, in the order of domains.
    by_domain: Vec<(u32, u32)>,
    /// Seats of tenants that forward to an address of this node.
    inward: Vec<u32>,
}

/// A tenant, and how its file looked when it was read.
#[derive(Debug, Clone)]
struct Seat {
    tenant: Arc<Tenant>,
    stamp: Stamp,
}

/// A tenant's file that is new, other than before, or gone.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: TenantName,
    pub(crate) now: Option<(Arc<Tenant>, Stamp)>,
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

/// So few additions to a sorted list are put in one by one.
const FEW: usize = 64;

impl Directory {
    /// Reads every `NAME.toml` in `tenants/` of the configuration directory; `node` gives what a tenant's file leaves
    /// out. No folder means no tenants. Other files, such as an editor's copies, are passed over. Who reads more than
    /// once keeps a [`Folder`].
    pub fn load(directory: &Path, node: &Node) -> Result<Self, Problems> {
        Folder::once(directory).read(node, &Self::default())
    }

    /// What [`Directory::load`] would give if the tenant's file were this text, or were not there. `self` is what it gives now.
    pub fn rehearse(
        &self,
        directory: &Path,
        node: &Node,
        name: &TenantName,
        text: Option<&str>,
    ) -> Result<Self, Problems> {
        let folder = directory.join(TENANTS_FOLDER);
        let now = match text {
            Some(text) => {
                let (check, raw) = Checker::parse::<TenantFile>(&places::file(&folder, name), text)?;
                Some((Arc::new(tenant(check, &raw, name.clone(), node)?), None))
            }
            None => None,
        };
        self.with(vec![Found { name: name.clone(), now }], &folder)
    }

    /// All tenants, by name.
    pub fn tenants(&self) -> impl ExactSizeIterator<Item = &Arc<Tenant>> {
        self.by_name.iter().map(|seat| self.tenant_at(*seat))
    }

    /// The tenants whose names come after this one, by name; without one all.
    pub fn tenants_after(&self, name: Option<&TenantName>) -> impl ExactSizeIterator<Item = &Arc<Tenant>> {
        let before = |name: &TenantName| self.by_name.partition_point(|seat| self.tenant_at(*seat).name <= *name);
        self.by_name[name.map_or(0, before)..].iter().map(|seat| self.tenant_at(*seat))
    }

    /// The tenant of that name.
    pub fn tenant(&self, name: &TenantName) -> Option<&Arc<Tenant>> {
        self.seat(name).map(|seat| self.tenant_at(seat))
    }

    /// The tenant that a domain belongs to; capitals make no difference.
    pub fn by_domain(&self, domain: &str) -> Option<&Arc<Tenant>> {
        let found = |domain: &str| {
            let at = self.by_domain.binary_search_by(|key| self.domain_at(*key).cmp(domain)).ok()?;
            Some(self.tenant_at(self.by_domain[at].0))
        };
        found(domain).or_else(|| found(&domain.to_ascii_lowercase()))
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
        let Some(tenant) = self.by_domain(&domain) else { return Recipient::NotLocal };
        match tenant.forwards.find(&local.to_ascii_lowercase(), &domain) {
            Some(forward) => Recipient::Forward { tenant, to: &forward.to },
            None => Recipient::NoSuchUser,
        }
    }

    /// Who gets mail to the postmaster of this node: `[forward]` of the address that `postmaster` of `warren.toml` names.
    pub fn postmaster(&self, node: &Node) -> Option<Recipient<'_>> {
        let (local, domain) = node.postmaster.as_deref()?.rsplit_once('@')?;
        Some(self.recipient(local, domain)).filter(|found| matches!(found, Recipient::Forward { .. }))
    }

    /// Domains whose postmaster nobody reads (RFC 5321 §4.5.1 wants one for each), with their tenants.
    pub fn without_postmaster(&self, node: &Node) -> impl Iterator<Item = (&Arc<Tenant>, &str)> {
        let covered = self.postmaster(node).is_some();
        let domains = |tenant| {
            let tenant: &Arc<Tenant> = tenant;
            tenant.domains.iter().map(move |domain| (tenant, domain.as_str()))
        };
        let lacks = |domain: &str| !matches!(self.recipient("postmaster", domain), Recipient::Forward { .. });
        self.tenants().filter(move |_| !covered).flat_map(domains).filter(move |(_, domain)| lacks(domain))
    }

    /// Logins whose own address is not forwarded though others of its domain are, with their tenants: if the domain's MX is this node,
    /// as the forwards suggest, reports about what they sent (RFC 3464) reach nobody.
    pub fn without_reports(&self) -> impl Iterator<Item = (&Arc<Tenant>, String)> {
        let takes = |tenant: &Tenant, domain: &str| {
            tenant.forwards.iter().any(|forward| forward.domain.as_deref().is_none_or(|own| own == domain))
        };
        let logins = move |tenant| {
            let tenant: &Arc<Tenant> = tenant;
            let domains = tenant.domains.iter().filter(move |domain| takes(tenant, domain));
            domains.flat_map(move |domain| {
                let missing = tenant.accounts.keys().filter(|name| tenant.forwards.find(name, domain).is_none());
                missing.map(move |name| (tenant, format!("{name}@{domain}")))
            })
        };
        self.tenants().flat_map(logins)
    }

    /// What `new` changes about this directory.
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        for (old, new) in self.differences(new) {
            match (old, new) {
                (None, Some(new)) => changes.added.push(new.name.clone()),
                (Some(old), None) => changes.removed.push(old.name.clone()),
                (Some(old), Some(new)) if old != new => changes.changed.push(new.name.clone()),
                _ => {}
            }
        }
        changes
    }

    /// Tenants that are not one and the same in both, by name: as they are here, as they are in `new`. Two readings of the
    /// whole folder share none.
    pub fn differences<'a>(
        &'a self,
        new: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Arc<Tenant>>, Option<&'a Arc<Tenant>>)> {
        let (mut old, mut new) = (self.tenants().peekable(), new.tenants().peekable());
        std::iter::from_fn(move || {
            loop {
                let order = match (old.peek(), new.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some(old), Some(new)) if Arc::ptr_eq(old, new) => Ordering::Equal,
                    (Some(old), Some(new)) => old.name.cmp(&new.name),
                };
                let pair = match order {
                    Ordering::Less => (old.next(), None),
                    Ordering::Greater => (None, new.next()),
                    Ordering::Equal => (old.next(), new.next()),
                };
                match pair {
                    (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
                    pair => return Some(pair),
                }
            }
        })
    }

    /// How the file of each tenant looked when it was read, by name.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = (&TenantName, Stamp)> {
        self.by_name.iter().map(|seat| (&self.tenant_at(*seat).name, self.seated(*seat).stamp))
    }

    /// This directory with what was found in `folder`, if it is good.
    pub(crate) fn with(&self, found: Vec<Found>, folder: &Path) -> Result<Self, Problems> {
        let mut next = self.clone();
        let mut leaving = vec![false; self.seats.len()];
        let mut free: Vec<u32> = (0..).zip(&self.seats).filter(|(_, s)| s.is_none()).map(|(at, _)| at).collect();
        let mut coming = Vec::new();
        for Found { name, now } in found {
            let at = self.seat(&name);
            if let (Some(at), Some((tenant, stamp))) = (at, &now)
                && *tenant == *self.tenant_at(at)
            {
                next.seats[at as usize] = Some(Seat { tenant: Arc::clone(self.tenant_at(at)), stamp: *stamp });
                continue;
            }
            if let Some(at) = at {
                leaving[at as usize] = true;
                next.seats[at as usize] = None;
                free.push(at);
            }
            coming.extend(now);
        }
        next.by_name.retain(|seat| !leaving[*seat as usize]);
        next.by_domain.retain(|(seat, _)| !leaving[*seat as usize]);
        next.inward.retain(|seat| !leaving[*seat as usize]);
        let fresh = next.take_seats(coming, free);
        let mut problems = Problems::default();
        next.check_domains(&fresh, folder, &mut problems);
        next.check_forwards(self, fresh, folder, &mut problems);
        problems.or(next)
    }

    fn take_seats(&mut self, coming: Vec<(Arc<Tenant>, Stamp)>, mut free: Vec<u32>) -> Vec<u32> {
        self.seats.reserve_exact(coming.len().saturating_sub(free.len()));
        let mut fresh = Vec::with_capacity(coming.len());
        for (tenant, stamp) in coming {
            let seat = free.pop().unwrap_or_else(|| {
                self.seats.push(None);
                u32::try_from(self.seats.len() - 1).expect("fewer tenants than files that a folder can hold")
            });
            self.seats[seat as usize] = Some(Seat { tenant, stamp });
            fresh.push(seat);
        }
        let mut by_name = std::mem::take(&mut self.by_name);
        insert(&mut by_name, fresh.clone(), |a, b| self.tenant_at(*a).name.cmp(&self.tenant_at(*b).name));
        self.by_name = by_name;
        let mut by_domain = std::mem::take(&mut self.by_domain);
        let domains = fresh.iter().flat_map(|seat| self.domain_keys(*seat)).collect();
        insert(&mut by_domain, domains, |a, b| self.order_of_domains(*a, *b));
        self.by_domain = by_domain;
        fresh
    }

    /// Of tenants that both claim a domain, the one whose name comes first is first.
    fn order_of_domains(&self, a: (u32, u32), b: (u32, u32)) -> Ordering {
        let names = || self.tenant_at(a.0).name.cmp(&self.tenant_at(b.0).name);
        self.domain_at(a).cmp(self.domain_at(b)).then_with(names)
    }

    fn domain_keys(&self, seat: u32) -> impl Iterator<Item = (u32, u32)> + use<> {
        (0..).take(self.tenant_at(seat).domains.len()).map(move |place| (seat, place))
    }

    fn seat(&self, name: &TenantName) -> Option<u32> {
        let at = self.by_name.binary_search_by(|seat| self.tenant_at(*seat).name.cmp(name)).ok()?;
        self.by_name.get(at).copied()
    }

    fn seated(&self, seat: u32) -> &Seat {
        self.seats[seat as usize].as_ref().expect("a listed seat is taken")
    }

    fn tenant_at(&self, seat: u32) -> &Arc<Tenant> {
        &self.seated(seat).tenant
    }

    fn domain_at(&self, (seat, place): (u32, u32)) -> &str {
        &self.tenant_at(seat).domains[place as usize]
    }
}

/// The same tenants, wherever they sit.
impl PartialEq for Directory {
    fn eq(&self, other: &Self) -> bool {
        self.by_name.len() == other.by_name.len() && self.tenants().eq(other.tenants())
    }
}

/// Adds to a sorted list.
fn insert<T: Copy>(sorted: &mut Vec<T>, new: Vec<T>, order: impl Fn(&T, &T) -> Ordering) {
    if new.len() > FEW {
        sorted.reserve_exact(new.len());
        sorted.extend(new);
        return sorted.sort_by(order);
    }
    for item in new {
        let at = sorted.partition_point(|known| order(known, &item).is_lt());
        sorted.insert(at, item);
    }
}
