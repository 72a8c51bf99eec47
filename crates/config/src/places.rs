//! Where in a tenant's file something stands that is wrong only beside other tenants. The file is read again for it: nobody keeps the
//! places of what is right.

use std::path::{Path, PathBuf};

use warren_launcher_api::TenantName;

use crate::checker::Checker;
use crate::forwards::Forward;
use crate::problem::Problem;
use crate::tenant::{Tenant, TenantFile, parse_key};
use crate::values::parse_domain;

/// The file of a tenant.
pub(crate) fn file(folder: &Path, name: &TenantName) -> PathBuf {
    folder.join(format!("{name}.toml"))
}

/// A problem with one of a tenant's domains.
pub(crate) fn of_domain(folder: &Path, name: &TenantName, domain: &str, message: String) -> Problem {
    place(folder, name, message, |raw| {
        let found = raw.domains.get_ref().iter().find(|raw| parse_domain(&raw.get_ref().0).is_ok_and(|d| d == domain));
        found.map(serde_spanned::Spanned::span)
    })
}

/// A problem with the target of a forward; `place` counts its targets.
pub(crate) fn of_target(folder: &Path, tenant: &Tenant, forward: &Forward, at: usize, message: String) -> Problem {
    place(folder, &tenant.name, message, |raw| {
        let (_, targets) = raw.forward.iter().find(|(key, _)| {
            parse_key(&key.get_ref().0, &tenant.domains)
                .is_ok_and(|(local, domain)| *local == *forward.local && domain.as_deref() == forward.domain.as_deref())
        })?;
        targets.get_ref().get(at).map(serde_spanned::Spanned::span)
    })
}

fn place(
    folder: &Path,
    name: &TenantName,
    message: String,
    find: impl FnOnce(&TenantFile) -> Option<std::ops::Range<usize>>,
) -> Problem {
    let file = file(folder, name);
    let found = Checker::read::<TenantFile>(&file).ok().and_then(|(check, raw)| Some((check, find(&raw)?)));
    match found {
        Some((check, span)) => Problem::at(&file, &check.source().1, span, message),
        // It changed since.
        None => Problem::of_file(&file, message),
    }
}
