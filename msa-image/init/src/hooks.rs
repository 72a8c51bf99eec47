//! The image's own programs, below `/warren`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::timeout;
use warren_control::{Level, Settings};
use warren_msa::control::Control;

use crate::children::{Children, Ended};

const HOOKS: &str = "/warren";
/// A hook that takes longer has failed.
const HOOK_TIME: Duration = Duration::from_secs(30);
/// A line of the log, or of the queue, that is longer is cut.
const MAX_LINE: usize = 4096;

/// What waits in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Messages.
    pub count: u64,
    /// Of these, those that are being worked on.
    pub now: u64,
    /// When the first of the others is tried next, in unix milliseconds.
    pub due_ms: Option<u64>,
}

impl Waiting {
    fn add(&mut self, line: &str) {
        match (line.trim(), line.trim().parse()) {
            ("now", _) => self.now += 1,
            (_, Ok(due)) => self.due_ms = Some(self.due_ms.map_or(due, |earlier: u64| earlier.min(due))),
            _ => return,
        }
        self.count += 1;
    }
}

/// `/warren/configure`: settings in the environment and, as `login<TAB>address` lines, on standard input.
pub async fn configure(settings: &Settings, children: &Children, control: &Control) -> io::Result<()> {
    let mut command = hook("configure");
    command.envs(environment(settings));
    let (rights, input) = io::pipe()?;
    command.stdin(rights);
    let (hook, ended, output) = start(command, children)?;
    let rights = rights_of(&settings.accounts);
    let mut input = pipe::Sender::from_owned_fd(input.into())?;
    let told = async {
        // A hook that does not read them does not want them.
        let _ = input.write_all(rights.as_bytes()).await;
        drop(input);
    };
    let run = async {
        let ((), (), ended) = tokio::join!(told, each_line(output, |line| log(control, line)), ended);
        ended
    };
    succeed("configure", hook, children, timeout(HOOK_TIME, run).await)
}

/// `/warren/reload`, if the image has it: the configuration has changed.
pub async fn reload(children: &Children, control: &Control) -> io::Result<()> {
    if !Path::new(HOOKS).join("reload").exists() {
        return Ok(());
    }
    let (hook, ended, output) = start(hook("reload"), children)?;
    let run = async { tokio::join!(each_line(output, |line| log(control, line)), ended).1 };
    succeed("reload", hook, children, timeout(HOOK_TIME, run).await)
}

/// `/warren/queue`: a line for each message, `now` or unix milliseconds.
pub async fn queue(children: &Children) -> io::Result<Waiting> {
    let mut waiting = Waiting::default();
    let (hook, ended, output) = start(hook("queue"), children)?;
    let run = async { tokio::join!(each_line(output, |line| waiting.add(line)), ended).1 };
    succeed("queue", hook, children, timeout(HOOK_TIME, run).await)?;
    Ok(waiting)
}

/// `/warren/run`: the mail program. What it prints is logged; what is returned gives its end.
pub fn run(children: &Children, control: &Control) -> io::Result<oneshot::Receiver<Ended>> {
    let (_, ended, output) = start(hook("run"), children)?;
    let control = control.clone();
    tokio::spawn(async move { each_line(output, |line| log(&control, line)).await });
    Ok(ended)
}

fn hook(name: &str) -> Command {
    let mut command = Command::new(Path::new(HOOKS).join(name));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command.current_dir("/").stdin(Stdio::null());
    command
}

type Started = (Pid, oneshot::Receiver<Ended>, pipe::Receiver);

fn start(mut command: Command, children: &Children) -> io::Result<Started> {
    let (output, printed) = io::pipe()?;
    command.stderr(printed.try_clone()?).stdout(printed);
    let (pid, ended) = children
        .start(&mut command)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display())))?;
    Ok((pid, ended, pipe::Receiver::from_owned_fd(output.into())?))
}

type Run = Result<Result<Ended, oneshot::error::RecvError>, tokio::time::error::Elapsed>;

