//! What a scenario asks of its node.

use std::fmt::Write as _;
use std::time::Duration;

/// The password of every account in scenarios.
pub const PASSWORD: &str = "correct horse battery staple";

/// A node's configuration. Times are short, so that scenarios see a tenant sleep, wake and retry.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Idle time before an MSA sleeps.
    pub idle: Duration,
    /// Wait before the second delivery attempt; it doubles from there.
    pub retry: Duration,
    /// Warm slots.
    pub slots: u32,
    /// Who lives here.
    pub tenants: Vec<Tenant>,
    /// Where images are, if not beside the programs.
    pub images: Option<std::path::PathBuf>,
    /// The lines of `[resolver]`: unless told otherwise, the lab's own name server.
    pub resolver: String,
    /// Whether it has an IPv6 egress address beside the others, and may dial the lab's.
    pub ipv6: bool,
    /// More of `warren.toml`, as it stands there.
    pub extra: String,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            idle: Duration::from_millis(1_500),
            retry: Duration::from_secs(4),
            slots: 2,
            tenants: vec![Tenant::acme(), Tenant::globex()],
            images: None,
            resolver: "nameservers = [\"198.51.100.53\"]".into(),
            ipv6: false,
            extra: String::new(),
        }
    }
}

/// One tenant's file.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its domains.
    pub domains: Vec<String>,
    /// Its accounts, all with [`PASSWORD`].
    pub accounts: Vec<String>,
    /// Local part to targets.
    pub forwards: Vec<(String, Vec<String>)>,
    /// Top-level lines as they stand in the file.
    pub extra: String,
}

impl Tenant {
    /// A tenant with one domain, `NAME.example`, and one account.
    pub fn new(name: &str, account: &str) -> Self {
        Tenant {
            name: name.into(),
            domains: vec![format!("{name}.example")],
            accounts: vec![account.into()],
            forwards: Vec::new(),
            extra: String::new(),
        }
    }

    /// `acme.example`: alice writes, info is forwarded to OpenSMTPD, archive to a persona that stores what it gets as it is.
    pub fn acme() -> Self {
        let acme = Tenant::new("acme", "alice").forward("info", &["erin@opensmtpd.example"]);
        acme.forward("archive", &["archive@plain.example"])
    }

    /// `globex.example`: carol writes, sales is forwarded to Postfix.
    pub fn globex() -> Self {
        Tenant::new("globex", "carol").forward("sales", &["frank@postfix.example"])
    }

    /// Adds a forward.
    pub fn forward(mut self, local: &str, to: &[&str]) -> Self {
        self.forwards.push((local.into(), to.iter().map(|t| (*t).to_owned()).collect()));
        self
    }

    /// The file. `hash` is that of [`PASSWORD`].
    pub fn toml(&self, hash: &str) -> String {
        let list = |items: &[String]| items.iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", ");
        let mut text = format!("domains = [{}]\n{}\n[accounts]\n", list(&self.domains), self.extra);
        for account in &self.accounts {
            let _ = writeln!(text, "{account} = {hash:?}");
        }
        text.push_str("[forward]\n");
        for (local, to) in &self.forwards {
            let _ = writeln!(text, "{local:?} = [{}]", list(to));
        }
        text
    }
}
