//! The proxy alone, on the network of one of the lab's hosts: beside an MTA, or as a gateway for others.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use warren_lab::find_program;

/// Where the standalone proxy listens, in all scenarios.
pub const PORT: u16 = 10_025;

/// How long it may take to listen, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// `warren.toml` for a proxy beside an MTA of the lab, as `proxy/README.md` has it, and open for the lab's networks.
#[derive(Clone, Copy, Debug)]
pub struct Redirecting<'a> {
    /// Its name.
    pub hostname: &'a str,
    /// The address that the MTA's mail comes from and leaves from.
    pub own: IpAddr,
    /// More of `[egress]`.
    pub egress: &'a str,
    /// More of `[proxy.standalone]`.
    pub standalone: &'a str,
    /// Other sections.
    pub rest: &'a str,
}

impl Redirecting<'_> {
    /// The tenant that the MTA is.
    pub const TENANT: &'static str = "mta";

    /// The file.
    pub fn toml(&self) -> String {
        let Redirecting { hostname, own, egress, standalone, rest } = self;
        let (listen, network) = match own {
            IpAddr::V4(_) => ("127.0.0.1", "198.51.100.0/24"),
            IpAddr::V6(_) => ("[::1]", "2001:db8:51::/64"),
        };
        let tenant = Self::TENANT;
        format!(
            r#"hostname = "{hostname}"
[egress]
addresses = ["{own}"]
allow_networks = ["{network}"]
{egress}
[proxy.standalone]
listen = ["{listen}:{PORT}"]
mode = "redirect"
tenants = {{ "{own}" = "{tenant}" }}
{standalone}
{rest}
"#
        )
    }
}

/// A standalone proxy; it ends when this is dropped.
#[derive(Debug)]
pub struct Beside {
    folder: tempfile::TempDir,
    child: Child,
    resolver: Option<Child>,
}

impl Beside {
    /// Starts it as its user, with `setpriv`'s `privileges` beside, and returns when it listens. `toml` is `warren.toml` less `[listen]` and
    /// `[paths]`, which are nobody else's business here, and goes on in the section that it ends with.
    pub fn start(namespace: &Path, privileges: &[&str], toml: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("warren-beside-").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let state = folder.path().join("state");
        std::fs::create_dir(&state).unwrap();
        chown(&state, Some(id("-u")), Some(id("-g"))).unwrap();
        let state = state.display();
        let text = format!(
            "{toml}\n[listen]\nsubmission = []\nsubmissions = []\nsmtp = []\n[paths]\nstate = \"{state}\"\nrun = \"{state}\"\n"
        );
        std::fs::write(folder.path().join("warren.toml"), text).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut start = within(namespace, "setpriv");
        start.args(["--reuid", "warren-proxy", "--regid", "warren-proxy", "--init-groups", "--pdeathsig", "TERM"]);
        start.args(privileges).arg(find_program("warren-proxy").unwrap()).arg("--config").arg(folder.path());
        let child = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut proxy = Beside { folder, child, resolver: None };
        let end = Instant::now() + PATIENCE;
        while !listening(namespace) {
            assert!(proxy.child.try_wait().unwrap().is_none(), "it ended:\n{}", proxy.log());
            assert!(Instant::now() < end, "it does not listen:\n{}", proxy.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        proxy
    }

    /// Starts `warren-resolver` beside it, and returns when it answers at port 53.
    pub fn resolver(&mut self, namespace: &Path) {
        let log = std::fs::File::create(self.folder.path().join("resolver-log")).unwrap();
        let mut start = within(namespace, "setpriv");
        start.args(["--reuid", "warren-proxy", "--regid", "warren-proxy", "--init-groups", "--pdeathsig", "TERM"]);
        start.args(["--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service"]);
        start.arg(find_program("warren-resolver").unwrap()).arg("--config").arg(self.folder.path());
        let child = start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let child = self.resolver.insert(child);
        let end = Instant::now() + PATIENCE;
        while !listens(namespace, 53) {
            let ended = child.try_wait().unwrap().is_some();
            let log = || std::fs::read_to_string(self.folder.path().join("resolver-log")).unwrap_or_default();
            assert!(!ended && Instant::now() < end, "the resolver does not listen:\n{}", log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// `warren` with its configuration; what it printed.
    pub fn warren(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(find_program("warren").unwrap());
        let output = command.args(arguments).arg("--config").arg(self.folder.path()).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The transcript of a session with this MX that says this, once there is one.
    pub fn transcript(&self, mx: &str, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let table = self.warren(&["sessions"]);
            for row in table.lines().filter(|row| row.contains(mx)) {
                let Some(id) = row.split_whitespace().find(|word| word.len() == 16) else { continue };
                let transcript = self.warren(&["sessions", "show", id]);
                if transcript.contains(part) {
                    return transcript;
                }
            }
            assert!(Instant::now() < end, "no session with {mx} says {part:?}:\n{table}\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the proxy's log:\n{}", self.log());
        }
        for child in self.resolver.iter_mut().chain([&mut self.child]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Has nft take these rules in a namespace.
pub fn nft(namespace: &Path, rules: &str) {
    let mut nft = within(namespace, "nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft takes\n{rules}");
}

/// Runs a command of the README in a namespace.
pub fn run(namespace: &Path, command: &str) {
    let status = within(namespace, "sh").args(["-ec", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// Runs `ip` in a namespace.
pub fn ip(namespace: &Path, arguments: &str) {
    let status = within(namespace, "ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn within(namespace: &Path, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).args(["--", program]);
    command
}

/// Whether somebody listens on [`PORT`]. Asked of the kernel: a connection would be a visitor.
pub fn listening(namespace: &Path) -> bool {
    listens(namespace, PORT)
}

/// Whether a resolver can be asked there.
pub fn resolving(namespace: &Path) -> bool {
    listens(namespace, 53)
}

fn listens(namespace: &Path, port: u16) -> bool {
    let sockets = crate::inside(namespace, || {
        let read = |name| std::fs::read_to_string(PathBuf::from("/proc/thread-self/net").join(name));
        [read("tcp"), read("tcp6")].map(Result::unwrap_or_default).concat()
    });
    let at = format!(":{port:04X}");
    sockets.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1).is_some_and(|local| local.ends_with(&at)) && words.get(3) == Some(&"0A")
    })
}

fn id(which: &str) -> u32 {
    let output = Command::new("id").args([which, "warren-proxy"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("run deploy/prepare, which makes the users")
}
