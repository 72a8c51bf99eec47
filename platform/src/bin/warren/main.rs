//! `warren`: the command of a node.
//!
//! ```text
//!   up, down            supervise a whole node; clean up after one that was killed        up/, down.rs
//!   check               configuration and machine                                         check.rs, machine.rs
//!   tenants, status     ask the running platform over $run/platform.sock                   platform.rs and one file each
//!   top                 the fleet, live                                                    top.rs
//!   plan, apply         what the files would change, and doing it                          plan.rs, reload.rs
//!   tenant …            wake, suspend, look at, add, remove one tenant                     tenant/
//!   sessions            read what the proxy recorded                                       sessions.rs
//!   egress …            ask the running proxy over $run/proxy.sock                         egress/
//!   metrics             ask both what they count                                           metrics.rs
//!   tlsrpt              TLS reports: list, show, send                                    tlsrpt/
//!   send                submit a message file as a mail user would                         send.rs
//!   passwd              hash a password for a tenant's file                                passwd.rs
//! ```
//!
//! Results go to stdout, errors as lines to stderr with exit status 1. Whatever a peer said is escaped before it is
//! shown; colours appear on terminals only.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod check;
mod disk;
mod dns;
mod down;
mod egress;
mod machine;
mod metrics;
mod passwd;
mod plan;
mod platform;
mod reload;
mod send;
mod sessions;
mod status;
mod tell;
mod tenant;
mod tenants;
mod tlsrpt;
mod top;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Warren: a mail platform with a container and a queue for every tenant
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

/// Where the configuration is.
#[derive(Args)]
struct Config {
    /// Directory with warren.toml and tenants/
    #[arg(long = "config", value_name = "DIR", env = "WARREN_CONFIG", global = true, default_value = warren_config::DEFAULT_DIRECTORY)]
    directory: PathBuf,
}

#[derive(Subcommand)]
enum Action {
    /// Run the node's programs until Ctrl-C (as root)
    Up(up::Arguments),
    /// End what a killed `warren up` left behind (as root)
    Down(up::Arguments),
    /// Check configuration and machine, and say what is wrong
    Check(check::Arguments),
    /// List the tenants and how they are
    Tenants(platform::Asking),
    /// Watch the fleet live in the terminal
    Top(top::Arguments),
    /// Show what the configuration would change about the running node
    Plan(platform::Asking),
    /// Have the running node take up the configuration and replaced images, and wait until it has
    Apply(plan::ApplyArguments),
    /// Wake, suspend, look at, add or remove one tenant
    #[command(subcommand)]
    Tenant(tenant::Action),
    /// Show how the node is: tenants awake, cold starts, counters
    Status(platform::Asking),
    /// Print what the node counts, for Prometheus
    Metrics(metrics::Arguments),
    /// Submit a message file through a front door
    Send(send::Arguments),
    /// List, show or sum up recorded outbound sessions
    Sessions(sessions::Arguments),
    /// Show the addresses that mail leaves from and how destinations treat them; take one out of use or back in
    Egress(egress::Arguments),
    /// List, show or send TLS reports: what was found about other domains' TLS
    Tlsrpt(tlsrpt::Arguments),
    /// Hash a password for the accounts in a tenant's file
    Passwd(passwd::Arguments),
}

fn main() -> ExitCode {
    let done = match Command::parse().action {
        Action::Up(arguments) => up::run(&arguments),
        Action::Down(arguments) => down::run(&arguments),
        Action::Check(arguments) => check::run(&arguments),
        Action::Tenants(asking) => tenants::run(&asking),
        Action::Top(arguments) => top::run(&arguments),
        Action::Plan(asking) => plan::plan(&asking),
        Action::Apply(arguments) => plan::apply(&arguments),
        Action::Tenant(action) => tenant::run(&action),
        Action::Status(asking) => status::run(&asking),
        Action::Metrics(arguments) => metrics::run(&arguments),
        Action::Send(arguments) => return send::run(&arguments),
        Action::Sessions(arguments) => sessions::run(&arguments),
        Action::Egress(arguments) => egress::run(&arguments),
        Action::Tlsrpt(arguments) => tlsrpt::run(arguments),
        Action::Passwd(arguments) => passwd::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell::error(&error);
            ExitCode::FAILURE
        }
    }
}
