//! A signed piece of DNS: BIND from Debian, authoritative for a root of its own and what is below.
//!
//! ```text
//!   Zone, Zone … ─▶ dnssec-keygen, dnssec-signzone (leaves first, DS records upwards) ─▶ named on one address
//!                                                                    └─▶ anchors: DNSKEY of the root
//! ```
//!
//! Made by BIND and not by the name server of [`crate::dns`], because a resolver that validates is best tried with signatures that nobody here wrote.
//! Names outside the zones can be asked of another server, unsigned ([`Signed::start`]'s `others`), so one address answers for all.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// TTL of everything.
const TTL: u32 = 300;

/// One zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name, without a dot at the end; empty for the root.
    pub name: String,
    /// Its records but SOA, NS and DS, in master file syntax; names relative to the zone.
    pub records: String,
    /// How well it is signed.
    pub signing: Signing,
}

/// How well a zone is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// As it should be.
    Right,
    /// The same, and what is not there is denied by NSEC3.
    Hashed,
    /// The same, and unsigned zones below it are left out of that (RFC 5155 §6).
    OptOut,
    /// Not at all, and its parent says so.
    Unsigned,
    /// Its addresses and MX records are others than those that were signed.
    Forged,
    /// Its signatures are gone, and its parent says that there are some.
    Stripped,
    /// Its signatures have expired.
    Expired,
}

impl Zone {
    /// A zone with these records.
    pub fn new(name: &str, signing: Signing, records: &str) -> Self {
        Zone { name: name.into(), records: records.into(), signing }
    }
}

/// The server. Ends when dropped.
#[derive(Debug)]
pub struct Signed {
    /// Where it answers, by UDP and TCP.
    pub address: SocketAddrV4,
    /// File with the DNSKEY records of its root, as trust anchors.
    pub anchors: PathBuf,
    child: Child,
}

impl Signed {
    /// Signs `zones`, whose first is the root, in the empty directory `home`, and serves them at `address`. What is below `others` is asked of its server.
    /// `package` is where `tests/lab/packages` unpacked BIND.
    pub fn start(
        package: &Path,
        home: &Path,
        address: SocketAddrV4,
        zones: &[Zone],
        others: &[(&str, SocketAddrV4)],
    ) -> anyhow::Result<Self> {
        let bind = Bind { root: package.join("root"), home: home.to_owned() };
        // Leaves first: a parent takes the DS records of its children.
        let mut leaves_first: Vec<&Zone> = zones.iter().collect();
        leaves_first.sort_by_key(|zone| std::cmp::Reverse(zone.depth()));
        for zone in leaves_first {
            bind.make(zone, zones, others).with_context(|| format!("make zone {:?}", zone.name))?;
        }
        let anchors = home.join("anchors");
        let keys = fs::read_dir(home)?.flatten().map(|entry| entry.path());
        let root_keys = keys.filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with("K.+") && n.ends_with(".key"))
        });
        let mut text = String::new();
        for key in root_keys {
            let key = fs::read_to_string(key)?;
            // The anchors that resolvers read are key-signing keys.
            text.extend(key.lines().filter(|line| line.contains("DNSKEY 257")).map(|line| format!("{line}\n")));
        }
        fs::write(&anchors, text).context("write the anchors")?;
        fs::write(home.join("named.conf"), bind.configuration(address, zones, others)).context("configure named")?;
        let log = fs::File::create(home.join("named.log")).context("make named's log")?;
        let child = bind
            .command("usr/sbin/named")
            .args(["-g", "-n", "1", "-c"])
            .arg(home.join("named.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start named")?;
        let mut signed = Signed { address, anchors, child };
        signed.wait(home)?;
        Ok(signed)
    }

    fn wait(&mut self, home: &Path) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        let log = || fs::read_to_string(home.join("named.log")).unwrap_or_default();
        loop {
            if let Some(status) = self.child.try_wait().context("look after named")? {
                bail!("named ended ({status}):\n{}", log());
            }
            if answers(self.address.into()) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("named does not answer:\n{}", log());
            }
        }
    }
}

impl Drop for Signed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for the root's SOA, and waits a moment for any answer.
fn answers(server: SocketAddr) -> bool {
    let ask = || -> std::io::Result<()> {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        socket.connect(server)?;
        socket.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x06\x00\x01")?;
        socket.recv(&mut [0; 512]).map(|_| ())
    };
    ask().is_ok() || {
        // A closed port is answered at once.
        std::thread::park_timeout(Duration::from_millis(10));
        false
    }
}

impl Zone {
    fn depth(&self) -> usize {
        if self.name.is_empty() { 0 } else { self.name.split('.').count() }
    }

    fn file(&self) -> String {
        if self.name.is_empty() { "root.zone".into() } else { format!("{}.zone", self.name) }
    }

