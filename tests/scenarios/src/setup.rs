//! What a scenario asks of its node, and the configuration that says so.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use warren_lab::find_program;

use crate::disk::Size;

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
    /// A file system of this size for the volumes alone.
    pub disk: Option<Size>,
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
            disk: None,
            extra: String::new(),
        }
    }
}

impl Setup {
    /// Writes it into this folder, for a node whose control group has this name.
    pub(crate) fn write(&self, folder: &Path, cgroup: &str) {
        // The node's unprivileged programs pass through here.
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
        let etc = folder.join("etc");
        let tenants = etc.join("tenants");
        std::fs::create_dir_all(&tenants).unwrap();
        for tenant in &self.tenants {
            std::fs::write(tenants.join(format!("{}.toml", tenant.name)), tenant.toml(password_hash())).unwrap();
        }
        let images = self.images.clone().unwrap_or_else(crate::images::built);
        let images = &images.display();
        let (state, run) = (folder.join("state"), folder.join("run"));
        let (state, run, idle, retry, slots) =
            (state.display(), run.display(), self.idle.as_millis(), self.retry.as_millis(), self.slots);
        let (resolver, extra) = (&self.resolver, &self.extra);
        let (six, six_network) =
            if self.ipv6 { (", \"2001:db8:113::10\"", ", \"2001:db8:51::/64\"") } else { ("", "") };
        std::fs::write(
            etc.join("warren.toml"),
            format!(
                r#"hostname = "mail.warren.example"

[egress]
addresses = ["203.0.113.10", "203.0.113.11", "203.0.113.12"{six}]
allow_networks = ["198.51.100.0/24"{six_network}]
receiver = ["203.0.113.10"]

[resolver]
{resolver}

[fleet]
idle = "{idle}ms"
slots = {slots}
start_deadline = "60s"

[retry]
first = "{retry}ms"

[cgroup]
name = "{cgroup}"

[paths]
state = "{state}"
run = "{run}"
images = "{images}"
{extra}
"#
            ),
        )
        .unwrap();
        own(&tenants);
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

/// The hash of [`PASSWORD`], made once.
pub fn password_hash() -> &'static str {
    static HASH: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    HASH.get_or_init(|| {
        let mut passwd = Command::new(find_program("warren").unwrap());
        let mut child =
            passwd.args(["passwd", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}

/// Tenants' files are the platform's and root's alone: they hold password hashes.
fn own(tenants: &Path) {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line =
        passwd.lines().find(|l| l.starts_with("warren-platform:")).expect("run deploy/prepare, which makes the users");
    let gid: u32 = line.split(':').nth(3).unwrap().parse().unwrap();
    let files = std::fs::read_dir(tenants).unwrap().flatten().map(|e| (e.path(), 0o640));
    for (path, mode) in files.chain([(tenants.to_owned(), 0o750)]) {
        std::os::unix::fs::chown(&path, Some(0), Some(gid)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
}
