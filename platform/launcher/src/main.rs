//! warren-launcher: the only privileged program of Warren.
//!
//! ```text
//!                    $run/launcher.sock                  socketpair
//! platform, proxy, ───────────────────▶ warren-launcher ───────────▶ warren-launcher maker ──▶ libcontainer
//! resolver           Wake, Stop, Ack …       │    ▲         Make, Reap
//!                                     bind, start │ pidfd: exited
//!                                            ▼    │
//!                                        containers (a cell and a volume each)
//! ```
//!
//! | module | what |
//! |---|---|
//! | `launcher` | the loop: peers, slots, wakes, doors, ends |
//! | `maker` | the child that makes slots: cell, bundle, seccomp, the call into libcontainer |
//! | `bind`, `doors` | steps on one container: volume, limits, start; sockets made in its cell |
//! | `watcher` | the child that measures volumes |
//! | `cgroup`, `volume`, `image`, `ids`, `record`, `layout` | what lies where |
//! | `confine` | the launcher's own filter of system calls |
//! | `process`, `sys` | processes; system calls without a safe wrapper |
//!
//! No network, no configuration files, no threads: typed requests on a socket, checked names, one thing at a time.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arguments;
mod bind;
mod cgroup;
mod check;
mod confine;
mod doors;
mod ids;
mod image;
mod launcher;
mod layout;
mod maker;
mod parcel;
mod process;
mod record;
mod sys;
mod volume;
mod watcher;

use std::process::ExitCode;

use arguments::Command;

fn main() -> ExitCode {
    let done = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Command::Maker) => maker::run().map_err(|error| format!("maker: {error}")),
        Ok(Command::Watcher) => watcher::run().map_err(|error| format!("watcher: {error}")),
        Ok(Command::Run(options)) => launcher::run(options),
        Ok(Command::Check(options)) => check::run(&options),
        Ok(Command::Bundle(options)) => {
            image::Image::load(&options.images, &options.image).map(|image| println!("{:#}", maker::bundle(&image)))
        }
        Ok(Command::Help) => {
            println!("{}", arguments::USAGE);
            Ok(())
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warren-launcher: {error}");
            ExitCode::FAILURE
        }
    }
}
