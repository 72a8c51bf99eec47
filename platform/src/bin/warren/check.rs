//! `warren check`: everything that can be known to be wrong before the node runs.

use std::path::PathBuf;

use warren_config::{Directory, Node};

use crate::{Config, machine, tell, up};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Directory with the programs [default: where `warren` itself is]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Check the files only, not this machine
    #[arg(long)]
    files_only: bool,
}

/// So many domains without a postmaster are named; the others are counted.
const MISSING_POSTMASTERS: usize = 10;

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let directory = &arguments.config.directory;
    let node = Node::load(directory)?;
    let tenants = Directory::load(directory, &node)?;
    if !arguments.files_only {
        let programs = up::programs_directory(arguments.bin_dir.as_deref())?;
        let mut problems = machine::problems(&node, directory, &tenants, &programs);
        if !machine::node_is_up(&node) {
            problems.extend(machine::ports_in_use(&node));
        }
        problems.extend(machine::foreign_egress(&node));
        if !problems.is_empty() {
            return Err(tell::Several(problems).into());
        }
    }
    if node.postmaster.is_some() && tenants.postmaster(&node).is_none() {
        let file = directory.join(warren_config::NODE_FILE);
        return Err(anyhow::anyhow!(
            "{}: postmaster has no forward (this node keeps no mailboxes), expected an address that a tenant forwards",
            file.display()
        ));
    }
    tell_of_missing_postmasters(&node, &tenants);
    let accounts: usize = tenants.tenants().map(|tenant| tenant.accounts.len()).sum();
    let forwards: usize = tenants.tenants().map(|tenant| tenant.forward_count()).sum();
    tell::line(&format!(
        "{}: good: node {}, {} tenants, {accounts} accounts, {forwards} forwards",
        directory.display(),
        node.hostname,
        tenants.tenants().len()
    ))
}

/// Not wrong enough to refuse, and yet against RFC 5321 §4.5.1.
fn tell_of_missing_postmasters(node: &Node, tenants: &Directory) {
    let mut missing = tenants.without_postmaster(node);
    for (tenant, domain) in missing.by_ref().take(MISSING_POSTMASTERS) {
        tell::warning(&format!(
            "tenant {}: nobody reads postmaster@{domain}; give it a [forward] of postmaster, or warren.toml a postmaster",
            tenant.name
        ));
    }
    match missing.count() {
        0 => {}
        more => tell::warning(&format!("and {more} more domains without a postmaster")),
    }
}
