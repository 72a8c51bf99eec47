//! `warren-msa`: PID 1 of a tenant's container. Everything comes by inherited descriptors (LISTEN_FDS): 3 submission,
//! 4 relay, 5 control; the volume is at `/var/spool/warren`.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use warren_msa::control::Control;
use warren_msa::delivery::{dial::Port25, dns::Door};
use warren_msa::life::{DRAIN, Parts, Sockets, run};
use warren_msa::pid1;
use warren_msa::store::VOLUME;

/// SIGXFSZ: writing beyond RLIMIT_FSIZE. Caught, the write fails instead of the process.
const SIGXFSZ: i32 = 25;
/// Disk work runs on these threads; more would only queue up at the disk.
const DISK_THREADS: usize = 4;

fn main() -> ExitCode {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(DISK_THREADS)
        .thread_stack_size(256 * 1024)
        .build();
    let result = runtime.and_then(|runtime| {
        let result = runtime.block_on(serve(started));
        // A delivery that outlives the drain is cut off: its message is still in the queue.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("warren-msa: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(started: Instant) -> std::io::Result<()> {
    let control = Control::default();
    pid1::answers_for(&control)?;
    let _too_large = signal(SignalKind::from_raw(SIGXFSZ))?;
    let parts = Parts {
        volume: VOLUME.into(),
        resolver: Arc::new(Door::default()),
        dialer: Arc::new(Port25),
        control,
        started,
        drain: DRAIN,
    };
    run(inherited()?, parts).await;
    Ok(())
}

fn inherited() -> std::io::Result<Sockets> {
    let missing = |what: &str| {
        std::io::Error::other(format!("no {what} socket was inherited (LISTEN_FDS=3: submission, relay, control)"))
    };
    let mut inherited = listenfd::ListenFd::from_env();
    let submission = inherited.take_tcp_listener(0)?.ok_or_else(|| missing("submission"))?;
    let relay = inherited.take_tcp_listener(1)?.ok_or_else(|| missing("relay"))?;
    let control = inherited.take_unix_listener(2)?.ok_or_else(|| missing("control"))?;
    submission.set_nonblocking(true)?;
    relay.set_nonblocking(true)?;
    control.set_nonblocking(true)?;
    Ok(Sockets {
        submission: TcpListener::from_std(submission)?,
        relay: TcpListener::from_std(relay)?,
        control: UnixListener::from_std(control)?,
    })
}
