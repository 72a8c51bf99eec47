//! `warren-bench`: measures what Warren promises.
//!
//! | module | idea |
//! |---|---|
//! | [`cold_start`] | how long a sleeping tenant's banner takes, beside crun and runc |
//! | [`density`] | what a tenant that is awake costs, and thousands of them |
//! | [`neighbour`] | how much later mail arrives while other tenants take all they can get |
//! | [`fleet`] | what tenants that sleep cost the platform, and a reload among them |
//! | [`launcher`], [`daemon`] | a launcher of our own, asked to wake tenants; other programs |
//! | [`proxy`] | mails through the proxy, beside HAProxy, nginx and a shared relay |
//! | [`runtime`] | the same bundle under an OCI runtime from Debian |
//! | [`msa`] | from a running container to its banner, the same for all |
//! | [`memory`] | what is taken, by whom |
//! | [`place`], [`interrupt`] | where it happens; that nothing stays of it |
//! | [`report`] | medians, percentiles, goals, tables, the JSON file |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cold_start;
mod daemon;
mod density;
mod fleet;
mod interrupt;
mod launcher;
mod memory;
mod msa;
mod neighbour;
mod place;
mod proxy;
mod report;
mod runtime;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures what Warren promises", version)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// From the request for a sleeping tenant to its MSA's 220: with a warm slot, without one, and under crun and runc
    ColdStart(cold_start::Options),
    /// Memory and start time against the number of tenants that are awake
    Density(density::Options),
    /// The platform's memory, and the time of a reload that touches one tenant, with many tenants that sleep
    Fleet(fleet::Options),
    /// From submission to the MX's mailbox, with and without tenants beside who take all they can get
    Neighbour(neighbour::Options),
    /// Mails a second, processor time, latency and memory of the proxy, beside HAProxy, nginx and a shared relay
    Proxy(proxy::Options),
    /// The load of `proxy`
    #[command(hide = true)]
    ProxySender(proxy::sender::Options),
    /// The MX of `proxy`
    #[command(hide = true)]
    ProxySink(proxy::sink::Options),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let done = match command {
        // Helpers end with whoever runs them.
        What::ProxySender(options) => proxy::sender::run(&options),
        What::ProxySink(options) => proxy::sink::run(&options),
        command => measure(command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("warren-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(command: What) -> anyhow::Result<()> {
    let interrupt = interrupt::Interrupt::hold()?;
    match command {
        What::ColdStart(options) => cold_start::run(&options, &interrupt),
        What::Density(options) => density::run(&options, &interrupt),
        What::Fleet(options) => fleet::run(&options, &interrupt),
        What::Neighbour(options) => neighbour::run(&options, &interrupt),
        What::Proxy(options) => proxy::run(&options, &interrupt),
        What::ProxySender(_) | What::ProxySink(_) => unreachable!("they ran above"),
    }
}
