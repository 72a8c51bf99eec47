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