fn succeed(name: &str, hook: Pid, children: &Children, run: Run) -> io::Result<()> {
    let how = match run {
        Ok(Ok(Ok(0))) => return Ok(()),
        Ok(Ok(Ok(code))) => format!("exit status {code}"),
        Ok(Ok(Err(signal))) => signal,
        Ok(Err(_)) => "lost".to_owned(),
        Err(_) => {
            // Or those of every try would stay.
            children.kill(hook);
            format!("not done after {} s", HOOK_TIME.as_secs())
        }
    };
    Err(io::Error::other(format!("{HOOKS}/{name} failed: {how}")))
}

async fn each_line(mut output: pipe::Receiver, mut take: impl FnMut(&str)) {
    let (mut chunk, mut line) = ([0; MAX_LINE], Vec::new());
    while let Ok(length @ 1..) = output.read(&mut chunk).await {
        for byte in &chunk[..length] {
            match byte {
                b'\n' => {
                    take(&String::from_utf8_lossy(&line));
                    line.clear();
                }
                byte if line.len() < MAX_LINE => line.push(*byte),
                _ => {}
            }
        }
    }
    if !line.is_empty() {
        take(&String::from_utf8_lossy(&line));
    }
}

fn log(control: &Control, line: &str) {
    control.log(level(line), line);
}

/// The words with which programs that log in the manner of syslog say how bad it is.
fn level(line: &str) -> Level {
    let says = |word: &str| line.contains(&format!(" {word}: "));
    if says("fatal") || says("panic") || says("error") {
        Level::Error
    } else if says("warning") {
        Level::Warn
    } else {
        Level::Info
    }
}

fn environment(settings: &Settings) -> BTreeMap<&'static str, String> {
    let Settings {
        tenant,
        hostname,
        domains,
        max_message_bytes,
        max_recipients,
        max_queue_bytes,
        retry,
        hop_limit,
        ..
    } = settings;
    BTreeMap::from([
        ("WARREN_TENANT", tenant.to_string()),
        ("WARREN_HOSTNAME", hostname.clone()),
        ("WARREN_DOMAINS", domains.join(" ")),
        ("WARREN_MAX_MESSAGE_BYTES", max_message_bytes.to_string()),
        ("WARREN_MAX_RECIPIENTS", max_recipients.to_string()),
        ("WARREN_MAX_QUEUE_BYTES", max_queue_bytes.to_string()),
        ("WARREN_HOP_LIMIT", hop_limit.to_string()),
        ("WARREN_RETRY_FIRST_MS", retry.first_ms.to_string()),
        ("WARREN_RETRY_MAX_MS", retry.max_ms.to_string()),
        ("WARREN_RETRY_EXPIRE_MS", retry.expire_ms.to_string()),
    ])
}

/// Whoever has a character in the name that could be taken for another line has no rights.
fn rights_of(accounts: &BTreeMap<String, Vec<String>>) -> String {
    let plain = |text: &&String| !text.contains(char::is_control);
    let pairs = accounts.iter().filter(|(login, _)| plain(login));
    let pairs = pairs.flat_map(|(login, own)| own.iter().filter(plain).map(move |address| (login, address)));
    pairs.map(|(login, address)| format!("{login}\t{address}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_counts() {
        let mut waiting = Waiting::default();
        ["9", "now", "5", "", "nonsense", "7", "-1"].iter().for_each(|line| waiting.add(line));
        assert_eq!(waiting, Waiting { count: 4, now: 1, due_ms: Some(5) });
    }

    #[test]
    fn no_name_becomes_a_line() {
        let accounts = BTreeMap::from([
            ("alice@acme.example".to_owned(), vec!["alice@acme.example".to_owned(), "x\ny".to_owned()]),
            ("eve\t".to_owned(), vec!["eve@acme.example".to_owned()]),
        ]);
        assert_eq!(rights_of(&accounts), "alice@acme.example\talice@acme.example\n");
    }

    #[test]
    fn levels() {
        assert_eq!(level("Nov 21 20:00:00 msa postfix/smtp[7]: fatal: no"), Level::Error);
        assert_eq!(level("Nov 21 20:00:00 msa postfix/smtp[7]: warning: hm"), Level::Warn);
        assert_eq!(level("Nov 21 20:00:00 msa postfix/smtp[7]: 4X: to=<fatal>"), Level::Info);
    }
}
