//! `warren.toml` as it is written, and the way from there to [`Node`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_spanned::Spanned;
use warren_launcher_api::Limits as ContainerLimits;

use crate::checker::{Checker, Text};
use crate::defaults;
use crate::egress_file::{EgressFile, egress};
use crate::message_size::message_size;
use crate::node::{
    CertificateFiles, Cgroup, Dnssec, Fleet, Limits, Listen, Metrics, Node, Paths, Proxy, Rates, Resolver, Retry,
    Reuse, Submission, TlsPolicy, Users,
};
use crate::problem::Problems;
use crate::standalone::StandaloneFile;
use crate::timeouts::TimeoutsFile;
use crate::tls_rules::{TlsRuleFile, tls_rules};
use crate::values::{
    parse_address, parse_domain, parse_duration, parse_name, parse_nameserver, parse_path, parse_size, parse_socket,
};

pub(crate) type Value = Option<Spanned<Text>>;
pub(crate) type List = Vec<Spanned<Text>>;
pub(crate) type Number = Option<Spanned<i64>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    hostname: Spanned<Text>,
    postmaster: Value,
    egress: EgressFile,
    #[serde(default)]
    listen: ListenFile,
    tls: Option<Spanned<TlsFile>>,
    #[serde(default)]
    resolver: ResolverFile,
    #[serde(default)]
    fleet: FleetFile,
    #[serde(default)]
    submission: SubmissionFile,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    retry: RetryFile,
    #[serde(default)]
    cgroup: CgroupFile,
    #[serde(default)]
    users: UsersFile,
    #[serde(default)]
    paths: PathsFile,
    #[serde(default)]
    proxy: ProxyFile,
    #[serde(default)]
    metrics: MetricsFile,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ListenFile {
    submission: Option<List>,
    submissions: Option<List>,
    smtp: Option<List>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFile {
    certificate: Spanned<Text>,
    key: Spanned<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct MetricsFile {
    listen: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ResolverFile {
    #[serde(default)]
    nameservers: List,
    #[serde(default)]
    dnssec: Dnssec,
    trust_anchors: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FleetFile {
    idle: Value,
    slots: Number,
    start_deadline: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SubmissionFile {
    remember_passwords: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    message_size: Value,
    recipients: Number,
    hops: Number,
    connections: Number,
    connections_per_address: Number,
    messages_per_hour: Number,
    recipients_per_hour: Number,
    account_messages_per_hour: Number,
    account_recipients_per_hour: Number,
    memory: Value,
    pids: Number,
    cpu_weight: Number,
    file_size: Value,
    open_files: Number,
    volume_size: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RetryFile {
    first: Value,
    factor_percent: Number,
    max: Value,
    expire: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CgroupFile {
    name: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    platform: Value,
    proxy: Value,
    resolver: Value,
    receiver: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct PathsFile {
    state: Value,
    run: Value,
    images: Value,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ProxyFile {
    connect_timeout: Value,
    #[serde(default)]
    timeouts: TimeoutsFile,
    #[serde(default)]
    reuse: ReuseFile,
    tls: Option<Spanned<TlsPolicy>>,
    #[serde(default)]
    tls_rules: Vec<TlsRuleFile>,
    ca_file: Value,
    keep_sessions: Value,
    record: Option<bool>,
    standalone: Option<StandaloneFile>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ReuseFile {
    idle: Value,
    messages: Number,
}

/// Reads and checks the file.
pub(crate) fn load(file: &Path) -> Result<Node, Problems> {
    let (checker, raw) = Checker::read(file)?;
    node(checker, raw)
}

fn node(mut check: Checker, raw: NodeFile) -> Result<Node, Problems> {
    let node = Node {
        hostname: check.value(&raw.hostname, parse_domain).unwrap_or_default(),
        postmaster: raw.postmaster.as_ref().and_then(|raw| check.value(raw, parse_address)),
        egress: egress(&mut check, &raw.egress),
        listen: listen(&mut check, &raw.listen),
        tls: raw.tls.and_then(|raw| certificate(&mut check, raw.get_ref())),
        resolver: Resolver {
            nameservers: check.list(&raw.resolver.nameservers, parse_nameserver),
            dnssec: raw.resolver.dnssec,
            trust_anchors: raw.resolver.trust_anchors.as_ref().and_then(|raw| check.value(raw, parse_path)),
        },
        fleet: Fleet {
            idle: bounded(&mut check, raw.fleet.idle.as_ref(), defaults::IDLE, MIN_IDLE, DAY),
            slots: check.number(raw.fleet.slots.as_ref(), defaults::SLOTS, 0..=1_000),
            start_deadline: bounded(
                &mut check,
                raw.fleet.start_deadline.as_ref(),
                defaults::START_DEADLINE,
                SECOND,
                HOUR,
            ),
        },
        submission: Submission {
            remember_passwords: bounded(
                &mut check,
                raw.submission.remember_passwords.as_ref(),
                defaults::REMEMBER_PASSWORDS,
                Duration::ZERO,
                HOUR,
            ),
        },
        limits: limits(&mut check, &raw.limits),
        retry: retry(&mut check, &raw.retry),
        cgroup: Cgroup { name: check.value_or(raw.cgroup.name.as_ref(), defaults::CGROUP.into(), parse_name) },
        users: users(&mut check, &raw.users),
        paths: Paths {
            state: check.value_or(raw.paths.state.as_ref(), defaults::STATE.into(), parse_path),
            run: check.value_or(raw.paths.run.as_ref(), defaults::RUN.into(), parse_run_path),
            images: check.value_or(raw.paths.images.as_ref(), defaults::IMAGES.into(), parse_path),
        },
        proxy: proxy(&mut check, raw.proxy, &raw.resolver),
        metrics: Metrics { listen: raw.metrics.listen.as_ref().and_then(|raw| check.value(raw, parse_loopback)) },
    };
    check.finish(node)
}

const MIN_IDLE: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A duration within bounds, or the default.
pub(crate) fn bounded(
    check: &mut Checker,
    raw: Option<&Spanned<Text>>,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Duration {
    check.value_or(raw, default, |text| {
        let duration = parse_duration(text)?;
        if (least..=most).contains(&duration) {
            Ok(duration)
        } else {
            Err(format!("{text:?} is out of bounds, expected {least:?} to {} s", most.as_secs()))
        }
    })
}

/// Metrics name nobody, and yet are nobody's business but this machine's.
fn parse_loopback(text: &str) -> Result<SocketAddr, String> {
    let address = parse_socket(text)?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(format!(
            "{text:?} can be reached from elsewhere, expected an address of this machine such as \"127.0.0.1:9587\""
        ));
    }
    Ok(address)
}

/// A unix socket's address holds 107 bytes; the longest name in the directory is added to it.
fn parse_run_path(text: &str) -> Result<PathBuf, String> {
    const LONGEST: usize = 80;
    if text.len() > LONGEST {
        return Err(format!("{text:?} is too long for the sockets in it, expected at most {LONGEST} characters"));
    }
    parse_path(text)
}

fn listen(check: &mut Checker, raw: &ListenFile) -> Listen {
    let mut seen: Vec<SocketAddr> = Vec::new();
    let mut addresses = |raw: &Option<List>, default: &str| {
        let Some(list) = raw else { return default.parse().into_iter().collect::<Vec<SocketAddr>>() };
        let addresses = check.list(list, parse_socket);
        for (address, raw) in addresses.iter().zip(list) {
            if seen.contains(address) {
                check.problem(raw.span(), format!("{address} has another use already"));
            }
        }
        seen.extend(&addresses);
        addresses
    };
    Listen {
        submission: addresses(&raw.submission, defaults::SUBMISSION),
        submissions: addresses(&raw.submissions, defaults::SUBMISSIONS),
        smtp: addresses(&raw.smtp, defaults::SMTP),
    }
}

fn certificate(check: &mut Checker, raw: &TlsFile) -> Option<CertificateFiles> {
    let certificate = check.value(&raw.certificate, parse_path);
    let key = check.value(&raw.key, parse_path);
    Some(CertificateFiles { certificate: certificate?, key: key? })
}

fn limits(check: &mut Checker, raw: &LimitsFile) -> Limits {
    let container = ContainerFile {
        memory: &raw.memory,
        pids: &raw.pids,
        cpu_weight: &raw.cpu_weight,
        file_size: &raw.file_size,
        open_files: &raw.open_files,
        volume_size: &raw.volume_size,
    }
    .check(check, &ContainerLimits::default());
    Limits {
        message_size: message_size(check, &raw.message_size, defaults::MESSAGE_SIZE, 1 << 30, &container),
        recipients: check.number(raw.recipients.as_ref(), defaults::RECIPIENTS, 100..=10_000),
        hops: check.number(raw.hops.as_ref(), defaults::HOPS, 10..=1_000),
        connections: check.number(raw.connections.as_ref(), defaults::CONNECTIONS, 1..=100_000),
        connections_per_address: check.number(
            raw.connections_per_address.as_ref(),
            defaults::CONNECTIONS_PER_ADDRESS,
            1..=100_000,
        ),
        rates: RatesFile {
            messages: &raw.messages_per_hour,
            recipients: &raw.recipients_per_hour,
            account_messages: &raw.account_messages_per_hour,
            account_recipients: &raw.account_recipients_per_hour,
        }
        .check(
            check,
            &Rates {
                messages: defaults::MESSAGES_PER_HOUR,
                recipients: defaults::RECIPIENTS_PER_HOUR,
                account_messages: defaults::ACCOUNT_MESSAGES_PER_HOUR,
                account_recipients: defaults::ACCOUNT_RECIPIENTS_PER_HOUR,
            },
        ),
        container,
    }
}

/// How much mail in an hour, as the node's and the tenants' files write it.
pub(crate) struct RatesFile<'a> {
    pub(crate) messages: &'a Number,
    pub(crate) recipients: &'a Number,
    pub(crate) account_messages: &'a Number,
    pub(crate) account_recipients: &'a Number,
}

impl RatesFile<'_> {
    /// The limits, with those of `default` where nothing is written.
    pub(crate) fn check(&self, check: &mut Checker, default: &Rates) -> Rates {
        let mut rate = |raw: &Number, default| check.number(raw.as_ref(), default, 1..=1_000_000_000);
        Rates {
            messages: rate(self.messages, default.messages),
            recipients: rate(self.recipients, default.recipients),
            account_messages: rate(self.account_messages, default.account_messages),
            account_recipients: rate(self.account_recipients, default.account_recipients),
        }
    }
}

/// What a container may use, as the node's and the tenants' files write it.
pub(crate) struct ContainerFile<'a> {
    pub(crate) memory: &'a Value,
    pub(crate) pids: &'a Number,
    pub(crate) cpu_weight: &'a Number,
    pub(crate) file_size: &'a Value,
    pub(crate) open_files: &'a Number,
    pub(crate) volume_size: &'a Value,
}

impl ContainerFile<'_> {
    /// The limits, with those of `default` where nothing is written.
    pub(crate) fn check(&self, check: &mut Checker, default: &ContainerLimits) -> ContainerLimits {
        ContainerLimits {
            // Below 16 MiB the MSA does not start.
            memory_bytes: size(check, self.memory.as_ref(), default.memory_bytes, 16 << 20, 1 << 40),
            pids: check.number(self.pids.as_ref(), default.pids, 8..=100_000),
            cpu_weight: check.number(self.cpu_weight.as_ref(), default.cpu_weight, 1..=10_000),
            file_bytes: size(check, self.file_size.as_ref(), default.file_bytes, 1 << 20, 1 << 40),
            open_files: check.number(self.open_files.as_ref(), default.open_files, 64..=1_000_000),
            volume_bytes: size(check, self.volume_size.as_ref(), default.volume_bytes, 1 << 20, 1 << 40),
        }
    }
}

/// A size within bounds, or the default.
pub(crate) fn size(check: &mut Checker, raw: Option<&Spanned<Text>>, default: u64, least: u64, most: u64) -> u64 {
    check.value_or(raw, default, |text| {
        let size = parse_size(text)?;
        if (least..=most).contains(&size) {
            Ok(size)
        } else {
            Err(format!("{text:?} is out of bounds, expected {}K to {}M", least >> 10, most >> 20))
        }
    })
}

fn retry(check: &mut Checker, raw: &RetryFile) -> Retry {
    let retry = Retry {
        first: bounded(check, raw.first.as_ref(), defaults::RETRY_FIRST, SECOND, DAY),
        factor_percent: check.number(raw.factor_percent.as_ref(), defaults::RETRY_FACTOR_PERCENT, 100..=1_000),
        max: bounded(check, raw.max.as_ref(), defaults::RETRY_MAX, SECOND, 7 * DAY),
        expire: bounded(check, raw.expire.as_ref(), defaults::RETRY_EXPIRE, SECOND, 30 * DAY),
    };
    if let Some(raw) = raw.max.as_ref().or(raw.first.as_ref()).filter(|_| retry.max < retry.first) {
        check.problem(raw.span(), "[retry] max is shorter than first, expected it to be at least as long");
    }
    retry
}

fn users(check: &mut Checker, raw: &UsersFile) -> Users {
    Users {
        platform: check.value_or(raw.platform.as_ref(), defaults::USER_PLATFORM.into(), parse_name),
        proxy: check.value_or(raw.proxy.as_ref(), defaults::USER_PROXY.into(), parse_name),
        resolver: check.value_or(raw.resolver.as_ref(), defaults::USER_RESOLVER.into(), parse_name),
        receiver: check.value_or(raw.receiver.as_ref(), defaults::USER_RECEIVER.into(), parse_name),
    }
}

fn proxy(check: &mut Checker, raw: ProxyFile, resolver: &ResolverFile) -> Proxy {
    let standalone = raw.standalone.map(|standalone| {
        let rules = raw.tls_rules.iter().map(TlsRuleFile::written);
        standalone.check(check, &resolver.nameservers, raw.tls.iter().chain(rules))
    });
    Proxy {
        connect_timeout: bounded(
            check,
            raw.connect_timeout.as_ref(),
            defaults::CONNECT_TIMEOUT,
            SECOND,
            defaults::CONNECT_TIMEOUT,
        ),
        timeouts: raw.timeouts.check(check),
        reuse: reuse(check, &raw.reuse),
        tls: raw.tls.map_or(TlsPolicy::Opportunistic, Spanned::into_inner),
        tls_rules: tls_rules(check, &raw.tls_rules),
        ca_file: raw.ca_file.as_ref().and_then(|raw| check.value(raw, parse_path)),
        keep_sessions: check.value_or(raw.keep_sessions.as_ref(), Some(defaults::KEEP_SESSIONS), parse_keep),
        record: raw.record.unwrap_or(defaults::RECORD),
        standalone,
    }
}

fn reuse(check: &mut Checker, raw: &ReuseFile) -> Reuse {
    Reuse {
        idle: bounded(check, raw.idle.as_ref(), defaults::REUSE_IDLE, Duration::ZERO, Duration::from_secs(60)),
        messages: check.number(raw.messages.as_ref(), defaults::REUSE_MESSAGES, 1..=1_000),
    }
}

/// How long to keep something: at least as long as it takes to look at it.
fn parse_keep(text: &str) -> Result<Option<Duration>, String> {
    if text == "forever" {
        return Ok(None);
    }
    match parse_duration(text) {
        Ok(keep) if (HOUR..=100 * 365 * DAY).contains(&keep) => Ok(Some(keep)),
        _ => Err(format!(
            "{text:?} is not how long to keep sessions, expected one hour or more such as \"90d\", or \"forever\""
        )),
    }
}
