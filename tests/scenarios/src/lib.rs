//! A node under test: the real programs, in a lab's internet, with everything of theirs in one temporary folder.
//!
//! ```text
//!   scenario ──▶ Node::start(&lab, setup) ──▶ warren up  (in the lab's node namespace)
//!      │                                         ├─ launcher, proxy, resolver, platform, receiver
//!      ├─ submit   `warren send`, from the client host, over 587 or 465
//!      ├─ talk     a literal SMTP dialogue, from any host of the lab
//!      ├─ kill     kill -9 of one program
//!      └─ stop     SIGTERM, then: is anything left of it?
//! ```
//!
//! | module | idea |
//! |---|---|
//! | [`setup`] | what a scenario asks of its node, as configuration files |
//! | [`node`], `log` | the running node, and what it says |
//! | [`leftovers`] | namespaces, mounts, cgroups, processes and state that a node must not leave |
//! | [`listing`] | an address on a block list, and off it |
//! | [`beside`] | the proxy alone, on a host of the lab |
//! | [`mta`] | a real MTA of the lab, and its host |
//! | [`readme`] | the commands that it was set up by |
//! | [`signed`] | a lab whose DNS is signed |
//! | [`dialogue`] | plain SMTP, command by command |
//! | [`visits`] | many visitors of sleeping tenants at once |
//! | [`images`] | images made for a scenario |
//! | [`corpus`] | real mail |
//! | [`disk`] | disks that are full or fail |
#![forbid(unsafe_code)]
// The harness of tests: what fails here fails the test, with its place.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

pub mod beside;
pub mod corpus;
pub mod dialogue;
pub mod disk;
pub mod images;
pub mod leftovers;
pub mod listing;
mod log;
pub mod mta;
pub mod node;
pub mod readme;
pub mod setup;
pub mod signed;
pub mod visits;

pub use dialogue::Dialogue;
pub use node::{Node, Sent};
pub use setup::{Setup, Tenant};

use std::path::Path;

/// Runs something on the network of one of the lab's hosts, on a thread of its own.
pub fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = std::fs::File::open(namespace).expect("the lab runs");
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .expect("scenarios run as root");
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
