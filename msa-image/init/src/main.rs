//! `warren-init`: PID 1 of an image whose mail program was not written for Warren.
//!
//! ```text
//!   control (descriptor 3) ◀──▶ warren-init ──▶ /warren/configure   settings in, configuration out
//!                                  │     ├────▶ /warren/run         the mail program, in the foreground; its output is the log
//!                                  │     ├────▶ /warren/reload      optional: the configuration has changed
//!                                  │     └────▶ /warren/queue       a line for each message: when it is tried next
//!                                  ├ /proc: who is connected, what still runs
//!                                  └ gate: rules that the program has not, asked by it as of a milter
//! ```
//!
//! It speaks for the program what CONTRACT.md asks of an image and knows nothing about it: what is particular stands in the image's hooks.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod children;
mod freeze;
mod gate;
mod hooks;
mod life;
mod milter;
mod overdue;
mod programs;
mod room;
mod traffic;

use std::process::ExitCode;

use tokio::net::UnixListener;
use warren_msa::control::Control;
use warren_msa::pid1;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .thread_stack_size(256 * 1024)
        .build();
    let result = runtime.and_then(|runtime| runtime.block_on(serve()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warren-init: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> std::io::Result<()> {
    let control = Control::not_ready();
    pid1::answers_for(&control)?;
    let children = children::Children::watch()?;
    tokio::spawn(control.clone().serve(inherited()?));
    let lived = life::live(&control, &children).await;
    if let Err(error) = &lived {
        control.log_at_once(&error.to_string());
    }
    lived
}

fn inherited() -> std::io::Result<UnixListener> {
    let control = listenfd::ListenFd::from_env().take_unix_listener(0)?;
    let control =
        control.ok_or_else(|| std::io::Error::other("no control socket was inherited (LISTEN_FDS=1: control)"))?;
    control.set_nonblocking(true)?;
    UnixListener::from_std(control)
}
