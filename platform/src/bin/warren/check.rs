//! `warren check`: everything that can be known to be wrong before the node runs.

use warren_config::{Directory, Node};

use crate::{Config, machine, tell};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Config,
    /// Check the files only, not this machine
    #[arg(long)]
    files_only: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let directory = &arguments.config.directory;
    let node = Node::load(directory)?;
    let tenants = Directory::load(directory, &node)?;
    if !arguments.files_only {
        let mut problems = machine::problems(&node, directory, &tenants);
        if !machine::node_is_up(&node) {
            problems.extend(machine::ports_in_use(&node));
        }
        if !problems.is_empty() {
            return Err(anyhow::anyhow!(problems.join("\nwarren: ")));
        }
    }
    let accounts: usize = tenants.tenants().map(|tenant| tenant.accounts.len()).sum();
    let forwards: usize = tenants.tenants().map(|tenant| tenant.forward_count()).sum();
    tell::line(&format!(
        "{}: good: node {}, {} tenants, {accounts} accounts, {forwards} forwards",
        directory.display(),
        node.hostname,
        tenants.tenants().len()
    ))
}
