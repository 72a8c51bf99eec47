//! From `main` to a running program.

use std::future::Future;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{escape, log};

/// Runs a program on a multi-threaded runtime: starts logging, raises the descriptor limit, runs `program`, and turns its error into one
/// line on stderr and exit status 1.
///
/// Adopt inherited sockets inside `program`, before opening anything else.
pub fn run<F>(name: &str, program: F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    log::start();
    raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(name).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(program);
    // Blocking work (a password hash, a name lookup) may be under way; draining is over, so nothing is waiting for it.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", escape(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Tells whoever started this program (systemd, `warren up`) that it serves. Does nothing without NOTIFY_SOCKET.
pub fn ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("cannot report readiness to NOTIFY_SOCKET: {error}");
    }
}

/// Raises the soft limit of descriptors to the hard one: doors and connections cost one each, and the customary soft limit of 1,024 exists
/// for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}
