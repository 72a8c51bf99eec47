//! The node: what `warren.toml` says, complete and checked.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::egress::Egress;
use crate::problem::Problems;
use crate::standalone::Standalone;
use crate::tls_rules::TlsRule;
use crate::{Deadlines, NODE_FILE, node_file};
use warren_launcher_api::Limits as ContainerLimits;

/// Everything about one node. Each field is the section of its name in `warren.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Name in greetings, EHLO and Received fields; reverse DNS of the egress addresses names it too.
    pub hostname: String,
    /// Who gets mail to the postmaster (RFC 5321 §4.5.1) of this node, and of domains that forward theirs nowhere: an address that a
    /// tenant forwards.
    pub postmaster: Option<String>,
    /// Where mail leaves.
    pub egress: Egress,
    /// Where clients and other MTAs connect.
    pub listen: Listen,
    /// The node's certificate; without one each program makes its own ([`Paths::tls_directory`]).
    pub tls: Option<CertificateFiles>,
    /// Name resolution.
    pub resolver: Resolver,
    /// Waking and sleeping.
    pub fleet: Fleet,
    /// How mail users log in.
    pub submission: Submission,
    /// Bounds for messages, clients and containers.
    pub limits: Limits,
    /// When deferred mail is tried again.
    pub retry: Retry,
    /// Control groups.
    pub cgroup: Cgroup,
    /// Whom the programs run as.
    pub users: Users,
    /// Where things are kept.
    pub paths: Paths,
    /// The outbound proxy.
    pub proxy: Proxy,
    /// What is told to scrapers.
    pub metrics: Metrics,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Where scrapers ask by HTTP: a loopback address. The platform answers there, or a standalone proxy; without it nobody does.
    pub listen: Option<SocketAddr>,
}

/// `[listen]`; an empty list switches that entrance off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Submission with STARTTLS.
    pub submission: Vec<SocketAddr>,
    /// Submission under TLS from the first byte.
    pub submissions: Vec<SocketAddr>,
    /// Mail from other MTAs.
    pub smtp: Vec<SocketAddr>,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM chain, own certificate first.
    pub certificate: PathBuf,
    /// PEM key; readable by the platform's and the receiver's users.
    pub key: PathBuf,
}

/// `[resolver]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// Recursive servers to ask; empty: those of `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// Whether answers are validated.
    pub dnssec: Dnssec,
    /// DNSKEY records to trust in place of the root's.
    pub trust_anchors: Option<PathBuf>,
}

/// `[resolver] dnssec`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dnssec {
    /// Validate, unless no nameserver passes DNSSEC records on: then nothing is secure, and the log says so.
    #[default]
    Auto,
    /// Validate; what cannot be validated does not resolve.
    Require,
    /// Nothing is secure.
    Off,
}

/// `[fleet]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// How long an MSA with nothing to do waits before it sleeps.
    pub idle: Duration,
    /// Containers made ahead of need.
    pub slots: u32,
    /// How long a client waits for a container.
    pub start_deadline: Duration,
}

/// `[submission]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// How long a password that a full check found right is taken for right without another; zero: each time anew.
    pub remember_passwords: Duration,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message.
    pub message_size: u64,
    /// Recipients of a transaction.
    pub recipients: u32,
    /// Received fields that make a loop.
    pub hops: u32,
    /// Clients at once.
    pub connections: u32,
    /// Of one address.
    pub connections_per_address: u32,
    /// How much mail in an hour.
    pub rates: Rates,
    /// What a container may use.
    pub container: ContainerLimits,
}

/// `[limits] …_per_hour`: what is submitted in any hour. What is forwarded has a tenant's numbers once more, so that nobody outside can
/// use up what the tenant's own people may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Messages of a tenant.
    pub messages: u32,
    /// Recipients of a tenant.
    pub recipients: u32,
    /// Messages of one account.
    pub account_messages: u32,
    /// Recipients of one account.
    pub account_recipients: u32,
}

/// `[retry]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Wait after the first failure.
    pub first: Duration,
    /// Each wait in percent of the one before.
    pub factor_percent: u32,
    /// Longest wait.
    pub max: Duration,
    /// Age at which a message bounces.
    pub expire: Duration,
}

/// `[cgroup]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// The node's group.
    pub name: String,
}

/// `[users]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    /// Of `warren-platform`.
    pub platform: String,
    /// Of `warren-proxy`.
    pub proxy: String,
    /// Of `warren-resolver`.
    pub resolver: String,
    /// Of `warren-receiver`.
    pub receiver: String,
}

/// `[paths]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What survives a reboot.
    pub state: PathBuf,
    /// What does not.
    pub run: PathBuf,
    /// Images of containers.
    pub images: PathBuf,
}

/// `[proxy.reuse]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// How long a connection waits for its next session; zero: none does.
    pub idle: Duration,
    /// A connection that has carried so many messages does not wait for another session.
    pub messages: u32,
}

