//! Having the running node read its configuration again, and waiting until it has.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use warren_config::Node;
use warren_control::api::Readings;
use warren_control::{ApiReply, ApiRequest};

use crate::platform::{Platform, unexpected};
use crate::{Config, machine, tell, up};

/// How long reading may take; a node with 100,000 tenants whose defaults changed reads all their files.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the platform is asked whether it is done.
const EVERY: Duration = Duration::from_millis(20);

/// Has the node read its configuration, and returns when that is in force. `false`: the node is not up, and reads it when it starts.
pub fn reload(config: &Config) -> anyhow::Result<bool> {
    let node = Node::load(&config.directory)?;
    if !machine::node_is_up(&node) {
        if Platform::connect(config).is_ok() {
            bail!(
                "the node's programs run without `warren up`: reload them where they were started (systemctl reload)"
            );
        }
        return Ok(false);
    }
    let platform = Platform::connect(config)?;
    // A reading that is under way may have passed by what was changed: only one that begins from now on counts.
    let begun = readings(&platform)?.begun;
    signal(&node)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let now = readings(&platform)?;
        if now.done > begun {
            return match now.problems {
                None => Ok(true),
                Some(problems) => bail!("the platform refused the configuration, the old one stays: {problems}"),
            };
        }
        if Instant::now() > end {
            bail!("the platform has not read the configuration within {} s: see the node's log", PATIENCE.as_secs());
        }
        thread::sleep(EVERY);
    }
}

/// Reloads after a change of files, and says how that went.
pub fn after_change(config: &Config) -> anyhow::Result<()> {
    match reload(config)? {
        true => tell::line("the node has read it: it is in force"),
        false => tell::line("the node is not up: it takes effect when it starts"),
    }
}

fn readings(platform: &Platform) -> anyhow::Result<Readings> {
    match platform.ask(&ApiRequest::Status { tag: 1 })? {
        ApiReply::Status { status, .. } => Ok(status.readings),
        other => Err(unexpected(&other)),
    }
}

/// SIGHUP to `warren up`, which checks the configuration and passes it on to its programs.
fn signal(node: &Node) -> anyhow::Result<()> {
    let path = up::lock_file(node);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{} does not name a process", path.display()))?;
    let process =
        pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("finding `warren up`, process {pid:?}"))?;
    // Held first, judged then: whoever holds the lock wrote that number, and a process that we hold keeps it.
    let same = fs::read_to_string(&path).is_ok_and(|now| now == text);
    if !machine::node_is_up(node) || !same {
        bail!("`warren up` is starting or ending: try again");
    }
    pidfd_send_signal(&process, Signal::HUP).context("asking `warren up` to reload: are you root?")
}
