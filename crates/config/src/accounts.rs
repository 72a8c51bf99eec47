//! The accounts of a tenant, and the passwords of accounts.
//!
//! A node has few tenants awake and very many asleep, so what each of them keeps in memory counts: sorted lists without
//! spare room in the place of trees.

use std::collections::BTreeMap;
use std::fmt;

/// Who may submit, by the local part of the login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts(Box<[(Box<str>, Account)]>);

/// Someone who may submit mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Against which the password is checked.
    pub password: PasswordHash,
    /// Addresses that it may send as, beside its own.
    pub senders: Box<[String]>,
}

/// A password hash in PHC form, `$argon2id$v=19$m=…,t=…,p=…$salt$hash`; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Box<str>);

impl Accounts {
    /// The account of that name, with its name.
    pub fn get_key_value(&self, name: &str) -> Option<(&str, &Account)> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
        self.0.get(at).map(|(name, account)| (&**name, account))
    }

    /// The account of that name.
    pub fn get(&self, name: &str) -> Option<&Account> {
        self.get_key_value(name).map(|(_, account)| account)
    }

    /// Their names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// The accounts, in order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Account> {
        self.0.iter().map(|(_, account)| account)
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody may submit.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<BTreeMap<String, Account>> for Accounts {
    fn from(accounts: BTreeMap<String, Account>) -> Self {
        Self(accounts.into_iter().map(|(name, account)| (name.into(), account)).collect())
    }
}

impl PasswordHash {
    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A string whose form was checked.
    pub(crate) fn checked(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}