/// `[proxy]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// How long dialling an MX may take.
    pub connect_timeout: Duration,
    /// How long MXs and MSAs are waited for.
    pub timeouts: Deadlines,
    /// Which connections to MXs wait for their tenant's next session.
    pub reuse: Reuse,
    /// What is asked of an MX's TLS where no rule says otherwise.
    pub tls: TlsPolicy,
    /// What is asked by recipient domain, first match first.
    pub tls_rules: Vec<TlsRule>,
    /// PEM file of authorities that are trusted beside the system's, wherever a certificate has to lead to one: those of MXs, which the proxy verifies, and those of
    /// MTA-STS policy hosts, which the resolver does.
    pub ca_file: Option<PathBuf>,
    /// How long records of sessions are kept; none keeps them for ever.
    pub keep_sessions: Option<Duration>,
    /// Whether sessions are recorded at all.
    pub record: bool,
    /// Doors beside an existing MTA, without a platform.
    pub standalone: Option<Standalone>,
}

/// `[proxy] tls`
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsPolicy {
    /// Never.
    Off,
    /// When the MX offers it; in the clear when it fails.
    Opportunistic,
    /// Always; any certificate.
    Require,
    /// Always, with a certificate that verifies.
    Verify,
}

impl Node {
    /// Reads `warren.toml` in the configuration directory.
    pub fn load(directory: &Path) -> Result<Self, Problems> {
        node_file::load(&directory.join(NODE_FILE))
    }

    /// Sections of `new` that only a start puts into force, on a node that was started with `self`.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changed = [
            ("[listen]", self.listen != new.listen),
            ("[users]", self.users != new.users),
            ("[paths]", self.paths != new.paths),
            ("[cgroup]", self.cgroup != new.cgroup),
            ("[fleet] slots", self.fleet.slots != new.fleet.slots),
            ("[fleet] start_deadline", self.fleet.start_deadline != new.fleet.start_deadline),
            ("[limits] connections", self.limits.connections != new.limits.connections),
            (
                "[limits] connections_per_address",
                self.limits.connections_per_address != new.limits.connections_per_address,
            ),
            ("[proxy] keep_sessions", self.proxy.keep_sessions != new.proxy.keep_sessions),
            ("[proxy] record", self.proxy.record != new.proxy.record),
            ("[metrics]", self.metrics != new.metrics),
            ("[proxy] ca_file", self.proxy.ca_file != new.proxy.ca_file),
            (
                "[proxy.standalone]",
                match (&self.proxy.standalone, &new.proxy.standalone) {
                    (Some(old), Some(new)) => old.listens_elsewhere(new),
                    (old, new) => old.is_some() != new.is_some(),
                },
            ),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(section, _)| section).collect()
    }

    /// Where this node's own receiver is reached on port 25: tenants may write to it, though it is an address of our
    /// own. As given; else the addresses that `[listen] smtp` names; else, as that listens on all of them, the egress
    /// addresses.
    pub fn receiver_addresses(&self) -> Vec<IpAddr> {
        if !self.egress.receiver.is_empty() {
            return self.egress.receiver.clone();
        }
        let listening = || self.listen.smtp.iter().map(SocketAddr::ip);
        let mut addresses: Vec<IpAddr> = listening().filter(|address| !address.is_unspecified()).collect();
        if listening().any(|address| address.is_unspecified()) {
            addresses.extend(&self.egress.addresses);
        }
        addresses.dedup();
        addresses
    }
}

impl Paths {
    /// The launcher's socket.
    pub fn launcher_socket(&self) -> PathBuf {
        self.run.join(warren_launcher_api::SOCKET_NAME)
    }

    /// The platform's API socket.
    pub fn platform_socket(&self) -> PathBuf {
        self.run.join("platform.sock")
    }

    /// Where the resolver tells the proxy which name an address was answered for.
    pub fn names_socket(&self) -> PathBuf {
        self.run.join("names.sock")
    }

    /// Where the proxy answers `warren egress`.
    pub fn proxy_socket(&self) -> PathBuf {
        self.run.join("proxy.sock")
    }

    /// Where the resolver tells its metrics.
    pub fn resolver_socket(&self) -> PathBuf {
        self.run.join("resolver.sock")
    }

    /// Where the receiver tells its metrics.
    pub fn receiver_socket(&self) -> PathBuf {
        self.run.join("receiver.sock")
    }

    /// All sockets of the node.
    pub fn sockets(&self) -> [PathBuf; 6] {
        [
            self.launcher_socket(),
            self.platform_socket(),
            self.names_socket(),
            self.proxy_socket(),
            self.resolver_socket(),
            self.receiver_socket(),
        ]
    }

    /// A program's own directory below the state directory, writable by its user only: `platform`, `receiver`,
    /// `sessions` …
    pub fn own(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// Where a program (`platform`, `receiver`) keeps the certificate that it made itself.
    pub fn tls_directory(&self, program: &str) -> PathBuf {
        self.state.join("tls").join(program)
    }

    /// The session database.
    pub fn sessions_database(&self) -> PathBuf {
        self.state.join("sessions").join("sessions.db")
    }

    /// What the proxy remembers of its egress addresses.
    pub fn egress_database(&self) -> PathBuf {
        self.state.join("sessions").join("egress.db")
    }

    /// What the proxy found about TLS, by day.
    pub fn tls_reports(&self) -> PathBuf {
        self.state.join("sessions").join("tlsrpt")
    }

    /// The key that signs rewritten envelope senders.
    pub fn srs_key(&self) -> PathBuf {
        self.state.join("receiver").join("srs.key")
    }

    /// The directory of an image.
    pub fn image(&self, name: &warren_launcher_api::ImageName) -> PathBuf {
        self.images.join(name.as_str())
    }
}
