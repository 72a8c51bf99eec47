//! A tenant: what `tenants/NAME.toml` says, complete and checked by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;
use warren_launcher_api::{ImageName, Limits as ContainerLimits, TenantName};

use crate::accounts::{Account, Accounts, PasswordHash};
use crate::checker::{Checker, Text};
use crate::defaults;
use crate::forwards::{Forwards, Gathered};
use crate::message_size::message_size;
use crate::node::{Node, Rates};
use crate::node_file::{ContainerFile, RatesFile};
use crate::problem::Problems;
use crate::values::{parse_address, parse_domain, parse_duration, parse_local};

/// One tenant. Two that are equal need the same of the platform, so that nothing happens to a tenant whose file was
/// only rewritten.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// The file's name.
    pub name: TenantName,
    /// Its domains, at least one; the first is the main one.
    pub domains: Vec<String>,
    /// Who may submit, by the local part of the login.
    pub accounts: Accounts,
    /// What its container runs.
    pub image: ImageName,
    /// How long its MSA waits before it sleeps.
    pub idle: Duration,
    /// Bytes of a message.
    pub message_size: u64,
    /// Recipients of a transaction.
    pub recipients: u32,
    /// How much mail in an hour.
    pub rates: Rates,
    /// What its container may use.
    pub container: ContainerLimits,
    pub(crate) forwards: Forwards,
}

impl Tenant {
    /// All addresses that an account may send as: its name at each of the tenant's domains, and its senders. Domains in
    /// lower case.
    pub fn sender_addresses(&self, account: &str) -> Vec<String> {
        let Some(found) = self.accounts.get(account) else { return Vec::new() };
        let own = self.domains.iter().map(|domain| format!("{account}@{domain}"));
        own.chain(found.senders.iter().cloned()).collect()
    }

    /// Every login (`account@domain`) with the addresses that it may send as.
    pub fn logins(&self) -> BTreeMap<String, Vec<String>> {
        let logins = self.accounts.keys().flat_map(|account| {
            let addresses = self.sender_addresses(account);
            self.domains.iter().map(move |domain| (format!("{account}@{domain}"), addresses.clone()))
        });
        logins.collect()
    }

