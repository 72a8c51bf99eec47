//! From a container that runs to its banner: settings over the control channel, then the submission entrance.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketAddrV4, connect, sockopt};
use warren_control::{CONTROL_NAME, Retry, SUBMISSION_PORT, Settings, TenantName, ToMsa};

/// Longer than any start may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A greeting's bound.
const MAX_GREETING: usize = 4096;

/// A tenant.
pub fn tenant(name: &str) -> anyhow::Result<TenantName> {
    TenantName::new(name).context("the tenant's name")
}

/// Says the settings and waits for the banner. Both sockets are unconnected and were made in the container's network. Answers the control
/// channel.
pub fn banner(tenant: &TenantName, control: OwnedFd, entrance: OwnedFd) -> anyhow::Result<std::fs::File> {
    for socket in [&control, &entrance] {
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(PATIENCE)).context("set a timeout")?;
    }
    let name = SocketAddrUnix::new_abstract_name(CONTROL_NAME.as_bytes()).context("the control channel's name")?;
    connect(&control, &SocketAddrAny::from(name)).context("connect the control channel")?;
    let mut line = serde_json::to_vec(&ToMsa::Settings(settings(tenant))).context("write the settings")?;
    line.push(b'\n');
    let mut control = std::fs::File::from(control);
    control.write_all(&line).context("say the settings")?;
    let address = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, SUBMISSION_PORT);
    connect(&entrance, &address).context("connect the entrance")?;
    let mut entrance = std::fs::File::from(entrance);
    let mut heard = Vec::new();
    let mut chunk = [0; 512];
    while !heard.ends_with(b"\r\n") {
        let got = entrance.read(&mut chunk).context("wait for the banner")?;
        heard.extend_from_slice(&chunk[..got]);
        if got == 0 || heard.len() > MAX_GREETING {
            bail!("no banner but {:?}", String::from_utf8_lossy(&heard));
        }
    }
    if !heard.starts_with(b"220 ") {
        bail!("not greeted but told {:?}", String::from_utf8_lossy(&heard));
    }
    Ok(control)
}

fn settings(tenant: &TenantName) -> Settings {
    Settings {
        tenant: tenant.clone(),
        hostname: "mail.bench.example".into(),
        domains: vec!["bench.example".into()],
        accounts: [("alice@bench.example".into(), vec!["alice@bench.example".into()])].into(),
        max_message_bytes: 50 << 20,
        max_recipients: 100,
        max_queue_bytes: u64::MAX,
        // Longer than any benchmark: nobody falls asleep while it is counted.
        idle_ms: 86_400_000,
        retry: Retry { first_ms: 300_000, factor_percent: 150, max_ms: 14_400_000, expire_ms: 432_000_000 },
        hop_limit: 100,
    }
}
