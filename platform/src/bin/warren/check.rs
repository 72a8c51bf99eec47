//! `warren check`: everything that can be known to be wrong before the node runs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use warren_config::{Directory, Node, TenantName};

use crate::dns::{Dns, Own};
use crate::{Config, disk, machine, tell, up};

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

/// So many logins whose bounces reach nobody are named; the others are counted.
const LOST_REPORTS: usize = 10;

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
    tell_of_lost_reports(&tenants);
    tell_of_strange_tenants(&node, &tenants);
    if !arguments.files_only {
        tell_of_egress_names(&node);
        disk::advice(&node.paths.state).iter().for_each(|advice| tell::warning(advice));
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

/// Its owner may want it so; whoever does not will look for bounces in vain.
fn tell_of_lost_reports(tenants: &Directory) {
    let mut lost = tenants.without_reports();
    for (tenant, login) in lost.by_ref().take(LOST_REPORTS) {
        tell::warning(&format!(
            "tenant {}: {login} sends but is not forwarded: if the MX of its domain is this node, bounces reach nobody; give it a [forward]",
            tenant.name
        ));
    }
    match lost.count() {
        0 => {}
        more => tell::warning(&format!("and {more} more logins whose bounces reach nobody")),
    }
}

/// A rule for a tenant that there is not (yet) does no harm.
fn tell_of_strange_tenants(node: &Node, tenants: &Directory) {
    // Beside an existing MTA tenants are named where it connects from.
    let standalone: BTreeSet<&TenantName> = node.proxy.standalone.iter().flat_map(|s| s.tenants.values()).collect();
    for name in node.egress.named_tenants() {
        if tenants.tenant(name).is_none() && !standalone.contains(name) {
            tell::warning(&format!("[[egress.rules]] names tenant {name}, and there is none of that name"));
        }
    }
}

/// Receivers distrust an address whose names do not lead to it and back, and nothing else here would tell.
fn tell_of_egress_names(node: &Node) {
    let name = |address: &IpAddr| (*address, node.egress.ehlo_name(*address, &node.hostname).to_owned());
    // A private one is translated on its way out: what the world sees is not known here.
    let names: Vec<_> = node.egress.addresses.iter().filter(|address| is_public(**address)).map(name).collect();
    if names.is_empty() {
        return;
    }
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from);
    let asked = asked.and_then(|runtime| runtime.block_on(async { Ok(Dns::of(node)?.own(names).await) }));
    match asked {
        Ok(all) => all.iter().filter_map(name_problem).for_each(|problem| tell::warning(&problem)),
        Err(error) => tell::warning(&format!("the names of the egress addresses cannot be looked up: {error:#}")),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_private() || v4.is_loopback() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local()),
    }
}

/// What keeps the world from believing an address's name, and what to do.
fn name_problem(own: &Own) -> Option<String> {
    let Own { address, name, said } = own;
    let (addresses, names) = match said {
        Ok(said) => said,
        Err(reason) => return Some(format!("egress address {address}: its name {name} cannot be looked up: {reason}")),
    };
    let told = |found: String, todo: String| {
        Some(format!("egress address {address} says EHLO {name}, {found}: receivers will distrust its mail; {todo}"))
    };
    if !addresses.contains(address) {
        let found = if addresses.is_empty() {
            "which has no address".to_owned()
        } else {
            format!("which is {}", shown(addresses))
        };
        return told(found, format!("give {name} the address {address} in its DNS zone, or set [egress.names]"));
    }
    if !names.iter().any(|found| found == name) {
        let found = if names.is_empty() {
            "and has no reverse DNS name".to_owned()
        } else {
            format!("and its reverse DNS name is {}", shown(names))
        };
        return told(found, "have whoever gave you the address set its PTR record, or set [egress.names]".into());
    }
    None
}

fn shown<T: ToString>(all: &[T]) -> String {
    const SHOWN: usize = 3;
    let all: Vec<String> = all.iter().take(SHOWN).map(T::to_string).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_lead_there_and_back_are_told() {
        let told = |addresses: &[&str], names: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let names = names.iter().map(|text| (*text).to_owned()).collect();
            let address = "203.0.113.10".parse().unwrap();
            name_problem(&Own { address, name: "out.example.net".into(), said: Ok((addresses, names)) })
        };
        assert_eq!(told(&["203.0.113.10"], &["out.example.net"]), None);
        for (addresses, names, expected) in [
            (
                &[][..],
                &[][..],
                "which has no address: receivers will distrust its mail; give out.example.net the address",
            ),
            (&["203.0.113.9"], &[], "which is 203.0.113.9: receivers will distrust"),
            (
                &["203.0.113.10"],
                &[],
                "and has no reverse DNS name: receivers will distrust its mail; have whoever gave",
            ),
            (&["203.0.113.10"], &["isp.example"], "and its reverse DNS name is isp.example: receivers will"),
        ] {
            let told = told(addresses, names).unwrap();
            let begins = format!("egress address 203.0.113.10 says EHLO out.example.net, {expected}");
            assert!(told.starts_with(&begins), "{told}");
        }
    }

    #[test]
    fn private_addresses_have_no_name_in_the_world() {
        for (text, public) in [
            ("203.0.113.10", true),
            ("2001:db8::1", true),
            ("10.0.0.1", false),
            ("127.0.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }
}
