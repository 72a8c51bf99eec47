//! Scenarios: a whole node in a lab, and mail through it.
//!
//! ```text
//!   scenario ── Lab::start ──▶ lab (an internet)
//!      │                        ▲ nsenter
//!      └── Node::start ──▶ warren up ── launcher, platform, proxy, resolver, receiver ── containers
//!      submit, inject, dialogue: mail users and strangers, on the lab's networks
//! ```
//!
//! | module | idea |
//! |---|---|
//! | [`node`] | a node of its own: configuration, paths, control group; started, asked, hurt, stopped |
//! | [`mail`] | submitting and injecting as ordinary programs do |
//! | [`dialogue`] | SMTP word by word, where the exact reply matters |
//! | [`corpus`] | real and made messages of many kinds |
//! | [`leftovers`] | what a node that is gone has left on the machine |
//!
//! Everything a node needs lies in one temporary directory, so that nodes run side by side. Scenarios need root, the lab's packages
//! (`tests/lab/packages`), the workspace's programs and the MSA's image beside the test (`cargo build`, `msa-image/build`).

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod corpus;
pub mod dialogue;
pub mod leftovers;
pub mod mail;
pub mod node;

pub use corpus::{Sample, corpus};
pub use dialogue::{Dialogue, Reply};
pub use mail::{Port, inject, submit};
pub use node::{Node, NodeConfig, Role, Tenant};
pub use warren_lab::{Lab, LabConfig, Mailbox, Message, map};

/// Runs `work` on the network of a host of the lab, in a thread of its own: sockets made there stay there.
pub fn on<T: Send>(lab: &Lab, host: &str, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    use anyhow::Context;
    let path = lab.namespace(host).with_context(|| format!("the lab has no host {host}"))?;
    let namespace = std::fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).context("enter the host's network")?;
            work()
        });
        done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until `condition` gives something, looking every few milliseconds, no longer than `patience`.
pub fn wait_until<T>(
    what: &str,
    patience: std::time::Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let end = std::time::Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        if std::time::Instant::now() > end {
            anyhow::bail!("{what}: not within {patience:?}");
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}
