//! From `main` to a running program.

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};

use crate::log::Witness;
use crate::{escape, log};

/// Holds the pid of the supervisor (`warren up`), if there is one. A program that it started does not outlive it.
pub const SUPERVISOR_VARIABLE: &str = "WARREN_SUPERVISOR";

/// Runs a program on a multi-threaded runtime: starts logging, raises the descriptor limit, runs `program`, and turns
/// its error into one line on stderr and exit status 1.
///
/// Adopt inherited sockets inside `program`, before opening anything else.
pub fn run<F>(name: &str, program: F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    start(name, None, program)
}

/// The same, with somebody who hears all that is logged.
pub fn run_witnessed<F>(name: &str, witness: Arc<dyn Witness>, program: F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    start(name, Some(witness), program)
}

fn start<F>(name: &str, witness: Option<Arc<dyn Witness>>, program: F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    log::start(witness);
    raise_descriptor_limit();
    if let Err(error) = end_with_supervisor() {
        eprintln!("{name}: {error:#}");
        return ExitCode::FAILURE;
    }
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

/// Has the kernel send SIGTERM when the supervisor is gone, however it went: then this program drains and ends, and the
/// next `warren up` finds its place free. Under systemd there is no such variable.
fn end_with_supervisor() -> anyhow::Result<()> {
    let Ok(text) = std::env::var(SUPERVISOR_VARIABLE) else { return Ok(()) };
    let supervisor = text.parse().ok().and_then(Pid::from_raw);
    let supervisor = supervisor.with_context(|| format!("{SUPERVISOR_VARIABLE}={text}: expected a process id"))?;
    set_parent_process_death_signal(Some(Signal::TERM)).context("asking for a signal at the supervisor's end")?;
    // It may have gone before the kernel was asked.
    if getppid() != Some(supervisor) {
        bail!("the supervisor, process {text}, is gone");
    }
    Ok(())
}

/// Raises the soft limit of descriptors to the hard one: doors and connections cost one each, and the customary soft
/// limit of 1,024 exists for programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}
