//! Programs that an operator wants run: `warren tenant exec`.
//!
//! They are children of PID 1 like everything here, with its user, its limits and its system call filter: nothing of the host comes in with
//! them. While one runs, the container does not sleep.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::timeout;
use warren_control::{MAX_OUTPUT, Outcome};
use warren_msa::control::{Control, Program};

use crate::children::Children;

/// If the image has it, it is run with program and arguments, and becomes the program.
const HOOK: &str = "/warren/exec";
/// A program that takes longer is killed.
const TIME: Duration = Duration::from_secs(30);

/// Runs them as they come. Whoever holds a clone of what is returned sees by its count how many run, beside this one.
pub fn serve(control: Control, children: Children) -> Arc<()> {
    let running = Arc::new(());
    let (counted, mut programs): (_, mpsc::Receiver<Program>) = (Arc::clone(&running), control.programs());
    tokio::spawn(async move {
        while let Some(Program { id, args }) = programs.recv().await {
            let (control, children, counted) = (control.clone(), children.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                control.executed(id, run(&args, &children).await);
                drop(counted);
            });
        }
    });
    running
}

/// How many programs run, by what [`serve`] returned.
pub fn running(count: &Arc<()>) -> usize {
    Arc::strong_count(count).saturating_sub(2)
}

async fn run(args: &[String], children: &Children) -> Outcome {
    let [program, rest @ ..] = args else { return Outcome::failed("no program was named") };
    let mut command = if Path::new(HOOK).exists() {
        let mut hook = Command::new(HOOK);
        hook.args(args);
        hook
    } else {
        let mut command = Command::new(program);
        command.args(rest);
        command
    };
    command.current_dir("/").stdin(Stdio::null()).process_group(0);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    let started = std::io::pipe().and_then(|(output, printed)| {
        command.stderr(printed.try_clone()?).stdout(printed);
        let output = pipe::Receiver::from_owned_fd(output.into())?;
        Ok((children.start(&mut command)?, output))
    });
    // The writing end is the program's alone, or its output would not end.
    drop(command);
    let ((pid, ended), mut output) = match started {
        Ok(started) => started,
        Err(error) => return Outcome::failed(format!("{program}: {error}")),
    };
    let mut printed = Vec::new();
    let whole = timeout(TIME, async {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut chunk).await {
            // What is too much is read all the same: the program goes on.
            printed.extend(chunk[..length].iter().take(MAX_OUTPUT.saturating_sub(printed.len())));
        }
        ended.await
    });
    let (status, failed) = match whole.await {
        Ok(Ok(Ok(status))) => (Some(status), None),
        Ok(Ok(Err(signal))) => (None, Some(signal)),
        Ok(Err(_)) => (None, Some("lost".to_owned())),
        Err(_) => {
            // Gone already, or going.
            let _ = killpg(pid, Signal::SIGKILL);
            (None, Some(format!("not done after {} s, killed", TIME.as_secs())))
        }
    };
    Outcome { output: String::from_utf8_lossy(&printed).into_owned(), status, failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(children: &Children, args: &[&str]) -> Outcome {
        run(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>(), children).await
    }

    #[tokio::test]
    async fn what_they_print_and_how_they_end() {
        let _alone = crate::children::tests::ONE_AT_A_TIME.lock().await;
        let children = Children::watch().unwrap();
        let told = outcome(&children, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
        assert_eq!(told, Outcome { output: "out\nerr\n".into(), status: Some(3), failed: None });
        let told = outcome(&children, &["sh", "-c", "kill -TERM $$"]).await;
        assert_eq!((told.status, told.failed.as_deref()), (None, Some("killed by SIGTERM")));
        let told = outcome(&children, &["no-such-program"]).await;
        assert!(told.failed.unwrap().starts_with("no-such-program: No such file"));
        assert!(outcome(&children, &[]).await.failed.is_some());
        let told = outcome(&children, &["sh", "-c", "head -c 1000000 /dev/zero"]).await;
        assert_eq!((told.output.len(), told.status), (MAX_OUTPUT, Some(0)));
    }
}
