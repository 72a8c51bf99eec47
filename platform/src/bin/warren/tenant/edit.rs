//! `warren tenant add|remove|passwd`: edit a tenant's file as a careful person would, with everything that is not
//! concerned left as it stands, comments too.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, bail};
use toml_edit::{Array, DocumentMut, Item, Table, value};
use warren_config::TenantName;

use super::file::Folder;
use crate::{Config, passwd, reload, tell};

#[derive(clap::Args)]
pub struct AddArguments {
    #[command(flatten)]
    config: Config,
    /// The new tenant's name
    tenant: TenantName,
    /// A domain of the tenant; the first is the main one
    #[arg(long = "domain", value_name = "DOMAIN", required = true)]
    domains: Vec<String>,
    /// An account, the part of the login before the @; its password is read from standard input, a line for each account
    #[arg(long = "account", value_name = "NAME")]
    accounts: Vec<String>,
    /// A forward, such as info=someone@elsewhere.example
    #[arg(long = "forward", value_name = "FROM=TO", value_parser = forward)]
    forwards: Vec<(String, String)>,
    #[command(flatten)]
    after: After,
}

#[derive(clap::Args)]
pub struct RemoveArguments {
    #[command(flatten)]
    config: Config,
    /// The tenant's name
    tenant: TenantName,
    /// Do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    after: After,
}

#[derive(clap::Args)]
pub struct PasswdArguments {
    #[command(flatten)]
    config: Config,
    /// The tenant's name
    tenant: TenantName,
    /// The account, the part of the login before the @; a new one is added. Its password is the first line of standard input
    account: String,
    /// Take the account away instead
    #[arg(long)]
    delete: bool,
    #[command(flatten)]
    after: After,
}

#[derive(clap::Args)]
struct After {
    /// Leave the running node as it is, until `warren apply` or its next start
    #[arg(long)]
    no_reload: bool,
}

pub fn add(arguments: &AddArguments) -> anyhow::Result<()> {
    let AddArguments { config, tenant, domains, accounts, forwards, after } = arguments;
    let hashes = accounts.iter().map(|_| password()).collect::<Result<Vec<_>, _>>()?;
    let folder = Folder::open(&config.directory)?;
    let file = folder.file(tenant);
    if file.symlink_metadata().is_ok() {
        bail!("{} is there already", file.display());
    }
    folder.write(tenant, &new_text(domains, accounts.iter().zip(&hashes), forwards))?;
    tell::line(&format!("{tenant} is added: {}", file.display()))?;
    drop(folder);
    after.run(config)
}

pub fn remove(arguments: &RemoveArguments) -> anyhow::Result<()> {
    let RemoveArguments { config, tenant, yes, after } = arguments;
    let folder = Folder::open(&config.directory)?;
    if folder.known().tenant(tenant).is_none() {
        bail!("there is no tenant {tenant}: {} is missing", folder.file(tenant).display());
    }
    if !yes {
        bail!(
            "this removes {tenant}: its logins and forwards end, its container ends when its sessions are over, and mail \
             that is still in its queue waits on its volume, which stays, unsent; add --yes to do it"
        );
    }
    let moved = folder.remove(tenant)?;
    tell::line(&format!("{tenant} is removed: its file is {} now, and its volume stays", moved.display()))?;
    drop(folder);
    after.run(config)
}

pub fn passwd(arguments: &PasswdArguments) -> anyhow::Result<()> {
    let PasswdArguments { config, tenant, account, delete, after } = arguments;
    let hash = if *delete { None } else { Some(password()?) };
    let folder = Folder::open(&config.directory)?;
    let text = changed(&folder.text(tenant)?, account, hash.as_deref())?;
    folder.write(tenant, &text)?;
    let what = if *delete { "is gone" } else { "has its password" };
    tell::line(&format!("{tenant}: account {} {what}", tell::cell(account)))?;
    drop(folder);
    after.run(config)
}

impl After {
    fn run(&self, config: &Config) -> anyhow::Result<()> {
        if self.no_reload { Ok(()) } else { reload::after_change(config) }
    }
}

/// The hash of the next line of standard input.
fn password() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        eprintln!("warren: type the password and press Enter; it is shown as you type");
    }
    // Through the one buffer that standard input has: the next account's line may be in it already.
    let line: &mut dyn BufRead = &mut io::stdin().lock();
    passwd::hash(&passwd::first_line(line)?)
}

