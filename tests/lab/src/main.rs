//! `warren-lab`: an internet in a box, by hand or as the child of a [`warren_lab::Lab`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use warren_lab::mta::{HostPlan, become_host};
use warren_lab::persona::catalogue;
use warren_lab::world::{self, Report};
use warren_lab::{Lab, LabConfig, map};

#[derive(Parser)]
#[command(about = "An internet in network namespaces: name server, MX hosts, a node and a client", version)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Starts a lab and keeps it until its standard input ends or Ctrl-C
    Up {
        /// A domain whose MX is the node, beside acme.example and globex.example
        #[arg(long = "domain")]
        domains: Vec<String>,
        /// Milliseconds that the tarpit takes for each character
        #[arg(long, default_value_t = 200)]
        tarpit_ms: u64,
        /// Only the scripted hosts, not Postfix, Exim and OpenSMTPD
        #[arg(long)]
        personas_only: bool,
    },
    /// The lab's outer process (started by its owner)
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        config: String,
    },
    /// The lab's pid 1 (started by `serve`)
    #[command(hide = true)]
    World {
        #[arg(long)]
        config: String,
    },
    /// Becomes one of the lab's MX programs (started by `world`)
    #[command(hide = true)]
    Host {
        #[arg(long)]
        plan: String,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        What::Up { domains, tarpit_ms, personas_only } => up(domains, tarpit_ms, personas_only),
        What::Serve { config } => reported(parse(&config).and_then(|config| world::serve(&config))),
        What::World { config } => reported(parse(&config).and_then(|config| world::world(&config))),
        What::Host { plan } => host(&plan),
    };
    match done {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(e) => {
            eprintln!("warren-lab: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(config: &str) -> anyhow::Result<LabConfig> {
    serde_json::from_str(config).context("read the lab's configuration")
}

fn host(plan: &str) -> anyhow::Result<i32> {
    let plan: HostPlan = serde_json::from_str(plan).context("read the host's plan")?;
    match become_host(&plan)? {}
}

/// The owner reads errors from the report.
fn reported(done: anyhow::Result<i32>) -> anyhow::Result<i32> {
    done.or_else(|e| {
        world::report(&Report::Failed(format!("{e:#}")))?;
        Ok(1)
    })
}

fn up(domains: Vec<String>, tarpit_ms: u64, personas_only: bool) -> anyhow::Result<i32> {
    let mut config = if personas_only { LabConfig::personas_only() } else { LabConfig::default() };
    config.node_domains.extend(domains);
    config.catalogue = true;
    config.tarpit_delay = std::time::Duration::from_millis(tarpit_ms);
    let lab = Lab::start_with(&config)?;
    println!("name server  {}", map::DNS);
    for host in map::hosts(&config) {
        let addresses: Vec<String> = host.addresses.iter().map(|a| a.to_string()).collect();
        println!("{:<12} {:<42} {}", host.name, addresses.join(" "), shown(lab.namespace(host.name)));
    }
    for persona in map::personas(&config) {
        println!("{:<12} {:<42} {}", persona.name, persona.address.to_string(), persona.domains.join(" "));
    }
    println!();
    println!("enter a host:      nsenter --net={}", lab.node_ns().display());
    println!("see its mailboxes: ls /proc/{}/root{}/mail", lab.pid(), world::HOME);
    println!("see its logs:      ls /proc/{}/root{}/log", lab.pid(), world::HOME);
    println!("block an address:  echo 203.0.113.10 >/proc/{}/root{}/lists/{}", lab.pid(), world::HOME, catalogue::LIST);
    println!("end it:            Ctrl-C");
    // Ctrl-C ends this process; the lab sees its lifeline go.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("wait")?;
    Ok(0)
}

fn shown(path: Option<std::path::PathBuf>) -> String {
    path.map(|p| p.display().to_string()).unwrap_or_default()
}