    /// Number of forwards.
    pub fn forward_count(&self) -> usize {
        self.forwards.len()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantFile {
    pub(crate) domains: Spanned<Vec<Spanned<Text>>>,
    #[serde(default)]
    accounts: BTreeMap<Spanned<Text>, Spanned<Text>>,
    #[serde(default)]
    senders: BTreeMap<Spanned<Text>, Vec<Spanned<Text>>>,
    #[serde(default)]
    pub(crate) forward: BTreeMap<Spanned<Text>, Spanned<Vec<Spanned<Text>>>>,
    image: Option<Spanned<Text>>,
    idle: Option<Spanned<Text>>,
    #[serde(default)]
    limits: LimitsFile,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    message_size: Option<Spanned<Text>>,
    recipients: Option<Spanned<i64>>,
    messages_per_hour: Option<Spanned<i64>>,
    recipients_per_hour: Option<Spanned<i64>>,
    account_messages_per_hour: Option<Spanned<i64>>,
    account_recipients_per_hour: Option<Spanned<i64>>,
    memory: Option<Spanned<Text>>,
    pids: Option<Spanned<i64>>,
    cpu_weight: Option<Spanned<i64>>,
    file_size: Option<Spanned<Text>>,
    open_files: Option<Spanned<i64>>,
    volume_size: Option<Spanned<Text>>,
}

/// Checks one tenant's file. What concerns several tenants (domains, forwards) is checked by the directory.
pub(crate) fn tenant(mut check: Checker, raw: &TenantFile, name: TenantName, node: &Node) -> Result<Tenant, Problems> {
    let domains = check.list(raw.domains.get_ref(), parse_domain);
    if raw.domains.get_ref().is_empty() {
        check.problem(raw.domains.span(), "a tenant without a domain, expected at least one");
    }
    let limits = &raw.limits;
    let container = ContainerFile {
        memory: &limits.memory,
        pids: &limits.pids,
        cpu_weight: &limits.cpu_weight,
        file_size: &limits.file_size,
        open_files: &limits.open_files,
        volume_size: &limits.volume_size,
    }
    .check(&mut check, &node.limits.container);
    // The front door promises the node's size before it knows the tenant.
    let most = node.limits.message_size;
    let tenant = Tenant {
        name,
        accounts: accounts(&mut check, raw, &domains),
        image: raw.image.as_ref().and_then(|raw| check.value(raw, ImageName::new)).unwrap_or_else(default_image),
        idle: check.value_or(raw.idle.as_ref(), node.fleet.idle, parse_duration),
        message_size: message_size(&mut check, &limits.message_size, most, most, &container),
        recipients: check.number(limits.recipients.as_ref(), node.limits.recipients, 1..=10_000),
        rates: RatesFile {
            messages: &limits.messages_per_hour,
            recipients: &limits.recipients_per_hour,
            account_messages: &limits.account_messages_per_hour,
            account_recipients: &limits.account_recipients_per_hour,
        }
        .check(&mut check, &node.limits.rates),
        container,
        forwards: forwards(&mut check, raw, &domains),
        domains,
    };
    check.finish(tenant)
}

fn default_image() -> ImageName {
    ImageName::new(defaults::IMAGE).expect("the default is a valid name")
}

fn accounts(check: &mut Checker, raw: &TenantFile, domains: &[String]) -> Accounts {
    let mut accounts = BTreeMap::new();
    for (name, hash) in &raw.accounts {
        let (Some(login), Some(password)) = (check.value(name, parse_account), check.value(hash, parse_hash)) else {
            continue;
        };
        accounts.insert(login, Account { password, senders: Box::default() });
    }
    for (name, addresses) in &raw.senders {
        let own_address = |text: &str| {
            let address = parse_address(text)?.to_ascii_lowercase();
            match address.rsplit_once('@') {
                Some((_, domain)) if domains.iter().any(|own| own == domain) => Ok(address),
                _ => Err(format!("{text:?} is not in a domain of this tenant, expected one of {}", domains.join(", "))),
            }
        };
        let addresses = check.list(addresses, own_address);
        let known = raw.accounts.keys().any(|account| account.get_ref() == name.get_ref());
        match accounts.get_mut(&name.get_ref().0) {
            Some(account) => account.senders = addresses.into(),
            // An account that is broken itself was named above.
            None if known => {}
            None => check.problem(
                name.span(),
                format!("there is no account {:?}, expected one of [accounts]", name.get_ref().0),
            ),
        }
    }
    accounts.into()
}

fn forwards(check: &mut Checker, raw: &TenantFile, domains: &[String]) -> Forwards {
    let mut forwards = Gathered::new();
    for (key, targets) in &raw.forward {
        let Some((local, domain)) = check.value(key, |text| parse_key(text, domains)) else { continue };
        if targets.get_ref().is_empty() {
            check.problem(targets.span(), "a forward to nobody, expected at least one address");
        }
        let to = check.list(targets.get_ref(), parse_address);
        if forwards.insert((local, domain), to).is_some() {
            check
                .problem(key.span(), format!("{:?} is forwarded twice (capitals make no difference)", key.get_ref().0));
        }
    }
    forwards.into()
}

/// `info` (at every domain) or `info@acme.example`.
pub(crate) fn parse_key(text: &str, domains: &[String]) -> Result<(String, Option<String>), String> {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return Ok((parse_local(text)?.to_ascii_lowercase(), None));
    };
    let domain = parse_domain(domain)?;
    if !domains.contains(&domain) {
        return Err(format!("{domain} is not a domain of this tenant, expected one of {}", domains.join(", ")));
    }
    Ok((parse_local(local)?.to_ascii_lowercase(), Some(domain)))
}

fn parse_account(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err(format!(
            "{text:?} is not an account, expected the part before the @ (it holds at each of the domains)"
        ));
    }
    let local = parse_local(text)?;
    if local.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!(
            "{text:?} has capitals, expected {:?} (logins are compared without regard to case)",
            local.to_ascii_lowercase()
        ));
    }
    Ok(local)
}

/// Most memory that checking a password may take, in KiB: 256 MiB. More would let one login exhaust a small node.
const MAX_HASH_MEMORY: u32 = 256 << 10;

/// Most passes and lanes.
const MAX_HASH_WORK: u32 = 16;

fn parse_hash(text: &str) -> Result<PasswordHash, String> {
    let wrong = |problem: String| {
        Err(format!("not a password hash: {problem}; expected what `warren passwd` prints, \"$argon2id$v=19$m=…\""))
    };
    let mut parts = text.split('$');
    let (Some(""), Some("argon2id"), Some("v=19")) = (parts.next(), parts.next(), parts.next()) else {
        return wrong("it does not begin with $argon2id$v=19$".into());
    };
    let (Some(parameters), Some(salt), Some(hash), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return wrong("it does not have parameters, salt and hash".into());
    };
    for (parameter, (key, most)) in
        parameters.split(',').zip([("m=", MAX_HASH_MEMORY), ("t=", MAX_HASH_WORK), ("p=", MAX_HASH_WORK)])
    {
        let number = parameter.strip_prefix(key).and_then(|number| number.parse::<u32>().ok());
        if !number.is_some_and(|number| (1..=most).contains(&number)) {
            return wrong(format!("{parameter:?} is not {key}1 to {most}"));
        }
    }
    if parameters.split(',').count() != 3 {
        return wrong("its parameters are not m, t and p".into());
    }
    let base64 = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/');
    if !base64(salt) || !base64(hash) || !(11..=64).contains(&salt.len()) || !(22..=86).contains(&hash.len()) {
        return wrong("its salt or hash is cut or altered".into());
    }
    Ok(PasswordHash::checked(text))
}