fn forward(text: &str) -> Result<(String, String), String> {
    let (from, to) = text.split_once('=').ok_or("expected FROM=TO, such as info=someone@elsewhere.example")?;
    Ok((from.into(), to.into()))
}

/// A new tenant's file.
fn new_text<'a>(
    domains: &[String],
    accounts: impl Iterator<Item = (&'a String, &'a String)>,
    forwards: &[(String, String)],
) -> String {
    let mut document = DocumentMut::new();
    document["domains"] = value(domains.iter().collect::<Array>());
    for (account, hash) in accounts {
        table(&mut document, "accounts")[account.as_str()] = value(hash.as_str());
    }
    for (from, to) in forwards {
        let targets = table(&mut document, "forward").entry(from).or_insert(value(Array::new()));
        if let Some(targets) = targets.as_array_mut() {
            targets.push(to.as_str());
        }
    }
    document.to_string()
}

fn table<'a>(document: &'a mut DocumentMut, name: &str) -> &'a mut Table {
    let item = document.entry(name).or_insert(Item::Table(Table::new()));
    item.as_table_mut().expect("a new document has only what was put into it")
}

/// The file with another password for an account, or without the account.
fn changed(text: &str, account: &str, hash: Option<&str>) -> anyhow::Result<String> {
    let mut document: DocumentMut = text.parse().context("reading the tenant's file")?;
    let accounts = document.entry("accounts").or_insert(Item::Table(Table::new()));
    let accounts = accounts.as_table_like_mut().context("accounts is not a table")?;
    match (hash, accounts.get_mut(account).and_then(Item::as_value_mut)) {
        (Some(hash), Some(old)) => {
            let decor = old.decor().clone();
            *old = hash.into();
            *old.decor_mut() = decor;
        }
        (Some(hash), None) => {
            accounts.insert(account, value(hash));
            // A table in one line knows of no place for another entry.
            if let Some(Item::Value(toml_edit::Value::InlineTable(line))) = document.get_mut("accounts") {
                line.fmt();
            }
        }
        (None, Some(_)) => {
            accounts.remove(account);
            // Addresses of an account that is no more would be an error.
            if let Some(senders) = document.get_mut("senders").and_then(Item::as_table_like_mut) {
                senders.remove(account);
            }
        }
        (None, None) => bail!("there is no account {account:?}"),
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_reads_as_if_written_by_hand() {
        let (account, hash) = ("alice".to_owned(), "$argon2id$x".to_owned());
        let forwards = ["info=a@b.example", "info=c@d.example", "x.y=e@f.example"].map(|text| forward(text).unwrap());
        let text = new_text(&["acme.example".into(), "acme.test".into()], [(&account, &hash)].into_iter(), &forwards);
        assert_eq!(
            text,
            "domains = [\"acme.example\", \"acme.test\"]\n\n\
             [accounts]\nalice = \"$argon2id$x\"\n\n\
             [forward]\ninfo = [\"a@b.example\", \"c@d.example\"]\n\"x.y\" = [\"e@f.example\"]\n"
        );
    }

    #[test]
    fn what_is_not_concerned_stays_as_it_stands() {
        let text = "# Acme\ndomains = [ \"acme.example\" ] # theirs\n\n[accounts] # people\nalice = \"old\"  # the boss\nbob   = \"b\"\n\n\
                    [senders]\nalice = [\"sales@acme.example\"]\n";
        assert_eq!(changed(text, "alice", Some("new")).unwrap(), text.replace("old", "new"));
        let more = changed(text, "carol", Some("c")).unwrap();
        assert_eq!(more, text.replace("= \"b\"\n", "= \"b\"\ncarol = \"c\"\n"));
        let fewer = changed(text, "alice", None).unwrap();
        assert!(!fewer.contains("alice") && fewer.contains("# Acme") && fewer.contains("bob   = \"b\""), "{fewer}");
        assert_eq!(changed(text, "dave", None).unwrap_err().to_string(), "there is no account \"dave\"");
    }

    #[test]
    fn accounts_written_in_a_line_or_not_at_all_take_another() {
        let inline = "domains = [\"a.example\"]\naccounts = { alice = \"a\" }\n";
        assert!(changed(inline, "bob", Some("b")).unwrap().contains("{ alice = \"a\", bob = \"b\" }"));
        let none = "domains = [\"a.example\"]\n";
        assert_eq!(changed(none, "bob", Some("b")).unwrap(), format!("{none}\n[accounts]\nbob = \"b\"\n"));
    }
}