    /// `name.`, or `.` for the root.
    fn origin(&self) -> String {
        format!("{}.", self.name)
    }

    /// Whether `other` is delegated by this zone, `all` being there to come between.
    fn delegates(&self, other: &str, all: &[Zone]) -> bool {
        let below = |name: &str, zone: &Zone| {
            name != zone.name && (zone.name.is_empty() || name.ends_with(&format!(".{}", zone.name)))
        };
        let parent = all.iter().filter(|zone| below(other, zone)).max_by_key(|zone| zone.depth());
        parent.is_some_and(|parent| parent.name == self.name)
    }
}

struct Bind {
    root: PathBuf,
    home: PathBuf,
}

impl Bind {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.root.join(program));
        let libraries = self.root.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
        command.env("LD_LIBRARY_PATH", libraries).current_dir(&self.home);
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| format!("run {program} (brought by tests/lab/packages)"))?;
        if !output.status.success() {
            bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn make(&self, zone: &Zone, all: &[Zone], others: &[(&str, SocketAddrV4)]) -> anyhow::Result<()> {
        let origin = zone.origin();
        let mut text = format!(
            "$ORIGIN {origin}\n$TTL {TTL}\n@ IN SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 60\n@ IN NS ns.invalid.\n"
        );
        let children = all.iter().map(|child| child.name.as_str()).chain(others.iter().map(|(name, _)| *name));
        for child in children.filter(|child| zone.delegates(child, all)) {
            text += &format!("{child}. IN NS ns.invalid.\n");
        }
        if zone.name.is_empty() {
            // named loads no zone whose server's name lies in it and has no address.
            text += "ns.invalid. IN A 192.0.2.53\n";
        }
        text += &zone.records;
        text.push('\n');
        let file = zone.file();
        fs::write(self.home.join(&file), &text)?;
        if zone.signing == Signing::Unsigned {
            return Ok(());
        }
        for flags in [&["-f", "KSK"][..], &[]] {
            let key = [&["-q", "-a", "ECDSAP256SHA256", "-K", "."], flags, &[origin.as_str()]].concat();
            self.run("usr/bin/dnssec-keygen", &key)?;
        }
        let signed = format!("{file}.signed");
        let mut sign = vec!["-q", "-S", "-g", "-o", &origin, "-f", &signed];
        if matches!(zone.signing, Signing::Hashed | Signing::OptOut) {
            sign.extend(["-3", "-", "-H", "0"]);
        }
        if zone.signing == Signing::OptOut {
            sign.push("-A");
        }
        if zone.signing == Signing::Expired {
            sign.extend(["-P", "-s", "20240101000000", "-e", "20240201000000"]);
        }
        sign.push(&file);
        self.run("usr/bin/dnssec-signzone", &sign)?;
        match zone.signing {
            // Only DNSKEY stays signed: the zone is not broken, it is lied about.
            Signing::Forged => {
                let signed = self.home.join(&signed);
                let text = fs::read_to_string(&signed)?;
                fs::write(&signed, text.replace("198.51.100.", "198.51.101.").replace("\tMX\t10 ", "\tMX\t11 "))?;
            }
            Signing::Stripped => fs::write(self.home.join(&signed), text)?,
            Signing::Right | Signing::Hashed | Signing::OptOut | Signing::Unsigned | Signing::Expired => {}
        }
        Ok(())
    }

    fn configuration(&self, address: SocketAddrV4, zones: &[Zone], others: &[(&str, SocketAddrV4)]) -> String {
        let mut text = format!(
            "options {{\n  directory \"{home}\";\n  pid-file none;\n  session-keyfile none;\n  lock-file none;\n  listen-on port {port} {{ {ip}; }};\n  \
             listen-on-v6 {{ none; }};\n  recursion yes;\n  allow-query {{ any; }};\n  allow-recursion {{ any; }};\n  \
             allow-query-cache {{ any; }};\n  dnssec-validation no;\n  notify no;\n  max-records-per-type 0;\n  minimal-responses yes;\n  empty-zones-enable no;\n  \
             max-cache-ttl 1;\n  max-ncache-ttl 1;\n  servfail-ttl 0;\n}};\ncontrols {{ }};\n",
            home = self.home.display(),
            port = address.port(),
            ip = address.ip(),
        );
        for zone in zones {
            let file = match zone.signing {
                Signing::Unsigned => zone.file(),
                _ => format!("{}.signed", zone.file()),
            };
            text += &format!("zone \"{}\" {{ type primary; file \"{file}\"; }};\n", zone.origin());
        }
        for (name, server) in others {
            text += &format!(
                "zone \"{name}.\" {{ type forward; forward only; forwarders {{ {} port {}; }}; }};\n",
                server.ip(),
                server.port()
            );
        }
        text
    }
}
