//! `warren-bench`: measures what Warren promises.
//!
//! | module | idea |
//! |---|---|
//! | [`cold_start`] | the benchmark: who is measured, in which order, what is reported |
//! | [`launcher`] | a launcher of our own, asked to wake a tenant |
//! | [`runtime`] | the same image under an OCI runtime from Debian |
//! | [`msa`] | from a running container to its banner, the same for both |
//! | [`report`] | medians, percentiles, the table, the JSON file |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cold_start;
mod launcher;
mod msa;
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
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        What::ColdStart(options) => cold_start::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("warren-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}
