//! What every PID 1 of a container owes its platform: to go when it is told to, and to say why when it breaks.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::control::Control;

/// SIGTERM and SIGINT drain, and panics are logged, from now on. To be called within a runtime.
pub fn answers_for(control: &Control) -> io::Result<()> {
    // PID 1 ignores SIGTERM unless it is handled.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn({
        let control = control.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            control.drain();
        }
    });
    std::panic::set_hook(Box::new({
        let control = control.clone();
        move |panic| control.log_at_once(&format!("panic: {panic}"))
    }));
    Ok(())
}
